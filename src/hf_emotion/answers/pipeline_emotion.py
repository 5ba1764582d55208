"""The transformers pipeline `emotion-recognition`: a clip in; labels with scores, a description, an answer for each
utterance, or the text as it is written.

    pipe = pipeline("emotion-recognition", model="name/model", trust_remote_code=True)
    pipe("clip.mp4", utterances="clip.srt")

This is the one engine of the package: the command line, `inference.describe`, the Space and the endpoint handler call
it and return its results. It travels with every model (`config.json` names it under `custom_pipelines`), together with
`words.py` and the lexicon, so it runs where this package is not installed. It differs from transformers' own pipelines
in two ways: the processor, which alone knows how, pads the clips of a batch; and a clip is decoded, measured and
encoded once for all questions about it.
"""

import http.client
import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from threading import Thread
from typing import Any, TypedDict, overload
from urllib.request import Request, urlopen

import torch
from torch.utils.data import Dataset
from transformers import Pipeline, TextIteratorStreamer
from transformers.utils import cached_file

from .lexicon import LEXICON_FILE, Lexicon, shipped
from .replies import options_in, within_clip
from .track import windows
from .words import emotion_words

MAX_URL_BYTES = 2**29  # of a clip behind a URL
URL_TIMEOUT = 60.0  # s without an answer
UTTERANCE_QUESTION = (
    "Look and listen from {start:.1f}s to {end:.1f}s{words}. Which emotions does the person show there, and which cues "
    "indicate them?"
)
CLIP_KEYS = ("clip", "video", "audio", "path", "bytes", "frames", "waveform", "array")
LOAD_OPTIONS = (
    *("num_frames", "sampling", "fps", "max_duration", "max_pixels", "max_decoded_pixels"),
    *("modalities", "sampling_rate"),
)
# One clip never stops the others: a clip, or a folder's odd file, makes libraries raise whatever it leads to.
CLIP_FAILURES = Exception
# What says by itself what is wrong.
EXPECTED_FAILURES = (ValueError, OSError, RuntimeError)


class ClipError(ValueError):
    """A clip that cannot be fetched, or whose source is not accepted."""


class Label(TypedDict):
    """An emotion word or a candidate label, with a score from 0 to 1."""

    label: str
    score: float


class Frame(TypedDict, total=False):
    """A frame that was used: its `time` in s; where the model looks at faces, whether it has one and how many."""

    time: float
    face: bool
    num_faces: int


class Utterance(TypedDict, total=False):
    """`start` and `end` in s; `labels` and `description` where each utterance is asked about."""

    start: float
    end: float
    text: str | None
    speaker: str | None
    labels: list[Label]
    description: str


class EmotionResult(TypedDict, total=False):
    """What is said about a clip; or, for a clip that cannot be used, `clip` and `error`, one sentence."""

    clip: str
    labels: list[Label]
    description: str
    modalities: list[str]
    frames: list[Frame]
    face_backend: str | None
    duration: float
    utterances: list[Utterance]
    notes: list[str]
    error: str


