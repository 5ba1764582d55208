"""From files to answers: load a model, describe clips."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForMultimodalLM, AutoProcessor, logging

from .answers.pipeline_emotion import LOAD_OPTIONS, EmotionRecognitionPipeline, EmotionResult, name_of
from .chat_models import ChatModelError, ChatPipeline, ChatProcessor, generating_model
from .data.loading import Clips, clip_loader, each_once, items_of_rows
from .modeling.modeling_emotion import EmotionForConditionalGeneration
from .processing.processing_emotion import EmotionProcessor

# Batches of clips that are read before the first of them is generated, so that clips of like length meet.
WINDOW = 4
MAX_TEMPLATE = 20_000  # characters that a chat template may add to a question


class ModelFolderError(ValueError):
    """A model folder or repository that cannot be used."""


def load(
    source: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    revision: str | None = None,
) -> tuple[EmotionForConditionalGeneration, EmotionProcessor]:
    """A model and its processor, from a folder or a Hub repository: of this package, or a chat model of transformers.

    Args:
        source: a folder that `hf-emotion init`, `save_pretrained` or `Trainer` wrote, or a repository id; of a model,
            or of an adapter, which names its base itself.
        device: as for `torch.device`; `None` takes a GPU where there is one.
        dtype: as for `from_pretrained`; `"auto"` keeps the checkpoint's.
        trust_remote_code: run the folder's own code. Not needed for this package's models.
        local_files_only: do not use the network.
        revision: commit, branch or tag of a repository.

    Returns:
        the model, in eval mode, and its processor; a `ChatProcessor` for a chat model.

    Raises:
        ModelFolderError: there is no model, its weights do not fit its configuration, or it takes no clips.
        ValueError: the device cannot be used.
    """
    folder = Path(source)
    if folder.exists() and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelFolderError(f"{source} has no config.json; a folder written by save_pretrained is accepted")
    if not folder.exists() and str(source).count("/") != 1:
        raise ModelFolderError(f"{source} is neither a folder nor a repository id such as 'name/model'")
    device = usable_device(device)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only, "revision": revision}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # weights that do not fit are reported below, in a sentence instead of a table
    try:
        model, report = AutoModelForMultimodalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        processor = AutoProcessor.from_pretrained(source, **options)
        if hasattr(processor, "load_clips"):
            check_settings(processor)
        else:
            # Not one of ours: any chat model of transformers that sees or hears.
            model, processor = generating_model(model), ChatProcessor(processor)
    except ChatModelError as error:
        raise ModelFolderError(f"{source} cannot be asked about clips: {error}") from error
    except Exception as error:  # transformers and tokenizers raise whatever a malformed file leads to
        reason = " ".join(str(error).split())[:400]
        expected = isinstance(error, (OSError, ValueError, RuntimeError, ImportError, SafetensorError)) and reason
        kind = "" if expected else f"{type(error).__name__}: "
        raise ModelFolderError(f"{source} cannot be loaded: {kind}{reason}") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind, verb in (("missing_keys", "lack"), ("unexpected_keys", "hold more than")):
        names = sorted(report[kind])
        if names:
            raise ModelFolderError(
                f"the weights in {source} {verb} what its config.json describes: {len(names)} tensors, among them "
                f"{', '.join(names[:3])}"
            )
    for name, shape, expected in sorted(report["mismatched_keys"])[:1]:
        raise ModelFolderError(
            f"the weights in {source} differ in shape from what its config.json describes: "
            f"{len(report['mismatched_keys'])} tensors, among them {name}, {tuple(shape)} instead of {tuple(expected)}"
        )
    return model.to(device).eval(), processor


def check_settings(processor: EmotionProcessor) -> None:
    """Try a processor's chat template, and its numbers.

    Raises:
        ValueError: a number that no clip can be read with, or none in any memory; a template that writes a book.
        jinja2.TemplateError: a template that cannot be written.
    """
    parts = [{"type": "text", "text": "?"}, *({"type": modality} for modality in processor.modalities)]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    if len(prompt) > MAX_TEMPLATE:
        raise ValueError(
            f"its chat template writes {len(prompt):,} characters for a question of one; at most {MAX_TEMPLATE:,} are "
            "accepted"
        )
    size = getattr(processor.image_processor, "size", None)
    sides = {name: getattr(size, name, None) for name in ("height", "width", "shortest_edge", "longest_edge")}
    numbers = {f"size {name}": (side, 1, 4096) for name, side in sides.items() if side is not None}
    numbers["sampling_rate"] = (processor.sampling_rate, 1000, 768_000)
    if processor.num_frames is not None:
        numbers["num_frames"] = (processor.num_frames, 1, 10_000)
    for name, (value, low, high) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"the processor's {name} is {str(value)[:60]!r}; {low:,} to {high:,} is accepted")


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; `None` is a GPU where there is one, else the CPU. Processes of a launcher that share a
    machine take a GPU each.

    Raises:
        ValueError: this machine, or this build of torch, has no such device.
    """
    if name is None:
        gpus = torch.cuda.device_count()
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % gpus}" if gpus else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0][:150]}); try cpu"
        ) from error
    return device


def pipeline_of(model: EmotionForConditionalGeneration, processor: EmotionProcessor) -> EmotionRecognitionPipeline:
    """The pipeline around a loaded model, which stays on its device."""
    placed = {} if getattr(model, "hf_device_map", None) else {"device": model.device}
    kind = ChatPipeline if isinstance(processor, ChatProcessor) else EmotionRecognitionPipeline
    return kind(model=model, processor=processor, **placed)


