"""Hugging Face Inference Endpoints' custom handler: a clip in a request in, labels and a description out.

Endpoints call `EndpointHandler(path)` once and the object for each request; the widget of an endpoint's page is driven
by it. It takes JSON, `{"inputs": ..., "parameters": {...}}`, or a clip's bytes as the whole body. Without Endpoints:

    python handler.py --model . --port 8080
    curl --data-binary @clip.mp4 -H "Content-Type: video/mp4" http://127.0.0.1:8080
    curl --data-binary @clip.mp4 -H "Content-Type: video/mp4" -H "Accept: text/event-stream" http://127.0.0.1:8080

The server also speaks the protocol of OpenAI's chat completions, so that clients of such servers can ask it: the base
URL is http://127.0.0.1:8080/v1, and a message brings the clip as a part `video_url`; see `ChatCompletions`.

The last command gets server-sent events: how far its request is, the text as the model writes it, and the result.

A request passes three stations. It waits in a line of bounded length, its body on disk. It is decoded and measured in
its own thread, a few requests at a time. One thread owns the model: it takes requests with equal parameters that arrive
within a few hundredths of a second, or that came while it was busy, and answers them as one batch.

Requests come from strangers, so the constants below limit their cost: bytes, seconds and pixels of a clip, characters
of texts, tokens of an answer, the addresses that a URL may lead to, the time for a request and a download, connections,
and the number of requests that wait and that are processed at the same time.
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
import uuid
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import torch
from transformers import pipeline
from transformers.generation.streamers import BaseStreamer

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
WAIT_SECONDS = 300.0  # in the line, until a request is decoded
MAX_CONNECTIONS = 128  # more are answered with 503
MAX_WAITING = 64  # requests in the line; more are answered with 503
MAX_WORKING = 16  # requests held in memory: being decoded, decoded, or being answered
MAX_DECODING = min(4, os.cpu_count() or 1)  # requests decoded at the same time
MAX_BATCH = 8  # requests answered together
MAX_BATCH_ROWS = 16  # of the model: requests of a batch times their beams
BATCH_SECONDS = 0.03  # that the first request of a batch waits for others
RETRY_SECONDS = 5  # that a client is told to wait after 503
PROGRESS_SECONDS = 10.0  # between two events of a stream, so that both sides notice a broken connection
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
        pipe: an `emotion-recognition` pipeline that is already loaded, in place of `path`.
    """

    def __init__(
        self,
        path: str = "",
        max_body: int = MAX_BODY,
        allowed_networks: Iterable[str] | None = None,
        pipe: Any = None,
    ):
        if allowed_networks is None:
            allowed_networks = filter(None, os.environ.get("HF_EMOTION_ALLOWED_NETWORKS", "").split(","))
        self.networks = [ipaddress.ip_network(network.strip()) for network in allowed_networks]
        self.max_body = max_body
        self.pipe = pipe or pipeline(
            "emotion-recognition", model=path, trust_remote_code=True, device=0 if torch.cuda.is_available() else -1
        )
        self.line = Line()
        self.decoding = threading.BoundedSemaphore(MAX_DECODING)
        self.batches = Batches(self.pipe)

    def __call__(self, data: dict | Callable[[], dict]) -> list[dict]:
        """Answer one request; several threads may call it at the same time.

        Args:
            data: a dict, or a function that returns it and is called when it is the request's turn. `inputs`: the
                clip's bytes; base64, a data URL or an http(s) URL as a string; or a dict with `video` and/or `audio` as
                such strings, `utterances` as rows, and `text` (or `question`). `parameters`: see `PARAMETERS`;
                `candidate_labels` asks for a closed set.

        Returns:
            the schema of video-text-to-text: a list of one dict with `generated_text` and everything that the pipeline
            returns (`labels` with scores, `description`, `utterances`, `modalities`, ...). For a body of bytes, and
            with `candidate_labels`, the schema of video-classification: `[{"label", "score"}]`, best first.

        Raises:
            RequestError: 400 for a malformed request, 403 for an address that is not public, 413 for a clip beyond a
                limit, 415 for a file that is not a clip, 422 for a clip or parameter that cannot be used, 502 and 504
                for a URL that cannot be read, 503 while too many requests wait, 500 for anything else.
        """
        [(_, result)] = deque(self.stream(data), maxlen=1)  # the last event
        return result

    def stream(self, data: dict | Callable[[], dict]) -> Iterator[tuple[str, Any]]:
        """The events of a request: `("progress", {"stage": ...})`, `("text", piece)` and last `("result", answer)`.

        The stages are "waiting" (with `ahead`, the requests before it), "decoding", "queued" and "answering"; one may
        be repeated. Joined, the pieces are the description before blanks are cut off at its ends; beam search writes
        none. A stream that is closed before its end gives up its request.

        Args:
            data: as for `__call__`; pieces are sent where its `stream` is true.

        Raises:
            as `__call__`.
        """
        try:
            yield from self.events(data)
        except RequestError:
            raise
        except (ValueError, OSError) as error:
            raise RequestError(STATUS.get(type(error).__name__, 422), one_line(error)) from error
        except Exception as error:
            traceback.print_exc()
            raise RequestError(500, f"the request could not be answered ({type(error).__name__})") from error

    def events(self, data: dict | Callable[[], dict]) -> Iterator[tuple[str, Any]]:
        """`stream`, without handling of errors."""
        ticket, job = self.line.enter(), None
        try:
            while (ahead := self.line.wait(ticket)) > 0:
                yield "progress", {"stage": "waiting", "ahead": ahead}
            yield "progress", {"stage": "decoding"}
            job = self.prepare(data() if callable(data) else data)
            self.batches.add(job)
            yield "progress", {"stage": "queued"}
            yield from job.wait()
        finally:
            if job is not None:
                job.abandoned = True
            self.line.leave(ticket)

    def prepare(self, data: dict) -> "Job":
        """A request, checked, with its clip decoded and measured: all that needs no model."""
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
        with self.decoding:
            [clip] = self.pipe.processor.load_clips(
                [sources.get("video")],
                audio=[sources.get("audio")] if "audio" in sources else None,
                utterances=None if utterances is None else [utterances],
                num_frames=num_frames,
                max_duration=MAX_SECONDS,
                max_pixels=MAX_FRAME_PIXELS,
                max_decoded_pixels=MAX_DECODED_PIXELS,
            )
            clip = self.pipe.measure(clip)
        question = options.pop("question", None)
        options["per_utterance"] = per_utterance
        return Job(clip, question, options, classify, top_k, text=data.get("stream") is True)

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


