"""A program of a user, for the type checker alone (`make check`): it is never run."""

from collections.abc import Iterator
from typing import assert_type

import torch

from hf_emotion.answers.pipeline_emotion import EmotionResult
from hf_emotion.inference import describe, load, pipeline_of
from hf_emotion.modeling.modeling_emotion import EmotionForConditionalGeneration
from hf_emotion.processing.media import Clip
from hf_emotion.processing.processing_emotion import ClipInputs, EmotionProcessor
from hf_emotion.training.collator import EmotionCollator


def use(folder: str) -> None:
    model, processor = load(folder, device="cpu", dtype=torch.float32)
    assert_type(model, EmotionForConditionalGeneration)
    assert_type(processor, EmotionProcessor)

    results = describe(["a.mp4", "b.mp4"], model, processor, question="Why?", max_new_tokens=64)
    assert_type(results, list[EmotionResult])
    assert_type(results[0]["labels"][0]["score"], float)
    assert_type(results[0]["utterances"][0]["text"], str | None)
    assert_type(results[0]["frames"][0]["time"], float)

    pipe = pipeline_of(model, processor)
    assert_type(pipe("a.mp4", num_frames=4), EmotionResult)
    assert_type(pipe(["a.mp4"], batch_size=2), list[EmotionResult])
    assert_type(pipe(name for name in ("a.mp4", "b.mp4")), Iterator[EmotionResult])
    for piece in pipe.stream("a.mp4"):
        assert_type(piece, str)

    clip = processor.load("a.mp4", utterances=[(0.0, 1.0, "Hm.")], num_frames=4, modalities=["video"])
    assert_type(clip, Clip)
    inputs = processor.measure(clip)
    assert_type(inputs, ClipInputs)
    assert_type(processor.write("Why?", inputs.utterances, inputs.placeholders), list[int])

    batch = EmotionCollator(processor, num_frames=4)([{"id": "a", "video": "a.mp4", "question": "?", "answer": "!"}])
    assert_type(batch, dict[str, torch.Tensor])
