"""The handler for Inference Endpoints: what widgets send is answered in the task's schema, and what costs too much or
reaches too far is refused with a status, over HTTP, too. Many requests are decoded side by side, answered in batches,
told how far they are, and bounded in number."""

import http.client
import importlib.util
import io
import json
import socket
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from loopback_clips import serve_clips
from PIL import Image
from test_cli import write_clip

from hf_emotion.data.build import card_template
from hf_emotion.papers import build
from hf_emotion.processing.media import MediaError

OPTIONS = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def module():
    # As the container of Inference Endpoints loads it.
    spec = importlib.util.spec_from_file_location("handler", card_template("handler.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handler(module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoint")
    model, processor = build("microemo")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return module.EndpointHandler(str(folder), allowed_networks=["127.0.0.1/32"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4").read_bytes()


@pytest.fixture(scope="module")
def clips(clip):
    server = serve_clips(clip)
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def endpoint(module, handler):
    server = module.serve(handler, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def text_of(data: bytes) -> str:
    return b64encode(data).decode()


def still_film(count: int, size=(64, 64), rate=30) -> bytes:
    """A small file of many frames: one picture, and then packets that say "the same again", without encoding them."""
    packets = []
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, rate), Fraction(rate)
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast", "x264-params": "keyint=infinite"}
    picture = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    for i in range(2):
        picture.pts, picture.time_base = i, Fraction(1, rate)
        packets += encoder.encode(picture)
    first, again = (bytes(packet) for packet in packets[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream_from_template(av_template(encoder, first))
        for i in range(count):
            packet = av.Packet(first if i == 0 else again)
            packet.stream, packet.time_base = stream, Fraction(1, rate)
            packet.pts = packet.dts = i
            packet.is_keyframe = i == 0
            container.mux(packet)
    return file.getvalue()


def av_template(encoder, first: bytes):
    """A stream like that of `encoder`, read back from a file of its first picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = encoder.width, encoder.height, "yuv420p"
        packet = av.Packet(first)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 30)
        container.mux(packet)
    file.seek(0)
    return av.open(file, format="h264").streams.video[0]


# What widgets send


def test_a_real_clip_from_a_widget_is_answered_in_the_tasks_schema(handler, shared_data):
    data = (shared_data / "face_clips" / "single_face.mp4").read_bytes()
    [answer] = handler({"inputs": text_of(data), "parameters": OPTIONS})
    assert isinstance(answer["generated_text"], str)
    assert answer["generated_text"]
    assert answer["generated_text"] == answer["description"]
    assert {"labels", "utterances", "modalities", "frames", "duration", "notes"} <= set(answer)
    assert {"video", "audio"} <= set(answer["modalities"])
    assert answer["duration"] == pytest.approx(2.4, abs=0.1)
    # As a video classification widget sends it: the body is the file.
    labels = handler({"inputs": data, "parameters": {"candidate_labels": ["happy", "sad", "angry"], "top_k": 2}})
    assert len(labels) == 2
    assert {"label", "score"} == set(labels[0])
    assert labels[0]["score"] >= labels[1]["score"]


def test_every_form_of_a_clip_gives_the_same_answer(handler, clip, clips):
    forms = [
        text_of(clip),
        f"data:video/mp4;base64,{text_of(clip)}",
        f"{clips.url}/clip.mp4",
        {"video": text_of(clip)},
        {"video": f"{clips.url}/to?/clip.mp4", "text": handler.pipe.processor.default_question},
    ]
    answers = [handler({"inputs": form, "parameters": OPTIONS}) for form in forms]
    assert answers == [answers[0]] * len(forms)
    rows = [{"start": 0.2, "end": 0.9, "text": "well"}]
    for request in (
        {"inputs": {"video": text_of(clip), "utterances": rows}, "parameters": OPTIONS},
        {"inputs": text_of(clip), "parameters": {**OPTIONS, "utterances": rows}},
    ):
        [answer] = handler(request)
        assert answer["utterances"][0]["description"]
        assert answer["utterances"][0]["text"] == "well"


def test_a_body_of_bytes_is_answered_with_labels_alone(handler, clip):
    labels = handler({"inputs": clip})
    assert isinstance(labels, list)
    assert all({"label", "score"} == set(label) for label in labels)
    # The container decodes pictures itself.
    picture = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    [answer] = handler({"inputs": picture, "parameters": OPTIONS})
    assert answer["modalities"] == ["video"]


# What is refused


def refused(module, handler, request) -> tuple[int, str]:
    with pytest.raises(module.RequestError) as error:
        handler(request)
    assert str(error.value).startswith(f"{error.value.status}: ")
    assert "Traceback" not in str(error.value)
    return error.value.status, str(error.value)


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({}, 400, "inputs"),
        ({"inputs": 3}, 400, "base64, a URL or bytes"),
        ({"inputs": {}}, 400, "video"),
        ({"inputs": "not base64!"}, 400, "neither a URL nor base64"),
        ({"inputs": text_of(b"just a text, and no clip at all")}, 415, "not a video or sound file"),
        ({"inputs": text_of(b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n")}, 415, "not a video or sound file"),
        ({"inputs": text_of(b"ffconcat version 1.0\nfile /etc/passwd\n")}, 415, "not a video or sound file"),
        ({"inputs": b""}, 415, "is empty"),
        ({"inputs": "x", "parameters": []}, 400, "parameters"),
        ({"inputs": "x", "parameters": {"max_new_tokens": 10**6}}, 422, "max_new_tokens"),
        ({"inputs": "x", "parameters": {"max_new_tokens": True}}, 422, "int is accepted"),
        ({"inputs": "x", "parameters": {"num_beams": "4"}}, 422, "num_beams"),
        ({"inputs": "x", "parameters": {"trust_remote_code": True}}, 422, "unknown parameter"),
        ({"inputs": "x", "parameters": {"utterances": "/etc/passwd"}}, 422, "list is accepted"),
        ({"inputs": "x", "parameters": {"utterances": [[0, 1]] * 101}}, 422, "0 to 100"),
        ({"inputs": "x", "parameters": {"temperature": 0}}, 422, "temperature"),
    ],
)
def test_a_request_of_another_form_is_refused_with_a_status_and_the_reason(module, handler, request_, status, sentence):
    found, message = refused(module, handler, request_)
    assert found == status
    assert sentence in message


def test_utterances_that_are_paths_or_no_times_are_refused(module, handler, clip):
    assert refused(module, handler, {"inputs": clip, "parameters": {"utterances": ["/etc/passwd"]}})[0] == 422
    status, message = refused(module, handler, {"inputs": clip, "parameters": {"utterances": [{"start": "x"}]}})
    assert status == 422
    assert "start" in message


def test_more_bytes_than_allowed_are_refused_in_every_form(module, handler, clip, clips):
    small = module.EndpointHandler.__new__(module.EndpointHandler)
    small.__dict__.update(handler.__dict__, max_body=len(clip) - 1)
    for inputs in (
        clip,
        text_of(clip * 3),
        {"video": clip},
        f"data:video/mp4;base64,{text_of(clip * 3)}",
        f"{clips.url}/clip.mp4",
        f"{clips.url}/nolength",
        f"{clips.url}/endless",
        f"{clips.url}/long",
    ):
        assert refused(module, small, {"inputs": inputs})[0] == 413


@pytest.mark.parametrize(
    ("bomb", "sentence"),
    [
        (lambda: still_film(18_100, rate=10_000), "at most 1000 a second"),
        (lambda: still_film(6_000, size=(4096, 2304), rate=60), "max_decoded_pixels=34,359,738,368"),
        (lambda: still_film(2, size=(4352, 2304)), "4352x2304 pixels"),
        (lambda: still_film(10_000, rate=30), "300 s"),
    ],
    ids=["frames a second", "pixels of all frames", "pixels of a frame", "seconds"],
)
def test_a_small_file_that_would_be_large_decoded_is_refused(module, handler, bomb, sentence, monkeypatch):
    data = bomb()
    assert len(data) < 2**20
    load_clip = type(handler.pipe.processor).load_clips.__globals__["load_clip"]
    monkeypatch.setitem(load_clip.__globals__, "_receive", None)  # what decodes a packet
    status, message = refused(module, handler, {"inputs": data})
    assert status == 413
    assert sentence in message


def test_a_long_film_of_still_pictures_within_the_bounds_is_answered(handler):
    [answer] = handler({"inputs": text_of(still_film(900, size=(128, 96))), "parameters": OPTIONS})
    assert answer["duration"] == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("file:///etc/passwd", 400),
        ("ftp://example.org/clip.mp4", 400),
        ("http://127.0.0.1:1/clip.mp4", 502),
        ("http://127.0.0.2/clip.mp4", 403),
        ("http://localhost.localdomain.invalid/clip.mp4", 502),
        ("http://10.0.0.1/clip.mp4", 403),
        ("http://192.168.1.1/clip.mp4", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://100.64.0.1/", 403),
        ("http://0.0.0.0/", 403),
        ("http://[::1]/clip.mp4", 403),
        ("http://[::ffff:10.0.0.1]/clip.mp4", 403),
        ("http://[fe80::1]/clip.mp4", 403),
        ("http://167772161/clip.mp4", 403),
        ("http://0x0a000001/clip.mp4", 403),
        ("http://224.0.0.1/", 403),
    ],
)
def test_urls_that_reach_too_far_or_nowhere_are_refused(module, handler, url, status):
    for inputs in (url, {"video": url}, {"audio": url}):
        assert refused(module, handler, {"inputs": inputs})[0] == status


def test_a_redirect_to_a_private_address_is_not_followed(module, handler, clips):
    for target in (f"http://127.0.0.2:{clips.server_port}/clip.mp4", "http://10.0.0.1/", "file:///etc/passwd"):
        before = len(clips.seen)
        status, _ = refused(module, handler, {"inputs": f"{clips.url}/to?{target}"})
        assert status == (400 if target.startswith("file") else 403)
        assert len(clips.seen) == before + 1


def test_by_default_no_private_network_is_allowed(module, handler, monkeypatch):
    strict = module.EndpointHandler.__new__(module.EndpointHandler)
    strict.__dict__.update(handler.__dict__, networks=[])
    assert refused(module, strict, {"inputs": "http://127.0.0.1/clip.mp4"})[0] == 403
    assert refused(module, strict, {"inputs": "http://localhost/clip.mp4"})[0] == 403


def test_a_folder_with_pickles_is_no_endpoint(module, tmp_path):
    import torch
    from safetensors.torch import load_file

    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"can run code of whoever wrote it.*hf-emotion convert pickle"):
        module.EndpointHandler(str(tmp_path))


# Over HTTP


def ask(port: int, body: bytes, kind: str, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body=body, headers={"Content-Type": kind, **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_json_and_bare_bytes_are_answered_over_http(endpoint, clip):
    body = json.dumps({"inputs": text_of(clip), "parameters": OPTIONS}).encode()
    status, [answer] = ask(endpoint, body, "application/json; charset=utf-8")
    assert status == 200
    assert answer["generated_text"]
    for kind in ("video/mp4", "application/octet-stream", "audio/mpeg"):
        status, labels = ask(endpoint, clip, kind)
        assert status == 200
        assert isinstance(labels, list)


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(endpoint):
    with socket.create_connection(("127.0.0.1", endpoint), timeout=20) as connection:
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: {2**30}\r\n\r\n"
        connection.sendall(head.encode())  # and not one byte of the body
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert answer.startswith(b"HTTP/1.0 413 ")
    assert b"1,073,741,824 bytes" in answer


def test_errors_have_their_status_over_http(endpoint, clip):
    assert ask(endpoint, b"{", "application/json")[0] == 400
    assert ask(endpoint, json.dumps({"inputs": "file:///etc/passwd"}).encode(), "application/json")[0] == 400
    assert ask(endpoint, json.dumps({"inputs": "http://10.0.0.1/x"}).encode(), "application/json")[0] == 403
    assert ask(endpoint, b"no clip", "video/mp4")[0] == 415
    with socket.create_connection(("127.0.0.1", endpoint), timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 411 ")
    # After all that it still answers.
    assert ask(endpoint, clip, "video/mp4")[0] == 200


# URLs


def test_a_url_is_fetched_through_redirects(module, clips, clip):
    for path in ("/clip.mp4", "/to?/clip.mp4", f"/to?{clips.url}/to?/clip.mp4", "/nolength"):
        assert module.fetch(clips.url + path) == clip


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/missing", 502, "status 404"),
        ("/loop", 502, "redirects more than 5 times"),
        ("/long", 413, "longer than the 1,000,000 bytes"),
        ("/endless", 413, "longer than the 1,000,000 bytes"),
        ("/short", 502, "broke off after"),
        ("/slow", 504, "did not answer within 1 s"),
        ("/drip", 504, "within 1 s"),
        ("/to?file:///etc/passwd", 400, "http and https URLs are accepted"),
        ("/to?ftp://127.0.0.1/x", 400, "http and https URLs are accepted"),
        ("/to?http://127.0.0.1:1/", 502, "cannot be reached"),
    ],
)
def test_trouble_behind_a_url_is_one_sentence_with_a_status(module, clips, path, status, sentence):
    with pytest.raises(module.RequestError, match=sentence) as refused:
        module.fetch(clips.url + path, max_bytes=1_000_000, timeout=1.0)
    assert refused.value.status == status


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "http:///x", "gopher://a", "data:nothing"])
def test_other_kinds_of_url_are_refused(module, url):
    with pytest.raises(module.RequestError) as refused:
        module.fetch(url)
    assert refused.value.status == 400


def test_every_address_on_the_way_must_be_allowed_and_no_other_is_connected_to(module, clips):
    asked = []

    def only_one(address):
        asked.append(str(address))
        return str(address) == "127.0.0.1"

    assert module.fetch(f"{clips.url}/clip.mp4", allowed=only_one)
    before = len(clips.seen)
    for target in (f"http://127.0.0.2:{clips.server_port}/clip.mp4", "http://[::1]/x", "http://169.254.169.254/"):
        with pytest.raises(module.RequestError, match="an address that clips are not fetched from") as refused:
            module.fetch(f"{clips.url}/to?{target}", allowed=only_one)
        assert refused.value.status == 403
    assert asked[-1] == "169.254.169.254"
    assert len(clips.seen) == before + 3  # the redirects themselves, and nothing behind them


def test_messages_show_no_secrets_of_a_url(module, clips):
    with pytest.raises(module.RequestError) as refused:
        module.fetch(f"http://user:password@127.0.0.1:{clips.server_port}/missing?token=secret")
    assert "password" not in str(refused.value)
    assert "secret" not in str(refused.value)


# Many requests


class Pipe:
    """A pipeline whose clips are their bytes; it notes each call, and may be held."""

    tokenizer = None

    def __init__(self):
        self.processor = SimpleNamespace(load_clips=self.load)
        self.calls, self.decoding, self.most_decoding = [], 0, 0
        self.free, self.free_decoder, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.free.set()
        self.free_decoder.set()

    def load(self, videos, **options):
        with self.lock:
            self.decoding += 1
            self.most_decoding = max(self.most_decoding, self.decoding)
        self.free_decoder.wait(10)
        with self.lock:
            self.decoding -= 1
        return videos

    def measure(self, clip):
        return clip

    def __call__(self, inputs, batch_size=None, **options):
        self.free.wait(10)
        if isinstance(inputs, dict):
            if inputs["clip"] == b"bad":
                raise MediaError("bad is not a clip.")
            self.calls.append(1)
            return {"description": inputs["clip"].decode(), "labels": []}
        self.calls.append(len(inputs))
        return [
            {"error": "x"} if each["clip"] == b"bad" else {"description": each["clip"].decode(), "labels": []}
            for each in inputs
        ]


@pytest.fixture
def serving(module):
    pipe = Pipe()
    return module.EndpointHandler(pipe=pipe, allowed_networks=[]), pipe


def request(clip: bytes, **parameters) -> dict:
    return {"inputs": {"video": b64encode(clip).decode()}, "parameters": parameters}


def wait_for(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_clip_is_decoded_while_another_is_answered(serving):
    handler, pipe = serving
    pipe.free.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(handler, request(b"first"))
        wait_for(lambda: handler.batches.sizes == [1])
        second = handler.stream(request(b"second"))
        stages = [next(second)[1]["stage"] for _ in range(2)]
        assert stages == ["decoding", "queued"]  # decoded, though the model is busy
        assert not first.done()
        pipe.free.set()
        assert first.result()[0]["generated_text"] == "first"
        assert list(second)[-1][1][0]["generated_text"] == "second"


def test_requests_that_arrive_together_or_meanwhile_are_one_batch_each(serving):
    handler, pipe = serving
    pipe.free.clear()
    clips = [f"clip {i}".encode() for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(handler, request(clips[0]))
        wait_for(lambda: handler.batches.sizes == [1])
        others = [pool.submit(handler, request(clip)) for clip in clips[1:]]
        wait_for(lambda: len(handler.batches.jobs) == 5)
        pipe.free.set()
        answers = [future.result()[0]["generated_text"] for future in (first, *others)]
    assert answers == [clip.decode() for clip in clips]
    assert pipe.calls == [1, 5]


def test_requests_with_other_parameters_are_another_batch_and_beams_make_it_smaller(serving, module):
    handler, pipe = serving
    pipe.free.clear()
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(handler, request(b"first"))
        wait_for(lambda: handler.batches.sizes == [1])
        parameters = [{"max_new_tokens": 3}] * 4 + [{"num_beams": 8}] * 3 + [{}] * 3
        others = [pool.submit(handler, request(b"x", **options)) for options in parameters]
        wait_for(lambda: len(handler.batches.jobs) == 10)
        pipe.free.set()
        for future in (first, *others):
            future.result()
    assert sorted(pipe.calls) == [1, 1, 2, 3, 4]
    assert module.MAX_BATCH_ROWS == 16


def test_one_bad_clip_of_a_batch_has_its_own_status(serving, module):
    handler, pipe = serving
    pipe.free.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(handler, request(b"first"))
        wait_for(lambda: handler.batches.sizes == [1])
        good, bad = pool.submit(handler, request(b"good")), pool.submit(handler, request(b"bad"))
        wait_for(lambda: len(handler.batches.jobs) == 2)
        pipe.free.set()
        assert first.result()
        assert good.result()[0]["generated_text"] == "good"
        with pytest.raises(module.RequestError, match=r"^415: bad is not a clip"):
            bad.result()


def test_the_line_and_the_decoders_are_bounded_and_the_rest_is_refused_at_once(serving, module, monkeypatch):
    monkeypatch.setattr(module, "MAX_WORKING", 4)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    handler, pipe = serving
    pipe.free_decoder.clear()
    with ThreadPoolExecutor(7) as pool:
        accepted = [pool.submit(handler, request(b"x")) for _ in range(7)]
        wait_for(lambda: len(handler.line.tickets) == 7)
        with pytest.raises(module.RequestError, match=r"^503: 3 requests are already waiting; try again later$"):
            handler(request(b"x"))
        assert module.state(handler) == {"status": "ready", "working": 4, "waiting": 3}
        pipe.free_decoder.set()
        assert all(future.result() for future in accepted)
    assert pipe.most_decoding <= module.MAX_DECODING
    assert module.state(handler) == {"status": "ready", "working": 0, "waiting": 0}


def test_a_request_that_waits_is_told_how_many_are_ahead_and_refused_in_the_end(serving, module, monkeypatch):
    monkeypatch.setattr(module, "MAX_WORKING", 1)
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.05)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    handler, pipe = serving
    pipe.free_decoder.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(handler, request(b"x"))
        wait_for(lambda: pipe.decoding == 1)
        events = handler.stream(request(b"y"))
        assert next(events) == ("progress", {"stage": "waiting", "ahead": 1})
        with pytest.raises(module.RequestError, match=r"^503: it was not the request's turn within 0.2 s"):
            list(events)
        pipe.free_decoder.set()
        first.result()
    assert handler.line.tickets == []


def test_a_stream_that_is_closed_gives_up_its_request(serving):
    handler, pipe = serving
    pipe.free.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(handler, request(b"first"))
        wait_for(lambda: handler.batches.sizes == [1])
        events = handler.stream(request(b"second"))
        assert [next(events)[1]["stage"] for _ in range(2)] == ["decoding", "queued"]
        assert len(handler.batches.jobs) == 1
        events.close()
        pipe.free.set()
        first.result()
        assert handler(request(b"third"))
    assert pipe.calls == [1, 1]


@pytest.fixture(scope="module")
def three_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"{i}.mp4", frames=10 + 5 * i).read_bytes() for i in range(3)]


def test_answers_of_a_batch_are_those_of_each_request_alone(handler, three_clips, monkeypatch, module):
    questions = ["Why?", "Which emotion does the voice of this person show, and when?", "How?"]
    requests = [request(clip, question=q, **OPTIONS) for clip, q in zip(three_clips, questions, strict=True)]
    alone = [handler(each) for each in requests]
    monkeypatch.setattr(module, "BATCH_SECONDS", 20.0)
    monkeypatch.setattr(module, "MAX_BATCH", 3)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(handler, requests))
    assert handler.batches.sizes[-1] == 3
    for [one], [other] in zip(alone, together, strict=True):
        assert [label["label"] for label in one["labels"]] == [label["label"] for label in other["labels"]]
        for label, same in zip(one.pop("labels"), other.pop("labels"), strict=True):
            assert label["score"] == pytest.approx(same["score"], abs=1e-5)
        assert one == other


def test_a_stream_tells_the_stages_and_the_text_and_ends_with_the_result(handler, three_clips, monkeypatch, module):
    monkeypatch.setattr(module, "BATCH_SECONDS", 20.0)
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    with ThreadPoolExecutor(2) as pool:
        streams = [{**request(clip, **OPTIONS), "stream": True} for clip in three_clips[:2]]
        for events in pool.map(lambda data: list(handler.stream(data)), streams):
            assert [content["stage"] for kind, content in events if kind == "progress"][:2] == ["decoding", "queued"]
            assert ("progress", {"stage": "answering"}) in events
            pieces = "".join(content for kind, content in events if kind == "text")
            assert pieces.strip() == events[-1][1][0]["description"]
            assert events[-1][0] == "result"
            assert sum(kind == "text" for kind, _ in events) > 1


def events_of(port: int, body: bytes, **headers) -> tuple[int, list]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body=body, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.headers["Content-Type"].startswith("text/event-stream"), text
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in text.strip().split("\n\n")]
    return response.status, [(event["event"], json.loads(event["data"])) for event in events]


def test_events_are_sent_over_http_to_who_asks_for_them(endpoint, three_clips):
    body = json.dumps({**request(three_clips[0], **OPTIONS), "stream": True}).encode()
    status, events = events_of(endpoint, body, **{"Content-Type": "application/json"})
    assert status == 200
    assert events[-1][0] == "result"
    assert "".join(content for kind, content in events if kind == "text").strip() == events[-1][1][0]["description"]
    accept = {"Content-Type": "video/mp4", "Accept": "text/event-stream"}
    assert events_of(endpoint, three_clips[0], **accept)[1][-1][0] == "result"
    # What goes wrong when the stream is open is its last event.
    kind, content = events_of(endpoint, b"no clip", **accept)[1][-1]
    assert kind == "error"
    assert content["error"].startswith("415: <7 bytes> is not a video or sound file that can be read")


def test_a_full_line_is_answered_with_503_and_a_time_to_wait(module, endpoint, three_clips, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    monkeypatch.setattr(module, "MAX_WORKING", 0)
    for accept in ("*/*", "text/event-stream"):
        connection = http.client.HTTPConnection("127.0.0.1", endpoint, timeout=60)
        connection.request("POST", "/", body=three_clips[0], headers={"Content-Type": "video/mp4", "Accept": accept})
        response = connection.getresponse()
        assert response.status == 503
        assert response.headers["Retry-After"] == "5"
        assert json.loads(response.read())["error"].startswith("503: 0 requests are already waiting")
        connection.close()


def chat(port: int, body: dict) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def message(*parts: dict) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 6}


def test_clients_of_openais_protocol_are_answered_whole_and_in_pieces(endpoint, handler, clip, clips):
    question = {"type": "text", "text": "How does she feel?"}
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{text_of(clip)}"}}
    inputs = {"video": text_of(clip), "text": question["text"]}
    [expected] = handler({"inputs": inputs, "parameters": {"max_new_tokens": 6}})
    status, text = chat(endpoint, message(video, question))
    answer = json.loads(text)
    assert (status, answer["object"], answer["id"][:9]) == (200, "chat.completion", "chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected["generated_text"]}
    assert answer["emotion_recognition"].keys() == expected.keys()
    status, text = chat(endpoint, {**message(video, question), "stream": True})
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    assert (status, events[-1]) == (200, "[DONE]")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    pieces = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert pieces.strip() == choice["message"]["content"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    # Other sources, and the sound alone.
    sound = {"type": "input_audio", "input_audio": {"data": text_of(clip), "format": "wav"}}
    for parts, media in (
        ([{"type": "video_url", "video_url": {"url": clips.url + "/clip.mp4"}}], "video"),
        ([sound], "audio"),
    ):
        status, text = chat(endpoint, message(*parts, question))
        assert status == 200, text
        assert media in json.loads(text)["emotion_recognition"]["modalities"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (
            {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": []}]},
            422,
            "roles 'system', 'user'",
        ),
        ({"messages": [{"role": "user", "content": "no clip"}]}, 422, "a part video_url with a clip is needed"),
        (message({"type": "text", "text": "no clip"}), 400, 'needs "video" or "audio"'),
        (message({"type": "video_url", "video_url": {"url": "http://10.0.0.1/x"}}), 403, "10.0.0.1"),
        (message({"type": "document", "document": "x"}), 422, "type 'document'"),
        (message({"type": "video_url", "video_url": 3}), 422, "no URL or data"),
        ({"tools": [{}]}, 422, "'tools' is not supported"),
        ({"n": 2}, 422, "one answer per request"),
        ({"max_tokens": 10**6}, 422, "max_new_tokens"),
        ({"model": "gpt"}, 404, "'gpt' is not served here"),
    ],
)
def test_what_openais_protocol_has_and_the_model_has_not_is_refused_by_name(endpoint, change, status, sentence):
    code, text = chat(endpoint, {**message({"type": "video_url", "video_url": "data:video/mp4;base64,AAAA"}), **change})
    error = json.loads(text)["error"]
    assert (code, error["code"]) == (status, status)
    assert error["type"] == "invalid_request_error"
    assert sentence in error["message"]


def test_the_served_model_is_listed(endpoint, handler):
    connection = http.client.HTTPConnection("127.0.0.1", endpoint, timeout=60)
    connection.request("GET", "/v1/models")
    [model] = json.loads(connection.getresponse().read())["data"]
    connection.close()
    assert model["id"] == handler.pipe.model.name_or_path.rpartition("/")[2]


def test_the_state_is_told_and_other_paths_are_not_there(endpoint):
    for path, status in (("/", 200), ("/secret", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", endpoint, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        assert set(json.loads(response.read())) == ({"status", "working", "waiting"} if status == 200 else {"error"})
        connection.close()