class Job:
    """A request that is decoded, and the events of its answer.

    Args:
        clip: as the pipeline's `measure` returns it.
        question: `None` asks the model's own.
        options: of the pipeline; requests with equal ones are answered together.
        classify: whether the labels alone are the answer.
        top_k: number of labels then.
        text: whether pieces of the text are wanted.
    """

    def __init__(self, clip: Any, question: str | None, options: dict, classify: bool, top_k: int | None, text: bool):
        self.clip, self.question, self.options = clip, question, options
        self.classify, self.top_k, self.text = classify, top_k, text
        self.key = json.dumps(options, sort_keys=True)
        self.arrived, self.abandoned = time.monotonic(), False
        self.sent: SimpleQueue = SimpleQueue()

    def finish(self, result: dict) -> None:
        labels, description = result["labels"], result["description"]
        answer = labels[: self.top_k] if self.classify else [{"generated_text": description, **result}]
        self.sent.put(("result", answer))

    def fail(self, error: Exception) -> None:
        self.sent.put(("error", error))

    def wait(self) -> Iterator[tuple[str, Any]]:
        """The events, up to the result; raises what the answer raised."""
        event: tuple[str, Any] = ("progress", {"stage": "queued"})
        while event[0] != "result":
            try:
                event = self.sent.get(timeout=PROGRESS_SECONDS)
            except Empty:
                event = ("progress", {"stage": "queued"})
            if event[0] == "error":
                raise event[1]
            yield event


