"""Hugging Face Inference Endpoints' custom handler: a clip in a request in, labels and a description out.

Endpoints call `EndpointHandler(path)` once and the object for each request; the widget of an endpoint's page is driven
by it. It takes JSON, `{"inputs": ..., "parameters": {...}}`, or a clip's bytes as the whole body. Without Endpoints:

    python handler.py --model . --port 8080
    curl --data-binary @clip.mp4 -H "Content-Type: video/mp4" http://127.0.0.1:8080

Requests come from strangers, so the constants below limit their cost: bytes, seconds and pixels of a clip, characters
of texts, tokens of an answer, the addresses that a URL may lead to, the time for a request and a download, connections,
and the number of requests processed at the same time.
"""

import argparse
import http.client
import io
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
import traceback
from base64 import b64decode
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import torch
from transformers import pipeline

MAX_BODY = 2**26  # bytes of a request, and of a clip behind a URL: 64 MiB
MAX_SECONDS = 300  # of a clip
MAX_FRAME_PIXELS = 4096 * 2304
MAX_DECODED_PIXELS = 2**35  # of all frames that have to be decoded: 5 minutes of 1080p at 55 frames a second
MAX_UTTERANCES = 100
MAX_TEXT = 2000  # characters of a question, and of an utterance
MAX_NAME = 100  # characters of a label, and of a speaker
MAX_TEXTS = 20_000  # characters of all texts of a request
MAX_TOKENS = 2**14  # that a request may ask for: of all its answers, times the beams
FETCH_SECONDS = 30.0  # for a clip behind a URL, from the look-up of its name to its last byte
READ_SECONDS = 30.0  # for a request, from its first byte to its last
WRITE_SECONDS = 30.0  # for an answer
WAIT_SECONDS = 120.0  # until work on a request that was read begins
MAX_CONNECTIONS = 128  # more are answered with 503
MAX_WORKING = 4  # requests held in memory and decoded at the same time
REDIRECTS = 5
# Parameters of a request, each with its type and its bounds.
PARAMETERS = {
    "question": (str, 0, MAX_TEXT),
    "candidate_labels": (list, 1, 100),
    "utterances": (list, 0, MAX_UTTERANCES),
    "per_utterance": (bool, None, None),
    "top_k": (int, 1, 100),
    "num_frames": (int, 1, 64),
    "max_new_tokens": (int, 1, 512),
    "num_beams": (int, 1, 8),
    "do_sample": (bool, None, None),
    "temperature": (float, 0.01, 10.0),
    "top_p": (float, 0.01, 1.0),
}
# What a processor raises -> HTTP status. By name: its classes may come from the files beside the model.
STATUS = {"MediaLimitError": 413, "MediaError": 415}
# Ranges of IPv6 in which an IPv4 address hides, or which lead into a private network, though Python calls some global.
HIDDEN_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10", "::ffff:0:0:0/96")
)


