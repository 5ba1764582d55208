"""Requests to the endpoint that try to hold it, to reach where they should not, or to stop it with an error."""

import http.client
import importlib.util
import ipaddress
import json
import socket
import threading
import time
from base64 import b64encode
from types import SimpleNamespace

import numpy as np
import pytest

from hf_emotion.data.build import card_template
from hf_emotion.processing.media import Clip, MediaError


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("handler", card_template("handler.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakePipe:
    """A pipeline that answers at once, with what it was asked; `fault` is raised in place of an answer."""

    tokenizer = None

    def __init__(self, fault=None, seconds=0.0):
        self.processor, self.fault, self.seconds, self.asked = SimpleNamespace(load_clips=self.load), fault, seconds, []

    def load(self, videos, **options):
        self.asked.append(options)
        if videos[0] == b"bad":
            raise MediaError("bad is not a clip.")
        return [Clip("clip", np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1, np.int64), None, 16000, 0)]

    def measure(self, clip):
        return clip

    def __call__(self, clip, batch_size=None, **options):
        if isinstance(clip, list):
            return [self.answer(each, options) for each in clip]
        return self.answer(clip, options)

    def answer(self, clip, options):
        options = options | {"question": clip["question"]}
        self.asked.append(options)
        time.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        names = ("utterances", "modalities", "notes")
        return {"labels": [], "description": options["question"] or "?", "duration": 0, **{n: [] for n in names}}


@pytest.fixture
def handler(module):
    return module.EndpointHandler(pipe=FakePipe(), max_body=2**20, allowed_networks=["127.0.0.1/32"])


@pytest.fixture
def start(module, handler):
    servers = []

    def start():
        servers.append(module.serve(handler, port=0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def post(port: int, body: bytes, kind: str = "application/json", timeout: float = 30):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request("POST", "/", body=body, headers={"Content-Type": kind})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


CLIP = b64encode(b"a clip").decode()


@pytest.mark.parametrize(
    ("inputs", "parameters", "sentence"),
    [
        (CLIP, {"candidate_labels": ["a" * 16_000]}, "label 1 has 16,000 characters; at most 100"),
        (CLIP, {"candidate_labels": ["a", 3]}, "label 2 is int; text is accepted"),
        (CLIP, {"candidate_labels": ["a", "a"]}, "holds a label twice"),
        (CLIP, {"candidate_labels": [" "]}, "or an empty one"),
        (CLIP, {"question": "a" * 2001}, "question has size 2001"),
        (CLIP, {"utterances": [{"start": 0, "end": 1, "text": "a" * 2001}]}, "utterance 1 has 2,001 characters"),
        (CLIP, {"utterances": [[0, 1, "a", "b" * 101]]}, "utterance 1 has 101 characters"),
        (CLIP, {"utterances": [{"start": 0, "end": 1, "text": {}}]}, "utterance 1 is dict; text is accepted"),
        (CLIP, {"utterances": [[0, 1, "a" * 300]] * 90}, "27,000 characters of text; at most 20,000"),
        (CLIP, {"utterances": [[0, 1]] * 100, "max_new_tokens": 512}, "51,712 tokens in all"),
        (CLIP, {"max_new_tokens": 10**400}, "a number of more than 60 digits"),
        (CLIP, {"temperature": 10**400}, "temperature is int"),
        (CLIP, {"temperature": float("nan")}, "temperature has size nan"),
        (CLIP, {"k" * 5000: 1}, "unknown parameter"),
        ({"video": CLIP, "text": "a" * 2001}, {}, "question has size 2001"),
        ({"video": CLIP, "utterances": [[0, 1, "a" * 2001]]}, {}, "utterance 1 has 2,001 characters"),
    ],
)
def test_texts_and_answers_beyond_the_limits_are_refused_before_the_clip_is_read(
    module, handler, inputs, parameters, sentence
):
    with pytest.raises(module.RequestError, match=sentence) as caught:
        handler({"inputs": inputs, "parameters": parameters})
    assert caught.value.status == 422
    assert len(str(caught.value)) < 600
    assert handler.pipe.asked == []


def test_half_characters_and_zeros_reach_no_tokenizer(handler):
    rows = [{"start": 0, "end": 1, "text": "a\udfff", "speaker": "\0"}]
    handler({"inputs": CLIP, "parameters": {"question": "why\ud800?", "utterances": rows}})
    assert handler.pipe.asked[0]["utterances"] == [[{"start": 0, "end": 1, "text": "a\ufffd", "speaker": "\ufffd"}]]
    assert handler.pipe.asked[1]["question"] == "why\ufffd?"


@pytest.mark.parametrize(
    "fault", [RuntimeError("boom"), KeyError("x"), MemoryError(), RecursionError(), TypeError("y")]
)
def test_an_error_of_any_kind_is_answered_with_500_and_one_sentence(module, handler, start, fault, capsys):
    handler.pipe.fault = fault
    with pytest.raises(module.RequestError, match=rf"500: .*\({type(fault).__name__}\)$"):
        handler({"inputs": CLIP})
    status, answer = post(start(), json.dumps({"inputs": CLIP}).encode())
    assert (status, set(answer)) == (500, {"error"})
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 200_000, 400),
        (b'{"inputs": ' + b"1" * 5000 + b"}", 400),
        (b'{"inputs": "\\ud800"}', 400),
        (b'{"inputs": "%s", "parameters": {"question": "\\ud800"}}' % CLIP.encode(), 200),
        (b"\xff\xfe\x00", 400),
        (b"", 400),
        (b"null", 400),
        (b'{"inputs": "data:,%ZZ\xc3\xa9"}', 200),
        (b'{"inputs": {"video": {"video": 1}}}', 400),
        (b'{"inputs": "http://[::1"}', 502),
        (b'{"inputs": "http://a b/\\n"}', 502),
        (b'{"inputs": "http://127.0.0.1:99999999/"}', 502),
        (b'{"inputs": "%s"}' % b64encode(b"bad"), 415),
    ],
)
def test_every_malformed_body_is_answered(start, body, status, capsys):
    assert post(start(), body)[0] == status
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("length", ["-1", "1e3", "\xb2", "1" * 5000, "", "0x10"])
def test_a_length_that_is_not_a_number_is_answered(start, length):
    with socket.create_connection(("127.0.0.1", start()), timeout=20) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
        assert connection.recv(100).startswith(b"HTTP/1.0 411 ")


