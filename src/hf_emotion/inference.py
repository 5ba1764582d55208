"""From files to answers: load a model, describe clips."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForMultimodalLM, AutoProcessor, logging

from .answers.words import emotion_words
from .processing.faces import FaceError
from .processing.utterances import transcribe


class ModelFolderError(ValueError):
    """A model folder or repository that cannot be used."""


def load(source, *, device=None, dtype="auto", trust_remote_code=False, local_files_only=False):
    """A model and its processor, from a folder or a Hub repository.

    Args:
        source: a folder that `hf-emotion init`, `save_pretrained` or `Trainer` wrote, or a repository id; of a model,
            or of an adapter, which names its base itself.
        device: as for `torch.device`; `None` takes a GPU where there is one.
        dtype: as for `from_pretrained`; `"auto"` keeps the checkpoint's.
        trust_remote_code: run the folder's own code. Not needed for this package's models.
        local_files_only: never ask the network.

    Returns:
        the model, in eval mode, and its processor.

    Raises:
        ModelFolderError: no model is there, or its weights do not fit its configuration.
    """
    folder = Path(source)
    if folder.exists() and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelFolderError(f"{source} holds no config.json; a folder written by save_pretrained is accepted")
    if not folder.exists() and str(source).count("/") != 1:
        raise ModelFolderError(f"{source} is neither a folder nor a repository id such as 'name/model'")
    device = usable_device(device)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # weights that do not fit are told below, in a sentence in place of a table
    try:
        model, report = AutoModelForMultimodalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        processor = AutoProcessor.from_pretrained(source, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{source} cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind, verb in (("missing_keys", "lack"), ("unexpected_keys", "hold more than")):
        names = sorted(report[kind])
        if names:
            raise ModelFolderError(
                f"the weights in {source} {verb} what its config.json describes: {len(names)} tensors, among them "
                f"{', '.join(names[:3])}"
            )
    for name, found, wanted in sorted(report["mismatched_keys"])[:1]:
        raise ModelFolderError(
            f"the weights in {source} differ in shape from what its config.json describes: "
            f"{len(report['mismatched_keys'])} tensors, among them {name}, {tuple(found)} in place of {tuple(wanted)}"
        )
    return model.to(device).eval(), processor


def usable_device(name=None) -> torch.device:
    """The device of that name; `None` is a GPU where there is one, else the CPU.

    Raises:
        ValueError: this machine, or this build of torch, has no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0][:150]}); try cpu"
        ) from error
    return device


def describe(
    clips,
    model,
    processor,
    *,
    utterances=None,
    question=None,
    asr=None,
    batch_size=4,
    progress=False,
    load_options=None,
    max_new_tokens=128,
    **generate_options,
) -> list[dict]:
    """Emotions of clips, and the clues for them.

    Args:
        clips: paths, bytes, `Clip`s or whatever `media.load_clip` takes.
        model, processor: as `load` gives them.
        utterances: for each clip what `utterances.read` takes, or `None`.
        question: what to ask; the model's default question if `None`.
        asr: a speech recogniser, such as a transformers pipeline with `return_timestamps=True`, for clips that come
            without utterances.
        batch_size: clips that are generated together.
        progress: show a bar.
        load_options: see `EmotionProcessor.load_clips` (`num_frames`, `sampling`, `modalities`, ...).
        max_new_tokens, generate_options: see `generate`. Greedy unless asked otherwise, so that runs repeat.

    Returns:
        one dict per clip, in order: `clip`, `description`, `labels`, `modalities` really used, `frames` (time in s,
        face found, faces seen), `face_backend`, `utterances`, `duration` in s and `notes`; or `clip` and `error`, one
        sentence, for a clip that could not be read. One bad clip does not stop the others.
    """
    clips = list(clips)
    utterances = [None] * len(clips) if utterances is None else list(utterances)
    if len(utterances) != len(clips):
        raise ValueError(f"{len(utterances)} utterance sources came with {len(clips)} clips; one for each is accepted")
    results = [None] * len(clips)
    with tqdm(total=len(clips), desc="Describing", unit="clip", disable=not progress, delay=2) as bar:
        for first in range(0, len(clips), batch_size):
            readable = []
            for i in range(first, min(first + batch_size, len(clips))):
                name = str(clips[i]) if isinstance(clips[i], (str, Path)) else getattr(clips[i], "source", f"clip {i}")
                results[i] = {"clip": name}
                try:
                    clip = read_clip(processor, clips[i], utterances[i], asr, load_options or {})
                except (ValueError, OSError, FaceError) as error:
                    results[i]["error"] = str(error)
                    bar.update()
                else:
                    readable.append((i, clip))
            if readable:
                answers = answer(
                    model, processor, [clip for _, clip in readable], question, max_new_tokens, generate_options
                )
                for (i, _), found in zip(readable, answers, strict=True):
                    results[i].update(found)
                    bar.update()
    return results


def read_clip(processor, source, utterances, asr, load_options):
    """One decoded clip, its utterances given, found by `asr` or none."""
    [clip] = processor.load_clips([source], utterances=[utterances], **load_options)
    if asr is not None and not clip.utterances and clip.waveform is not None:
        spoken = transcribe(clip.waveform, clip.sampling_rate, asr)
        [clip] = processor.load_clips([clip], utterances=[spoken], **load_options)
    return clip


def answer(model, processor, clips, question, max_new_tokens, generate_options) -> list[dict]:
    """One generated answer for each decoded clip, in one batch."""
    batch = processor(
        videos=clips,
        text=None if question is None else [question] * len(clips),
        return_tensors="pt",
        return_metadata=True,
    )
    reports = batch.pop("video_metadata")
    batch = batch.to(model.device)
    options = {"do_sample": False, "max_new_tokens": max_new_tokens, **generate_options}
    with torch.inference_mode():
        generated = model.generate(**batch, **options)
    prompt = batch["input_ids"].shape[1]
    texts = processor.batch_decode(generated[:, prompt:], skip_special_tokens=True)
    results = []
    for text, report in zip(texts, reports, strict=True):
        report.pop("source")
        results.append({"description": text.strip(), "labels": emotion_words(text), **report})
    return results