class RequestError(ValueError):
    """A request that is refused; `status` is that of HTTP, and the message begins with it."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status


class EndpointHandler:
    """The model, and the answer to one request.

    Args:
        path: folder or Hub id of the model.
        max_body: bytes of a request, and of a clip behind a URL.
        allowed_networks: networks such as `"10.1.0.0/16"` that URLs may lead to in addition to public addresses; by
            default those in the environment variable HF_EMOTION_ALLOWED_NETWORKS, separated by commas.
    """

    def __init__(self, path: str = "", max_body: int = MAX_BODY, allowed_networks: Iterable[str] | None = None):
        if allowed_networks is None:
            allowed_networks = filter(None, os.environ.get("HF_EMOTION_ALLOWED_NETWORKS", "").split(","))
        self.networks = [ipaddress.ip_network(network.strip()) for network in allowed_networks]
        self.max_body = max_body
        self.pipe = pipeline(
            "emotion-recognition", model=path, trust_remote_code=True, device=0 if torch.cuda.is_available() else -1
        )
        self.one_at_a_time = threading.Lock()

    def __call__(self, data: dict) -> list[dict]:
        """Answer one request.

        Args:
            data: `inputs`: the clip's bytes; base64, a data URL or an http(s) URL as a string; or a dict with `video`
                and/or `audio` as such strings, `utterances` as rows, and `text` (or `question`). `parameters`: see
                `PARAMETERS`; `candidate_labels` asks for a closed set.

        Returns:
            the schema of video-text-to-text: a list of one dict with `generated_text` and everything that the pipeline
            returns (`labels` with scores, `description`, `utterances`, `modalities`, ...). For a body of bytes, and
            with `candidate_labels`, the schema of video-classification: `[{"label", "score"}]`, best first.

        Raises:
            RequestError: 400 for a malformed request, 403 for an address that is not public, 413 for a clip beyond a
                limit, 415 for a file that is not a clip, 422 for a clip or parameter that cannot be used, 502 and 504
                for a URL that cannot be read, 500 for anything else.
        """
        try:
            return self.answer(data)
        except RequestError:
            raise
        except (ValueError, OSError) as error:
            raise RequestError(STATUS.get(type(error).__name__, 422), one_line(error)) from error
        except Exception as error:
            traceback.print_exc()
            raise RequestError(500, f"the request could not be answered ({type(error).__name__})") from error

    def answer(self, data: dict) -> list[dict]:
        """`__call__`, without handling of errors."""
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError(400, 'the body needs the key "inputs" with the clip')
        inputs, options = data["inputs"], self.parameters(data.get("parameters"))
        classify = isinstance(inputs, bytes) or "candidate_labels" in options
        sources = {"video": inputs}
        if isinstance(inputs, dict):
            beside = {"question": inputs.get("question", inputs.get("text")), "utterances": inputs.get("utterances")}
            options = self.parameters({name: text for name, text in beside.items() if text is not None}) | options
            sources = {name: inputs[name] for name in ("video", "audio") if inputs.get(name) is not None}
            if not sources:
                raise RequestError(400, '"inputs" needs "video" or "audio"')
        top_k, num_frames = options.pop("top_k", None), options.pop("num_frames", None)
        per_utterance = options.pop("per_utterance", not classify)
        utterances = options.pop("utterances", None)
        check_texts(options, utterances)
        check_tokens(options, len(utterances or ()) if per_utterance else 0)
        # The container of Endpoints has already decoded an image/* body.
        sources = {name: part if hasattr(part, "convert") else self.read(part) for name, part in sources.items()}
        # Decoded before the model is waited for: a clip that takes long to decode keeps nobody else waiting.
        [clip] = self.pipe.processor.load_clips(
            [sources.get("video")],
            audio=[sources.get("audio")] if "audio" in sources else None,
            utterances=None if utterances is None else [utterances],
            num_frames=num_frames,
            max_duration=MAX_SECONDS,
            max_pixels=MAX_FRAME_PIXELS,
            max_decoded_pixels=MAX_DECODED_PIXELS,
        )
        with self.one_at_a_time:
            result = self.pipe(clip, per_utterance=per_utterance, **options)
        if classify:
            return result["labels"][:top_k]
        return [{"generated_text": result["description"], **result}]

    def parameters(self, values: Any) -> dict:
        """The parameters of a request, checked."""
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise RequestError(400, f'"parameters" is {type(values).__name__}; an object is accepted')
        checked = {}
        for name, value in values.items():
            if name not in PARAMETERS:
                raise RequestError(422, f"unknown parameter {short(name)}; accepted are {', '.join(PARAMETERS)}")
            kind, low, high = PARAMETERS[name]
            if value is None:
                continue
            if kind is float and type(value) is int and abs(value) <= high:
                value = float(value)
            if type(value) is not kind:
                raise RequestError(422, f"parameter {name} is {type(value).__name__}; {kind.__name__} is accepted")
            size = value if kind in (int, float) else None if kind is bool else len(value)
            if size is not None and not low <= size <= high:
                raise RequestError(422, f"parameter {name} has size {short(size)}; {low} to {high} is accepted")
            checked[name] = value
        return checked

    def read(self, source: Any) -> bytes:
        """The bytes that a part of a request holds or points to."""
        if isinstance(source, str):
            if "://" in source[:16] or source[:5].lower() == "data:":
                source = fetch(source, self.max_body, FETCH_SECONDS, self.address_allowed)
            else:
                source = decode_base64(source, self.max_body)
        if not isinstance(source, bytes):
            raise RequestError(400, f"a clip is {type(source).__name__}; base64, a URL or bytes are accepted")
        if len(source) > self.max_body:
            raise RequestError(413, f"the clip has {len(source):,} bytes, at most {self.max_body:,} are accepted")
        return source

    def address_allowed(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether a URL may lead to an address: a public one, or one of the allowed networks."""
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self.networks):
            return True
        return address.is_global and not address.is_multicast and not any(address in net for net in HIDDEN_NETWORKS)