@pytest.mark.parametrize("part", ["request line", "headers", "body", "nothing"])
def test_a_request_that_drips_is_ended_at_the_deadline_and_answered(module, start, monkeypatch, part):
    monkeypatch.setattr(module, "READ_SECONDS", 1.0)
    head = b"" if part in ("request line", "nothing") else b"POST / HTTP/1.1\r\n"
    if part == "body":
        head += b"Content-Type: video/mp4\r\nContent-Length: 100000\r\n\r\n"
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", start()), timeout=20) as connection:
        connection.sendall(head)
        connection.settimeout(0.1)
        answer = b""
        while b"408" not in answer and time.monotonic() < begun + 10:
            try:
                if part != "nothing":
                    connection.sendall(b"x")
                answer += connection.recv(1000)
            except TimeoutError:
                pass
            except OSError:
                break
    assert answer.startswith(b"HTTP/1.0 408 ")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("part", ["headers", "informational headers", "body"])
def test_a_server_that_drips_is_left_at_the_deadline(module, part):
    def drip(listener):
        connection, _ = listener.accept()
        line = {"headers": b"HTTP/1.1 200 OK\r\nX: ", "informational headers": b"", "body": b"HTTP/1.1 200 OK\r\n\r\n"}
        try:
            connection.sendall(line[part])
            while True:
                connection.sendall(b"HTTP/1.1 100 Go on\r\n\r\n" if part == "informational headers" else b"x")
                time.sleep(0.05)
        except OSError:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener], daemon=True)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(module.RequestError, match="did not answer within 1 s") as caught:
            module.fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", 2**20, 1.0, lambda address: True)
    assert caught.value.status == 504
    assert time.monotonic() - begun < 3


def test_a_name_that_is_looked_up_for_long_is_left_at_the_deadline(module, monkeypatch):
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *args, **options: time.sleep(5))
    begun = time.monotonic()
    with pytest.raises(module.RequestError, match=r"did not answer within 0\.3 s"):
        module.fetch("http://slow.invalid/", 2**20, 0.3, lambda address: True)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:10.0.0.1",  # IPv4-mapped
        "::127.0.0.1",  # IPv4-compatible
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "2002:7f00:1::",  # 6to4
        "2002:a00:1::1",
        "64:ff9b::10.0.0.1",  # NAT64
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "fec0::1",  # site-local
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "::",
        "::1",
        "10.0.0.1",
        "169.254.169.254",
        "192.0.0.170",
        "198.18.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
def test_addresses_that_hide_another_or_are_not_public_are_refused(handler, address):
    assert not handler.address_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "127.0.0.1", "::ffff:127.0.0.1"])
def test_public_and_allowed_addresses_are_reached(handler, address):
    assert handler.address_allowed(ipaddress.ip_address(address))


def test_connections_beyond_the_limit_are_answered_with_503(module, start, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    port = start()
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.0 503 ")
    for connection in silent:
        connection.close()
    time.sleep(0.2)
    assert post(port, json.dumps({"inputs": CLIP}).encode())[0] == 200


def test_slow_clients_keep_nobody_else_waiting(module, handler, start):
    handler.pipe.seconds = 0.01
    port = start()
    head = b"POST / HTTP/1.1\r\nContent-Type: video/mp4\r\nContent-Length: 100000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(10)]
    for connection in slow:
        connection.sendall(head + b"x")
    answers, body = [], json.dumps({"inputs": CLIP}).encode()
    threads = [threading.Thread(target=lambda: answers.append(post(port, body)[0])) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 50
    for connection in slow:
        connection.sendall(b"x" * 99_999)
        assert connection.recv(100).startswith(b"HTTP/1.0 200 ")
        connection.close()
