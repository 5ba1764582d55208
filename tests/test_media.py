"""Reading clips: every chosen frame against a plain decode of all, times, sound, and every bad input."""

import io
import math
import pickle
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soxr
from PIL import Image

from hf_emotion.processing import media
from hf_emotion.processing.media import Clip, MediaError, load_clip

WIDTH, HEIGHT = 64, 48
REQUEST = media._Request(None, "uniform", None, True, True, 16000, 1800.0, None)
SOUND_CODEC = SimpleNamespace(sample_rate=16000)


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that shows its index: a square that moves over a slowly changing ground."""
    frame = np.full((height, width, 3), (index * 5 % 200, 90, 160), dtype=np.uint8)
    x, y = index * 3 % (width - 12), index * 2 % (height - 12)
    frame[y : y + 12, x : x + 12] = (255, 255 - index % 200, index % 256)
    return frame


def tone(seconds: float, rate: int, channels: int = 1, level: float = 0.5) -> np.ndarray:
    """(C, S) float32: a chirp, another for each channel."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([level * np.sin(2 * np.pi * (200 + 150 * c + 300 * t) * t) for c in range(channels)]).astype("f4")


def film(
    path,
    ticks=range(50),  # presentation time of each frame, in 1 / per_second s
    per_second=25,
    codec="libx264",
    options=None,
    size=(WIDTH, HEIGHT),
    pixels="yuv420p",
    sound=None,  # (C, S), with its codec and rate
    sound_codec="aac",
    rate=44100,
    sound_start=0.0,
    turn=None,
    aspect=None,
    container_options=None,
):
    """Write a film of `picture(0)`, `picture(1)`, ... with PyAV."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(codec, rate=per_second, options=options or {})
        video.width, video.height, video.pix_fmt = *size, pixels
        video.codec_context.time_base = Fraction(1, per_second)
        if turn is not None:
            turn(video)
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        audio = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
        container.start_encoding()  # so that a film of no frames is a file too
        packets = []
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, per_second)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None:
            packets += encode_sound(audio, sound, rate, sound_start)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return path


def encode_sound(stream, sound, rate, start=0.0):
    packets = []
    name = stream.codec_context.format.name
    for at in range(0, sound.shape[1], 1024):
        piece = np.ascontiguousarray(sound[:, at : at + 1024])
        layout = {1: "mono", 2: "stereo"}[len(sound)]
        if name[0] == "s":
            kind = np.int16 if name.startswith("s16") else np.int32
            piece = (np.clip(piece, -1, 1) * np.float64(np.iinfo(kind).max)).astype(kind)
        if not name.endswith("p"):
            piece = np.ascontiguousarray(piece.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(piece, format=name, layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at + round(start * rate)
        packets += stream.encode(frame)
    return packets + stream.encode()


def speech(path, sound, codec, rate):
    """Write a sound file with PyAV."""
    with av.open(str(path), "w") as container:
        layout = {1: "mono", 2: "stereo"}[len(sound)]
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for packet in encode_sound(stream, sound, rate):
            container.mux(packet)
    return path


def wav(path, samples, rate):
    """Write int16 samples (C, S) with the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples.T.astype("<i2")).tobytes())
    return path


def play(path) -> dict[int, np.ndarray]:
    """The plain twin: decode everything -> {ms: (H, W, 3)}, as stored (not turned)."""
    with av.open(str(path)) as container:
        origin = max(0.0, (container.start_time or 0) / av.time_base)
        return {
            round((float(frame.pts * frame.time_base) - origin) * 1000): frame.to_ndarray(format="rgb24")
            for frame in container.decode(video=0)
        }