class Line:
    """The requests of a handler in the order of their arrival: the first `MAX_WORKING` are worked on."""

    def __init__(self):
        self.changed, self.tickets = threading.Condition(), []

    def enter(self) -> "Ticket":
        """A place at the end; 503 where the line is full."""
        with self.changed:
            if len(self.tickets) >= MAX_WORKING + MAX_WAITING:
                raise RequestError(503, f"{MAX_WAITING} requests are already waiting; try again later")
            ticket = Ticket()
            self.tickets.append(ticket)
            return ticket

    def wait(self, ticket: "Ticket") -> int:
        """Wait for the turn for a few seconds; the number of requests that are still ahead."""
        with self.changed:
            self.changed.wait_for(lambda: self.ahead(ticket) == 0, PROGRESS_SECONDS)
            ahead = self.ahead(ticket)
        if ahead and time.monotonic() > ticket.arrived + WAIT_SECONDS:
            raise RequestError(503, f"it was not the request's turn within {WAIT_SECONDS:g} s; try again later")
        return ahead

    def ahead(self, ticket: "Ticket") -> int:
        return max(0, self.tickets.index(ticket) - MAX_WORKING + 1)

    def leave(self, ticket: "Ticket") -> None:
        with self.changed:
            self.tickets.remove(ticket)
            self.changed.notify_all()


class Ticket:
    """A place in the line."""

    def __init__(self):
        self.arrived = time.monotonic()


