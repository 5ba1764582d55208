"""Clips that try to open other files, to take forever or to take all memory."""

import io
import os
import struct
import subprocess
import sys
import wave
from base64 import b64encode
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hf_emotion.processing import media
from hf_emotion.processing.media import MediaError, load_clip


def film(path, count=10, size=(64, 48), rate=25, options=None, container_options=None, **stream_settings):
    """A short film of gray pictures, written by FFmpeg."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream("libx264", rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for name, value in stream_settings.items():
            setattr(video.codec_context, name, value)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), index * 10 % 250, np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def wav(path, samples: int, rate: int):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\1\2" * samples)
    return path


def playlists(folder) -> dict[str, str]:
    """Text that FFmpeg, left alone, plays by opening another file; in each form that names a path."""
    secret = film(folder / "secret.ts", count=30)
    film(folder / "secret.mp4")
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{secret.name}\n"
    return {
        "vod.m3u8": hls + "#EXT-X-ENDLIST\n",
        "live.m3u8": hls,
        "absolute.m3u8": hls.replace(secret.name, f"file://{secret}") + "#EXT-X-ENDLIST\n",
        "concat.txt": f"ffconcat version 1.0\nfile '{secret.name}'\n",
        "self.ffconcat": "ffconcat version 1.0\nfile 'self.ffconcat'\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 26\n",
        "stream.mpd": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
            'bandwidth="1"><BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>'
        ),
        "list.ffmeta": ";FFMETADATA1\ntitle=x\n",
    }


@pytest.mark.parametrize(
    "name", ["vod.m3u8", "live.m3u8", "absolute.m3u8", "concat.txt", "self.ffconcat", "session.sdp", "stream.mpd"]
)
@pytest.mark.parametrize("way", ["path", "disguised path", "bytes", "file object", "pipe"])
def test_a_playlist_opens_no_other_file_through_any_entrance(tmp_path, monkeypatch, name, way):
    text = playlists(tmp_path)[name]
    path = tmp_path / (f"{name}.mp4" if way == "disguised path" else name)
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    source = {"bytes": text.encode(), "file object": io.BytesIO(text.encode())}.get(way, path)
    if way == "pipe":
        read, write = os.pipe()
        os.write(write, text.encode())
        os.close(write)
        source = os.fdopen(read, "rb")
    with pytest.raises(MediaError, match="not a video or sound file that can be read"):
        load_clip(source)
    assert not [file for file in opened if "secret" in file]


def test_a_playlist_is_the_same_error_in_a_process_without_descriptors_to_spare(tmp_path):
    path = tmp_path / "self.ffconcat"
    path.write_text("ffconcat version 1.0\nfile 'self.ffconcat'\n")
    code = (
        "import resource, sys; from hf_emotion.processing.media import load_clip\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try: load_clip(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert "is not a video or sound file that can be read (Invalid" in done.stdout, done


@pytest.mark.parametrize("suffix", [".mp4", ".tiff", ".m3u8", ".sdp", ""])
def test_the_name_of_a_file_does_not_change_what_is_read(tmp_path, suffix):
    whole = film(tmp_path / "whole.mp4")
    renamed = tmp_path / f"name %03d{suffix}"
    renamed.write_bytes(whole.read_bytes())
    np.testing.assert_array_equal(load_clip(renamed).frames, load_clip(whole).frames)


def test_a_pipe_without_a_writer_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero"):
        with pytest.raises(MediaError, match="is a pipe or a device"):
            load_clip(path)


def test_an_endless_stream_is_read_up_to_the_limit_only(monkeypatch):
    monkeypatch.setattr(media, "MAX_STREAM_BYTES", 1000)

    class Endless:
        asked = 0

        def read(self, size):
            self.asked += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(MediaError, match="more than 1,000 bytes"):
        load_clip(stream)
    assert stream.asked == 1001


@pytest.mark.parametrize("rate", [1, 2, 999, 768_001, 2**31 - 1])
def test_a_sound_of_an_absurd_rate_is_refused_before_it_is_decoded(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(media._Sound, "_decode", None)
    with pytest.raises(MediaError, match=rf"sampling rate of its sound is {rate}, .* from 1000 to 768000 is accepted"):
        load_clip(wav(tmp_path / "a.wav", 1000, rate))


@pytest.mark.parametrize("rate", [0, 1, 10**7, "fast", None, float("inf")])
def test_arrays_and_requests_of_an_absurd_rate_are_refused(rate):
    with pytest.raises(MediaError, match=r"sampling_rate is|needs its sampling_rate"):
        load_clip({"waveform": np.zeros(100, np.float32), "sampling_rate": rate})
    with pytest.raises(MediaError, match="sampling_rate is"):
        load_clip({"waveform": np.zeros(10_000, np.float32), "sampling_rate": 16000}, sampling_rate=rate)


def test_more_frames_a_second_than_a_camera_takes_are_refused(tmp_path):
    path = film(tmp_path / "a.mp4", count=1200, size=(16, 16), rate=90_000)
    with pytest.raises(MediaError, match=r"1200 frames in 0.01 s, at most 1000 a second are accepted"):
        load_clip(path)
    with pytest.raises(MediaError, match=r"fps is 1000000000000.0, a number above 0 and up to 1000 is accepted"):
        load_clip(path, sampling="fps", fps=1e12)


def test_an_absurd_shape_of_pixels_is_refused_before_memory_is_taken(tmp_path):
    path = film(tmp_path / "a.mkv", size=(1280, 960), sample_aspect_ratio=Fraction(100, 1))
    with pytest.raises(MediaError, match=r"the picture is 128000x960 pixels, at most max_pixels=67,108,864"):
        load_clip(path)


def test_frames_that_must_be_decoded_are_counted_before_they_are(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", count=100, options={"g": "250", "bf": "0", "sc_threshold": "0"})
    assert len(load_clip(path, num_frames=2, max_decoded_pixels=100 * 64 * 48).frames) == 2
    monkeypatch.setattr(media, "_receive", None)
    with pytest.raises(MediaError, match="76 frames of 64x48 pixels would have to be decoded"):
        load_clip(path, num_frames=2, max_decoded_pixels=75 * 64 * 48)


def test_a_picture_larger_than_allowed_is_not_decoded(monkeypatch):
    def png(width: int, height: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (16, 16)).save(file, "PNG")
        return file.getvalue().replace(struct.pack(">II", 16, 16), struct.pack(">II", width, height))

    import zlib

    bomb = bytearray(png(30_000, 30_000))
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(MediaError, match=r"a picture that cannot be opened|30000x30000 pixels, at most max_pixels"):
        load_clip(bytes(bomb))
    bomb = bytearray(png(9_000, 9_000))
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(MediaError, match="9000x9000 pixels, at most max_pixels=67,108,864"):
        load_clip(bytes(bomb))


def test_a_picture_of_16_bits_keeps_its_grays(tmp_path):
    gray = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "deep.png")
    frame = load_clip(tmp_path / "deep.png").frames[0, :, :, 0]
    np.testing.assert_array_equal(frame, gray // 256)


def test_a_sound_that_jumps_far_ahead_is_refused_before_the_silence_is_made(tmp_path):
    class Stream:
        time_base, duration, start_time = Fraction(1, 16000), None, None
        codec_context = type("Codec", (), {"sample_rate": 16000})

    request = media._Request(None, "uniform", None, True, True, 16000, 1800.0, None)
    sound = media._Sound("a", Stream, 0.0, request, [])
    sound._feed(np.zeros((1, 100), np.float32), 16000, 0)
    with pytest.raises(MediaError, match="at most max_duration=1800 s"):
        sound._feed(np.zeros((1, 100), np.float32), 16000, 10**15)


def test_more_samples_than_allowed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_SAMPLES", 20_000)
    with pytest.raises(MediaError, match="more than the 20,000 samples"):
        load_clip(wav(tmp_path / "a.wav", 40_000, 16000))


def test_more_packets_than_allowed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_PACKETS", 50)
    with pytest.raises(MediaError, match="more than the 50 packets"):
        load_clip(film(tmp_path / "a.mp4", count=60))


def test_a_path_of_any_length_is_refused_in_a_short_sentence():
    for path in ("a" * 5_000_000, "http://" + "a" * 5_000_000, "a/" * 3000):
        with pytest.raises(MediaError, match="cannot be opened") as caught:
            load_clip(path)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("data:video/mp4;base64,!!!", "damaged base64"),
        ("data:video/mp4,abc", "not a data URL in base64"),
        ("data:" + "a" * 1_000_000, "not a data URL in base64"),
        (
            "DATA:;base64," + b64encode(b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n").decode(),
            "not a video or sound file",
        ),
    ],
)
def test_a_data_url_is_bytes_behind_the_same_gate(url, sentence):
    with pytest.raises(MediaError, match=sentence) as caught:
        load_clip(url)
    assert len(str(caught.value)) < 300


def test_a_clip_in_a_data_url_is_read_as_its_bytes(tmp_path):
    film(tmp_path / "film.mp4")
    data = (tmp_path / "film.mp4").read_bytes()
    clip = load_clip(f"data:video/mp4;base64,{b64encode(data).decode()}")
    assert (clip.frames == load_clip(data).frames).all()
