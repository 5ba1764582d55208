"""One clip in, once: the sampled frames at their true times and the sound as one mono waveform.

The papers are silent on decoding. What they ask for is covered by the sampling policies of `load_clip`: frames spread
over the clip and known by their times (MicroEmo 3.2, "This frame is sampled at 0.0s."), or the one first, middle or
peak frame of Emotion-LLaMA, on which ESVA builds. What differs from the peers' loaders (decord, OpenCV, moviepy):

* The file is read once. Its packets give every frame's presentation time before a picture is decoded, so frames are
  chosen by time (variable frame rate, B-frames, edit lists and start offsets included) and only what the chosen frames
  depend on is decoded: from the key frame before each, without frames that no other frame refers to. A video stream of
  more than `HELD_BYTES` is read a second time instead of being held in memory.
* Only chosen frames become RGB, and with `max_lines` they become smaller in the same pass of libswscale: at 1,080 lines
  a full-size RGB picture and its reduction afterwards cost more than decoding. The sound passes through the resampler
  as it is decoded. A 20-minute clip needs the memory of its chosen frames and of its 16 kHz waveform.
* Time 0 is where the clip starts to play. A stream that starts later keeps its delay: a frame its time, the sound a
  stretch of silence, so that waveform sample `s` always belongs to `s / sampling_rate` seconds.
* Clips come from strangers. FFmpeg gets a file object, never a name, and only the formats in `FORMATS`, so that no clip
  can make it open another file or an address (playlists can). What a clip would cost is compared with the limits below
  before the work is done.
"""

import io
import math
import os
import re
import stat
import warnings
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.filter import Graph
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

try:
    import soxr
except ImportError:  # a model's folder asks for no more than it must
    soxr = None

SAMPLINGS = ("uniform", "fps", "middle", "first", "peak")
ACCEPTED = "a path, bytes, a binary file object, a PIL image, an array, a dict of arrays, or a Clip"
MIN_SIDE = 16  # pixels; below this a picture holds no face, and a model's patch no detail
MAX_CHOSEN_BYTES = 2**31  # of RGB; 345 frames of 1920 x 1080
MAX_PIXELS = 2**26  # of one frame; 8192 x 8192
MAX_DECODED_PIXELS = 2**37  # of all frames that have to be decoded: 30 minutes of 1920 x 1080 at 36 frames a second
MAX_FPS = 1000.0  # frames a second
PLANAR_420 = ("yuv420p", "yuvj420p")
# Pixels of a frame up to which one thread decodes: to hand so small a frame from thread to thread costs the cores time
# and saves little or nothing by the clock.
SMALL_PIXELS = 960 * 540
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz of a sound; outside of it a header is wrong
MAX_SAMPLES = 2**31  # of all channels together: 30 minutes of 8 channels at 149 kHz
MAX_PACKETS = 2**21  # of a file: 30 minutes with 1,165 a second
MAX_STREAM_BYTES = 2**31  # of a source that can be read only once, and so has to be held in memory
FFMPEG_RESAMPLED = "The sound was resampled by FFmpeg, because soxr is not installed; the two differ slightly."
HELD_BYTES = 2**26  # of compressed video kept from the first reading
PEAK_CANDIDATES = 64
PEAK_SIDE = 960  # pixels; candidates are only looked at, the frames returned have full size
ARRAY_FPS = 25.0
MAX_PATH = 4096  # characters; PATH_MAX of Linux
IMAGE_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
# Formats that keep everything in one file. FFmpeg knows 300 more; some of them (hls, concat, dash, image2, sdp) open
# whatever their text names, others (tty) play any text file as terminal art.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,kux,asf,ogg,mxf,nut,rm,wtv,dv,gxf,ivf,nsv,"
    "h264,hevc,vvc,av1,obu,m4v,h263,h261,mpegvideo,vc1,mjpeg,gif,gif_pipe,apng,avif,tiff_pipe,jpegxl_pipe,jpegxl_anim,"
    "wav,w64,flac,mp3,aac,ac3,eac3,ac4,dts,dtshd,truehd,mlp,aiff,au,caf,amr,amrnb,amrwb,ape,wv,tta,tak,shn,mpc,mpc8,"
    "oma,voc,dsf,iff,sox,ircam,nistsphere,loas,gsm,qcp,srt,webvtt,ass"
)
# Their headers hold no length, so FFmpeg guesses one from the first bit rate it meets.
GUESSED_LENGTH = {"mp3", "aac"}


class MediaError(ValueError):
    """A clip that cannot be used: one sentence with the input, what was found and what is accepted."""


class MediaLimitError(MediaError):
    """A clip that would cost more than a limit allows."""


@dataclass
class Clip:
    """One clip, decoded. Letters: T frames, H and W pixels, S samples.

    Args:
        source: what the user gave, for messages.
        frames: (T, H, W, 3) uint8 RGB in display orientation; None = no picture, or not asked for.
        frame_times: (T,) int64 ms, true presentation times, ascending; None with `frames`.
        waveform: (S,) float32 mono, sample s at s / sampling_rate seconds; None = no sound, or not asked for.
        sampling_rate: Hz.
        duration: ms, of the whole clip (the longer of picture and sound); 0 for a still picture.
        utterances: `[{"start": s, "end": s, "text": str | None, "speaker": str | None}]`, seconds, sorted.
        notes: one sentence for each thing the user should know.
        full: the decoded frames, where `frames` are smaller and the call asked to keep them; see `FullFrames`.
    """

    source: str
    frames: np.ndarray | None
    frame_times: np.ndarray | None
    waveform: np.ndarray | None
    sampling_rate: int
    duration: int
    utterances: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    full: "FullFrames | None" = field(default=None, repr=False, compare=False)

    def __getstate__(self):
        return {**self.__dict__, "full": None}  # FFmpeg's frames stay in their process

    def take(self, rows: np.ndarray | slice) -> "Clip":
        """The clip with the frames `rows` (indices or bool) alone."""
        full = None if self.full is None else self.full.take(rows)
        return replace(self, frames=self.frames[rows], frame_times=self.frame_times[rows], full=full)


