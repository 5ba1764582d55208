"""Hostile inputs of each kind: how one is made from a seed, and what the package must make of it.

`MAKE[kind](rng, folder)` gives the input as bytes, `CHECK[kind](data, folder)` hands it to the package and returns
"accepted" or "refused". Anything else that comes up, an exception of another type or an answer that breaks a rule, is a
finding. A kept input is checked again by `test_kept_inputs.py`.
"""

import importlib.util
import json
import random
import shutil
import struct
import threading
import warnings
import zipfile
from base64 import b64decode, b64encode
from fractions import Fraction
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import openpyxl
from av.stream import Disposition
from mutators import NUMBERS, TEXTS, VALUES, dump_json, mutate_bytes, mutate_fields, mutate_json, mutate_text

from hf_emotion.data.build import card_template
from hf_emotion.data.files import DataError, MediaFolder, read_corpus, read_lines, read_xlsx, write_whole
from hf_emotion.data.readers.own import read_table
from hf_emotion.inference import ModelFolderError, describe, load
from hf_emotion.papers import build
from hf_emotion.processing.media import Clip, MediaError, MediaLimitError, load_clip
from hf_emotion.processing.utterances import UtteranceError, read, to_spans

ONE_LINE = 2000  # characters of a sentence


def sentence(error: Exception, name: str = "") -> str:
    """Check the message of a refusal, which names the input."""
    text = str(error)
    assert name in text
    assert text.strip(), f"a {type(error).__name__} without a message"
    assert len(text) < ONE_LINE, f"a message of {len(text)} characters: {text[:200]}"
    assert "\n" not in text.strip(), f"a message of several lines: {text[:200]}"
    assert "Traceback" not in text
    return "refused"


# Clips


KINDS = (
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "libx264", "yuv444p"),
    ("mp4", "libx264", "gray"),
    ("mp4", "libx264", "yuv420p10le"),
    ("mkv", "libx264", "yuv420p"),
    ("mkv", "ffv1", "bgra"),
    ("mkv", "ffv1", "gray16le"),
    ("mkv", "ffv1", "yuv420p"),
    ("mov", "qtrle", "argb"),
    ("mov", "mjpeg", "yuvj420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("ts", "mpeg2video", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("gif", "gif", "rgb8"),
)
RATES = (1, 5, 25, 30, 60, 7, 120, Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2), Fraction(1, 3))
HOUR = 3600  # s; twice the longest clip that is accepted


