"""The transformers pipeline `emotion-recognition`: a clip in; labels with scores, a description, an answer for each
utterance, or the text as it is written.

    pipe = pipeline("emotion-recognition", model="name/model", trust_remote_code=True)
    pipe("clip.mp4", utterances="clip.srt")

It travels with every model (`config.json` names it under `custom_pipelines`), together with `words.py` and the lexicon,
so it runs where this package is not installed. What differs from transformers' own pipelines: clips are batched by the
processor, which alone knows how; the clip is encoded once for all that is asked about it; and a URL is fetched here,
because the processor opens files only.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import time
from base64 import b64decode
from pathlib import Path
from threading import Thread
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import torch
from transformers import Pipeline, TextIteratorStreamer
from transformers.utils import cached_file

from .lexicon import LEXICON_FILE, Lexicon
from .words import emotion_words

MAX_BYTES = 2**29  # of a clip behind a URL
TIMEOUT = 60.0  # s for fetching one
REDIRECTS = 5
UTTERANCE_QUESTION = (
    "Look and listen from {start:.1f}s to {end:.1f}s{said}. Which emotions does the person show there, and which clues "
    "tell of them?"
)
CLIP_KEYS = ("video", "audio", "path", "bytes", "frames", "waveform", "array")
LOAD_OPTIONS = ("num_frames", "sampling", "fps", "max_duration", "max_pixels", "modalities")


class ClipError(ValueError):
    """A clip that cannot be had or used; `status` is what a server should answer (HTTP)."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def fetch(url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT, allowed=None) -> bytes:
    """The bytes behind an http, https or data URL.

    Args:
        url: redirects are followed, five at most.
        max_bytes: a longer body is refused, before it is read where its length is told.
        timeout: s for all of it.
        allowed: called with each `ipaddress` address that the URL, or a redirect, leads to; `False` refuses it. The
            connection goes to an address that was checked, so a name cannot mean another one a moment later. `None`
            allows all.

    Raises:
        ClipError: 400 for another kind of URL, 403 for an address that is not allowed, 413 for too long a body, 502
            for a server that cannot be reached or does not answer with the file, 504 for one that is too slow.
    """
    if url[:5].lower() == "data:":
        return decode_data_url(url, max_bytes)
    deadline = time.monotonic() + timeout
    for _ in range(REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClipError(400, f"{shown(url)} is no address that clips are fetched from; http and https are accepted")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            connection = connect(parts, port, deadline, allowed)
        except ClipError:
            raise
        except TimeoutError as error:
            raise ClipError(504, f"{shown(url)} did not answer within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise ClipError(502, f"{shown(url)} cannot be reached ({error})") from error
        try:
            target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request("GET", target, headers={"Accept": "*/*", "User-Agent": "hf_emotion"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise ClipError(502, f"{shown(url)} answered with status {response.status}")
            return read_body(connection, response, url, max_bytes, deadline, timeout)
        except TimeoutError as error:
            raise ClipError(504, f"{shown(url)} did not answer within {timeout:g} s") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise ClipError(502, f"{shown(url)} cannot be read ({error})") from error
        finally:
            connection.close()
    raise ClipError(502, f"{shown(url)} redirects more than {REDIRECTS} times")


def connect(parts, port: int, deadline: float, allowed) -> http.client.HTTPConnection:
    """A connection to the host of a split URL, at an address that is allowed."""
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    for *_, address in found if allowed is not None else ():
        # An IPv6 address may carry the name of an interface.
        if not allowed(ipaddress.ip_address(address[0].split("%")[0])):
            raise ClipError(403, f"{parts.hostname} is at {address[0]}, an address that clips are not fetched from")
    error = None
    for family, kind, protocol, _, address in found:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(left(deadline))
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
    """What a server sends, up to a limit of bytes and time."""
    told = response.headers.get("Content-Length", "")
    body = bytearray()
    while True:
        if len(body) > max_bytes or (told.isdigit() and int(told) > max_bytes):
            raise ClipError(413, f"{shown(url)} is longer than the {max_bytes:,} bytes that are accepted")
        if connection.sock is not None:
            connection.sock.settimeout(left(deadline))
        block = response.read1(2**20)
        if not block:
            if told.isdigit() and len(body) < int(told):
                raise ClipError(502, f"{shown(url)} broke off after {len(body):,} of {int(told):,} bytes")
            return bytes(body)
        body += block
        if time.monotonic() > deadline:
            raise ClipError(504, f"{shown(url)} was not read within {timeout:g} s")


def left(deadline: float) -> float:
    """Seconds until `deadline`; a socket takes 0 for "do not wait", so never 0."""
    return max(deadline - time.monotonic(), 0.001)


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes in a `data:` URL, base64 or percent-encoded."""
    head, comma, body = url.partition(",")
    if not comma:
        raise ClipError(400, "a data URL without a comma holds no data; data:video/mp4;base64,... is accepted")
    if len(body) > 4 * (max_bytes + 2) // 3 + 4:
        raise ClipError(413, f"the data URL holds more than the {max_bytes:,} bytes that are accepted")
    return decode_base64(body) if head.lower().endswith(";base64") else unquote_to_bytes(body)


def decode_base64(text: str) -> bytes:
    """Bytes from base64, with or without line breaks."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ClipError(400, f"{shown(text)} is neither a URL nor base64 ({error})") from error


def shown(text: str) -> str:
    """A URL or other input as a message may show it: short, and without the secrets of a query or a user's password."""
    text = re.sub(r"//[^/@]*@", "//", text.partition("?")[0])
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


class EmotionRecognitionPipeline(Pipeline):
    """Emotions of clips, and the clues for them; see `__call__`, and `stream` for text as it is written."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _pipeline_calls_generate = True

    # For those who hold a pipeline, and cannot import the module that it was loaded from.
    fetch = staticmethod(fetch)

    def __call__(self, inputs, *, batch_size=None, **options):
        """Describe a clip, or many.

        Args:
            inputs: one clip or a list of clips: a path, an http(s) or data URL, bytes, or whatever else the processor's
                `load_clips` takes; or a dict with a clip's `video` and/or `audio` and, if wanted, its own `utterances`
                and `question`.
            batch_size: clips that are generated together (default 1).
            options:
                `utterances`: what `utterances.read` takes (srt, vtt, whisper json, TextGrid, rows), for one clip; for a
                list of clips put them into dicts.
                `question`: asked about every clip that brings none; default the model's own.
                `candidate_labels`: a closed set; the labels are then these, and the scores of a clip sum to 1.
                `per_utterance`: ask about each utterance, too (default True).
                `num_frames`, `sampling`, `fps`, `max_duration`, `max_pixels`, `modalities`: see `media.load_clip`.
                `max_bytes`, `timeout`, `allowed`: see `fetch`.
                `streamer`: of transformers, for one clip; it gets the description. `stream` is the easy way.
                `max_new_tokens`, `num_beams`, `do_sample`...: see `generate`. Greedy, 128 tokens, unless asked
                otherwise.

        Returns:
            for one clip a dict, for a list a list of dicts in its order:
            `clip`; `labels`, `[{"label", "score"}]`, best first; `description`, the text; `utterances`, each with
            `start`, `end` (s), `text`, `speaker` and, with `per_utterance`, its `labels` and `description`;
            `modalities` really used; `frames`, `face_backend`, `duration` (s) and `notes`.

            The score of a word is how sure the model was when it wrote it: the geometric mean of the probabilities of
            its tokens (of all tokens, where the word stands otherwise in the text). It says nothing about the person.
            With `candidate_labels` the score is the share that the label has of the probability of all of them as the
            whole answer.

            In a list, a clip that cannot be used gives `clip` and `error`, one sentence, and the others are described.

        Raises:
            ClipError: one clip that cannot be had; ValueError or OSError: one that cannot be read.
        """
        listed = isinstance(inputs, (list, tuple))
        size = batch_size or self._batch_size or 1
        clips = list(enumerate(inputs if listed else [inputs]))
        # The base class would pad a batch of its own; here a batch is one input, which the processor pads.
        batches = [clips[first : first + size] for first in range(0, len(clips), size)]
        results = [result for batch in super().__call__(batches, batch_size=1, **options) for result in batch]
        if listed:
            return [{key: value for key, value in result.items() if key != "raised"} for result in results]
        [result] = results
        if "raised" in result:
            raise result["raised"]
        return result

    def _sanitize_parameters(
        self,
        question=None,
        utterances=None,
        candidate_labels=None,
        per_utterance=None,
        max_bytes=None,
        timeout=None,
        allowed=None,
        streamer=None,
        generate_kwargs=None,
        **options,
    ):
        load = {name: options.pop(name) for name in LOAD_OPTIONS if options.get(name) is not None}
        given = {"question": question, "utterances": utterances, "load_options": load or None}
        given |= {"max_bytes": max_bytes, "timeout": timeout, "allowed": allowed}
        before = {name: value for name, value in given.items() if value is not None}
        asked = {"candidate_labels": candidate_labels, "per_utterance": per_utterance, "streamer": streamer}
        generating = {**options, **(generate_kwargs or {})}
        forward = {name: value for name, value in asked.items() if value is not None}
        return before, {**forward, **({"generate_options": generating} if generating else {})}, {}

    def preprocess(
        self,
        inputs,
        question=None,
        utterances=None,
        load_options=None,
        max_bytes=MAX_BYTES,
        timeout=TIMEOUT,
        allowed=None,
    ):
        """A list of (place, clip) -> a result begun for each; of those that can be used, the clips and their batch."""
        results, clips, questions = [], [], []
        for place, source in inputs:
            own = {"utterances": utterances, "question": question}
            if isinstance(source, dict):
                own |= {name: source[name] for name in own if source.get(name) is not None}
                source = {name: value for name, value in source.items() if name not in own}
            results.append({"clip": name_of(source, place)})
            try:
                source = self.reach(source, max_bytes, timeout, allowed)
                [clip] = self.processor.load_clips([source], utterances=[own["utterances"]], **(load_options or {}))
            except (ValueError, OSError) as error:
                results[-1] |= {"error": str(error), "raised": error}
            else:
                clips.append(clip)
                questions.append(own["question"])
        return {"results": results, "clips": clips, **(self.ask(clips, questions) if clips else {})}

    def reach(self, source, max_bytes, timeout, allowed):
        """The source with bytes in place of URLs; a path stays a path."""
        if isinstance(source, dict):
            return {
                name: self.reach(value, max_bytes, timeout, allowed) if name in CLIP_KEYS else value
                for name, value in source.items()
            }
        if isinstance(source, str) and re.match(r"(?i)(https?|data):", source):
            return fetch(source, max_bytes, timeout, allowed)
        return source

    def ask(self, clips, questions, **options) -> dict:
        """The processor's batch for clips that are loaded, and its reports."""
        questions = [self.processor.default_question if question is None else question for question in questions]
        batch = self.processor(videos=clips, text=questions, return_tensors="pt", return_metadata=True, **options)
        reports = batch.pop("video_metadata")
        return {"batch": dict(batch), "reports": reports}

    @property
    def writer(self):
        """The model itself, where PEFT stands around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def lexicon(self) -> Lexicon:
        """The words that count in prose: they lie beside the model's weights, not beside its code."""
        if not hasattr(self, "_lexicon"):
            path = LEXICON_FILE
            if not path.is_file():
                config = self.writer.config
                path = cached_file(config.name_or_path, path.name, revision=getattr(config, "_commit_hash", None))
            self._lexicon = Lexicon(path)
        return self._lexicon

    def _forward(self, inputs, candidate_labels=None, per_utterance=True, streamer=None, generate_options=None):
        results = inputs["results"]
        if not inputs["clips"]:
            return {"results": results}
        options = self.options(generate_options)
        media = self.writer.encode_media(**inputs["batch"])
        found = self.answers(inputs["batch"], media, candidate_labels, {**options, "streamer": streamer})
        begun = iter(zip(inputs["clips"], inputs["reports"], found, strict=True))
        row = -1
        for result in results:
            if "error" in result:
                continue
            row += 1
            clip, report, answer = next(begun)
            spoken = [dict(utterance) for utterance in report.pop("utterances")]
            if per_utterance:
                # One at a time: a clip may have hundreds of utterances, and each row repeats the clip's tokens.
                # Only the prompt is taken from these batches, so faces are not searched again.
                for utterance in spoken:
                    batch = self.ask([clip], [question_about(utterance)], faces=False)["batch"]
                    batch = self._ensure_tensor_on_device(batch, device=self.device)
                    [told] = self.answers(batch, rows_of(media, row, 1), candidate_labels, options)
                    utterance.update(told)
            report.pop("source")
            result.update(**answer, **report, utterances=spoken)
        return {"results": results}

    def postprocess(self, outputs):
        return outputs["results"]

    def options(self, given) -> dict:
        """Options for `generate`: what was asked for, else the checkpoint's, else greedy and 128 tokens."""
        options = self._prepare_generate_kwargs(dict(given or {}))
        if not {"max_length", "max_new_tokens", "generation_config"} & options.keys():
            options["max_new_tokens"] = 128
        return options if "do_sample" in options else {**options, "do_sample": False}

    def answers(self, batch, media, candidate_labels, options) -> list[dict]:
        """`description` and `labels` for each row of a batch whose media are encoded."""
        generated = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            media=media,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        tokens = generated.sequences[:, batch["input_ids"].shape[1] :]
        log_probabilities = self.writer.compute_transition_scores(
            generated.sequences, generated.logits, generated.get("beam_indices"), normalize_logits=True
        )
        found = []
        for row, (ids, scores) in enumerate(zip(tokens, log_probabilities, strict=True)):
            text = self.processor.decode(ids, skip_special_tokens=True)
            if candidate_labels:
                labels = self.weigh(batch, media, row, candidate_labels)
            else:
                labels = self.certainty(text, ids, scores)
            labels.sort(key=lambda label: -label["score"])
            found.append({"description": text.strip(), "labels": labels})
        return found

    def certainty(self, text, ids, scores) -> list[dict]:
        """The emotion words of a text, each with the geometric mean of its tokens' probabilities.

        Args:
            text: of `ids`, without special tokens.
            ids, scores: (S,), the tokens and the logarithms of their probabilities.
        """
        decode = self.processor.tokenizer.decode
        special = torch.isin(ids, torch.tensor(self.processor.tokenizer.all_special_ids, device=ids.device))
        ends = [len(decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]
        labels = []
        for word in emotion_words(text, lexicon=self.lexicon):
            place = re.search(r"\W+".join(map(re.escape, word.split())), text, flags=re.IGNORECASE)
            start, stop = place.span() if place else (0, len(text))
            inside = torch.tensor(
                [end > start and before < stop for before, end in zip([0, *ends], ends, strict=False)],
                device=ids.device,
            )
            labels.append({"label": word, "score": float(scores[inside & ~special].float().mean().exp())})
        return labels

    @torch.no_grad()
    def weigh(self, batch, media, row, candidate_labels) -> list[dict]:
        """Each label with its share of the probability of all of them, as the whole answer to a row's prompt."""
        tokenizer = self.processor.tokenizer
        labels = [str(label) for label in candidate_labels]
        answers = [[*tokenizer(label, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for label in labels]
        prompt = batch["input_ids"][row, batch["attention_mask"][row].bool()]  # (S,)
        longest = max(map(len, answers))
        ids = prompt.new_full((len(labels), len(prompt) + longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for place, answer in enumerate(answers):
            stop = len(prompt) + len(answer)
            ids[place, :stop] = torch.cat([prompt, prompt.new_tensor(answer)])
            mask[place, :stop] = 1
        embeds = self.writer.base_model.embed(ids, rows_of(media, row, len(labels)))
        logits = self.model(inputs_embeds=embeds, attention_mask=mask, logits_to_keep=longest + 1).logits
        scores = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, -longest:, None]).squeeze(-1)
        shares = (scores * mask[:, -longest:]).sum(-1).softmax(0).tolist()
        return [{"label": label, "score": share} for label, share in zip(labels, shares, strict=True)]

    def stream(self, clip, **options):
        """The text about one clip, piece by piece, as the model writes it.

        Args:
            clip: as for `__call__`, one clip.
            options: as for `__call__`; beam search writes nothing before its end.

        Yields:
            str; joined, they are the `description` before blanks are cut off at its ends.

        Returns:
            to `yield from`, and as the value of `StopIteration`: what `__call__` returns.

        Raises:
            as `__call__`, before the first piece; and whatever stops the model in the middle.
        """
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        done, failed = [], []

        def write():
            try:
                done.append(self(clip, streamer=streamer, **options))
            except Exception as error:  # raised in the thread of the reader, below
                failed.append(error)
                streamer.end()

        thread = Thread(target=write, daemon=True)
        thread.start()
        yield from filter(None, streamer)
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def save_pretrained(self, save_directory, **kwargs):
        """The model, which brings this pipeline's files along, and the processor."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def name_of(source, place: int) -> str:
    """A clip as messages and results call it."""
    if isinstance(source, dict):
        source = next((source[name] for name in CLIP_KEYS if source.get(name) is not None), None)
    if isinstance(source, (str, Path)):
        text = str(source)
        return f"clip {place}" if text[:5].lower() == "data:" else text
    return str(getattr(source, "source", f"clip {place}"))


def question_about(utterance) -> str:
    said = f', when it is said: "{utterance["text"]}"' if utterance["text"] else ""
    return UTTERANCE_QUESTION.format(start=utterance["start"], end=utterance["end"], said=said)


def rows_of(media, row: int, times: int):
    """The media tokens of one row of a batch, so many times: what each question about that clip needs."""
    return type(media)(**{name: [rows[row]] * times for name, rows in media.items() if isinstance(rows, list)})


__all__ = ["ClipError", "EmotionRecognitionPipeline", "fetch"]