class Batches:
    """The thread that owns the model: it answers decoded requests, those with equal options together."""

    def __init__(self, pipe: Any):
        self.pipe, self.changed = pipe, threading.Condition()
        self.jobs: list[Job] = []
        self.thread: threading.Thread | None = None
        self.sizes: list[int] = []  # of the last batches

    def add(self, job: Job) -> None:
        with self.changed:
            self.jobs.append(job)
            self.changed.notify()
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self.run, daemon=True)
                self.thread.start()

    def run(self) -> None:
        while True:
            jobs = self.take()
            self.sizes = [*self.sizes[-999:], len(jobs)]
            for job in jobs:
                job.sent.put(("progress", {"stage": "answering"}))
            try:
                self.answer(jobs)
            except Exception as error:  # of one request, or of the batch: whoever waits is told
                for job in jobs:
                    job.fail(error)

    def take(self) -> list[Job]:
        """The next batch: the request that waits longest, and those with equal options that are there or come soon."""
        with self.changed:
            while True:
                self.jobs = [job for job in self.jobs if not job.abandoned]
                if self.jobs:
                    first = self.jobs[0]
                    most = max(1, min(MAX_BATCH, MAX_BATCH_ROWS // first.options.get("num_beams", 1)))
                    batch = [job for job in self.jobs if job.key == first.key][:most]
                    remaining = first.arrived + BATCH_SECONDS - time.monotonic()
                    if len(batch) == most or remaining <= 0:
                        self.jobs = [job for job in self.jobs if job not in batch]
                        return batch
                self.changed.wait(remaining if self.jobs else None)

    def answer(self, jobs: list[Job]) -> None:
        options = dict(jobs[0].options)
        if any(job.text for job in jobs) and options.get("num_beams", 1) == 1:
            options["streamer"] = Pieces(jobs, self.pipe.tokenizer or self.pipe.processor.tokenizer)
        clips = [{"clip": job.clip, "question": job.question} for job in jobs]
        if len(jobs) == 1:
            jobs[0].finish(self.pipe(clips[0], **options))
            return
        for job, clip, result in zip(jobs, clips, self.pipe(clips, batch_size=len(jobs), **options), strict=True):
            try:
                # Alone it raises what is wrong, with the type that decides the status.
                job.finish(result if "error" not in result else self.pipe(clip, **job.options))
            except Exception as error:
                job.fail(error)


class Pieces(BaseStreamer):
    """Gives each request of a batch its text, word by word, as `generate` writes it."""

    def __init__(self, jobs: list[Job], tokenizer: Any):
        self.jobs, self.tokenizer = jobs, tokenizer
        self.written: list[list[int]] = [[] for _ in jobs]
        self.sent = [0] * len(jobs)  # characters
        self.prompt = True

    def put(self, tokens: torch.Tensor) -> None:
        """The prompt (B, S), and then the tokens (B,) of each step."""
        if self.prompt or len(tokens) != len(self.jobs):
            self.prompt = False
            return
        for row, token in enumerate(tokens.tolist()):
            if self.jobs[row].text:
                self.written[row].append(token)
                self.send(row)

    def send(self, row: int, end: bool = False) -> None:
        text = self.tokenizer.decode(self.written[row], skip_special_tokens=True)
        # The last word may still change with its next token.
        stop = len(text) if end else text.rfind(" ") + 1
        if stop > self.sent[row]:
            self.jobs[row].sent.put(("text", text[self.sent[row] : stop]))
            self.sent[row] = stop

    def end(self) -> None:
        for row, job in enumerate(self.jobs):
            if job.text:
                self.send(row, end=True)


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


class Route:
    """What a path of the server takes and gives; one object for each request.

    Here: the handler's own requests and answers. Events are sent to who accepts `text/event-stream`, or asks with
    `"stream": true` beside `"inputs"`; their names are "progress", "text", "result" and "error".

    Args:
        handler: whose requests they become.
        headers: of the request.
    """

    def __init__(self, handler: EndpointHandler, headers: Any):
        self.handler = handler
        self.streams = "text/event-stream" in (headers.get("Accept") or "")

    def read(self, body: Any) -> Any:
        """A body, bytes or what its JSON says, as the handler takes it."""
        if isinstance(body, dict):
            self.streams = self.streams or body.get("stream") is True
            return {**body, "stream": self.streams}
        return body

    def write(self, result: list[dict]) -> Any:
        """The handler's result as JSON of the answer."""
        return result

    def error(self, error: RequestError) -> Any:
        """An error as JSON of the answer, or of the event that ends a stream."""
        return {"error": str(error)}

    def event(self, kind: str, content: Any) -> str:
        """An event of `EndpointHandler.stream`, or `"error"`, as a server-sent event; empty for none."""
        return f"event: {kind}\ndata: {json.dumps(content)}\n\n"


class ChatCompletions(Route):
    """OpenAI's `/v1/chat/completions`: one user message with a clip and a question, answered in that schema.

    The message's `content` is a list of parts: `text`; `video_url`, `image_url` and `audio_url` with a data URL or an
    http(s) URL, as vLLM and SGLang take them; `input_audio` with base64. `max_tokens` (or `max_completion_tokens`),
    `temperature` (0 is greedy search), `top_p` and `stream` are understood. Everything else the protocol has is refused
    by name, and so are system messages and earlier turns: the model answers one question about one clip.

    Answers have the pipeline's whole result beside `choices`, as `emotion_recognition`. A stream ends with it and then
    `[DONE]`; its comments say how far the request is.
    """

    IGNORED = ("model", "messages", "stream", "stream_options", "user", "metadata", "store")
    LENGTHS = ("max_completion_tokens", "max_tokens")
    CLIPS = {"video_url": "video", "image_url": "video", "audio_url": "audio"}

    def __init__(self, handler: EndpointHandler, headers: Any):
        super().__init__(handler, headers)
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name(handler)}
        self.told = False

    def read(self, body: Any) -> Any:
        if not isinstance(body, dict) or isinstance(body.get("inputs"), bytes):
            raise RequestError(400, "the body is not a JSON object; one with messages is accepted")
        if body.get("model") not in (None, self.head["model"]):
            raise RequestError(404, f"model {short(body['model'])} is not served here; {self.head['model']} is")
        self.streams = body.get("stream") is True
        settings = {name: body[name] for name in body.keys() - {*self.IGNORED} if body[name] is not None}
        parameters = {}
        for name in self.LENGTHS:
            if name in settings:
                parameters["max_new_tokens"] = settings.pop(name)
        temperature = settings.pop("temperature", 0)
        if temperature != 0:
            parameters |= {"do_sample": True, "temperature": temperature}
            if "top_p" in settings:
                parameters["top_p"] = settings["top_p"]
        settings.pop("top_p", None)  # greedy search has no use for it
        if settings.pop("n", 1) != 1:
            raise RequestError(422, "n is not 1; one answer per request is accepted")
        if settings:
            accepted = (*self.LENGTHS, "temperature", "top_p", "n", *self.IGNORED)
            raise RequestError(422, f"{short(min(settings))} is not supported; accepted are {', '.join(accepted)}")
        return {"inputs": self.parts(body.get("messages")), "parameters": parameters, "stream": self.streams}

    def parts(self, messages: Any) -> dict:
        """The clip and the question of a message."""
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise RequestError(400, "messages is not a list of objects")
        if [message.get("role") for message in messages] != ["user"]:
            roles = ", ".join(short(message.get("role")) for message in messages[:8]) or "none"
            raise RequestError(422, f"the messages have the roles {roles}; one message of the role user is accepted")
        content = messages[0].get("content")
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise RequestError(
                422, "the message's content is not a list of parts; a part video_url with a clip is needed"
            )
        inputs: dict[str, Any] = {}
        for part in content:
            kind = part.get("type")
            if not isinstance(kind, str):
                raise RequestError(422, f"a part has the type {short(kind)}; text is accepted")
            value = part.get(kind)
            if kind == "text":
                name = "text"
            elif kind == "input_audio":
                name, value = "audio", value.get("data") if isinstance(value, dict) else None
            elif kind in self.CLIPS:
                name, value = self.CLIPS[kind], value.get("url") if isinstance(value, dict) else value
            else:
                accepted = ", ".join(("text", *self.CLIPS, "input_audio"))
                raise RequestError(422, f"a part of type {short(kind)}; accepted are {accepted}")
            if not isinstance(value, str):
                raise RequestError(422, f"a part of type {kind} has no {'text' if name == 'text' else 'URL or data'}")
            if name in inputs:
                raise RequestError(422, f"the message has two parts with {name}; one is accepted")
            inputs[name] = value
        return inputs

    def write(self, result: list[dict]) -> dict:
        answer = {"role": "assistant", "content": result[0]["generated_text"]}
        choice = {"index": 0, "message": answer, "finish_reason": "stop"}
        return {**self.head, "object": "chat.completion", "choices": [choice], "emotion_recognition": result[0]}

    def error(self, error: RequestError) -> dict:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        return {"error": {"message": str(error), "type": kind, "param": None, "code": error.status}}

    def event(self, kind: str, content: Any) -> str:
        if kind == "progress":
            return f": {content['stage']}\n\n"
        if kind == "error":
            return f"data: {json.dumps(content)}\n\n"
        if kind == "text":
            return self.chunk(content)
        [result] = content
        # Beam search writes no pieces.
        whole = "" if self.told else self.chunk(result["generated_text"])
        return whole + self.chunk(None, finish="stop", emotion_recognition=result) + "data: [DONE]\n\n"

    def chunk(self, text: str | None, finish: str | None = None, **more: Any) -> str:
        delta = {} if text is None else {"content": text} if self.told else {"role": "assistant", "content": text}
        self.told = self.told or text is not None
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**self.head, 'object': 'chat.completion.chunk', 'choices': [choice], **more})}\n\n"