def film(path, rng: random.Random) -> dict:
    """Write a short film of some codec, container and shape; what must be read of it.

    A quarter of the picture, at the top left as it is shown, has a colour of its own. `"claim"` is a length in s that
    the header states and the file does not have; `"refused"` is whether a frame stands where no clip may reach.
    """
    suffix, codec, pixels = rng.choice(KINDS)
    boxed = suffix in ("mp4", "mov", "mkv")
    rate = Fraction(rng.choice([25] if codec == "mpeg2video" else [1, 5, 25, 50] if suffix == "gif" else RATES))
    width, height, count = rng.choice((16, 48, 64, 130)), rng.choice((16, 48, 66)), rng.randint(1, 40)
    if suffix == "ts":
        count += 25  # FFmpeg does not recognise a shorter one
    unit, ticks = 1 / rate, list(range(count))
    if boxed and rng.random() < 0.4:  # of variable frame rate
        unit = Fraction(1, 1000)
        ticks = list(np.cumsum([0] + [rng.choice((1, 9, 40, 41, 333, 2000)) for _ in range(count - 1)]).tolist())
    late = suffix in ("mp4", "mkv") and count > 1 and rng.random() < 0.05
    if late:
        ticks[-1] = int(HOUR / unit)
    colour = rng.randrange(40, 216)
    corner = colour + 80 if colour < 128 else colour - 80
    turn = rng.choice((90, 180, -90)) if boxed and rng.random() < 0.3 else 0
    picture = np.full((height, width, 3), colour, np.uint8)
    picture[: height // 2, : width // 2] = corner
    # What is shown is the stored picture, turned left by `turn` degrees: stored turned right.
    picture = np.ascontiguousarray(np.rot90(picture, -turn // 90))
    shown, stored = (width, height), (picture.shape[1], picture.shape[0])
    with av.open(str(path), "w", format={"ts": "mpegts", "mkv": "matroska"}.get(suffix, suffix)) as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *stored, pixels
        video.codec_context.time_base = unit
        if turn:
            video.set_display_rotation(turn)
        if pixels == "yuv420p10le":  # HDR: BT.2020, with the curve PQ or HLG
            context = video.codec_context
            context.color_primaries, context.color_trc, context.colorspace = 9, rng.choice((16, 18)), 9
        squeezed = not turn and codec == "libx264" and suffix != "ts"  # others know a few shapes only
        if squeezed and rng.random() < 0.2:
            video.codec_context.sample_aspect_ratio = Fraction(rng.choice((1, 2)), 1)
        count_voices = rng.choice((0, 0, 3, 30)) if suffix == "mkv" else 0
        voices = [container.add_stream("pcm_s16le", rate=8000) for _ in range(count_voices)]
        if boxed and rng.random() < 0.15:
            voices.append(container.add_stream("aac", rate=8000))
        if suffix == "mkv" and rng.random() < 0.15:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = Disposition.attached_pic
        else:
            cover = None
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(picture).reformat(format=pixels)
            frame.pts, frame.time_base = tick, unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if cover is not None:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255 - colour, np.uint8)).reformat(format="yuvj420p")
            frame.pts = 0
            container.mux(cover.encode(frame))
            container.mux(cover.encode(None))
        for stream in voices:
            kind = "s16" if stream.codec_context.name == "pcm_s16le" else "fltp"
            wave = np.full((1, 8000), 0.03) * (32767 if kind == "s16" else 1)
            sound = av.AudioFrame.from_ndarray(wave.astype("int16" if kind == "s16" else "float32"), kind, "mono")
            sound.sample_rate, sound.pts = 8000, 0
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
        aspect = float(video.codec_context.sample_aspect_ratio or 1)
    claim = None
    if suffix in ("mp4", "mov", "mkv") and rng.random() < 0.15:
        claim = rng.choice((60, 1000, HOUR, 30 * HOUR))
        path.write_bytes(claiming(path.read_bytes(), claim))
    return {
        "width": round(shown[0] * aspect),
        "height": shown[1],
        "count": count,
        "colour": colour,
        "corner": corner,
        "last": float((ticks[-1] - ticks[0]) * unit),
        "claim": claim,
        "refused": late,
    }


def claiming(data: bytes, seconds: int) -> bytes:
    """A film whose headers state another length: of mp4 and mov in all three places, of mkv in its one."""
    data = bytearray(data)
    if data[:4] == b"\x1a\x45\xdf\xa3":
        at = data.find(b"\x44\x89\x88")  # Duration, a double of 8 bytes, in ms
        if at >= 0:
            data[at + 3 : at + 11] = struct.pack(">d", seconds * 1000.0)
        return bytes(data)
    scale = 1000
    for name, place in ((b"mvhd", 12), (b"tkhd", None), (b"mdhd", 12)):
        at = data.find(name) + 4
        while at >= 4:
            if place is not None:
                [scale] = struct.unpack_from(">I", data, at + place)
            # Version and flags, times of creation and change, then the unit, or the track and a reserved word.
            struct.pack_into(">I", data, at + (16 if place is not None else 20), min(seconds * scale, 2**32 - 1))
            at = data.find(name, at) + 4
    return bytes(data)


def sound(path, rng: random.Random) -> None:
    codec, suffix, rates = rng.choice(
        (
            ("pcm_s16le", "wav", (1000, 8000, 44100, 192000)),
            ("flac", "flac", (8000, 44100)),
            ("aac", "mp4", (8000, 48000)),
        )
    )
    rate = rng.choice(rates)
    with av.open(str(path), "w", format=suffix) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = rng.choice(("mono", "stereo"))
        name = {"flac": "s16", "pcm_s16le": "s16", "aac": "fltp"}[codec]
        channels = stream.layout.nb_channels
        wave = np.sin(np.arange(rate) / 9)[None].repeat(channels, 0) / 2
        wave = wave.astype(np.float32) if name == "fltp" else (wave.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format=name, layout=stream.layout.name)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def check_clip(clip) -> None:
    """What is true of every clip, whatever it was read from."""
    assert isinstance(clip.duration, int), clip.duration
    assert 0 <= clip.duration <= 1_800_500, clip.duration
    assert clip.frames is not None or clip.waveform is not None, "neither picture nor sound"
    if clip.frames is not None:
        count, height, width, channels = clip.frames.shape
        assert clip.frames.dtype == np.uint8
        assert channels == 3
        assert count >= 1
        assert min(height, width) >= 16
        times = clip.frame_times
        assert times.dtype == np.int64
        assert times.shape == (count,)
        assert (np.diff(times) >= 0).all(), times
        assert times[0] >= -100_000, times
        assert times[-1] <= clip.duration + 1000, (times[-1], clip.duration)
    if clip.waveform is not None:
        assert clip.waveform.dtype == np.float32
        assert clip.waveform.ndim == 1
        assert len(clip.waveform) <= 1801 * clip.sampling_rate
        assert np.isfinite(clip.waveform).all()
    assert all(isinstance(note, str) and len(note) < ONE_LINE for note in clip.notes)


def make_clip(rng: random.Random, folder: Path) -> bytes:
    path = folder / "clip"
    if rng.random() < 0.25:
        sound(path, rng)
    else:
        film(path, rng)
    data = path.read_bytes()
    if rng.random() < 0.3:
        data = mutate_fields(rng, data, FIELDS)
        return data if rng.random() < 0.7 else mutate_bytes(rng, data, 2)
    return mutate_bytes(rng, data)


# Where containers state sizes, lengths, rates and tables.
FIELDS = (
    *(
        b"mvhd",
        b"tkhd",
        b"mdhd",
        b"stts",
        b"ctts",
        b"stsc",
        b"stsz",
        b"stco",
        b"elst",
        b"stsd",
        b"avc1",
        b"avcC",
        b"mp4a",
    ),
    *(b"\x44\x89", b"\xb0", b"\xba", b"\x2a\xd7\xb1", b"\x9f", b"\xb5", b"\x23\xe3\x83", b"\xe7"),
    *(b"avih", b"strh", b"strf", b"idx1", b"fmt ", b"data", b"fLaC", b"GIF89a"),
)


def check_clip_bytes(data: bytes, folder: Path) -> str:

    (folder / "clip.mp4").write_bytes(data)
    outcomes = []
    for source in (data, str(folder / "clip.mp4")):
        try:
            clip = load_clip(source, num_frames=4)
        except MediaError as error:
            outcomes.append(sentence(error))
        else:
            check_clip(clip)
            outcomes.append("accepted")
    assert outcomes[0] == outcomes[1], f"bytes were {outcomes[0]}, the path {outcomes[1]}"
    return outcomes[0]


def make_media(rng: random.Random, folder: Path) -> bytes:
    return str(rng.randrange(2**32)).encode()


def check_media(data: bytes, folder: Path) -> str:
    """Files without damage are read as they were written."""

    truth = film(folder / "film", random.Random(int(data)))
    try:
        clip = load_clip(folder / "film", num_frames=100, sound=False)
    except MediaLimitError as error:
        if truth["refused"] or (truth["claim"] or 0) > HOUR / 2:
            return sentence(error)
        raise AssertionError(truth) from error
    assert not truth["refused"], truth
    check_clip(clip)
    assert clip.frames.shape[1:3] == (truth["height"], truth["width"]), (clip.frames.shape, truth)
    assert abs(len(clip.frames) - truth["count"]) <= truth["count"] // 10, (clip.frames.shape, truth)
    height, width = truth["height"] // 2, truth["width"] // 2
    quarters = [clip.frames[:, y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    for found, expected in zip(quarters, [truth["corner"]] + 3 * [truth["colour"]], strict=True):
        assert abs(float(found.mean()) - expected) < 24, ([float(part.mean()) for part in quarters], truth)
    # Some containers start at the first frame, some hold it back.
    assert abs(clip.frame_times[-1] / 1000 - truth["last"]) < 0.3, (clip.frame_times, truth)
    return "accepted"


# Utterances

WHISPER = {
    "text": "a b",
    "segments": [{"id": 0, "start": 0.0, "end": 1.5, "text": " Hello", "speaker": "SPEAKER_00"}] * 3,
}
UTTERANCE_FILES = (
    "1\n00:00:00,500 --> 00:00:01,250\nHello <i>there</i>.\n\n2\n00:00:01,500 --> 00:00:03,000\n[SPEAKER_01]: Hi!\n\n"
    * 3,
    "WEBVTT - title\n\nNOTE x\n\nintro\n00:00.000 --> 00:01.000 align:left\n<v Ann>Hello</v> &amp; <v.loud Bob>bye\n\n"
    * 2,
    json.dumps(WHISPER),
    json.dumps({"chunks": [{"timestamp": [0.0, 1.0], "text": "a"}, {"timestamp": [1.0, None], "text": "b"}]}),
    json.dumps({"transcription": [{"offsets": {"from": 0, "to": 1200}, "text": "a"}]}),
    json.dumps([[0, 1, "a", "Ann"], {"start": "00:00:01.5", "end": 2, "text": None}]),
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 3\ntiers? <exists>\nsize = 2\nitem []:\n'
    + "".join(
        f'    item [{i}]:\n class = "IntervalTier"\n name = "{name}"\n xmin = 0\n xmax = 3\n intervals: size = 2\n'
        ' intervals [1]:\n xmin = 0\n xmax = 1\n text = "one ""two"""\n'
        ' intervals [2]:\n xmin = 1\n xmax = 3\n text = ""\n'
        for i, name in ((1, "utterances"), (2, "words"))
    ),
    '"ooTextFile"\n"TextGrid"\n0\n3\n<exists>\n1\n"IntervalTier"\n"Ann"\n0\n3\n1\n0\n3\n"hello"\n',
)


def make_utterances(rng: random.Random, folder: Path) -> bytes:
    text = rng.choice(UTTERANCE_FILES)
    if text[0] in "{[" and rng.random() < 0.6:
        text = dump_json(rng, mutate_json(rng, json.loads(text), most=2))
    else:
        text = mutate_text(rng, text, most=rng.choice((1, 1, 4)))
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "replace")
    return mutate_bytes(rng, data, 2) if rng.random() < 0.1 else data


def check_utterances(data: bytes, folder: Path) -> str:

    (folder / "speech").write_bytes(data)
    try:
        rows = read(folder / "speech", duration=2.0, notes=[])
    except UtteranceError as error:
        return sentence(error, "speech")
    spans = to_spans([rows])
    assert (np.diff(spans[0, :, 0]) >= 0).all()
    for row in rows:
        assert set(row) == {"start", "end", "text", "speaker"}
        assert 0 <= row["start"] <= row["end"] <= 2.0 or row["start"] == row["end"], row
        for text in (row["text"], row["speaker"]):
            assert text is None or text == " ".join(text.split()) != ""
            assert text is None or not set(text) & set("\0\u2028\x1b")
            (text or "").encode()
    return "accepted"


# Tables

TABLE = [
    {"id": "00001", "label": "happy", "labels": ["happy", "calm"], "valence": 1.5, "description": "A smile."},
    {
        "id": "00002",
        "label": None,
        "labels": None,
        "valence": None,
        "utterances": [{"start": 0, "end": 1, "text": "hi"}],
    },
    {"id": "c", "split": "test", "question": "Why?", "answer": "So.", "subtitle": "hello"},
]


def make_table(rng: random.Random, folder: Path) -> bytes:
    suffix = rng.choice(("csv", "jsonl", "json", "xlsx", "npz"))
    if suffix == "csv":
        rows = [
            ["id", "label", "labels", "valence", "description"],
            ["1", "happy", "['happy', 'calm']", "1", "A, b"],
            ["2"] + [""] * 4,
        ]
        if rng.random() < 0.5:
            rows[rng.randrange(3)][rng.randrange(5)] = rng.choice(TEXTS) * rng.choice((1, 1, 9000))
        text = "\n".join(",".join(f'"{cell}"' if rng.random() < 0.4 else cell for cell in row) for row in rows)
        text = mutate_text(rng, text, 2) if rng.random() < 0.5 else text
    elif suffix in ("jsonl", "json"):
        rows = mutate_json(rng, TABLE, most=rng.choice((1, 3)))
        rows = rows if isinstance(rows, list) else [rows]
        text = "\n".join(dump_json(rng, row) for row in rows) if suffix == "jsonl" else dump_json(rng, rows)
    elif suffix == "xlsx":
        book = openpyxl.Workbook()
        for row in (["name", "said"], ["00001", 1.5], [None, "b & c"]):
            book.active.append(row)
        book.save(folder / "t.xlsx")
        return b"xlsx\n" + mutate_archive(rng, folder / "t.xlsx")
    else:
        np.savez(folder / "t.npz", train_corpus=np.array({"a": {"emo": "happy", "val": 0.5}}, dtype=object))
        return b"npz\n" + mutate_archive(rng, folder / "t.npz")
    return suffix.encode() + b"\n" + text.encode("utf-8", "replace")


def mutate_archive(rng: random.Random, path: Path) -> bytes:
    """The archive with a changed member, or changed itself."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, path.read_bytes())
    with zipfile.ZipFile(path) as book:
        members = {name: book.read(name) for name in book.namelist()}
    name = rng.choice([name for name in members if "sheet1" in name or "shared" in name or name.endswith("npy")])
    content = members[name]
    members[name] = (
        mutate_text(rng, content.decode("latin-1")).encode("latin-1", "replace")
        if rng.random() < 0.5
        else mutate_bytes(rng, content)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in members.items():
            book.writestr(name, content)
    return path.read_bytes()


def check_table(data: bytes, folder: Path) -> str:

    suffix, _, content = data.partition(b"\n")
    path = folder / f"t.{suffix.decode()}"
    path.write_bytes(content)
    try:
        if suffix == b"xlsx":
            for number, cells in read_xlsx(path):
                assert isinstance(number, int)
                assert all(isinstance(cell, str) for cell in cells)
            return "accepted"
        if suffix == b"npz":
            assert all("emo" in item for corpus in read_corpus(path).values() for item in corpus.values())
            return "accepted"
        reading = read_table(path, MediaFolder(None))
    except DataError as error:
        return sentence(error, path.name)
    rows = [row for split in reading.splits.values() for row in split]
    assert rows
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    # What is written is what is read.
    write_whole(folder / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    again = [json.loads(line) for _, line in read_lines(folder / "rows.jsonl")]
    assert json.dumps(again) == json.dumps(rows)
    return "accepted"


# Model folders

FOLDER_FILES = (
    "config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_folders: dict[str, Path] = {}


def model_folder(folder: Path) -> Path:
    """A tiny model, saved once a process."""
    if "model" not in _folders:
        target = folder.parent / f"model.{threading.get_native_id()}"
        model, processor = build("microemo")
        model.save_pretrained(target)
        processor.save_pretrained(target)
        _folders["model"] = target
    return _folders["model"]


def make_folder(rng: random.Random, folder: Path) -> bytes:
    source = model_folder(folder)
    if rng.random() < 0.1:
        name = "model.safetensors"
        content = mutate_bytes(rng, (source / name).read_bytes()[:60_000])
    else:
        name = rng.choice(FOLDER_FILES if rng.random() < 0.9 else (*FOLDER_FILES, "tokenizer.json"))
        text = (source / name).read_text()
        if name.endswith(".jinja") or rng.random() < 0.15:
            text = mutate_text(rng, text, 3)
        else:
            text = dump_json(rng, mutate_json(rng, json.loads(text)))
        content = text.encode("utf-8", "replace")
    return json.dumps({"name": name, "content": b64encode(content).decode()}).encode()


def check_folder(data: bytes, folder: Path) -> str:

    change = json.loads(data)
    source, target = model_folder(folder), folder / "model"
    shutil.copytree(source, target)
    content = b64decode(change["content"])
    if change["name"] == "model.safetensors":
        content += (source / change["name"]).read_bytes()[len(content) :]
    (target / change["name"]).write_bytes(content)
    try:
        model, processor = load(target, device="cpu")
    except ModelFolderError as error:
        return sentence(error)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    clip = Clip("clip", pixels, np.array([0, 500]), np.zeros(8000, np.float32), 16000, 1000)
    [result] = describe([clip], model, processor, max_new_tokens=2)
    if "error" in result:
        assert len(result["error"]) < ONE_LINE
        return "refused"
    assert isinstance(result["description"], str)
    for label in result["labels"]:
        assert 0 <= label["score"] <= 1, label
    return "accepted"


# Requests

REQUEST = {
    "inputs": {
        "video": "CLIP",
        "text": "Why?",
        "utterances": [{"start": 0.0, "end": 0.2, "text": "hi", "speaker": "Ann"}],
    },
    "parameters": {"num_frames": 2, "max_new_tokens": 4, "temperature": 0.5, "candidate_labels": ["happy", "sad"]},
}
CHAT = {
    "model": "me/model",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,CLIP"}},
                {"type": "text", "text": "Why?"},
            ],
        }
    ],
    "max_tokens": 4,
    "temperature": 0.5,
    "stream": False,
}
_server: dict = {}


def endpoint(folder: Path):
    """The real server around a pipeline that only loads the clip."""
    if not _server:
        spec = importlib.util.spec_from_file_location("handler", card_template("handler.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        class Pipe:
            tokenizer = SimpleNamespace()  # for streamed answers; this pipeline writes none

            def __init__(self):
                self.processor = SimpleNamespace(load_clips=self.load_clips)
                self.model = SimpleNamespace(name_or_path="me/model")

            def load_clips(self, videos, audio=None, utterances=None, **options):
                video = videos[0] if audio is None else {"video": videos[0], "audio": audio[0]}
                clip = load_clip(video, **options)
                clip.utterances = read(None if utterances is None else utterances[0], clip.duration / 1000, [])
                return [clip]

            def measure(self, clip):
                return clip

            def __call__(self, inputs, batch_size=None, **options):
                if isinstance(inputs, list):
                    return [self(each, **options) for each in inputs]
                clip = inputs["clip"]
                return {"description": "", "labels": [], "utterances": clip.utterances, "notes": clip.notes}

        handler = module.EndpointHandler(pipe=Pipe(), max_body=2**20, allowed_networks=["127.0.0.1/32"])
        server = module.serve(handler, port=0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        film(folder / "film", random.Random(1))
        _server.update(port=server.server_port, clip=b64encode((folder / "film").read_bytes()).decode())
    return _server["port"], _server["clip"]


def make_request(rng: random.Random, folder: Path) -> bytes:
    _, clip = endpoint(folder)
    path, form = rng.choice((("/", REQUEST), ("/", REQUEST), ("/v1/chat/completions", CHAT)))
    request = mutate_json(rng, form, most=rng.choice((1, 3)))
    if path == "/" and rng.random() < 0.2:
        request = {"inputs": rng.choice((*TEXTS, *VALUES, "http://127.0.0.1:1/", "data:,x", 10 ** rng.randrange(400)))}
    text = dump_json(rng, request)
    data = text.replace("CLIP", clip).encode("utf-8", "replace")
    kind = rng.choice(("application/json",) * 8 + ("video/mp4", rng.choice(TEXTS).strip() or "x"))
    kind = "".join(character for character in kind if " " <= character <= "~")
    length = str(rng.choice(NUMBERS)) if rng.random() < 0.05 else ""
    return json.dumps({"kind": kind, "length": length, "path": path}).encode() + b"\n" + data


def check_request(data: bytes, folder: Path) -> str:
    port, _ = endpoint(folder)
    head, _, body = data.partition(b"\n")
    head = json.loads(head)
    connection = HTTPConnection("127.0.0.1", port, timeout=25)
    try:
        path = head.get("path", "/")
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", head["kind"])
        # A length beyond the body would be waited for.
        length = head["length"] if head["length"] and int(head["length"]) <= len(body) else str(len(body))
        connection.putheader("Content-Length", length)
        connection.endheaders(body)
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    streams = response.headers["Content-Type"].startswith("text/event-stream")
    if streams:
        assert response.status == 200
        assert body.endswith("\n\n")
        events = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
        answer = json.loads([event for event in events if event != "[DONE]"][-1])
    else:
        answer = json.loads(body)
    error = answer.get("error") if isinstance(answer, dict) else None
    if error is None:
        assert response.status == 200
        assert isinstance(answer, list) if path == "/" else answer["choices"]
        return "accepted"
    status, text = (error["code"], error["message"]) if path != "/" else (int(error[:3]), error)
    assert streams or response.status == status
    assert status in (400, 403, 404, 411, 413, 415, 422, 502, 504), answer
    assert text.startswith(f"{status}: "), answer
    assert len(text) < ONE_LINE
    return "refused"


MAKE = {
    "clip": make_clip,
    "media": make_media,
    "utterances": make_utterances,
    "table": make_table,
    "folder": make_folder,
    "request": make_request,
}
CHECK = {
    "clip": check_clip_bytes,
    "media": check_media,
    "utterances": check_utterances,
    "table": check_table,
    "folder": check_folder,
    "request": check_request,
}
# How many of 20 cases are of a kind.
SHARES = {"clip": 5, "media": 2, "utterances": 5, "table": 4, "folder": 1, "request": 3}


def kind_of(seed: int, index: int) -> str:
    return random.Random(f"{seed}-{index}").choices(list(SHARES), SHARES.values())[0]


def make_case(seed: int, index: int, folder: Path) -> tuple[str, bytes]:
    """The kind and the input of a case; the same for the same seed and index."""
    kind = kind_of(seed, index)
    return kind, MAKE[kind](random.Random(f"{seed}-{index}-{kind}"), folder)


def warm_up(folder: Path) -> None:
    """Import and build what the first case of each kind needs, so that no case pays for it."""
    model_folder(folder)
    endpoint(folder)
    for kind in CHECK:
        check_case(kind, MAKE[kind](random.Random(kind), folder), folder)
        shutil.rmtree(folder)
        folder.mkdir()


def check_case(kind: str, data: bytes, folder: Path) -> str:
    """ "accepted" or "refused"; raises whatever else comes up. `folder` is empty, and removed by the caller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CHECK[kind](data, folder)