class Describer:
    """A model that answers questions about clips, which are read ahead of it; call it, or `stream` to get results as
    they come.

    Args:
        model, processor: as `load` returns them.
        batch_size: clips that are generated together.
        num_workers: processes that decode clips; 0 decodes when a clip is needed; `None` takes threads, and for many
            clips processes. A script that is not under `if __name__ == "__main__":` cannot have processes: they import
            it.
        early: clips that are being read already, see `Clips`; for one call about exactly these, with threads.
        options: of `EmotionRecognitionPipeline.__call__`.
    """

    def __init__(
        self,
        model: EmotionForConditionalGeneration,
        processor: EmotionProcessor,
        *,
        batch_size: int = 4,
        num_workers: int | None = 0,
        early: Any = None,
        **options: Any,
    ) -> None:
        self.pipeline = pipeline_of(model, processor)
        self.batch_size, self.num_workers, self.early = batch_size, num_workers, early
        self.every, self.allow_urls = options.pop("every", None), bool(options.pop("allow_urls", False))
        self.reading = {name: options.pop(name) for name in LOAD_OPTIONS if options.get(name) is not None}
        self.options = {name: value for name, value in options.items() if value is not None}

    def __call__(
        self,
        clips: Iterable[Any],
        utterances: Iterable[Any] | None = None,
        question: str | None = None,
        progress: bool = False,
    ) -> list[EmotionResult]:
        """See `describe`."""
        clips = list(clips)
        results = self.stream(clips, utterances, [question] * len(clips))
        return list(tqdm(results, total=len(clips), desc="Describing", unit="clip", disable=not progress, delay=2))

    def stream(
        self,
        clips: Sequence[Any],
        utterances: Iterable[Any] | None = None,
        questions: Sequence[str | None] | None = None,
    ) -> Iterator[EmotionResult]:
        """The result of each clip and its question, in order, as soon as its batch is answered.

        A clip with several questions is read once. Of clips that wait together, those of like length are generated
        together.
        """
        spoken = [None] * len(clips) if utterances is None else list(utterances)
        if len(spoken) != len(clips):
            raise ValueError(f"{len(spoken)} utterance sources came with {len(clips)} clips; one for each is accepted")
        asked: list[str | None] = [None] * len(clips) if questions is None else list(questions)
        # A recogniser is a model, and chat models read clips their own way.
        if "asr" in self.options or isinstance(self.pipeline, ChatPipeline):
            triples = zip(clips, spoken, asked, strict=True)
            waiting = ({"clip": clip, "utterances": source, "question": question} for clip, source, question in triples)
            reading = {**self.reading, "every": self.every, "allow_urls": self.allow_urls}
            yield from self.pipeline(waiting, batch_size=self.batch_size, **reading, **self.options)
            return
        read, places = each_once(key_of_clip(*pair) for pair in zip(clips, spoken, strict=True))
        dataset = Clips(
            self.pipeline.processor,
            [clips[row] for row in read],
            [spoken[row] for row in read],
            self.every,
            self.reading,
            self.allow_urls,
            self.early,
        )
        size = WINDOW * self.batch_size
        measured = items_of_rows(clip_loader(dataset, self.num_workers, size), places)
        rows = enumerate(zip(measured, asked, strict=True))
        while window := list(islice(rows, size)):
            usable = [entry for entry in window if not isinstance(entry[1][0], str)]
            usable.sort(key=lambda entry: length_of(entry[1][0]))
            inputs = [{"clip": clip, "question": question} for _, (clip, question) in usable]
            answers = self.pipeline(inputs, batch_size=self.batch_size, **self.options) if inputs else []
            results = {row: answer for (row, _), answer in zip(usable, answers, strict=True)}
            for row, (clip, _) in window:
                yield {**results.get(row, {"error": clip}), "clip": name_of(clips[row], row)}


def key_of_clip(clip: Any, utterances: Any) -> Any:
    """Equal for two sources of the same clip with the same utterances."""
    plain = (str, os.PathLike, type(None))
    if isinstance(clip, plain) and isinstance(utterances, plain):
        return str(clip), None if utterances is None else str(utterances)
    try:
        return json.dumps([clip, utterances], sort_keys=True)
    except (TypeError, ValueError):
        return id(clip), id(utterances)


def length_of(clip: Any) -> tuple[int, int]:
    """What a clip costs the model: tokens of its prompt, then numbers of its tensors."""
    tokens = sum(len(text) for texts in clip.placeholders.values() for text in texts)
    return tokens, sum(values.size for values in clip.tensors.values())


def describe(
    clips: Iterable[Any],
    model: EmotionForConditionalGeneration,
    processor: EmotionProcessor,
    *,
    utterances: Iterable[Any] | None = None,
    question: str | None = None,
    asr: Callable | None = None,
    batch_size: int = 4,
    num_workers: int | None = 0,
    progress: bool = False,
    **options: Any,
) -> list[EmotionResult]:
    """Emotions of clips and the cues for them: a call of the pipeline.

    Args:
        clips: paths, bytes, `Clip`s or whatever `media.load_clip` takes.
        model, processor: as `load` returns them.
        utterances: for each clip what `utterances.read` takes, or `None`.
        question: what to ask; `None` asks the model's default question.
        asr: a speech recogniser, such as a transformers pipeline, for clips that come without utterances.
        batch_size: clips that are generated together.
        num_workers: see `Describer`.
        progress: show a bar.
        options: of `EmotionRecognitionPipeline.__call__`: `per_utterance`, `candidate_labels`, `num_frames`,
            `modalities`, `max_new_tokens`, ...

    Returns:
        one `EmotionResult` per clip, in order; one bad clip does not stop the others.

    Raises:
        ValueError: another number of utterance sources than clips.
    """
    describer = Describer(model, processor, batch_size=batch_size, num_workers=num_workers, asr=asr, **options)
    return describer(clips, utterances, question, progress)