def model_name(handler: EndpointHandler) -> str:
    """What clients call the model: its id on the Hub, or its folder's name."""
    path = str(handler.pipe.model.name_or_path)
    return os.path.basename(os.path.realpath(path)) if os.path.isdir(path) else path


def models(handler: EndpointHandler) -> dict:
    """The list of OpenAI's `/v1/models`."""
    model = {"id": model_name(handler), "object": "model", "created": 0, "owned_by": "hf_emotion"}
    return {"object": "list", "data": [model]}


def state(handler: EndpointHandler) -> dict:
    """What a load balancer asks for."""
    count = len(handler.line.tickets)
    return {"status": "ready", "working": min(count, MAX_WORKING), "waiting": max(0, count - MAX_WORKING)}


ROUTES: dict[str, type[Route]] = {"/": Route, "/v1/chat/completions": ChatCompletions}
GETS: dict[str, Callable[[EndpointHandler], Any]] = {"/": state, "/v1/models": models}


class Server(ThreadingHTTPServer):
    """A server that limits the number of connections answered at the same time to its threads."""

    request_queue_size = MAX_CONNECTIONS
    daemon_threads = True

    def __init__(self, address: tuple[str, int], requests: type):
        super().__init__(address, requests)
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        body = json.dumps({"error": "503: too many connections; try again later"}).encode()
        head = "HTTP/1.0 503 Busy\r\nContent-Type: application/json\r\n"
        head += f"Retry-After: {RETRY_SECONDS}\r\nContent-Length: {len(body)}\r\n\r\n"
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
            status = GETS.get(self.path.partition("?")[0])
            if status is None:
                self.answer(404, {"error": f"404: there is nothing at {short(self.path)}"})
            else:
                self.answer(200, status(handler))

        def do_POST(self):
            route: Route = ROUTES.get(self.path.partition("?")[0], Route)(handler, self.headers)
            self.streaming = False
            try:
                # On disk while it arrives and waits: a slow client keeps a thread, and no memory.
                with tempfile.SpooledTemporaryFile(max_size=2**20) as body:
                    self.receive(body)
                    content: Any = None
                    for kind, content in handler.stream(lambda: route.read(self.parse(body))):
                        if route.streams:
                            self.send_event(route.event(kind, content))
                    if route.streams:
                        return
                    status, content = 200, route.write(content)
            except RequestError as error:
                status, content = error.status, route.error(error)
            except TimeoutError:
                status = 408
                content = route.error(RequestError(408, f"the request was not received within {READ_SECONDS:g} s"))
            except ConnectionError:
                return
            except Exception as error:
                traceback.print_exc()
                status = 500
                content = route.error(RequestError(500, f"the request could not be answered ({type(error).__name__})"))
            if self.streaming:
                self.send_event(route.event("error", content))
            else:
                self.answer(status, content)

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

        def parse(self, file: Any) -> Any:
            """A body on disk: bytes, or what its JSON says."""
            file.seek(0)
            body = file.read()
            if self.headers.get_content_type() != "application/json":
                return {"inputs": body}
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise RequestError(400, f"the body is not JSON ({one_line(error)})") from error

        def send_event(self, event: str) -> None:
            """Send a server-sent event; the first one opens the stream."""
            self.connection.settimeout(WRITE_SECONDS)
            if not self.streaming:
                self.streaming = self.answered = True
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Cache-Control", "no-cache")
                self.send_header("X-Accel-Buffering", "no")  # a proxy must not collect the events
                self.send_header("Connection", "close")
                self.end_headers()
            self.wfile.write(event.encode("utf-8", "replace"))
            self.wfile.flush()

        def answer(self, status: int, content: Any) -> None:
            self.answered = True
            body = json.dumps(content).encode()
            try:
                self.connection.settimeout(WRITE_SECONDS)
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                if status == 503:
                    self.send_header("Retry-After", str(RETRY_SECONDS))
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
