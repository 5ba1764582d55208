"""Custom handler for Hugging Face Inference Endpoints: a request with a clip in, labels and a description out.

Endpoints call `EndpointHandler(path)` once, and the object for each request; the widget on an endpoint's page sends
such requests, too. A request is JSON, `{"inputs": ..., "parameters": {...}}`, or the bytes of a clip as the whole body.
Without Endpoints:

    python handler.py --model . --port 8080
    curl --data-binary @clip.mp4 -H "Content-Type: video/mp4" http://127.0.0.1:8080

Requests come from strangers. Their cost is bounded (bytes, seconds, frames and pixels of a clip, tokens of an answer),
and so are the addresses that a URL may lead to.
"""

import argparse
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import av
import torch
from transformers import pipeline

MAX_BODY = 2**26  # bytes of a request, and of a clip behind a URL: 64 MiB
MAX_SECONDS = 300  # of a clip
MAX_FRAME_PIXELS = 4096 * 2304
MAX_FRAMES = 60 * MAX_SECONDS
MAX_DECODED_PIXELS = 2**35  # of all frames: 5 minutes of 1080p at 55 frames a second
MAX_UTTERANCES = 100
FETCH_SECONDS = 30.0
REDIRECTS = 5
# Parameters of a request, each with its kind and its bounds.
PARAMETERS = {
    "question": (str, 0, 2000),
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


class RequestError(ValueError):
    """A request that is refused; `status` is the HTTP status, and the message begins with it."""

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

    def __init__(self, path: str = "", max_body: int = MAX_BODY, allowed_networks=None):
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
            RequestError: 400 for a malformed request, 403 for an address that is not public, 413 for too large a clip,
                415 for data that is not a clip, 422 for a clip or parameter that cannot be used, 502 and 504 for a URL
                that cannot be read.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError(400, 'the body needs the key "inputs" with the clip')
        inputs, options = data["inputs"], self.parameters(data.get("parameters"))
        top_k = options.pop("top_k", None)
        classify = isinstance(inputs, bytes) or "candidate_labels" in options
        clip, beside = self.clip(inputs)
        options = {**beside, **options}
        for row in options.get("utterances") or ():
            if not isinstance(row, (dict, list)):
                raise RequestError(422, "utterances must be rows of start, end, text and speaker, not paths")
        try:
            with self.one_at_a_time:
                result = self.pipe(
                    clip,
                    per_utterance=options.pop("per_utterance", not classify),
                    max_duration=MAX_SECONDS,
                    max_pixels=MAX_FRAME_PIXELS,
                    **options,
                )
        except (ValueError, OSError) as error:
            raise RequestError(getattr(error, "status", 422), str(error)) from error
        if classify:
            return result["labels"][:top_k]
        return [{"generated_text": result["description"], **result}]

    def parameters(self, values) -> dict:
        """The parameters of a request, checked."""
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise RequestError(400, f'"parameters" is {type(values).__name__}; an object is accepted')
        checked = {}
        for name, value in values.items():
            if name not in PARAMETERS:
                raise RequestError(422, f"unknown parameter {name!r}; accepted are {', '.join(PARAMETERS)}")
            kind, low, high = PARAMETERS[name]
            if value is None:
                continue
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise RequestError(422, f"parameter {name} is {type(value).__name__}; {kind.__name__} is accepted")
            size = value if kind in (int, float) else None if kind is bool else len(value)
            if size is not None and not low <= size <= high:
                raise RequestError(422, f"parameter {name} has size {size}; {low} to {high} is accepted")
            checked[name] = value
        return checked

    def clip(self, inputs):
        """The clip of a request as bytes, and the question and utterances that came beside it in `inputs`."""
        beside = {}
        if isinstance(inputs, dict):
            question = inputs.get("question", inputs.get("text"))
            beside = self.parameters({"question": question, "utterances": inputs.get("utterances")})
            parts = {name: inputs[name] for name in ("video", "audio") if inputs.get(name) is not None}
            if not parts:
                raise RequestError(400, '"inputs" needs "video" or "audio"')
            return {name: self.bytes_of(part) for name, part in parts.items()}, beside
        if hasattr(inputs, "convert"):
            # The container of Endpoints has already decoded an image/* body.
            return inputs, beside
        return self.bytes_of(inputs), beside

    def bytes_of(self, source) -> bytes:
        """The bytes that a part of a request holds or points to; checked before any of them is decoded."""
        if isinstance(source, str):
            # Base64 takes a third more; the bytes behind a URL are bounded where they are fetched.
            if len(source) > 4 * self.max_body // 3 + 1024:
                raise RequestError(413, f"the clip has more than {self.max_body:,} bytes")
            head = source[:16].lower()
            url = source if "://" in head or head.startswith("data:") else f"data:;base64,{source}"
            source = fetch(url, self.max_body, FETCH_SECONDS, self.address_allowed)
        if not isinstance(source, bytes):
            raise RequestError(400, f"a clip is {type(source).__name__}; base64, a URL or bytes are accepted")
        if len(source) > self.max_body:
            raise RequestError(413, f"the clip has {len(source):,} bytes, at most {self.max_body:,} are accepted")
        check_cost(source)
        return source

    def address_allowed(self, address) -> bool:
        """Whether a URL may lead to an `ipaddress` address: a public one, or one of the allowed networks."""
        address = getattr(address, "ipv4_mapped", None) or address
        return (address.is_global and not address.is_multicast) or any(address in network for network in self.networks)


def check_cost(data: bytes) -> None:
    """Refuse a file that would cost too much to decode. Its packets are read; nothing is decoded.

    Raises:
        RequestError: 413 for too many frames, pixels or seconds, 415 for data that is not a clip.
    """
    try:
        # A playlist may name other files; none is opened.
        with av.open(BytesIO(data), options={"protocol_whitelist": ""}) as container:
            video = container.streams.best("video")
            streams = [stream for stream in (video, container.streams.best("audio")) if stream is not None]
            pixels = 0
            if video is not None and video.codec_context is not None:
                pixels = video.codec_context.width * video.codec_context.height
            if pixels > MAX_FRAME_PIXELS:
                size = f"{video.codec_context.width} x {video.codec_context.height}"
                raise RequestError(413, f"the frames are {size} pixels, at most {MAX_FRAME_PIXELS:,} are accepted")
            frames = 0
            for packet in container.demux(streams):
                if packet.pts is not None and packet.time_base is not None:
                    seconds = float(packet.pts * packet.time_base)
                    if seconds > MAX_SECONDS + float(container.start_time or 0) / av.time_base:
                        raise RequestError(413, f"the clip is longer than the {MAX_SECONDS} s that are accepted")
                if video is None or packet.stream_index != video.index or not packet.size:
                    continue
                frames += 1
                if frames > MAX_FRAMES:
                    raise RequestError(413, f"the clip has more than the {MAX_FRAMES:,} frames that are accepted")
                if frames * pixels > MAX_DECODED_PIXELS:
                    raise RequestError(
                        413, f"the clip has more than the {MAX_DECODED_PIXELS:,} pixels in all that are accepted"
                    )
    except (av.FFmpegError, OSError, EOFError) as error:
        raise RequestError(415, "the clip is not a video or sound file that can be read") from error


# URLs


def fetch(url: str, max_bytes: int = MAX_BODY, timeout: float = FETCH_SECONDS, allowed=None) -> bytes:
    """The bytes behind an http, https or data URL.

    Args:
        url: at most five redirects are followed.
        max_bytes: a longer body is refused, before it is read where the server states its length.
        timeout: s for the whole request.
        allowed: called with each `ipaddress` address that the URL, or a redirect, leads to; `False` refuses it. The
            connection goes to an address that was checked, so a name cannot be resolved to another one afterwards.
            `None` allows all.

    Raises:
        RequestError: 400 for another kind of URL, 403 for an address that is not allowed, 413 for too long a body, 502
            for a server that cannot be reached or does not answer with the file, 504 for one that is too slow.
    """
    if url[:5].lower() == "data:":
        return decode_data_url(url, max_bytes)
    deadline = time.monotonic() + timeout
    for _ in range(REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(400, f"{shown(url)} cannot be fetched; http and https URLs are accepted")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            connection = connect(parts, port, deadline, allowed)
        except RequestError:
            raise
        except TimeoutError as error:
            raise RequestError(504, f"{shown(url)} did not answer within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise RequestError(502, f"{shown(url)} cannot be reached ({error})") from error
        try:
            target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request("GET", target, headers={"Accept": "*/*", "User-Agent": "hf_emotion"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise RequestError(502, f"{shown(url)} answered with status {response.status}")
            return read_body(connection, response, url, max_bytes, deadline, timeout)
        except TimeoutError as error:
            raise RequestError(504, f"{shown(url)} did not answer within {timeout:g} s") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise RequestError(502, f"{shown(url)} cannot be read ({error})") from error
        finally:
            connection.close()
    raise RequestError(502, f"{shown(url)} redirects more than {REDIRECTS} times")


def connect(parts, port: int, deadline: float, allowed) -> http.client.HTTPConnection:
    """A connection to the host of a split URL, at an address that is allowed."""
    addresses = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    for *_, address in addresses if allowed is not None else ():
        # An IPv6 address may carry the name of an interface.
        if not allowed(ipaddress.ip_address(address[0].split("%")[0])):
            raise RequestError(403, f"{parts.hostname} is at {address[0]}, an address that clips are not fetched from")
    error = None
    for family, kind, protocol, _, address in addresses:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(seconds_until(deadline))
            plain.connect(address)
            wrapped = plain
            if parts.scheme == "https":
                wrapped = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        except OSError as failure:
            plain.close()
            error = failure
        else:
            connection = http.client.HTTPConnection(parts.hostname, port)
            connection.sock = wrapped
            return connection
    raise error


def read_body(connection, response, url: str, max_bytes: int, deadline: float, timeout: float) -> bytes:
    """The body of a response, up to a limit of bytes and time."""
    length = response.headers.get("Content-Length", "")
    body = bytearray()
    while True:
        if len(body) > max_bytes or (length.isdigit() and int(length) > max_bytes):
            raise RequestError(413, f"{shown(url)} is longer than the {max_bytes:,} bytes that are accepted")
        if connection.sock is not None:
            connection.sock.settimeout(seconds_until(deadline))
        block = response.read1(2**20)
        if not block:
            if length.isdigit() and len(body) < int(length):
                raise RequestError(502, f"{shown(url)} broke off after {len(body):,} of {int(length):,} bytes")
            return bytes(body)
        body += block
        if time.monotonic() > deadline:
            raise RequestError(504, f"{shown(url)} was not read within {timeout:g} s")


def seconds_until(deadline: float) -> float:
    """Seconds until `deadline`, never 0: to a socket 0 means "do not wait"."""
    return max(deadline - time.monotonic(), 0.001)


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes in a `data:` URL, base64 or percent-encoded."""
    head, comma, body = url.partition(",")
    if not comma:
        raise RequestError(400, "the data URL has no comma and so no data; data:video/mp4;base64,... is accepted")
    if len(body) > 4 * (max_bytes + 2) // 3 + 4:
        raise RequestError(413, f"the data URL holds more than the {max_bytes:,} bytes that are accepted")
    return decode_base64(body) if head.lower().endswith(";base64") else unquote_to_bytes(body)


def decode_base64(text: str) -> bytes:
    """Bytes from base64, with or without line breaks."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise RequestError(400, f"{shown(text)} is neither a URL nor base64 ({error})") from error


def shown(text: str) -> str:
    """A URL or other input as a message may show it: short, and without the secrets of a query or a user's password."""
    text = re.sub(r"//[^/@]*@", "//", text.partition("?")[0])
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def serve(handler: EndpointHandler, port: int = 8080, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """An HTTP server for `handler`; `serve_forever` runs it. A body that is too long is refused before it is read."""

    class Requests(BaseHTTPRequestHandler):
        timeout = FETCH_SECONDS  # for a client that sends nothing

        def do_GET(self):
            self.answer(200, {"status": "ready"})

        def do_POST(self):
            try:
                self.answer(200, handler(self.read()))
            except RequestError as error:
                self.answer(error.status, {"error": str(error)})
            except TimeoutError:
                self.answer(408, {"error": "408: the body did not arrive in time"})

        def read(self) -> dict:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit():
                raise RequestError(411, "the request has no Content-Length header")
            # JSON with base64 is longer than the clip in it.
            limit = 4 * handler.max_body // 3 + 2**20
            if int(length) > limit:
                raise RequestError(413, f"the body has {int(length):,} bytes, at most {limit:,} are accepted")
            body = self.rfile.read(int(length))
            if self.headers.get_content_type() != "application/json":
                return {"inputs": body}
            try:
                return json.loads(body)
            except ValueError as error:
                raise RequestError(400, f"the body is not JSON ({error})") from error

        def answer(self, status: int, content) -> None:
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            # The rest of a refused body must not be taken for the next request.
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host, port), Requests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.path.dirname(os.path.abspath(__file__)), help="folder or Hub id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    server = serve(EndpointHandler(args.model), args.port, args.host)
    print(f"ready on http://{args.host}:{server.server_port}", flush=True)
    server.serve_forever()