def check_texts(options: dict, utterances: list | None) -> None:
    """Refuse texts of other types and more characters than allowed; replace what no tokenizer takes, in place."""
    total = 0

    def checked(what: str, text: Any, limit: int) -> str:
        nonlocal total
        if not isinstance(text, str):
            raise RequestError(422, f"{what} is {type(text).__name__}; text is accepted")
        total += len(text)
        if len(text) > limit:
            raise RequestError(422, f"{what} has {len(text):,} characters; at most {limit:,} are accepted")
        # Half characters, which JSON can write, and zeros.
        return re.sub("[\0\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)

    if "question" in options:
        options["question"] = checked("the question", options["question"], MAX_TEXT)
    if "candidate_labels" in options:
        labels = [checked(f"label {i}", label, MAX_NAME) for i, label in enumerate(options["candidate_labels"], 1)]
        if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise RequestError(422, "candidate_labels holds a label twice, or an empty one")
        options["candidate_labels"] = labels
    for i, row in enumerate(utterances or (), 1):
        if not isinstance(row, (dict, list)):
            raise RequestError(422, "utterances are rows of start, end, text and speaker; no paths are opened")
        names = ("text", "speaker") if isinstance(row, dict) else range(2, min(len(row), 4))
        for name in names:
            value = row.get(name) if isinstance(row, dict) else row[name]
            if value is not None:
                row[name] = checked(f"utterance {i}", value, MAX_NAME if name in ("speaker", 3) else MAX_TEXT)
    if total > MAX_TEXTS:
        raise RequestError(422, f"the request has {total:,} characters of text; at most {MAX_TEXTS:,} are accepted")


def check_tokens(options: dict, utterances: int) -> None:
    """Refuse answers that would be too long together."""
    tokens = (1 + utterances) * options.get("max_new_tokens", 128) * options.get("num_beams", 1)
    if tokens > MAX_TOKENS:
        raise RequestError(
            422,
            f"1 + {utterances} answers could have {tokens:,} tokens in all their beams; {MAX_TOKENS:,} are accepted",
        )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def short(value: Any) -> str:
    """A value as a message may show it: short, and without the secrets of a URL's query or a user's password."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    if isinstance(value, str):
        value = re.sub(r"//[^/@]*@", "//", value[:2000].partition("?")[0])
        return repr(value if len(value) <= 80 else f"{value[:77]}...")
    return repr(value)[:80]


# Clips


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes in a `data:` URL, base64 or percent-encoded."""
    head, comma, body = url.partition(",")
    if not comma:
        raise RequestError(400, "a data URL without a comma holds no data; data:video/mp4;base64,... is accepted")
    if head.lower().endswith(";base64"):
        return decode_base64(body, max_bytes)
    if len(body) > 3 * max_bytes:
        raise RequestError(413, f"the clip has more than the {max_bytes:,} bytes that are accepted")
    return unquote_to_bytes(body.encode("ascii", "replace"))


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Bytes from base64, with or without line breaks."""
    if len(text) > 4 * max_bytes // 3 + 1024:
        raise RequestError(413, f"the clip has more than the {max_bytes:,} bytes that are accepted")
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise RequestError(400, f"{short(text)} is neither a URL nor base64 ({error})") from error


def seconds_until(deadline: float) -> float:
    """Seconds until `deadline` on the monotonic clock; raises TimeoutError where it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds


class DeadlineReader(io.RawIOBase):
    """Bytes from a socket until a deadline, however slowly they come: a timeout of a socket begins anew with each."""

    def __init__(self, connection: socket.socket, deadline: float):
        self.connection, self.deadline, self.late = connection, deadline, False
        self.raw = connection.makefile("rb", buffering=0)  # which keeps the socket open until it is closed itself

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self.connection.settimeout(seconds_until(self.deadline))
            return self.raw.readinto(buffer)
        except TimeoutError:
            self.late = True
            raise

    def close(self) -> None:
        self.raw.close()
        super().close()


class DeadlineSocket:
    """What `http.client` needs of a socket, with one deadline for all that is sent and received."""

    def __init__(self, connection: socket.socket, deadline: float):
        self.connection, self.deadline = connection, deadline

    def sendall(self, data: bytes) -> None:
        self.connection.settimeout(seconds_until(self.deadline))
        self.connection.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(DeadlineReader(self.connection, self.deadline))

    def close(self) -> None:
        self.connection.close()


def fetch(
    url: str,
    max_bytes: int = MAX_BODY,
    timeout: float = FETCH_SECONDS,
    allowed: Callable[[Any], bool] = lambda address: True,
) -> bytes:
    """The bytes behind an http or https URL, or in a data URL.

    Args:
        url: redirects are followed, five at most.
        max_bytes: a longer body is refused, before it is read where its length is stated.
        timeout: s for all of it: looking up the name, connecting, headers and body, redirects included.
        allowed: called with each `ipaddress` address that the URL, or a redirect, leads to; `False` refuses it. The
            connection goes to an address that was checked, so a name cannot mean another one a moment later.

    Raises:
        RequestError: 400 for another kind of URL, 403 for an address that is not allowed, 413 for too long a body, 502
            for a server that cannot be reached or does not answer with the file, 504 for one that is too slow.
    """
    if url[:5].lower() == "data:":
        return decode_data_url(url, max_bytes)
    deadline = time.monotonic() + timeout
    for _ in range(REDIRECTS + 1):
        connection = None
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise RequestError(400, f"{short(url)} is not the address of a clip; http and https URLs are accepted")
            connection = connect(parts, deadline, allowed)
            target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request("GET", target, headers={"Accept": "*/*", "User-Agent": "hf_emotion"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise RequestError(502, f"{short(url)} answered with status {response.status}")
            return read_body(response, url, max_bytes)
        except RequestError:
            raise
        except TimeoutError as error:
            raise RequestError(504, f"{short(url)} did not answer within {timeout:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RequestError(502, f"{short(url)} cannot be reached ({one_line(error)})") from error
        finally:
            if connection is not None:
                connection.close()
    raise RequestError(502, f"{short(url)} redirects more than {REDIRECTS} times")


def connect(parts: Any, deadline: float, allowed: Callable[[Any], bool]) -> http.client.HTTPConnection:
    """A connection to the host of a split URL, at an address that is allowed."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = look_up(parts.hostname, port, deadline)
    for *_, address in addresses:
        # An IPv6 address may carry the name of an interface.
        if not allowed(ipaddress.ip_address(address[0].split("%")[0])):
            raise RequestError(403, f"{parts.hostname} is at {address[0]}, an address that clips are not fetched from")
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(seconds_until(deadline))
            plain.connect(address)
            wrapped = plain
            if parts.scheme == "https":
                plain.settimeout(seconds_until(deadline))  # of the whole handshake
                wrapped = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        except OSError as error:
            plain.close()
            failure = error
        else:
            connection = http.client.HTTPConnection(parts.hostname, port)
            connection.sock = DeadlineSocket(wrapped, deadline)
            return connection
    raise failure


def look_up(host: str, port: int, deadline: float) -> list[tuple]:
    """The addresses of a host. In a separate thread, since the system's look-up has no timeout."""
    outcome: list = []

    def ask() -> None:
        try:
            outcome.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds_until(deadline))
    if not outcome:
        raise TimeoutError("timed out")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def read_body(response: http.client.HTTPResponse, url: str, max_bytes: int) -> bytes:
    """What a server sends, up to a limit of bytes; the deadline is that of the connection."""
    length = length_of(response.headers.get("Content-Length", ""))
    body = bytearray()
    while True:
        if len(body) > max_bytes or (length or 0) > max_bytes:
            raise RequestError(413, f"{short(url)} is longer than the {max_bytes:,} bytes that are accepted")
        block = response.read1(2**20)
        if not block:
            if length is not None and len(body) < length:
                raise RequestError(502, f"{short(url)} broke off after {len(body):,} of {length:,} bytes")
            return bytes(body)
        body += block


def length_of(header: str) -> int | None:
    """The number in a Content-Length header; None where there is none."""
    return int(header) if re.fullmatch(r"[0-9]{1,18}", header) else None


# Server


class Server(ThreadingHTTPServer):
    """A server that limits the number of connections answered at the same time to its threads."""

    request_queue_size = MAX_CONNECTIONS
    daemon_threads = True

    def __init__(self, address: tuple[str, int], requests: type):
        super().__init__(address, requests)
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.working = threading.BoundedSemaphore(MAX_WORKING)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        body = json.dumps({"error": "503: too many connections; try again later"}).encode()
        head = f"HTTP/1.0 503 Busy\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            request.settimeout(1.0)
            request.sendall(head.encode() + body)
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is not worth a traceback.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def serve(handler: EndpointHandler, port: int = 8080, host: str = "127.0.0.1") -> Server:
    """An HTTP server for `handler`; `serve_forever` runs it. A body that is too long is refused before it is read."""

    class Requests(BaseHTTPRequestHandler):
        def setup(self):
            super().setup()
            self.reader = DeadlineReader(self.connection, time.monotonic() + READ_SECONDS)
            self.rfile = io.BufferedReader(self.reader)
            self.answered = False
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""

        def handle(self):
            super().handle()
            if self.reader.late and not self.answered:
                self.answer(408, {"error": f"408: the request was not received within {READ_SECONDS:g} s"})

        def do_GET(self):
            self.answer(200, {"status": "ready"})

        def do_POST(self):
            try:
                status, content = 200, self.work()
            except RequestError as error:
                status, content = error.status, {"error": str(error)}
            except TimeoutError:
                status = 408
                content = {"error": f"408: the request was not received within {READ_SECONDS:g} s"}
            except ConnectionError:
                return
            except Exception as error:
                traceback.print_exc()
                status = 500
                content = {"error": f"500: the request could not be answered ({type(error).__name__})"}
            self.answer(status, content)

        def work(self) -> list[dict]:
            # On disk while it arrives: a slow client keeps a thread, and no memory.
            with tempfile.SpooledTemporaryFile(max_size=2**20) as body:
                self.receive(body)
                if not self.server.working.acquire(timeout=WAIT_SECONDS):
                    raise RequestError(503, "too many requests; try again later")
                try:
                    body.seek(0)
                    return handler(self.parse(body.read()))
                finally:
                    self.server.working.release()

        def receive(self, body: Any) -> None:
            length = length_of(self.headers.get("Content-Length", ""))
            if length is None:
                raise RequestError(411, "the request does not state the length of its body (Content-Length)")
            # JSON with base64 is longer than the clip in it.
            limit = 4 * handler.max_body // 3 + 2**20
            if length > limit:
                raise RequestError(413, f"the body has {length:,} bytes, at most {limit:,} are accepted")
            while length:
                block = self.rfile.read1(min(length, 2**16))
                if not block:
                    raise RequestError(400, "the body is shorter than its Content-Length")
                body.write(block)
                length -= len(block)

        def parse(self, body: bytes) -> dict:
            if self.headers.get_content_type() != "application/json":
                return {"inputs": body}
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise RequestError(400, f"the body is not JSON ({one_line(error)})") from error

        def answer(self, status: int, content: Any) -> None:
            self.answered = True
            body = json.dumps(content).encode()
            try:
                self.connection.settimeout(WRITE_SECONDS)
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                # What is left of a refused body must not be taken for the next request.
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                if status != 200:
                    self.linger()
            except OSError:  # the client went away
                pass

        def linger(self) -> None:
            # Closing with unread bytes would reset the connection, and the client might never read its answer.
            self.connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline:
                self.connection.settimeout(seconds_until(deadline))
                if not self.connection.recv(2**16):
                    break

    return Server((host, port), Requests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.path.dirname(os.path.abspath(__file__)), help="folder or Hub id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    server = serve(EndpointHandler(args.model), args.port, args.host)
    print(f"ready on http://{args.host}:{server.server_port}", flush=True)
    server.serve_forever()