class EmotionRecognitionPipeline(Pipeline):
    """Emotions of clips and the cues for them; see `__call__`, and `stream` for text as it is written."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _pipeline_calls_generate = True

    @overload
    def __call__(
        self, inputs: str | PathLike | bytes | dict, *, batch_size: int | None = None, **options: Any
    ) -> EmotionResult: ...

    @overload
    def __call__(
        self, inputs: list | tuple, *, batch_size: int | None = None, **options: Any
    ) -> list[EmotionResult]: ...

    @overload
    def __call__(
        self, inputs: Iterator | Dataset, *, batch_size: int | None = None, **options: Any
    ) -> Iterator[EmotionResult]: ...

    def __call__(self, inputs, *, batch_size=None, **options):
        """Describe one clip or many.

        Args:
            inputs: one clip, a list of clips, or a stream of them: a generator, a `datasets` column or dataset, or a
                `KeyDataset`, which is read as results are asked for. A clip is a path, bytes, or whatever else the
                processor's `load_clips` takes; an http(s) URL with `allow_urls`; or a dict with a clip's `video` and/or
                `audio` (or `clip`, any of these) and optionally its own `utterances` and `question`.
            batch_size: clips that are generated together (default 1).
            options:
                `utterances`: what `utterances.read` takes (srt, vtt, whisper json, TextGrid, rows), for one clip; for
                several clips put them into dicts.
                `asr`: a speech recogniser, such as a transformers pipeline, for clips without utterances.
                `every`: ask about windows of that many seconds instead of utterances; `track.write_track` writes the
                    result as a track (JSON, CSV, TextGrid, plot).
                `question`: asked about every clip that brings none; default the model's own.
                `candidate_labels`: a closed set; the labels are then these, and the scores of a clip sum to 1.
                `per_utterance`: also ask about each utterance (default True).
                `num_frames`, `sampling`, `fps`, `max_duration`, `max_pixels`, `modalities`...: see `LoadOptions`.
                `allow_urls`: fetch http(s) URLs (default False). Only for URLs that you trust: the request is sent from
                this machine, to whatever it can reach.
                `streamer`: of transformers, for one clip; it gets the description. `stream` is the easy way.
                `max_new_tokens`, `num_beams`, `do_sample`...: see `generate`. By default greedy, 128 tokens.

        Returns:
            for one clip a dict, for a list a list of dicts in its order, for a stream an iterator of dicts:
            `clip`; `labels`, `[{"label", "score"}]`, best first; `description`, the text, without times and
            utterances that the clip does not have (`replies.within_clip`); `utterances`, each with `start`, `end` (s),
            `text`, `speaker` and, with `per_utterance`, its `labels` and `description`;
            `modalities` really used; `frames`, `face_backend`, `duration` (s) and `notes`.

            The score of a word is how sure the model was when it wrote it: the geometric mean of the probabilities of
            its tokens (of all tokens, where the text has the word in another form). It says nothing about the person.
            With `candidate_labels` the score is the share that the label has of the probability of all of them as the
            whole answer.

            In a list or stream, a clip that cannot be used gives `clip` and `error`, one sentence, and the others are
            described.

        Raises:
            ClipError, ValueError, OSError, RuntimeError: one clip that cannot be used.
        """
        listed, streamed = isinstance(inputs, (list, tuple)), is_stream(inputs)
        # The base class would pad a batch of its own; here a batch is one input, which the processor pads.
        batches = batched(inputs if listed or streamed else [inputs], batch_size or self._batch_size or 1)
        results = flattened(super().__call__(batches, batch_size=1, **options))
        if streamed:
            return map(without_exception, results)
        if listed:
            return list(map(without_exception, results))
        [result] = results
        if "raised" in result:
            raise result["raised"]
        return result

    def _sanitize_parameters(
        self,
        question=None,
        utterances=None,
        asr=None,
        every=None,
        candidate_labels=None,
        per_utterance=None,
        allow_urls=None,
        streamer=None,
        generate_kwargs=None,
        **options,
    ):
        load = {name: options.pop(name) for name in LOAD_OPTIONS if options.get(name) is not None}
        before = {"question": question, "utterances": utterances, "asr": asr, "every": every, "allow_urls": allow_urls}
        before["load_options"] = load or None
        generating = {**options, **(generate_kwargs or {})}
        forward = {"candidate_labels": candidate_labels, "per_utterance": per_utterance, "streamer": streamer}
        forward["generate_options"] = generating or None
        return *({name: value for name, value in group.items() if value is not None} for group in (before, forward)), {}

    def preprocess(
        self, inputs, question=None, utterances=None, asr=None, every=None, allow_urls=False, load_options=None
    ):
        """A list of (place, clip) -> a result begun for each, and the clips that can be used with their batch."""
        results, clips, questions = [], [], []
        for place, source in inputs:
            brought = {"utterances": utterances, "question": question}
            if isinstance(source, dict):
                brought |= {name: source[name] for name in brought if source.get(name) is not None}
                source = {name: value for name, value in source.items() if name not in brought}
                source = source.get("clip", source)
            results.append({"clip": name_of(source, place)})
            try:
                source = with_urls_read(source, allow_urls)
                clips.append(self.measure(self.load(source, brought["utterances"], asr, every, load_options or {})))
            except CLIP_FAILURES as error:
                results[-1] |= failure(error)
            else:
                questions.append(brought["question"])
        return {"results": results, "clips": clips, "questions": questions, **self.encode(clips, questions)}

    def load(self, source, utterances, asr, every, load_options):
        """See `decode`; a clip that is measured already stays as it is."""
        if hasattr(source, "placeholders"):
            return source
        return decode(self.processor, source, utterances, asr, every, load_options)

    def measure(self, clip):
        """What the model and its prompts need of a clip, computed once; a clip that is measured stays as it is."""
        # By its parts: a processor loaded from a folder has a class of its own of that name.
        return clip if hasattr(clip, "placeholders") else self.processor.measure(clip)

    def encode(self, clips, questions) -> dict:
        """The batch of clips and their reports; or, where the processor refuses them, the exception."""
        if not clips:
            return {}
        try:
            batch, reports = self.ask(clips, questions)
        except CLIP_FAILURES as error:
            return {"exception": error}
        return {"batch": batch, "reports": reports}

    def ask(self, clips, questions) -> tuple[dict, list[dict]]:
        """The processor's batch for questions about clips that are measured, and the clips' reports."""
        questions = [question or self.processor.default_question for question in questions]
        batch = self.processor(videos=clips, text=questions, return_tensors="pt")
        return dict(batch), [clip.report for clip in clips]

    def _forward(self, inputs, **options):
        clips = inputs["clips"]
        try:
            if "exception" in inputs:
                raise inputs["exception"]
            parts = [inputs.get(name) for name in ("clips", "batch", "reports", "questions")]
            answers = self.describe_batch(*parts, **options) if clips else []
        except CLIP_FAILURES as error:
            # One clip must not stop the others of its batch: each is tried alone.
            alone = zip(clips, inputs["questions"], strict=True)
            answers = [failure(error)] if len(clips) == 1 else [self.describe_alone(*pair, **options) for pair in alone]
        remaining = iter(answers)
        return {"results": [result if "error" in result else result | next(remaining) for result in inputs["results"]]}

    def describe_alone(self, clip, question, **options) -> dict:
        """The answers about one clip of a batch that failed, or its `error`."""
        try:
            batch, reports = self.ask([clip], [question])
            batch = self._ensure_tensor_on_device(batch, device=self.device)
            [answer] = self.describe_batch([clip], batch, reports, [question], **options)
        except CLIP_FAILURES as error:
            return failure(error)
        return answer

    def describe_batch(
        self,
        clips,
        batch,
        reports,
        questions,
        candidate_labels=None,
        per_utterance=True,
        streamer=None,
        generate_options=None,
    ) -> list[dict]:
        """The answers about clips and, with `per_utterance`, about each of their utterances."""
        options = self.options(generate_options)
        media = self.writer.encode_media(**batch)
        answers = self.answer(batch, media, questions, candidate_labels, {**options, "streamer": streamer})
        for row, (clip, report, answer) in enumerate(zip(clips, reports, answers, strict=True)):
            utterances: list[Utterance] = [{**utterance} for utterance in report["utterances"]]
            # One at a time: a clip may have hundreds of utterances, and each row repeats the clip's tokens.
            for utterance in utterances if per_utterance else ():
                ids = self.processor.write(question_about(utterance), clip.utterances, clip.placeholders)
                ids = torch.tensor([ids], device=self.device)
                prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                [about] = self.answer(prompt, rows_of(media, row, 1), [None], candidate_labels, options)
                utterance["labels"], utterance["description"] = about["labels"], about["description"]
            answer |= {name: value for name, value in report.items() if name != "source"} | {"utterances": utterances}
            for described in (answer, *(utterances if per_utterance else ())):
                described["description"] = within_clip(described["description"], report["duration"], len(utterances))
        return answers

    def postprocess(self, outputs):
        return outputs["results"]

    @property
    def writer(self):
        """The model itself, where PEFT wraps it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def lexicon(self) -> Lexicon:
        """The words that count in prose. In a model folder they lie beside the weights, not beside the code."""
        if LEXICON_FILE.is_file():
            return shipped()
        if not hasattr(self, "_lexicon"):
            config = self.writer.config
            revision = getattr(config, "_commit_hash", None)
            self._lexicon = Lexicon(cached_file(config.name_or_path, LEXICON_FILE.name, revision=revision))
        return self._lexicon

    def options(self, generate_kwargs) -> dict:
        """Options for `generate`: what was asked for, else the checkpoint's, else greedy and 128 tokens."""
        options = self._prepare_generate_kwargs(dict(generate_kwargs or {}))
        if not {"max_length", "max_new_tokens", "generation_config"} & options.keys():
            options["max_new_tokens"] = 128
        return options if "do_sample" in options else {**options, "do_sample": False}

    def answer(self, batch, media, questions, candidate_labels, options) -> list[dict]:
        """`description` and `labels` for each row of a batch whose media are encoded; a question is text or None."""
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
        answers = []
        for row, (ids, scores, question) in enumerate(zip(tokens, log_probabilities, questions, strict=True)):
            text = self.processor.decode(ids, skip_special_tokens=True)
            if candidate_labels:
                labels = self.label_shares(batch, media, row, candidate_labels)
            else:
                labels = self.word_scores(text, ids, scores, question)
            labels.sort(key=lambda label: -label["score"])
            answers.append({"description": text.strip(), "labels": labels})
        return answers

    def word_scores(
        self, text: str, ids: torch.Tensor, scores: torch.Tensor, question: str | None = None
    ) -> list[Label]:
        """The emotion words of a text, each with the geometric mean of its tokens' probabilities.

        Args:
            text: of `ids`, without special tokens.
            ids, scores: (S,), the tokens and the logarithms of their probabilities.
            question: options that it lists by letter are what a letter in the text stands for.
        """
        decode = self.processor.tokenizer.decode
        special = torch.isin(ids, torch.tensor(self.processor.tokenizer.all_special_ids, device=ids.device))
        ends = [len(decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]
        labels: list[Label] = []
        for word in emotion_words(text, lexicon=self.lexicon, options=options_in(question)):
            place = re.search(r"\W+".join(map(re.escape, word.split())), text, flags=re.IGNORECASE)
            start, stop = place.span() if place else (0, len(text))
            inside = torch.tensor(
                [end > start and before < stop for before, end in zip([0, *ends], ends, strict=False)],
                device=ids.device,
            )
            labels.append({"label": word, "score": float(scores[inside & ~special].float().mean().exp())})
        return labels

    @torch.no_grad()
    def label_shares(self, batch, media, row: int, candidate_labels: Iterable[str]) -> list[Label]:
        """Each label with its share of the probability of all of them, as the whole answer to a row's prompt.

        The configuration's `label_temperatures`, where a model has them, calibrate the shares.
        """
        tokenizer = self.processor.tokenizer
        labels = [str(label) for label in candidate_labels]
        # A label is data: "</s>" is read as a word.
        texts = [self.processor.escape(label) for label in labels]
        answers = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
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
        temperatures = getattr(self.writer.config, "label_temperatures", None) or {}
        present = "+".join(name for name, rows in media.items() if isinstance(rows, list) and len(rows[row]))
        shares = ((scores * mask[:, -longest:]).sum(-1) / temperatures.get(present, 1.0)).softmax(0).tolist()
        return [Label(label=label, score=share) for label, share in zip(labels, shares, strict=True)]

    def stream(self, clip: Any, **options: Any) -> Iterator[str]:
        """The text about one clip, piece by piece, as the model writes it.

        Args:
            clip: as for `__call__`, one clip.
            options: as for `__call__`; beam search writes nothing before its end.

        Yields:
            str; joined, they are the `description` before `replies.within_clip` and with blanks at its ends.

        Returns:
            what `__call__` returns, to `yield from`, and as the value of `StopIteration`.

        Raises:
            as `__call__`, before the first piece; and whatever stops the model in the middle.
        """
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        results, exceptions = [], []

        def write():
            try:
                results.append(self(clip, streamer=streamer, **options))
            except Exception as error:  # raised in the thread of the reader, below
                exceptions.append(error)
                streamer.end()

        thread = Thread(target=write, daemon=True)
        thread.start()
        yield from filter(None, streamer)
        thread.join()
        if exceptions:
            raise exceptions[0]
        return results[0]

    def save_pretrained(self, save_directory, **kwargs):
        """The model, which brings this pipeline's files along, and the processor."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


# Inputs and results


def decode(processor, source, utterances=None, asr=None, every=None, load_options=None):
    """One decoded clip with its utterances: those given, those that `asr` recognises, or none. No model is needed.

    With `every`, windows of that many seconds stand in their place.
    """
    load_options = load_options or {}
    [clip] = processor.load_clips([source], utterances=[utterances], **load_options)
    if asr is not None and not clip.utterances and clip.waveform is not None:
        speech = asr({"raw": clip.waveform, "sampling_rate": clip.sampling_rate}, return_timestamps=True)
        [clip] = processor.load_clips([clip], utterances=[speech], **load_options)
    if every is not None:
        spans = windows(clip.duration / 1000, every, clip.utterances or ())
        [clip] = processor.load_clips([clip], utterances=[spans], **load_options)
    return clip


def is_stream(inputs) -> bool:
    """Whether `inputs` are clips that are read one after the other: an iterator, a dataset, a column of one."""
    if hasattr(inputs, "read") or hasattr(inputs, "__array__"):
        return False  # an open file, an array
    return isinstance(inputs, (Iterator, Dataset)) or type(inputs).__module__.partition(".")[0] == "datasets"


def batched(clips, size: int) -> Iterator[list[tuple[int, Any]]]:
    """Lists of (place, clip), read from `clips` as they are needed."""
    # torch's map-style datasets have places and a length, and no end when they are iterated over.
    source = clips if hasattr(clips, "__iter__") else (clips[place] for place in range(len(clips)))
    batch = []
    for pair in enumerate(source):
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def flattened(batches) -> Iterator[dict]:
    for results in batches:
        yield from results


def failure(error: Exception) -> dict:
    """What a result says of a clip that cannot be used; `raised` is for the caller with one clip."""
    text = " ".join(str(error).split())[:1000]
    if not text or not isinstance(error, EXPECTED_FAILURES):
        text = f"{type(error).__name__}: {text or 'no message'}"
    return {"error": text, "raised": error}


def without_exception(result: dict) -> dict:
    result.pop("raised", None)
    return result


def name_of(source, place: int) -> str:
    """A clip as messages and results call it."""
    if isinstance(source, dict):
        source = next((source[name] for name in CLIP_KEYS if source.get(name) is not None), None)
        if isinstance(source, dict):
            return name_of(source, place)
    if isinstance(source, (str, Path)):
        text = str(source)
        return f"clip {place}" if text[:5].lower() == "data:" else text
    return str(getattr(source, "source", f"clip {place}"))


def question_about(utterance: Utterance) -> str:
    words = f', when these words are spoken: "{utterance["text"]}"' if utterance["text"] else ""
    return UTTERANCE_QUESTION.format(start=utterance["start"], end=utterance["end"], words=words)


def rows_of(media, row: int, times: int):
    """The media tokens of one row of a batch, repeated: what each question about that clip needs."""
    return type(media)(**{name: [rows[row]] * times for name, rows in media.items() if isinstance(rows, list)})


# URLs


def with_urls_read(source, allow_urls: bool):
    """The source with bytes instead of URLs; a path stays a path.

    Raises:
        ClipError: an http(s) URL without `allow_urls`, or one that cannot be read.
    """
    if isinstance(source, dict):
        return {
            name: with_urls_read(value, allow_urls) if name in CLIP_KEYS else value for name, value in source.items()
        }
    if not isinstance(source, str) or not re.match(r"(?i)(https?|data):", source):
        return source
    if not allow_urls and source[:5].lower() != "data:":
        raise ClipError(f"{shown(source)} is a URL; URLs are fetched only with allow_urls=True")
    return read_url(source)


def read_url(url: str, max_bytes: int = MAX_URL_BYTES, timeout: float = URL_TIMEOUT) -> bytes:
    """The bytes behind an http, https or data URL.

    Raises:
        ClipError: the URL cannot be read, breaks off, or has more than `max_bytes`.
    """
    try:
        with urlopen(Request(url, headers={"User-Agent": "hf_emotion"}), timeout=timeout) as response:
            length = response.headers.get("Content-Length") or ""
            data = response.read(max_bytes + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ClipError(f"{shown(url)} cannot be read ({error})") from error
    if len(data) > max_bytes:
        raise ClipError(f"{shown(url)} has more than the {max_bytes:,} bytes that are accepted")
    if length.isdigit() and len(data) < int(length):
        raise ClipError(f"{shown(url)} broke off after {len(data):,} of {int(length):,} bytes")
    return data


def shown(url: str) -> str:
    """A URL as a message may show it: short, and without the secrets of a query or a user's password."""
    url = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
    return repr(url if len(url) <= 80 else f"{url[:77]}...")


__all__ = ["ClipError", "EmotionRecognitionPipeline", "EmotionResult", "Label", "Utterance"]