def play_sound(path) -> tuple[np.ndarray, int, float]:
    """The plain twin: all sound (S,) at its own rate, the rate, and the time of its first sample, s."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate = frames[0].sample_rate
        pieces = []
        for frame in frames:
            array = frame.to_ndarray()
            if not frame.format.is_planar:
                array = array.reshape(-1, frame.layout.nb_channels).T
            if array.dtype.kind == "i":
                array = array / 2.0 ** (8 * array.dtype.itemsize - 1)
            pieces.append(array.mean(0))
        return np.concatenate(pieces).astype("f4"), rate, float(frames[0].pts * frames[0].time_base)


def on_screen(times: list[int], target: float) -> int:
    """Index of the frame on screen at `target` ms, counted by hand."""
    shown = 0
    for index, time in enumerate(times):
        if time <= target + 0.01:
            shown = index
    return shown


FILMS = {
    "h264 with B-frames": ("a.mp4", {"options": {"bf": "3", "g": "12"}}),
    "h264 with open groups": (
        "a.mkv",
        {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=10:b-pyramid=normal"}},
    ),
    "h264 in a transport stream": ("a.ts", {"options": {"bf": "2", "g": "10"}}),
    "hevc": ("a.mov", {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=3:log-level=none"}}),
    "mpeg4 in avi": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}),
    "vp9 with hidden frames": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "20", "auto-alt-ref": "1"}}),
    "vp8": ("b.webm", {"codec": "libvpx", "options": {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "10"}}),
    "mjpeg": ("b.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "variable frame rate": ("c.mp4", {"ticks": [0, 1, 2, 3, 50, 51, 53, 57, 90, 91, 92, 93, 140], "per_second": 50}),
}


@pytest.mark.parametrize("held", [True, False], ids=["held", "read twice"])
@pytest.mark.parametrize("kind", FILMS)
def test_chosen_frames_and_times_are_those_of_a_plain_decode(tmp_path, monkeypatch, kind, held):
    if not held:
        monkeypatch.setattr(media, "HELD_BYTES", 0)
    decode, passes = media._Picture._decode, []
    monkeypatch.setattr(media._Picture, "_decode", lambda self, *args: (passes.append(1), decode(self, *args))[1])
    name, settings = FILMS[kind]
    path = film(tmp_path / name, **settings)
    twin = play(path)
    assert len(twin) == len(settings.get("ticks", range(50)))
    for count in (1, 3, 8, len(twin), len(twin) + 5):
        passes.clear()
        clip = load_clip(path, num_frames=count)
        assert len(passes) == 1  # a second one plays the whole film to make up for frames that did not come
        assert clip.frame_times.dtype == np.int64
        assert (np.diff(clip.frame_times) > 0).all()
        assert len(clip.frames) == count or count > 8 or kind == "variable frame rate"
        for time, frame in zip(clip.frame_times.tolist(), clip.frames, strict=True):
            assert np.array_equal(frame, twin[time]), f"{count} frames, at {time} ms"
    assert clip.frame_times.tolist() == sorted(twin)
    assert clip.waveform is None
    assert clip.notes == []


def test_frames_not_chosen_are_never_converted(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    put, rows = media._Canvas.put, []
    monkeypatch.setattr(media._Canvas, "put", lambda self, row, frame: (rows.append(row), put(self, row, frame))[1])
    load_clip(path, num_frames=4)
    assert sorted(rows) == [0, 1, 2, 3]


def test_stretches_without_a_chosen_frame_are_never_decoded(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", options={"g": "5", "bf": "0"})
    receive, sent = media._receive, []
    monkeypatch.setattr(media, "_receive", lambda context, packet: (sent.append(packet), receive(context, packet))[1])
    clip = load_clip(path, num_frames=2)
    assert clip.frame_times.tolist() == [480, 1480]
    # Frames 10 to 12 and 35 to 37, less those that x264 marks as disposable.
    assert 2 <= sum(packet is not None for packet in sent) <= 3 + 3


@pytest.mark.parametrize("kind", ["h264 with B-frames", "variable frame rate"])
def test_sampling_policies_equal_a_count_by_hand(tmp_path, kind):
    name, settings = FILMS[kind]
    path = film(tmp_path / name, **settings)
    times = sorted(play(path))
    end = load_clip(path).duration
    assert end > times[-1]

    def chosen(**wish):
        return load_clip(path, **wish).frame_times.tolist()

    for count in (1, 2, 5, 8):
        centres = [times[0] + (i + 0.5) * (end - times[0]) / count for i in range(count)]
        assert chosen(num_frames=count) == sorted({times[on_screen(times, centre)] for centre in centres})
    for fps in (1.0, 4.0, 12.5, 1000.0):
        steps = [i * 1000 / fps for i in range(math.ceil(end * fps / 1000))]
        assert chosen(sampling="fps", fps=fps) == sorted({times[on_screen(times, step)] for step in steps})
    assert chosen(sampling="first") == times[:1]
    assert chosen(sampling="first", num_frames=4) == times[:4]
    middle = on_screen(times, end / 2)
    assert chosen(sampling="middle") == [times[middle]]
    assert chosen(sampling="middle", num_frames=3) == times[middle - 1 : middle + 2]
    assert chosen(sampling="middle", num_frames=len(times) + 1) == times


def test_the_peak_is_the_frame_of_strongest_motion_among_bounded_candidates(tmp_path):
    path = film(tmp_path / "a.mp4", ticks=range(100), options={"g": "30"}, size=(1280, 64))
    seen = []

    def motion(frames):
        seen.append(frames.shape)
        ground = frames[:, :, :, 0].min(axis=(1, 2)).astype(float)  # picture(i) has i * 5 % 200 there
        return -np.abs(ground - ground.max()) + 1

    clip = load_clip(path, sampling="peak", motion=motion)
    times = sorted(play(path))
    assert seen == [(64, 48, 960, 3)]
    assert clip.frames.shape == (1, 64, 1280, 3)
    peak = times.index(clip.frame_times[0])
    assert peak in (38, 39, 78, 79)  # the brightest grounds, 190 and 195
    around = load_clip(path, sampling="peak", num_frames=5, motion=motion)
    assert around.frame_times.tolist() == times[peak - 2 : peak + 3]
    for nothing in (np.zeros(64), np.full(64, np.nan)):
        clip = load_clip(path, sampling="peak", motion=lambda frames, scores=nothing: scores)
        assert clip.frame_times.tolist() == [times[50]]
        assert clip.notes == ["No facial motion was found, so the middle frame stands for the peak."]
    with pytest.raises(MediaError, match=r"shape \(3,\) for 64 frames"):
        load_clip(path, sampling="peak", motion=lambda frames: np.zeros(3))


def turns():
    flip = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    mirror = (-flip[0], *flip[1:])
    return {
        "quarter left": (lambda stream: stream.set_display_rotation(90), lambda x: np.rot90(x, 1)),
        "quarter right": (lambda stream: stream.set_display_rotation(-90), lambda x: np.rot90(x, -1)),
        "half": (lambda stream: stream.set_display_rotation(180), lambda x: np.rot90(x, 2)),
        "mirror": (lambda stream: stream.set_display_matrix(mirror), lambda x: x[:, ::-1]),
        "none": (lambda stream: stream.set_display_matrix(flip), lambda x: x),
    }


@pytest.mark.parametrize("kind", turns())
def test_rotation_and_mirror_metadata_are_applied(tmp_path, kind):
    turn, twin = turns()[kind]
    path = film(tmp_path / "a.mp4", turn=turn)
    clip = load_clip(path, num_frames=3)
    stored = play(path)
    for time, frame in zip(clip.frame_times.tolist(), clip.frames, strict=True):
        assert np.array_equal(frame, twin(stored[time]))
    assert clip.frames.flags.c_contiguous


@pytest.mark.parametrize("kind", [None, *turns()])
def test_smaller_frames_keep_crops_of_the_decoded_picture(tmp_path, kind):
    turn = turns()[kind][0] if kind else None
    path = film(tmp_path / "film.mp4", range(12), size=(96, 64), turn=turn)
    large = load_clip(path, num_frames=4)
    small = load_clip(path, num_frames=4, max_lines=32, keep_full=True)
    assert min(small.frames.shape[1:3]) == 32
    assert large.full is None
    np.testing.assert_array_equal(small.frame_times, large.frame_times)
    height, width = large.frames.shape[1:3]
    assert small.full.size == (width, height)
    for row, frame in enumerate(large.frames):
        means = frame.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        assert np.abs(small.frames[row] - means).mean() < 4  # the colours of four pixels are one
        assert np.abs(small.frames[row].mean((0, 1)) - frame.mean((0, 1))).max() < 1
        part, (x0, y0, x1, y1) = small.full.crop(row, (0.3, 0.1, 0.6, 0.5))
        left, top, right, bottom = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
        outside = left / width <= 0.3, top / height <= 0.1, right / width >= 0.6, bottom / height >= 0.5
        assert all(outside)
        np.testing.assert_array_equal(part, frame[top:bottom, left:right])
    taken = small.take(np.array([2]))
    np.testing.assert_array_equal(taken.full.crop(0, (0, 0, 1, 1))[0], large.frames[2])
    assert pickle.loads(pickle.dumps(small)).full is None


def test_frames_within_the_lines_asked_for_are_not_changed(tmp_path):
    path = film(tmp_path / "film.mp4", range(6))
    clip = load_clip(path, max_lines=HEIGHT, keep_full=True)
    np.testing.assert_array_equal(clip.frames, load_clip(path).frames)
    assert clip.full is None


def test_pixels_that_are_not_square_are_stretched_to_their_shape(tmp_path):
    clip = load_clip(film(tmp_path / "a.mp4", aspect=Fraction(2, 1)), num_frames=2)
    assert clip.frames.shape == (2, HEIGHT, 2 * WIDTH, 3)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_time_zero_is_where_the_clip_starts_to_play(tmp_path, name):
    path = film(tmp_path / name, ticks=range(250, 300), sound=tone(2, 44100), sound_start=10.4)
    clip = load_clip(path, num_frames=50)
    twin = play(path)
    assert clip.frame_times.tolist() == sorted(twin)
    assert clip.frame_times[0] <= 1  # the picture starts first: time 0 is its first frame
    for time, frame in zip(clip.frame_times.tolist(), clip.frames, strict=True):
        assert np.array_equal(frame, twin[time])
    loud = np.flatnonzero(np.abs(clip.waveform) > 0.02)[0] / 16000
    assert loud == pytest.approx(0.4, abs=0.05)
    assert not clip.waveform[: round(0.3 * 16000)].any()
    assert clip.duration == pytest.approx(2400, abs=60)
    # An encoder starts a frame early.
    assert "sound starts at 0.4" in clip.notes[0] or "sound starts at 0.38" in clip.notes[0]


def test_a_picture_that_starts_after_the_sound_keeps_its_times(tmp_path):
    path = film(tmp_path / "a.mkv", ticks=range(25, 50), sound=tone(2, 44100))
    clip = load_clip(path, num_frames=25)
    assert clip.frame_times[[0, -1]].tolist() == pytest.approx([1000, 1960], abs=25)
    assert len(clip.waveform) / 16000 == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.wav", "pcm_s16le", 8000, 1),
        ("a.wav", "pcm_s16le", 96000, 2),
        ("a.wav", "pcm_s16le", 16000, 1),
        ("a.flac", "flac", 44100, 2),
        ("a.mp3", "libmp3lame", 44100, 2),
        ("a.ogg", "libopus", 48000, 1),
        ("a.m4a", "aac", 48000, 2),
    ],
)
def test_sound_files_equal_a_plain_decode_resampled_at_once(tmp_path, name, codec, rate, channels):
    path = speech(tmp_path / name, tone(1.3, rate, channels), codec, rate)
    clip = load_clip(path)
    plain, plain_rate, start = play_sound(path)
    plain = plain[max(0, round(-start * plain_rate)) :]
    twin = soxr.resample(plain, plain_rate, 16000, quality="HQ") if plain_rate != 16000 else plain
    offset = round(max(0.0, start - min(start, 0.0)) * 16000) if start > 0 else 0
    waveform = clip.waveform[offset:] if len(clip.waveform) > len(twin) else clip.waveform
    assert len(waveform) == pytest.approx(len(twin), abs=1)
    np.testing.assert_allclose(waveform[: len(twin)], twin[: len(waveform)], atol=1e-6)
    assert clip.waveform.dtype == np.float32
    assert clip.frames is None
    assert clip.frame_times is None
    assert clip.duration == pytest.approx(1300, abs=60)
    assert np.abs(clip.waveform).max() > 0.1


def test_every_sample_type_of_a_wav_gives_the_same_sound(tmp_path):
    sound = tone(0.5, 16000)
    expected = load_clip(wav(tmp_path / "s16.wav", sound * 32767, 16000)).waveform
    np.testing.assert_allclose(expected, sound[0], atol=1e-4)
    for codec in ("pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"):
        path = tmp_path / f"{codec}.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=16000, layout="mono")
            name = stream.codec_context.format.name
            scale = {"u8": (127, 128, np.uint8), "s32": (2.0**31 - 256, 0, np.int32)}
            factor, shift, kind = scale.get(name, (1, 0, {"flt": np.float32, "dbl": np.float64}.get(name)))
            samples = sound.astype(np.float64) * factor + shift
            samples = (np.round(samples) if factor > 1 else samples).astype(kind)
            frame = av.AudioFrame.from_ndarray(samples, format=name, layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            for packet in [*stream.encode(frame), *stream.encode()]:
                container.mux(packet)
        np.testing.assert_allclose(load_clip(path).waveform, expected, atol=1e-2 if codec == "pcm_u8" else 1e-4)


def test_sound_shorter_or_longer_than_the_picture_is_said(tmp_path):
    short = load_clip(film(tmp_path / "a.mp4", sound=tone(1, 44100, 2)))
    assert short.duration == 2000
    assert len(short.waveform) / 16000 == pytest.approx(1, abs=0.05)
    assert [note for note in short.notes if "before the picture (2.00 s)" in note]
    long = load_clip(film(tmp_path / "b.mp4", sound=tone(3, 44100)))
    assert long.duration == pytest.approx(3000, abs=50)
    assert long.frame_times[-1] < 2000
    assert [note for note in long.notes if "after the picture (2.00 s)" in note]
    assert load_clip(film(tmp_path / "c.mp4", sound=tone(2, 44100))).notes == []


def test_a_hole_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        one = tone(1, 16000)
        packets = encode_sound(stream, one[:, :8192], 16000)
        for packet in packets:
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray((one[:, :8000] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 24000, Fraction(1, 16000)
        packet = av.Packet(np.ascontiguousarray(frame.to_ndarray()).tobytes())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 24000, 24000, Fraction(1, 16000)
        container.mux(packet)
    waveform = load_clip(path).waveform
    assert len(waveform) == pytest.approx(32000, abs=32)
    assert not waveform[8192 + 20 : 24000 - 20].any()
    np.testing.assert_allclose(waveform[-7900:], one[0, 100:8000], atol=1e-3)


def test_the_run_up_of_an_encoder_before_time_zero_is_cut_off():
    stream = SimpleNamespace(time_base=Fraction(1, 16000), duration=None, start_time=None, codec_context=SOUND_CODEC)
    sound = media._Sound("a", stream, 0.0, REQUEST, notes=[])
    samples = tone(1, 16000)
    sound._feed(samples[:, :600], 16000, -1000)
    sound._feed(samples[:, 600:4000], 16000, -400)
    sound._feed(samples[:, 4000:], 16000, 3000)
    sound._resample()
    np.testing.assert_array_equal(np.concatenate(sound.chunks), samples[0, 1000:])
    assert sound.begin == 0.0


def test_sound_that_overlaps_itself_does_not_drift_away_from_its_times():
    stream = SimpleNamespace(time_base=Fraction(1, 16000), duration=None, start_time=None, codec_context=SOUND_CODEC)
    sound = media._Sound("a", stream, 0.0, REQUEST, notes=[])
    for start in range(0, 160_000, 900):
        sound._feed(np.full((1, 1000), start / 16000, np.float32), 16000, start)
    sound._resample()
    waveform = np.concatenate(sound.chunks)
    assert len(waveform) == pytest.approx(160_000, abs=1000)
    told = np.arange(len(waveform)) / 16000  # each sample holds its frame's own time
    assert np.abs(waveform - told).max() < 0.05 + 1000 / 16000


def test_only_what_is_asked_for_is_decoded_and_the_duration_stays(tmp_path):
    path = film(tmp_path / "a.mp4", sound=tone(2.5, 44100))
    both, seen, heard = load_clip(path), load_clip(path, sound=False), load_clip(path, frames=False)
    assert seen.waveform is None
    assert heard.frames is None
    assert both.duration == seen.duration == heard.duration
    np.testing.assert_array_equal(seen.frames, both.frames)
    np.testing.assert_array_equal(heard.waveform, both.waveform)


def test_another_sampling_rate_is_honoured(tmp_path):
    clip = load_clip(wav(tmp_path / "a.wav", tone(1, 44100) * 32767, 44100), sampling_rate=24000)
    assert clip.sampling_rate == 24000
    assert len(clip.waveform) == 24000


def same(a: Clip, b: Clip) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in ((a.frames, b.frames), (a.frame_times, b.frame_times), (a.waveform, b.waveform))
    )


def test_paths_bytes_and_file_objects_give_the_same_clip(tmp_path, monkeypatch):
    path = film(tmp_path / "name: 100%03d.mp4", sound=tone(2, 44100))
    expected = load_clip(path)
    data = path.read_bytes()
    monkeypatch.chdir(tmp_path)

    class Pipe(io.RawIOBase):  # a stream that can be read once, from front to back
        def __init__(self):
            self.inner = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.inner.readinto(buffer)

    for held in (2**26, 0):
        monkeypatch.setattr(media, "HELD_BYTES", held)
        for source in (str(path), path.name, data, bytearray(data), io.BytesIO(data), Pipe(), {"bytes": data}):
            assert same(load_clip(source), expected)
        with open(path, "rb") as file:
            file.read(100)
            assert same(load_clip(file), expected)
            assert not file.closed
    assert same(load_clip({"path": str(path), "bytes": None}), expected)
    assert load_clip(expected, num_frames=1) is expected


def test_sound_of_its_own_file_joins_the_picture(tmp_path):
    video = film(tmp_path / "a.mp4", sound=tone(2, 44100))
    audio = wav(tmp_path / "a.wav", tone(1, 16000) * 32767, 16000)
    clip = load_clip({"video": video, "audio": audio})
    assert len(clip.waveform) == 16000
    np.testing.assert_array_equal(clip.frames, load_clip(video).frames)
    assert clip.duration == pytest.approx(2000, abs=50)
    assert same(load_clip({"video": video, "audio": None}), load_clip(video))
    assert load_clip({"video": None, "audio": audio}).frames is None
    with pytest.raises(MediaError, match="neither video nor audio"):
        load_clip({"video": None, "audio": None})


def test_arrays_are_sampled_by_the_same_policies():
    frames = np.stack([picture(i) for i in range(20)])
    clip = load_clip({"frames": frames, "fps": 10, "waveform": tone(2, 16000)[0], "sampling_rate": 16000}, num_frames=4)
    assert clip.frame_times.tolist() == [200, 700, 1200, 1700]
    np.testing.assert_array_equal(clip.frames, frames[[2, 7, 12, 17]])
    assert clip.duration == 2000
    assert clip.notes == []
    times = [0.0, 0.1, 0.9, 1.0]
    clip = load_clip({"frames": frames[:4], "times": times}, sampling="fps", fps=2)
    assert clip.frame_times.tolist() == [0, 100, 1000]
    bare = load_clip(frames, num_frames=20)
    assert bare.frame_times[1] == 40
    assert "25 frames a second are assumed" in bare.notes[0]
    with pytest.raises(MediaError, match="times of shape"):
        load_clip({"frames": frames, "times": times})
    for wrong in ([0, 1, 1, 2], [0, 2, 1, 3], [-1, 0, 1, 2], [0, 1, 2, np.nan]):
        with pytest.raises(MediaError, match="each later than the one before"):
            load_clip({"frames": frames[:4], "times": wrong})


def test_waveform_arrays_of_any_rate_and_layout_become_mono():
    stereo = tone(1, 96000, 2)
    twin = soxr.resample(stereo.mean(0), 96000, 16000, quality="HQ")
    for samples in (stereo, stereo.T, stereo.astype(np.float64)):
        clip = load_clip({"array": samples, "sampling_rate": 96000})
        np.testing.assert_allclose(clip.waveform, twin, atol=1e-6)
        assert clip.duration == 1000
    clip = load_clip({"waveform": (stereo * 32767).astype(np.int16), "sampling_rate": 96000})
    np.testing.assert_allclose(clip.waveform, twin, atol=1e-4)
    assert len(load_clip({"waveform": tone(1, 8000)[0], "sampling_rate": 8000}).waveform) == 16000
    assert "16000 Hz is assumed" in load_clip(tone(1, 16000)[0]).notes[0]


def test_a_still_picture_is_a_clip_of_one_frame(tmp_path):
    frame = picture(3)
    Image.fromarray(frame).save(tmp_path / "a.png")
    for source in (frame, Image.fromarray(frame), tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        clip = load_clip(source)
        np.testing.assert_array_equal(clip.frames, frame[None])
        assert clip.frame_times.tolist() == [0]
        assert clip.duration == 0
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter right to see it upright
    Image.fromarray(frame).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert load_clip(tmp_path / "a.jpg").frames.shape == (1, WIDTH, HEIGHT, 3)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(MediaError, match="picture that cannot be"):
        load_clip(tmp_path / "cut.png")


def test_the_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    Image.fromarray(picture(1)).save(tmp_path / "cover.jpg")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=44100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packets = encode_sound(stream, tone(1, 44100), 44100)
        image = av.VideoFrame.from_ndarray(picture(1), format="rgb24")
        image.pts = 0
        packets = [*cover.encode(image), *cover.encode(), *packets]
        for packet in packets:
            container.mux(packet)
    clip = load_clip(path)
    assert clip.frames is None
    assert len(clip.waveform) > 15000


def test_a_file_that_breaks_off_is_used_up_to_there_with_a_note(tmp_path):
    whole = film(tmp_path / "a.mp4", sound=tone(2, 44100), container_options={"movflags": "faststart"})
    data = whole.read_bytes()
    clip = load_clip(data[: len(data) * 6 // 10], num_frames=100)
    assert 5 < len(clip.frames) < 45
    twin = play(whole)
    for time, frame in zip(clip.frame_times.tolist(), clip.frames, strict=True):
        assert np.array_equal(frame, twin[time])
    assert "breaks off after" in clip.notes[0]
    assert "of the 2.0" in clip.notes[0]
    assert not any("could not be decoded" in note for note in clip.notes)  # the torn packet is not asked for
    matroska = film(tmp_path / "a.mkv", sound=tone(2, 44100), options={"g": "5"}).read_bytes()
    clip = load_clip(matroska[: len(matroska) // 2])
    assert len(clip.frames) > 3
    assert any("breaks off after" in note for note in clip.notes)


def test_a_packet_torn_by_the_break_is_neither_shown_nor_decoded(tmp_path, monkeypatch):
    whole = film(tmp_path / "a.mp4", options={"bf": "0"}, container_options={"movflags": "faststart"})
    with av.open(str(whole)) as container:
        torn = [packet for packet in container.demux(video=0) if packet.size][30]
        cut = torn.pos + torn.size // 2
    receive, sent = media._receive, []
    monkeypatch.setattr(media, "_receive", lambda context, packet: (sent.append(packet), receive(context, packet))[1])
    clip = load_clip(whole.read_bytes()[:cut], num_frames=100)
    assert clip.frame_times.tolist() == [index * 40 for index in range(30)]
    assert clip.notes == [
        "The file breaks off after 1.20 s of the 2.00 s that its header states: what can be read is used."
    ]
    assert not any(packet.is_corrupt for packet in sent if packet is not None)


def test_a_damaged_stretch_costs_no_more_than_its_frames(tmp_path):
    path = film(tmp_path / "a.mp4", options={"g": "10"}, ticks=range(60))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [i for i, packet in enumerate(packets) if packet.is_keyframe][:4] == [0, 10, 19, 29]
        start, stop = packets[20].pos, packets[28].pos
    data[start + 4 : stop] = bytes(stop - start - 4)
    clip = load_clip(bytes(data), num_frames=60)
    twin = play(path)
    kept = dict(zip(clip.frame_times.tolist(), clip.frames, strict=True))
    for index in [*range(20), *range(29, 60)]:
        assert np.array_equal(kept[index * 40], twin[index * 40])
    assert any("could not be decoded and are left out" in note for note in clip.notes)
    few = load_clip(bytes(data), sampling="fps", fps=1)
    frozen = max(index for index in range(26) if index * 40 in kept)
    assert few.frame_times.tolist() == [0, frozen * 40, 2000]


def test_a_video_stream_without_frames_leaves_its_sound(tmp_path):
    path = film(tmp_path / "a.mkv", ticks=[], sound=tone(1, 44100))
    clip = load_clip(path)
    assert clip.frames is None
    assert len(clip.waveform) > 15000
    assert any("zero frames" in note for note in clip.notes)


def bad_files(folder: Path) -> dict:
    """What the user gave -> what the sentence must say."""
    whole = film(folder / "whole.mp4", sound=tone(2, 44100)).read_bytes()
    (folder / "no_moov.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.mp4").write_text("This is no video.\n" * 50)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "speech.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHi\n")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n")
    film(folder / "zero.mkv", ticks=[])
    film(folder / "dot.mkv", codec="ffv1", size=(14, 14), pixels="yuv444p")
    film(folder / "bare.h264")
    film(folder / "long.mkv", ticks=range(0, 2000, 40), per_second=1)
    return {
        folder / "missing.mp4": "missing.mp4: no such file",
        folder: "is a directory",
        folder / "no_moov.mp4": r"no_moov.mp4 is an mp4 without its index \(the moov atom\)",
        folder / "notes.mp4": "notes.mp4 is not a video or sound file",
        folder / "noise.mp4": "noise.mp4 is not a video or sound file",
        folder / "empty.mp4": r"empty.mp4 is empty \(0 bytes\)",
        b"": r"is empty \(0 bytes\)",
        b"not a film at all, just bytes": "<29 bytes> is not a video or sound file",
        folder / "speech.srt": "holds neither picture nor sound: its streams are subtitle",
        folder / "list.m3u8": "list.m3u8 is not a video or sound file|holds neither picture nor sound",
        folder / "zero.mkv": "zero frames|neither picture nor sound|not a video",
        folder / "dot.mkv": "the picture is 14x14 pixels, at least 16x16 is accepted",
        folder / "bare.h264": "without presentation times",
        folder / "long.mkv": r"lasts 19\d\d.\d s or more, at most max_duration=1800 s is accepted",
        "https://example.org/clip.mp4": "is a URL, and clips are not fetched",
        "a\0b.mp4": "cannot be opened",
        42: "A clip of type int cannot be read",
        (1, 2): "A clip of type tuple cannot be read",
    }


def test_every_bad_source_is_one_clear_sentence(tmp_path):
    for source, sentence in bad_files(tmp_path).items():
        with pytest.raises(MediaError, match=sentence) as caught:
            load_clip(source)
        assert "\n" not in str(caught.value), source
        assert str(caught.value).endswith("."), source
        assert caught.value.__cause__ is None, source


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({}, "found no keys"),
        ({"film": 1}, "found film"),
        ({"frames": np.zeros((0, 20, 20, 3), np.uint8), "fps": 1}, "zero frames"),
        ({"frames": np.zeros((2, 1, 1, 3), np.uint8), "fps": 1}, "1x1 pixels"),
        ({"frames": np.zeros((2, 20, 20, 3), np.float32), "fps": 1}, "float32 were found"),
        ({"frames": np.zeros((2, 3, 20, 20), np.uint8), "fps": 1}, r"\(2, 3, 20, 20\)"),
        ({"frames": np.zeros((2, 20, 20, 3), np.uint8), "fps": 0}, "fps is 0"),
        ({"waveform": np.zeros(100, np.float32)}, "needs its sampling_rate"),
        ({"waveform": np.zeros(100, np.float32), "sampling_rate": float("nan")}, "sampling_rate is nan"),
        ({"waveform": np.zeros(0, np.float32), "sampling_rate": 16000}, "no samples"),
        ({"waveform": np.zeros((2, 2, 100), np.float32), "sampling_rate": 16000}, r"\(2, 2, 100\)"),
        ({"waveform": np.array(["a"]), "sampling_rate": 16000}, "waveform of <U1"),
        ({"waveform": np.full(100, np.inf, np.float32), "sampling_rate": 16000}, "NaN or infinite"),
        ({"waveform": np.zeros(2000 * 1000, np.float32), "sampling_rate": 1000}, "lasts 2000.0 s"),
        (np.array([0.0] * 8000 + [np.nan], np.float32), "first at 0.50 s"),
        (Image.new("RGB", (1, 1)), "1x1 pixels"),
    ],
)
def test_every_bad_array_is_one_clear_sentence(source, sentence):
    with pytest.raises(MediaError, match=sentence) as caught:
        load_clip(source)
    assert "\n" not in str(caught.value)


def test_nan_in_a_sound_file_is_named_with_its_time(tmp_path):
    sound = tone(1, 16000)
    sound[0, 12000] = np.nan
    path = speech(tmp_path / "a.wav", sound, "pcm_f32le", 16000)
    with pytest.raises(MediaError, match=r"NaN or infinite samples, the first at 0.75 s"):
        load_clip(path)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"sampling": "random"}, "sampling is 'random', one of uniform, fps, middle, first, peak"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"fps": 2}, "fps goes with sampling"),
        ({"sampling": "fps"}, "fps goes with sampling"),
        ({"sampling": "fps", "fps": -1}, "fps is -1"),
        ({"sampling": "peak"}, "needs motion"),
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"max_duration": 0}, "max_duration is 0"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_pixels": 1000}, "the picture is 64x48 pixels, at most max_pixels=1,000"),
        ({"max_duration": 1}, "lasts 2.0 s or more, at most max_duration=1 s"),
    ],
)
def test_every_bad_request_is_one_clear_sentence(tmp_path, wish, sentence):
    path = film(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match=sentence):
        load_clip(path, **wish)


def test_a_longer_clip_is_read_where_the_limit_is_raised(tmp_path):
    path = film(tmp_path / "a.mkv", ticks=range(0, 2000, 40), per_second=1)
    clip = load_clip(path, max_duration=3000, num_frames=2)
    assert clip.frame_times.tolist() == pytest.approx([480_000, 1_480_000], abs=40_000)


def test_frames_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_CHOSEN_BYTES", 10 * WIDTH * HEIGHT * 3)
    path = film(tmp_path / "a.mp4")
    assert len(load_clip(path, num_frames=10).frames) == 10
    with pytest.raises(MediaError, match="11 frames of 64x48 pixels would need"):
        load_clip(path, num_frames=11)


def test_frames_that_grow_in_the_middle_of_a_stream_are_not_decoded(tmp_path, monkeypatch):
    small = film(tmp_path / "small.ts", ticks=range(10))
    large = film(tmp_path / "large.ts", ticks=range(10, 20), size=(256, 192))
    grown = tmp_path / "grown.ts"
    grown.write_bytes(small.read_bytes() + large.read_bytes())
    sizes, receive = set(), media._receive

    def spy(context, packet):
        frames = receive(context, packet)
        sizes.update((frame.width, frame.height) for frame in frames)
        return frames

    monkeypatch.setattr(media, "_receive", spy)
    load_clip(grown, num_frames=20)
    assert sizes == {(WIDTH, HEIGHT), (256, 192)}
    sizes.clear()
    clip = load_clip(grown, num_frames=20, max_pixels=WIDTH * HEIGHT)
    assert sizes == {(WIDTH, HEIGHT)}
    assert clip.frames.shape[1:] == (HEIGHT, WIDTH, 3)


def test_without_soxr_ffmpeg_resamples_and_says_so(tmp_path, monkeypatch):
    path = wav(tmp_path / "a.wav", tone(1, 44100) * 32767, 44100)
    with_soxr = load_clip(path), load_clip({"waveform": tone(1, 44100)[0], "sampling_rate": 44100})
    monkeypatch.setattr(media, "soxr", None)
    without = load_clip(path), load_clip({"waveform": tone(1, 44100)[0], "sampling_rate": 44100})
    for one, other in zip(with_soxr, without, strict=True):
        assert len(one.waveform) == len(other.waveform) == 16000
        np.testing.assert_allclose(one.waveform[200:-200], other.waveform[200:-200], atol=1e-3)
        assert [note for note in other.notes if note not in one.notes] == [media.FFMPEG_RESAMPLED]
    # At the rate that is wanted nothing is resampled, and nothing is said.
    assert load_clip(wav(tmp_path / "b.wav", tone(1, 16000) * 32767, 16000)).notes == []


def test_silent_clipped_and_very_short_sound_is_said(tmp_path):
    assert load_clip(wav(tmp_path / "a.wav", np.zeros((1, 16000)), 16000)).notes == ["The sound is silent."]
    loud = np.clip(tone(1, 16000, level=8.0), -1, 1)
    assert "probably clipped" in load_clip(wav(tmp_path / "b.wav", loud * 32767.5, 16000)).notes[0]
    short = load_clip(wav(tmp_path / "c.wav", tone(0.05, 16000) * 32767, 16000))
    assert len(short.waveform) == 800
    assert short.notes == ["The sound lasts only 0.050 s."]
    assert load_clip(wav(tmp_path / "d.wav", tone(1, 16000) * 32767, 16000)).notes == []


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_threads_that_decode_change_nothing(tmp_path, monkeypatch, codec):
    path, threads = film(tmp_path / "a.mp4", codec=codec), []
    receive = media._receive
    monkeypatch.setattr(media, "_receive", lambda context, packet: threads.append(context) or receive(context, packet))
    small = load_clip(path)
    assert {context.thread_count for context in threads} == {1}
    monkeypatch.setattr(media, "SMALL_PIXELS", 0)
    assert np.array_equal(load_clip(path).frames, small.frames)
    assert threads[-1].thread_count != 1


def test_real_clips_agree_with_a_plain_decode(shared_data):
    folder = shared_data / "face_clips"
    for path in sorted(folder.glob("*.m*[4v]")):
        twin = play(path)
        clip = load_clip(path, num_frames=12)
        assert len(clip.frames) == 12
        for time, frame in zip(clip.frame_times.tolist(), clip.frames, strict=True):
            assert np.array_equal(frame, twin[time]), (path.name, time)
        plain, rate, start = play_sound(path)
        twin_sound = soxr.resample(plain, rate, 16000, quality="HQ")
        lead = round(start * 16000)
        assert len(clip.waveform) == pytest.approx(lead + len(twin_sound), abs=2)
        assert np.abs(clip.waveform[: max(0, lead - 200)]).max(initial=0) < 1e-6
        middle = slice(2000, len(twin_sound) - 2000)
        # The start offset is no whole number of 16 kHz samples, so only the energy is compared.
        ours = clip.waveform[lead:][middle]
        assert np.sqrt((ours**2).mean()) == pytest.approx(np.sqrt((twin_sound[middle] ** 2).mean()), rel=0.01, abs=1e-9)
    # An edit list hides the first three frames of this one and shortens its last.
    edited = load_clip(folder / "no_face.mp4", num_frames=1000)
    assert edited.frame_times.tolist() == sorted(play(folder / "no_face.mp4"))
    assert edited.duration == 3945
    assert edited.notes == []
    late = load_clip(folder / "face_noface.mov")
    assert any("The sound starts at 2.43 s" in note for note in late.notes)
    assert load_clip(folder / "single_face.jpg").frames.shape == (1, 562, 572, 3)
    assert load_clip(sorted((shared_data / "ravdess_speech_16k").rglob("*.flac"))[0]).frames is None
