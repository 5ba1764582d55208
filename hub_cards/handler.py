"""Hugging Face Inference Endpoints' custom handler: a clip in a request in, labels and a description out.

Endpoints call `EndpointHandler(path)` once and the object for each request; the widget of an endpoint's page is driven
by it. Taken are JSON, `{"inputs": ..., "parameters": {...}}`, and a clip's bytes as the whole body. Without Endpoints:

    python handler.py --model . --port 8080
    curl --data-binary @clip.mp4 -H "Content-Type: video/mp4" http://127.0.0.1:8080

Requests come from strangers, so what they may cost is bounded: bytes, seconds, frames and pixels of a clip, tokens of
an answer, and the addresses that a URL may lead to.
"""

import argparse
import ipaddress
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

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
    """A request that is refused; `status` is that of HTTP, and stands at the head of the message, too."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status


class EndpointHandler:
    """The model, and the answer to one request.

    Args:
        path: folder or Hub id of the model.
        max_body: bytes of a request, and of a clip behind a URL.
        allowed_networks: networks such as `"10.1.0.0/16"` that URLs may lead to beside public addresses; by default
            what the environment variable HF_EMOTION_ALLOWED_NETWORKS names, separated by commas.
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
            in the schema of video-text-to-text, `[{"generated_text", "labels", "utterances", "modalities", "duration",
            "notes"}]`. For a body of bytes, and with `candidate_labels`, in that of video-classification,
            `[{"label", "score"}]`, best first.

        Raises:
            RequestError: 400 for a request of another form, 403 for an address that is not public, 413 for too much,
                415 for what is no clip, 422 for a clip or parameter that cannot be used, 502 and 504 for a URL that
                cannot be read.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError(400, 'the body needs a key "inputs" with the clip')
        inputs, options = data["inputs"], self.parameters(data.get("parameters"))
        top_k = options.pop("top_k", None)
        classify = isinstance(inputs, bytes) or "candidate_labels" in options
        clip, own = self.clip(inputs)
        options = {**own, **options}
        for row in options.get("utterances") or ():
            if not isinstance(row, (dict, list)):
                raise RequestError(422, "utterances are rows of start, end, text and speaker; no paths are opened")
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
        kept = ("labels", "utterances", "modalities", "duration", "notes")
        return [{"generated_text": result["description"], **{name: result[name] for name in kept}}]

    def parameters(self, given) -> dict:
        """The parameters of a request, checked."""
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise RequestError(400, f'"parameters" is {type(given).__name__}; an object is accepted')
        checked = {}
        for name, value in given.items():
            if name not in PARAMETERS:
                raise RequestError(422, f"parameter {name!r} is not known; accepted are {', '.join(PARAMETERS)}")
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
        """The clip of a request as bytes, and what the request says about it beside its parameters."""
        own = {}
        if isinstance(inputs, dict):
            question = inputs.get("question", inputs.get("text"))
            beside = {"question": question, "utterances": inputs.get("utterances")}
            own = self.parameters({name: value for name, value in beside.items() if value is not None})
            parts = {name: inputs[name] for name in ("video", "audio") if inputs.get(name) is not None}
            if not parts:
                raise RequestError(400, '"inputs" needs "video" or "audio"')
            return {name: self.bytes_of(part) for name, part in parts.items()}, own
        if hasattr(inputs, "convert"):
            # The container of Endpoints has already decoded an image/* body.
            return inputs, own
        return self.bytes_of(inputs), own

    def bytes_of(self, source) -> bytes:
        """The bytes that a part of a request holds or points to; checked before anything of them is decoded."""
        if isinstance(source, str):
            # What is sent as text takes a third more; what is behind a URL is bounded where it is fetched.
            if len(source) > 4 * self.max_body // 3 + 1024:
                raise RequestError(413, f"the clip has more than {self.max_body:,} bytes")
            head = source[:16].lower()
            url = source if "://" in head or head.startswith("data:") else f"data:;base64,{source}"
            try:
                source = self.pipe.fetch(
                    url, max_bytes=self.max_body, timeout=FETCH_SECONDS, allowed=self.address_allowed
                )
            except ValueError as error:
                raise RequestError(getattr(error, "status", 422), str(error)) from error
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
    """Refuse what would cost too much to decode, by the packets of a file: they are read and nothing is decoded.

    Raises:
        RequestError: 413 for too many frames, pixels or seconds, 415 for what is no clip.
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
        raise RequestError(415, "the clip is no video or sound file that can be read") from error


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
                self.answer(408, {"error": "408: the body did not come in time"})

        def read(self) -> dict:
            told = self.headers.get("Content-Length", "")
            if not told.isdigit():
                raise RequestError(411, "the request does not tell the length of its body (Content-Length)")
            # JSON with base64 is longer than the clip in it.
            limit = 4 * handler.max_body // 3 + 2**20
            if int(told) > limit:
                raise RequestError(413, f"the body has {int(told):,} bytes, at most {limit:,} are accepted")
            body = self.rfile.read(int(told))
            if self.headers.get_content_type() != "application/json":
                return {"inputs": body}
            try:
                return json.loads(body)
            except ValueError as error:
                raise RequestError(400, f"the body is no JSON ({error})") from error

        def answer(self, status: int, content) -> None:
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            # What is left of a refused body must not be taken for the next request.
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