@dataclass
class _Request:
    """What `load_clip` was asked for, checked."""

    num_frames: int | None
    sampling: str
    fps: float | None
    frames: bool
    sound: bool
    sampling_rate: int
    max_duration: float
    motion: Callable | None
    max_pixels: int = MAX_PIXELS
    max_decoded_pixels: int = MAX_DECODED_PIXELS
    max_lines: int | None = None
    keep_full: bool = False

    def __post_init__(self):
        if self.sampling not in SAMPLINGS:
            raise MediaError(f"sampling is {self.sampling!r}, one of {', '.join(SAMPLINGS)} is accepted.")
        if (self.fps is not None) != (self.sampling == "fps"):
            raise MediaError(f'fps goes with sampling="fps": found fps={self.fps!r} with sampling={self.sampling!r}.')
        if self.sampling == "peak" and self.frames and not callable(self.motion):
            raise MediaError(
                'sampling="peak" needs motion=, a callable from frames (T, H, W, 3) to (T,) facial motion.'
            )
        for name in ("num_frames", "max_pixels", "max_decoded_pixels", "max_lines"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 1, whole=True)
        if self.fps is not None:
            _check_number("fps", self.fps, 0, MAX_FPS)
        _check_number("sampling_rate", self.sampling_rate, MIN_RATE, MAX_RATE, whole=True)
        _check_number("max_duration", self.max_duration, 0)
        self.count = int(self.num_frames or (8 if self.sampling == "uniform" else 1))

    def choose(self, times: np.ndarray, end: float, look: Callable, notes: list[str]) -> np.ndarray:
        """Frames to keep, by the policy.

        Args:
            times: (F,) s, ascending, of all frames there are.
            end: s, when the last frame leaves the screen.
            look: indices (C,) -> frames (C', H, W, 3) and the indices (C',) they really show; for "peak".

        Returns:
            (T,) int64 indices into `times`, ascending, distinct.
        """
        if self.sampling == "first":
            return np.arange(min(self.count, len(times)))
        if self.sampling == "fps":
            steps = max(1, math.ceil((end - times[0]) * self.fps - 1e-6))
            return _on_screen(times, times[0] + np.arange(steps) / self.fps)
        if self.sampling == "uniform":
            return _spread(times, end, self.count)
        centre = int(_on_screen(times, np.array([(times[0] + end) / 2]))[0])
        if self.sampling == "peak":
            frames, shown = look(_spread(times, end, PEAK_CANDIDATES))
            scores = np.asarray(self.motion(frames), dtype=np.float64)
            if scores.shape != (len(frames),):
                raise MediaError(f"motion gave an array of shape {scores.shape} for {len(frames)} frames.")
            scores = np.nan_to_num(scores, nan=0.0)
            if scores.max() > 0:
                centre = int(shown[scores.argmax()])
            else:
                notes.append("No facial motion was found, so the middle frame stands for the peak.")
        first = min(max(0, centre - (self.count - 1) // 2), max(0, len(times) - self.count))
        return np.arange(first, min(first + self.count, len(times)))


def _check_number(what: str, value: Any, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Refuse what is not a number in [low, high]; a bound of 0 is itself refused, one of infinity is none."""
    try:
        number = float(value)
        valid = low <= number <= high and number > 0 and not (whole and number != int(number))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        kind = "a whole number" if whole else "a number"
        bounds = f"from {low:g} to {high:g}" if high < math.inf and low else f"from {low:g}" if low else "above 0"
        if high < math.inf and not low:
            bounds += f" and up to {high:g}"
        raise MediaError(f"{what} is {value!r}, {kind} {bounds} is accepted.")


def load_clip(
    source: Any,
    *,
    num_frames: int | None = None,
    sampling: str = "uniform",
    fps: float | None = None,
    frames: bool = True,
    sound: bool = True,
    sampling_rate: int = 16000,
    max_duration: float = 1800.0,
    motion: Callable[[np.ndarray], np.ndarray] | None = None,
    max_pixels: int = MAX_PIXELS,
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    max_lines: int | None = None,
    keep_full: bool = False,
) -> Clip:
    """Read one clip: chosen frames with their true times, and the sound.

    Args:
        source: a path (video; wav, flac, mp3 and other sound; jpg, png, bmp, webp), `bytes`, a binary file object (read
            from its start), a PIL image, frames (F, H, W, 3) uint8, a picture (H, W, 3) uint8, a waveform (S,), a dict
            with `frames` and `times` (s) or `fps`, and/or `waveform` or `array` with `sampling_rate`; a dict with
            `video` and/or `audio`, each a source of its own; a dict with `path` and/or `bytes`; or a `Clip`, returned
            as it is. Nothing is fetched from the network.
        num_frames: T at most; None = 8 for "uniform", 1 for "middle", "first" and "peak"; unused by "fps".
        sampling: which frames; a frame is taken at a time when it is the one on screen, and never twice, so T falls
            short of `num_frames` where the clip has fewer frames (or shows one of them for long).
            "uniform": at the centres of `num_frames` equal parts of the picture. "fps": one every 1 / fps seconds
            from the first frame on. "first": the first `num_frames` consecutive frames. "middle": the frame at half
            time, with `num_frames` > 1 that many consecutive frames around it. "peak": the same around the frame of
            strongest facial motion among (at most) 64 spread over the clip; no motion at all = the middle, with a note.
        fps: frames a second, for "fps" only.
        frames: False = leave the picture alone.
        sound: False = leave the sound alone.
        sampling_rate: Hz of the waveform (soxr, high quality, or FFmpeg with a note where soxr is not installed;
            channels are averaged).
        max_duration: s; a longer clip is an error.
        motion: frames (C, H, W, 3) uint8 -> (C,) facial motion, for "peak"; sees frames of at most 960 pixels a side.
        max_pixels: of one frame or picture; larger ones are not decoded, whatever the file's header says of them.
        max_decoded_pixels: of all frames of a video that have to be decoded for those that are chosen.
        max_lines: shorter side of a video's frames; larger ones are made smaller while their colours are converted.
            `None` keeps their size. Pictures and arrays keep theirs.
        keep_full: keep the decoded frames where `max_lines` made them smaller, for `Clip.full`.

    Raises:
        MediaError: whatever makes the clip unusable. A file that breaks off in the middle is used up to there, with a
            note; an mp4 cut before its index (the moov atom) is an error.
    """
    request = _Request(
        *(num_frames, sampling, fps, frames, sound, sampling_rate, max_duration, motion, max_pixels),
        *(max_decoded_pixels, max_lines, keep_full),
    )
    return _load(source, request)


def _load(source: Any, request: _Request) -> Clip:
    # By name of its parts: a processor loaded from a folder owns a second class called Clip.
    if hasattr(source, "frame_times") and hasattr(source, "waveform"):
        return source
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _load(_data_of(source), request)
    if isinstance(source, (str, os.PathLike)):
        return _load_path(os.fspath(source), request)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _load_file(f"<{len(source)} bytes>", io.BytesIO(source), request)
    if isinstance(source, Image.Image):
        return _load_image("<PIL image>", source, request)
    if isinstance(source, dict):
        return _load_dict(source, request)
    if hasattr(source, "read"):
        return _load_stream(source, request)
    if hasattr(source, "__array__"):
        return _load_array(np.asarray(source), request)
    raise MediaError(f"A clip of type {type(source).__name__} cannot be read: {ACCEPTED} is accepted.")


def _data_of(url: str) -> bytes:
    """The bytes in a base64 `data:` URL, which servers of chat models hand over."""
    head, _, text = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise MediaError(f"{url[:60]!r}... is not a data URL in base64: data:video/mp4;base64,... is accepted.")
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise MediaError(f"{url[:60]!r}... is a data URL with damaged base64 ({error}).") from None


def _load_path(path: str, request: _Request) -> Clip:
    if len(path) > MAX_PATH:
        raise MediaError(f"a path of {len(path):,} characters, {path[:60]!r}..., cannot be opened.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise MediaError(f"{path} is a URL, and clips are not fetched from the network: {ACCEPTED} is accepted.")
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(f"{path} is a directory: the path of one video, sound or picture file is accepted.")
        # Opening a pipe waits for its other end, and a device may have none.
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path} is a pipe or a device: a file, or an open file object, is accepted.")
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; the path of a video, sound or picture file is accepted.") from None
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened ({error}).") from None
    with file:
        return _load_file(path, file, request)


def _load_stream(stream: Any, request: _Request) -> Clip:
    name = str(getattr(stream, "name", "<file object>"))
    if not (hasattr(stream, "seekable") and stream.seekable()):
        content = stream.read(MAX_STREAM_BYTES + 1)
        if len(content) > MAX_STREAM_BYTES:
            raise MediaLimitError(
                f"{name} has more than {MAX_STREAM_BYTES:,} bytes: save it as a file and give its path."
            )
        stream = io.BytesIO(content) if isinstance(content, bytes) else io.StringIO(content)
    return _load_file(name, stream, request)


def _load_dict(source: dict, request: _Request) -> Clip:
    if {"video", "audio"} & set(source):
        parts = {name: source[name] for name in ("video", "audio") if source.get(name) is not None}
        if not parts:
            raise MediaError("A clip with neither video nor audio cannot be read: give the path of at least one.")
        clips = {}
        for name, part in parts.items():
            seen = request.frames and name == "video"
            with_sound = request.sound and (name == "audio" or "audio" not in parts)
            clips[name] = _load(part, replace(request, frames=seen, sound=with_sound))
        picture, sound = clips.get("video"), clips.get("audio") or clips["video"]
        if picture is None or sound is picture:
            return sound
        notes = picture.notes + sound.notes + _compare(picture.duration / 1000, 0.0, sound.duration / 1000)
        duration = max(picture.duration, sound.duration)
        return replace(picture, waveform=sound.waveform, duration=duration, notes=notes)
    if source.get("bytes") is not None:
        return _load(source["bytes"], request)
    if source.get("path") is not None and source.get("array") is None:
        return _load(source["path"], request)
    name = str(source.get("path") or "<dict>")
    waveform = source.get("array") if source.get("waveform") is None else source["waveform"]
    if source.get("frames") is None and waveform is None:
        names = ", ".join(map(str, source)) or "no keys"
        raise MediaError(f"A clip given as a dict needs frames, waveform, video, audio, path or bytes: found {names}.")
    notes, clip = [], Clip(name, None, None, None, request.sampling_rate, 0)
    if source.get("frames") is not None:
        pictures = _as_array(f"{name}: frames", source["frames"])
        times, end = _array_times(name, len(pictures), source.get("times"), source.get("fps"), notes)
        _choose_from_array(clip, _check_pictures(name, pictures, request), times, end, request, notes)
    if waveform is not None:
        rate = source.get("sampling_rate")
        if rate is None:
            raise MediaError(f"{name}: a waveform needs its sampling_rate in Hz beside it.")
        _add_waveform(clip, _as_array(f"{name}: the waveform", waveform), rate, request, notes)
    return _finish(clip, request, notes)


def _load_array(array: np.ndarray, request: _Request) -> Clip:
    name, notes = f"<array {array.shape}>", []
    clip = Clip(name, None, None, None, request.sampling_rate, 0)
    if array.ndim == 1:
        notes.append(f"The waveform came without a sampling rate: {request.sampling_rate} Hz is assumed.")
        _add_waveform(clip, array, request.sampling_rate, request, notes)
    else:
        still = array.ndim == 3
        pictures = _check_pictures(name, array[None] if still else array, request)
        times, end = (np.zeros(1), 0.0) if still else _array_times(name, len(array), None, None, notes)
        _choose_from_array(clip, pictures, times, end, request, notes)
    return _finish(clip, request, notes)


def _load_image(name: str, image: Image.Image, request: _Request) -> Clip:
    clip = Clip(name, None, None, None, request.sampling_rate, 0)
    _check_size(name, *image.size, request.max_pixels)
    try:
        # Pillow cuts 16 bits off at 255, which makes a white picture; the upper 8 of them are meant.
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever their malformed input leads to
        raise MediaError(f"{name} is a picture that cannot be decoded ({_reason(error)}).") from None
    notes = ["A still picture: one frame at 0 s, no sound."]
    _choose_from_array(clip, _check_pictures(name, pixels[None], request), np.zeros(1), 0.0, request, notes)
    return _finish(clip, request, notes)


def _reason(error: Exception) -> str:
    """What an exception of a library says, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _check_pictures(name: str, pictures: np.ndarray, request: _Request) -> np.ndarray:
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise MediaError(
            f"{name}: frames of shape {pictures.shape} and type {pictures.dtype} were found, "
            "(frames, height, width, 3) uint8 RGB is accepted."
        )
    if len(pictures) == 0:
        raise MediaError(f"{name} has zero frames: at least one is needed.")
    _check_size(name, pictures.shape[2], pictures.shape[1], request.max_pixels)
    return pictures


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise MediaError(f"{name}: the picture is {width}x{height} pixels, at least {MIN_SIDE}x{MIN_SIDE} is accepted.")
    if width * height > max_pixels:
        raise MediaLimitError(
            f"{name}: the picture is {width}x{height} pixels, at most max_pixels={max_pixels:,} in all are accepted."
        )


def _as_array(what: str, value: Any, dtype: Any = None) -> np.ndarray:
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{what} cannot be read as an array ({_reason(error)}).") from None


def _array_times(name: str, count: int, times: Any, fps: Any, notes: list[str]) -> tuple[np.ndarray, float]:
    """Times (F,) and end of the last frame, s."""
    if times is None:
        if fps is None:
            fps = ARRAY_FPS
            notes.append(f"The frames came without times: {fps:g} frames a second are assumed.")
        _check_number(f"{name}: fps", fps, 0, MAX_FPS)
        return np.arange(count) / fps, count / fps
    times = _as_array(f"{name}: times", times, np.float64)
    if times.shape != (count,):
        raise MediaError(f"{name}: {count} frames came with times of shape {times.shape}: one time a frame is needed.")
    if not np.isfinite(times).all() or times.min() < 0 or (np.diff(times) <= 0).any():
        raise MediaError(f"{name}: times must be finite seconds from 0 on, each later than the one before.")
    return times, float(times[-1] + (np.median(np.diff(times)) if count > 1 else 0.0))


def _choose_from_array(
    clip: Clip, pictures: np.ndarray, times: np.ndarray, end: float, request: _Request, notes: list[str]
) -> None:
    clip.duration = round(end * 1000)
    if request.frames and len(pictures):
        chosen = request.choose(times, end, lambda some: (pictures[some], some), notes)
        clip.frames = pictures[chosen]
        clip.frame_times = np.round(times[chosen] * 1000).astype(np.int64)


def _add_waveform(clip: Clip, samples: np.ndarray, rate: Any, request: _Request, notes: list[str]) -> None:
    _check_number(f"{clip.source}: sampling_rate", rate, MIN_RATE, MAX_RATE)
    if samples.dtype.kind not in "fi" and samples.dtype != np.uint8:
        raise MediaError(f"{clip.source}: a waveform of {samples.dtype} was found, float, int or uint8 is accepted.")
    if samples.ndim == 2:
        # Channels come first or last; a sound has far more samples than channels.
        samples = samples.T if samples.shape[0] > samples.shape[1] else samples
    elif samples.ndim == 1:
        samples = samples[None]
    else:
        raise MediaError(f"{clip.source}: a waveform of shape {samples.shape} was found, (samples,) is accepted.")
    if samples.size == 0:
        raise MediaError(f"{clip.source}: the waveform has no samples.")
    mono = _mono(samples)
    seconds = len(mono) / rate
    if clip.frames is not None and len(clip.frames) > 1:
        notes += _compare(clip.duration / 1000, 0.0, seconds)
    clip.duration = max(clip.duration, round(seconds * 1000))
    if request.sound:
        _check_finite(clip.source, mono, rate)
        if rate != request.sampling_rate:
            mono = _resampler(rate, request.sampling_rate, notes).resample_chunk(mono, last=True)
        clip.waveform = mono


def _mono(samples: np.ndarray) -> np.ndarray:
    """Channels (C, S) of any sample type -> their mean (S,) float32, full scale = 1."""
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples[0].astype(np.float32) if len(samples) == 1 else samples.mean(0, dtype=np.float32)


def _check_finite(name: str, mono: np.ndarray, rate: float, start: float = 0.0) -> None:
    bad = ~np.isfinite(mono)
    if bad.any():
        at = start + bad.argmax() / rate
        raise MediaError(f"{name}: the sound holds NaN or infinite samples, the first at {at:.2f} s; mend or drop it.")


def _on_screen(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Distinct indices of the frames on screen at `targets`; times (F,) and targets in s, both ascending."""
    # A microsecond, so that a target computed in floating point does not fall just before the frame it names.
    return np.unique(np.clip(np.searchsorted(times, targets + 1e-6, side="right") - 1, 0, len(times) - 1))


def _spread(times: np.ndarray, end: float, count: int) -> np.ndarray:
    if count >= len(times):
        return np.arange(len(times))
    return _on_screen(times, times[0] + (np.arange(count) + 0.5) * (end - times[0]) / count)


def _load_file(name: str, file: BinaryIO, request: _Request) -> Clip:
    """The one gate for paths, bytes, URLs and file objects: `file` is read from its start, and nothing else is."""
    try:
        file.seek(0)
        head = file.read(16)
        if not isinstance(head, bytes):
            raise MediaError(f"{name} is a text file object: open it in binary mode.")
        if not head:
            raise MediaError(f"{name} is empty (0 bytes): a video, sound or picture file is accepted.")
        if head.startswith(IMAGE_HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
            return _load_image(name, _open_image(name, file), request)
        return _load_container(name, file, head, request)
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{name} cannot be read as a video or sound file ({_reason(error)}).") from error


def _open_image(name: str, file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # max_pixels decides
            return Image.open(file, formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow's parsers raise whatever their malformed input leads to
        raise MediaError(f"{name} is a picture that cannot be opened ({_reason(error)}).") from None


def _load_container(name: str, file: BinaryIO, head: bytes, request: _Request) -> Clip:
    notes: list[str] = []
    clip = Clip(name, None, None, None, request.sampling_rate, 0)
    with _open(name, file, head) as container:
        picture, sound = _scan(name, container, lambda: _open(name, file, head), request, notes)
        if sound is not None and request.sound:
            clip.waveform = sound.finish()
            if clip.waveform is None:
                notes.append("The file has a sound stream, but no sound could be decoded from it.")
            elif picture is not None:
                notes += _compare(picture.end, sound.begin, sound.end)
        clip.duration = round(1000 * max(part.end for part in (picture, sound) if part is not None))
        if picture is not None and request.frames:
            clip.frames, clip.frame_times, clip.full = picture.sample(request, notes)
    if request.frames and request.sound and clip.frames is None and clip.waveform is None:
        raise MediaError(f"{name}: neither a frame nor a sound sample could be decoded from it.")
    return _finish(clip, request, notes)


class _Nameless:
    """An open file for FFmpeg without its name, by which FFmpeg would guess a format and look for more files."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open(name: str, file: BinaryIO, head: bytes) -> av.container.InputContainer:
    file.seek(0)
    try:
        return av.open(
            _Nameless(file),
            options={"format_whitelist": FORMATS, "protocol_whitelist": ""},
            buffer_size=2**16,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        if head[4:8] == b"ftyp":
            raise MediaError(
                f"{name} is an mp4 without its index (the moov atom), cut off while it was written or copied: "
                "nothing of it can be read; copy it again from its source."
            ) from None
        raise MediaError(f"{name} is not a video or sound file that can be read ({_reason(error)}).") from None


def _streams(container: av.container.InputContainer) -> tuple[Any, Any]:
    """The video stream and the audio stream to use, None where there is none."""
    video, audio = container.streams.best("video"), container.streams.best("audio")
    if video is not None and video.disposition & Disposition.attached_pic:
        video = None  # the cover of a song
    return video, audio


def _scan(
    name: str,
    container: av.container.InputContainer,
    reopen: Callable[[], av.container.InputContainer],
    request: _Request,
    notes: list[str],
) -> tuple["_Picture | None", "_Sound | None"]:
    """Read the file once: the table of its video packets, and its sound decoded."""
    video, audio = _streams(container)
    for stream in (video, audio):
        if stream is not None and stream.codec_context is None:
            raise MediaError(f"{name} holds a {stream.type} stream of a kind that FFmpeg cannot decode.")
        if stream is not None and not stream.time_base:
            raise MediaError(f"{name} holds a {stream.type} stream without a unit of time.")
    if video is None and audio is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise MediaError(f"{name} holds neither picture nor sound: its streams are {kinds}.")
    # A start before 0 is the encoder's run-up, which the decoder cuts off.
    origin = max(0.0, (container.start_time or 0) / av.time_base)
    declared = (container.duration or 0) / av.time_base
    if container.format.name in GUESSED_LENGTH:
        declared = 0.0
    # Some muxers (Matroska) count the length from 0 though the clip starts later.
    _check_length(name, declared - origin, request.max_duration)
    picture = sound = None
    if video is not None:
        picture = _Picture(name, video, origin, reopen, hold=request.frames)
    if audio is not None:
        sound = _Sound(name, audio, origin, request, notes)
    broken, count = False, 0
    packets = container.demux([stream for stream in (video, audio) if stream is not None])
    parts = {stream.index: part for stream, part in ((video, picture), (audio, sound)) if stream is not None}
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):  # PyAV knows no stream that begins in the middle of a file
            broken = True
            break
        if packet is None:
            break
        count += 1
        if count > MAX_PACKETS:
            raise MediaLimitError(f"{name} has more than the {MAX_PACKETS:,} packets that are accepted.")
        if packet.size:
            part = parts[packet.stream_index]
            part.add(packet)
            _check_length(name, part.end, request.max_duration)
    if picture is not None and not picture.close():
        if sound is None or sound.packets == 0:
            raise MediaError(f"{name} has a video stream with zero frames, and no sound.")
        notes.append("The file has a video stream with zero frames: only its sound is used.")
        picture = None
    if sound is not None and sound.packets == 0:
        notes.append("The file has a sound stream with no sound in it: only its picture is used.")
        sound = None
        if picture is None:
            raise MediaError(f"{name} has a sound stream with zero samples, and no picture.")
    end = max(part.end for part in (picture, sound) if part is not None)
    if broken or declared - origin - end > max(0.5, 0.02 * declared):
        whole = f" of the {declared:.2f} s that its header states" if declared > end else ""
        notes.append(f"The file breaks off after {end:.2f} s{whole}: what can be read is used.")
    return picture, sound


def _check_length(name: str, seconds: float, limit: float) -> None:
    if seconds > limit:
        raise MediaLimitError(
            f"{name} lasts {seconds:.1f} s or more, at most max_duration={limit:g} s is accepted: "
            "cut the clip or pass a larger max_duration."
        )


def _compare(picture_end: float, sound_begin: float, sound_end: float) -> list[str]:
    """Notes where sound and picture differ by more than a quarter of a second; s."""
    notes = []
    if sound_begin > 0.25:
        notes.append(f"The sound starts at {sound_begin:.2f} s; silence stands before it.")
    if abs(sound_end - picture_end) > 0.25:
        word = "before" if sound_end < picture_end else "after"
        notes.append(f"The sound ends at {sound_end:.2f} s, {word} the picture ({picture_end:.2f} s).")
    return notes


def _finish(clip: Clip, request: _Request, notes: list[str]) -> Clip:
    """Check what is the same for every kind of source, and attach the notes."""
    _check_length(clip.source, clip.duration / 1000, request.max_duration)
    if clip.waveform is not None:
        level = np.abs(clip.waveform)
        full = float((level >= 0.999).mean())
        if level.max() < 1e-4:
            notes.append("The sound is silent.")
        elif full > 0.01:
            notes.append(f"The sound is probably clipped: {full:.0%} of its samples are at full scale.")
        if len(clip.waveform) < 0.1 * clip.sampling_rate:
            notes.append(f"The sound lasts only {len(clip.waveform) / clip.sampling_rate:.3f} s.")
    clip.notes = notes
    return clip


class _Clock:
    """Times of one stream: whole ticks of the stream -> seconds from the start of the clip."""

    def __init__(self, stream: Any, origin: float):
        self.tick, self.origin = float(stream.time_base), origin
        # The last packet of an mp4 may be longer than what its edit list plays of it.
        known = stream.duration and stream.start_time is not None
        self.limit = stream.start_time + stream.duration if known else None
        self.last = 0  # tick at which what was seen so far ends

    def seconds(self, ticks: int) -> float:
        return ticks * self.tick - self.origin

    def see(self, packet: Any) -> float:
        """When the packets seen so far end, s."""
        stop = packet.pts + (packet.duration or 0)
        if self.limit is not None and packet.pts < self.limit < stop:
            stop = self.limit
        self.last = max(self.last, stop)
        return self.seconds(self.last)


def _resampler(rate: float, sampling_rate: int, notes: list[str]) -> Any:
    """What has `resample_chunk((S,) float32, last=...)`: soxr, else FFmpeg, with a note."""
    if soxr is not None:
        return soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
    if FFMPEG_RESAMPLED not in notes:
        notes.append(FFMPEG_RESAMPLED)
    return _FFmpegResampler(round(rate), sampling_rate)


class _FFmpegResampler:
    """PyAV's resampler for one channel, with the interface of soxr's."""

    def __init__(self, rate: int, sampling_rate: int):
        self.rate = rate
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)

    def resample_chunk(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        frames = []
        if len(samples):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
            frame.sample_rate = self.rate
            frames += self.resampler.resample(frame)
        frames += self.resampler.resample(None) if last else []
        return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray()[0] for frame in frames)])


class _Sound:
    """The audio stream: packets in, one waveform out, resampled on the way."""

    def __init__(self, name: str, stream: Any, origin: float, request: _Request, notes: list[str]):
        self.name, self.context, self.clock, self.notes = name, stream.codec_context, _Clock(stream, origin), notes
        self.sampling_rate, self.decode, self.limit = request.sampling_rate, request.sound, request.max_duration
        if self.context.sample_rate:  # else the first decoded frame knows it
            _check_number(f"{name}: the sampling rate of its sound", self.context.sample_rate, MIN_RATE, MAX_RATE)
        self.samples = 0  # of all channels, as decoded
        self.begin: float | None = None  # s
        self.end = 0.0  # s, by the packets: the same whether the sound is decoded or not
        self.packets = 0
        self.fed = 0.0  # s of sound and silence so far
        self.kind: tuple | None = None  # rate (Hz), channels and sample type of what is pending
        self.pending: list[np.ndarray] = []  # (C, S) each, not resampled yet
        self.rate: int | None = None  # Hz of what the resampler was given
        self.resampler: Any = None
        self.chunks: list[np.ndarray] = []  # (S,) each, at `sampling_rate`

    def add(self, packet: Any) -> None:
        self.packets += 1
        if packet.pts is not None and not packet.is_discard:
            self.end = self.clock.see(packet)
        if self.decode and not packet.is_corrupt:
            self._decode(packet)

    def _decode(self, packet: Any) -> None:
        try:
            decoded = self.context.decode(packet)
        except av.FFmpegError:
            return  # a damaged packet leaves a gap, which the times of the next one fill with silence
        for frame in decoded:
            channels = frame.to_ndarray()
            if not frame.format.is_planar:
                channels = channels.reshape(-1, frame.layout.nb_channels).T
            self._feed(channels, frame.sample_rate, frame.pts)

    def _feed(self, channels: np.ndarray, rate: int, pts: int | None) -> None:
        _check_number(f"{self.name}: the sampling rate of its sound", rate, MIN_RATE, MAX_RATE)
        self.samples += channels.size
        if self.samples > MAX_SAMPLES:
            raise MediaLimitError(
                f"{self.name}: its sound has more than the {MAX_SAMPLES:,} samples that are accepted."
            )
        start = self.fed if pts is None else self.clock.seconds(pts)
        _check_length(self.name, start, self.limit)
        if self.begin is None:
            if start < 0:
                channels, start = channels[:, round(-start * rate) :], 0.0
            if not channels.shape[1]:
                return
            self.begin = start
        kind = (rate, len(channels), channels.dtype)
        if kind != self.kind:
            self._resample()
            self.kind = kind
        gap = round((start - self.fed) * rate)
        # Times in some containers are rounded to a millisecond: only a real hole is filled, a real overlap cut.
        if gap > 0 and (self.fed == 0.0 or gap > 0.05 * rate):
            self._resample()
            self._give(np.zeros(gap, np.float32))
            self.fed += gap / rate
        elif gap < -0.05 * rate:
            channels = channels[:, -gap:]
        self.pending.append(channels)
        self.fed += channels.shape[1] / rate
        if len(self.pending) == 64:  # one by one, the calls would cost more than the work
            self._resample()

    def _resample(self) -> None:
        """Bring what is pending to mono and to `sampling_rate`."""
        if self.pending:
            mono = _mono(np.concatenate(self.pending, axis=1))
            self.pending = []
            _check_finite(self.name, mono, self.kind[0], self.fed - len(mono) / self.kind[0])
            self._give(mono)

    def _give(self, mono: np.ndarray) -> None:
        rate = self.kind[0]
        if rate != self.rate:
            self._flush()
            self.rate = rate
            if rate != self.sampling_rate:
                self.resampler = _resampler(rate, self.sampling_rate, self.notes)
        self.chunks.append(mono if self.resampler is None else self.resampler.resample_chunk(mono))

    def _flush(self) -> None:
        if self.resampler is not None:
            self.chunks.append(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self.resampler = None

    def finish(self) -> np.ndarray | None:
        """The whole waveform (S,) float32, from time 0 of the clip; None when nothing could be decoded."""
        self._decode(None)
        self._resample()
        self._flush()
        if self.begin is None:
            return None
        self.end = self.end or self.fed
        waveform, self.chunks = np.concatenate(self.chunks), []
        return waveform


class _Picture:
    """The video stream: a table of its packets in decode order, and the frames chosen from it."""

    def __init__(self, name: str, stream: Any, origin: float, reopen: Callable, hold: bool):
        self.name, self.stream, self.reopen = name, stream, reopen
        self.clock = _Clock(stream, origin)
        self.end = 0.0  # s, when the last frame leaves the screen
        self.held: list | None = [] if hold else None
        self.held_bytes = 0
        self.rows: list[tuple] = []

    def add(self, packet: Any) -> None:
        shown = packet.pts is not None and not packet.is_discard and not packet.is_corrupt
        if shown:
            self.end = self.clock.see(packet)
        self.rows.append((packet.pts, packet.is_keyframe, packet.is_disposable, shown))
        if self.held is not None:
            self.held.append(packet)
            self.held_bytes += packet.size
            if self.held_bytes > HELD_BYTES:
                self.held = None

    def close(self) -> bool:
        """End the reading; False = not one frame to show."""
        if not self.rows:
            return False
        if all(row[0] is None for row in self.rows):
            raise MediaError(
                f"{self.name} is a bare video stream without presentation times: put it into a container (mp4, mkv)."
            )
        self.pts = [row[0] for row in self.rows]
        self.keys = [index for index, row in enumerate(self.rows) if row[1]]
        self.disposable = np.array([row[2] for row in self.rows])
        shown = {row[0]: index for index, row in enumerate(self.rows) if row[3]}
        self.order = np.array([shown[pts] for pts in sorted(shown)], dtype=np.int64)  # decode indices, as shown
        if not len(self.order):
            return False
        if len(self.rows) > MAX_FPS * (1 + self.end):
            raise MediaLimitError(
                f"{self.name}: {len(self.rows)} frames in {self.end:.2f} s, at most {MAX_FPS:g} a second are accepted."
            )
        self.times = np.array([self.clock.seconds(self.pts[index]) for index in self.order])
        if self.end <= self.times[-1]:
            self.end = float(self.times[-1] + (np.median(np.diff(self.times)) if len(self.times) > 1 else 0.0))
        return True

    def sample(self, request: _Request, notes: list[str]) -> tuple[np.ndarray, np.ndarray, "FullFrames | None"]:
        """Frames (T, H, W, 3) uint8, their times (T,) int64 ms, and the decoded frames where they are kept."""
        context = self.stream.codec_context
        self.request = request
        canvas = _Canvas(self.name, 0, self.stream.sample_aspect_ratio, request.max_pixels)
        canvas.set_size(context.width, context.height)
        width, height = canvas.size

        def look(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pictures, times, _ = self._frames(some, max_side=PEAK_SIDE)
            return pictures, np.searchsorted(self.times, times - 1e-9)

        chosen = request.choose(self.times, self.end, look, notes)
        _check_memory(self.name, len(chosen), width, height)
        frames, times, full = self._frames(chosen, max_lines=request.max_lines, keep_full=request.keep_full)
        if len(frames) < len(chosen):
            notes.append(f"{len(chosen) - len(frames)} of {len(chosen)} frames could not be decoded and are left out.")
        return frames, np.round(times * 1000).astype(np.int64), full

    def _frames(self, chosen: np.ndarray, **bounds: Any) -> tuple[np.ndarray, np.ndarray, "FullFrames | None"]:
        """Decode the frames `chosen` (indices in order of presentation) -> (T, H, W, 3) uint8, (T,) s, full frames.

        Args:
            bounds: of `_Canvas`.
        """
        wanted = self.order[chosen]
        row_of = {self.pts[index]: row for row, index in enumerate(wanted)}
        canvas = _Canvas(self.name, len(wanted), self.stream.sample_aspect_ratio, self.request.max_pixels, **bounds)
        for frame in self._decode(self._spans(wanted), wanted):
            row = row_of.pop(frame.pts, None)
            if row is not None:
                canvas.put(row, frame)
        if row_of:
            # Damaged, never shown by its codec, or after a key frame that is none: play all and take what is on screen.
            missing = sorted(row_of.items())
            last = None
            for frame in self._decode([(0, len(self.pts))], None):
                if frame.pts is None:
                    continue
                while missing and missing[0][0] < frame.pts:
                    canvas.put(missing.pop(0)[1], last or frame)
                last = frame
            for _, row in missing if last is not None else ():
                canvas.put(row, last)
        frames, pts = canvas.finish()
        if frames is None:
            raise MediaError(f"{self.name}: none of its {len(self.order)} frames could be decoded.")
        return frames, np.array([self.clock.seconds(value) for value in pts]), canvas.full

    def _spans(self, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Stretches of packets [start, stop), decode order, that hold the packets `wanted` and all they depend on."""
        spans: list[tuple[int, int]] = []
        for index in sorted(int(value) for value in wanted):
            at = bisect_right(self.keys, index) - 1
            # A frame shown before the key frame that precedes it in the file leans on the stretch before that.
            while at > 0 and (self.pts[self.keys[at]] is None or self.pts[self.keys[at]] > self.pts[index]):
                at -= 1
            start = self.keys[at] if at >= 0 else 0
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], index + 1)
            else:
                spans.append((start, index + 1))
        return spans

    def _decode(self, spans: list[tuple[int, int]], wanted: np.ndarray | None) -> Iterator[Any]:
        """Yield the frames of `spans` as they are shown; with `wanted`, other frames only where they are needed."""
        send = np.zeros(len(self.pts), dtype=bool)
        for start, stop in spans:
            send[start:stop] = True
        full = np.ones(len(self.pts), dtype=bool)
        if wanted is not None:
            full[:] = False
            full[wanted] = True
            send &= full | ~self.disposable
        size = self.stream.codec_context
        pixels = int(send.sum()) * size.width * size.height
        if pixels > self.request.max_decoded_pixels:
            raise MediaLimitError(
                f"{self.name}: {int(send.sum()):,} frames of {size.width}x{size.height} pixels would have to be "
                f"decoded, at most max_decoded_pixels={self.request.max_decoded_pixels:,} in all are accepted: cut or "
                "shrink the clip."
            )
        restarts = set() if len(self.keys) == len(self.pts) else {start for start, _ in spans[1:]}
        container = None
        if self.held is None:
            container = self.reopen()
            stream = _streams(container)[0]
            packets = (packet for packet in container.demux(stream) if packet.size)
        else:
            stream, packets = self.stream, self.held
        context = stream.codec_context
        if not context.is_open:
            # The size can change in the middle of a stream; the decoder itself then refuses the frame.
            context.options = {**context.options, "max_pixels": str(self.request.max_pixels)}
            stream.thread_type = "AUTO"
            if size.width * size.height <= SMALL_PIXELS:
                context.thread_count = 1
        try:
            for index, packet in enumerate(packets):
                if index == spans[-1][1]:
                    break
                if index in restarts:
                    yield from _receive(context, None)
                    context.flush_buffers()
                if send[index]:
                    context.skip_frame = "DEFAULT" if full[index] else "NONREF"
                    yield from _receive(context, packet)
            yield from _receive(context, None)
            context.flush_buffers()
        finally:
            if container is not None:
                container.close()


def _receive(context: Any, packet: Any) -> list:
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []  # a damaged packet: the frames that lean on it are found missing afterwards


class _Canvas:
    """Chosen frames, converted one by one into one array: RGB, square pixels, display orientation, one size.

    Args:
        max_side, max_lines: of the array's pictures, the longer and the shorter side.
        keep_full: keep the frames as they were decoded where the array's are smaller.
    """

    def __init__(
        self,
        name: str,
        count: int,
        aspect: Any,
        max_pixels: int,
        max_side: int | None = None,
        max_lines: int | None = None,
        keep_full: bool = False,
    ):
        self.name, self.count, self.aspect, self.max_pixels = name, count, float(aspect or 1), max_pixels
        self.max_side, self.max_lines, self.keep_full = max_side, max_lines, keep_full
        self.size: tuple[int, int] | None = None  # width and height as decoded, after aspect and bounds
        self.matrix: Any = None  # the first frame's, for all: one array holds one shape
        self.frames: np.ndarray | None = None
        self.decoded: list[Any] = [None] * count
        self.full: FullFrames | None = None
        self.pts: list[int | None] = [None] * count
        self.reformatter, self.shrinker = VideoReformatter(), VideoReformatter()  # those for all frames keep tables
        self.filter = Interpolation.BILINEAR

    def set_size(self, width: int, height: int) -> None:
        width = max(1, round(width * self.aspect))
        _check_size(self.name, width, height, self.max_pixels)
        scale = min(1.0, self.max_side / max(width, height)) if self.max_side else 1.0
        if self.max_lines and min(width, height) * scale > self.max_lines:
            # Of libswscale's filters, the mean over an area is the fastest that does not alias, and the nearest to PIL.
            scale, self.filter = self.max_lines / min(width, height), Interpolation.AREA
        else:
            self.keep_full = False
        self.size = max(1, round(width * scale)), max(1, round(height * scale))

    def put(self, row: int, frame: Any) -> None:
        if self.size is None:
            self.set_size(frame.width, frame.height)
            _check_memory(self.name, self.count, *self.size)
            # Asked for by name: before PyAV 19 iterating over side data gives its values, since then its keys.
            self.matrix = frame.side_data.get("DISPLAYMATRIX")
        shown, (width, height) = frame, self.size
        if self.filter is Interpolation.AREA and frame.format.name in PLANAR_420:
            # Colours last: libswscale has fast loops to scale planes and to convert them, none for both in one pass,
            # and its result for both is further from that of the whole frame.
            shown = self.shrinker.reformat(frame, width, height, frame.format.name, interpolation=self.filter)
        rgb = _upright(_to_rgb(self.reformatter, shown, self.size, self.filter), self.matrix)
        if self.frames is None:
            self.frames = np.empty((self.count, *rgb.shape), dtype=np.uint8)
        self.frames[row] = rgb
        self.decoded[row] = frame if self.keep_full else None
        self.pts[row] = frame.pts

    def finish(self) -> tuple[np.ndarray | None, list[int]]:
        """Frames in order of their times, each once, and their times in the stream's unit."""
        rows: dict[int, int] = {}
        for row, pts in enumerate(self.pts):
            if pts is not None:
                rows.setdefault(pts, row)
        order = sorted(rows)
        if self.keep_full:
            self.full = FullFrames([self.decoded[rows[pts]] for pts in order], self.matrix, self.aspect)
        if len(order) == self.count:
            return self.frames, order
        return (self.frames[[rows[pts] for pts in order]] if order else None), order


class FullFrames:
    """A clip's frames as they were decoded, for details that its smaller RGB frames no longer show.

    Args:
        frames: T frames of PyAV.
        matrix: their display matrix, or `None`.
        aspect: width of a pixel over its height.
    """

    def __init__(self, frames: list[Any], matrix: Any, aspect: float):
        self.frames, self.matrix, self.aspect = frames, matrix, aspect

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, in square pixels."""
        width, height = max(1, round(self.frames[0].width * self.aspect)), self.frames[0].height
        return (height, width) if _turns(self.matrix)[0] else (width, height)

    def take(self, rows: np.ndarray | slice) -> "FullFrames":
        return FullFrames([self.frames[row] for row in np.arange(len(self.frames))[rows]], self.matrix, self.aspect)

    def crop(self, row: int, box: Any) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """A part of frame `row`, of which nothing else is converted.

        Args:
            box: x0, y0, x1, y1, fractions of the upright picture.

        Returns:
            (h, w, 3) uint8 RGB at full size, and the box that it shows, which is at least `box` inside the picture: a
            crop starts and ends where the chroma of every format does, at multiples of 8 pixels.
        """
        frame = self.frames[row]
        x0, y0, x1, y1 = _turned(np.clip(box, 0, 1), self.matrix)
        left, top = (int(start * size) // 8 * 8 for start, size in ((x0, frame.width), (y0, frame.height)))
        right, bottom = (
            min(size, -(-math.ceil(stop * size) // 8) * 8) for stop, size in ((x1, frame.width), (y1, frame.height))
        )
        width, height = right - left, bottom - top
        graph = Graph()
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
        graph.link_nodes(source, graph.add("crop", f"{width}:{height}:{left}:{top}"), graph.add("buffersink"))
        graph.configure()
        graph.push(frame)
        rgb = _to_rgb(VideoReformatter(), graph.pull(), (max(1, round(width * self.aspect)), height))
        shown = left / frame.width, top / frame.height, right / frame.width, bottom / frame.height
        return np.ascontiguousarray(_upright(rgb, self.matrix)), _turned(shown, self.matrix, back=True)


def _to_rgb(reformatter: Any, frame: Any, size: tuple[int, int], filter_: Any = Interpolation.BILINEAR) -> np.ndarray:
    width, height = size
    rgb = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=filter_)
    # A view: `to_ndarray` would copy it once more.
    lines = np.frombuffer(rgb.planes[0], np.uint8).reshape(height, -1)
    return lines[:, : 3 * width].reshape(height, width, 3)


def _check_memory(name: str, count: int, width: int, height: int) -> None:
    size = count * width * height * 3
    if size > MAX_CHOSEN_BYTES:
        raise MediaLimitError(
            f"{name}: {count} frames of {width}x{height} pixels would need {size / 2**30:.1f} GiB, at most "
            f"{MAX_CHOSEN_BYTES / 2**30:g} GiB is accepted: ask for fewer frames."
        )


def _turns(matrix: Any) -> tuple[bool, bool, bool]:
    """A frame's display matrix, to the nearest quarter turn: rows and columns swapped, then mirrored in x, in y."""
    if matrix is None:
        return False, False, False
    # Column-major 3 x 3 in the machine's byte order: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    swapped = abs(b) > abs(a)
    across, down = (c, b) if swapped else (a, d)
    return swapped, across < 0, down < 0


def _upright(rgb: np.ndarray, matrix: Any) -> np.ndarray:
    """Turn or mirror a picture (H, W, 3) by a frame's display matrix."""
    swapped, mirrored_x, mirrored_y = _turns(matrix)
    rgb = rgb.transpose(1, 0, 2) if swapped else rgb
    return rgb[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]


def _turned(box: Any, matrix: Any, back: bool = False) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in fractions of the upright picture -> of the picture as stored; with `back` the other way."""
    swapped, mirrored_x, mirrored_y = _turns(matrix)
    x0, y0, x1, y1 = map(float, box)
    if swapped and back:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if mirrored_x:
        x0, x1 = 1 - x1, 1 - x0
    if mirrored_y:
        y0, y1 = 1 - y1, 1 - y0
    if swapped and not back:
        x0, y0, x1, y1 = y0, x0, y1, x1
    return x0, y0, x1, y1
