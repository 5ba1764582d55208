"""Any chat model of transformers that sees or hears, behind the one engine: Qwen2.5-Omni, Qwen-VL, LLaVA ...

Such a model has a processor and a chat template of its own. `ChatProcessor` decodes a clip as every processor of this
package does and hands its frames and sound to that processor, with the emotion question; utterances go into the text
with their times. `ChatPipeline` is the package's pipeline over it, so `predict`, `evaluate` and `benchmark` give the
same results for these models as for ours. It differs in one way: such processors join the media of a batch in ways of
their own, so clips are answered one after the other.

Nothing depends on a model's name. A processor with a video processor gets a video, one with an image processor gets the
frames as pictures, one with a feature extractor gets the sound.
"""

from typing import Any

import torch
from PIL import Image

from .answers.pipeline_emotion import EmotionRecognitionPipeline, question_about
from .processing.media import load_clip
from .processing.utterances import read

QUESTION = (
    "Which emotions does the person in this clip show? Name them, and describe the cues in face, voice, words and "
    "scene that indicate them."
)


class ChatModelError(ValueError):
    """A model that is no chat model for pictures or sound, or whose processor does not take what it needs."""


class ChatProcessor:
    """The processor of a chat model, with the interface that the pipeline expects.

    Args:
        processor: transformers'.
        num_frames: frames of a clip, spread over it.
        default_question: asked where no question is given.

    Raises:
        ChatModelError: it takes neither pictures nor sound, or has no chat template.
    """

    def __init__(self, processor, num_frames: int = 8, default_question: str = QUESTION):
        parts = {name: getattr(processor, name, None) for name in ("video_processor", "image_processor")}
        self.sees = next((name.split("_")[0] for name, part in parts.items() if part is not None), None)
        extractor = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
        if self.sees is None and extractor is None:
            raise ChatModelError(f"{type(processor).__name__} takes neither pictures nor sound")
        if getattr(processor, "tokenizer", None) is None or not (
            getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
        ):
            raise ChatModelError(f"{type(processor).__name__} has no chat template, so it cannot be asked questions")
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.sampling_rate = getattr(extractor, "sampling_rate", 16000)
        self.modalities = [name for name, has in (("video", self.sees), ("audio", extractor)) if has]
        self.num_frames, self.default_question = num_frames, default_question

    def load_clips(self, videos, utterances=None, **options) -> list:
        """Decode clips; arguments as for `EmotionProcessor.load_clips`."""
        utterances = [None] * len(videos) if utterances is None else utterances
        chosen = list(options.pop("modalities", None) or self.modalities)
        if not set(chosen) <= set(self.modalities):
            raise ValueError(f"modalities are {chosen}; this model takes {' and '.join(self.modalities)}.")
        settings = {"num_frames": self.num_frames, **options}
        if settings.get("fps") is not None:
            settings["sampling"] = settings.get("sampling") or "fps"
        clips = []
        for source, spoken in zip(videos, utterances, strict=True):
            clip = load_clip(
                source, frames="video" in chosen, sound="audio" in chosen, sampling_rate=self.sampling_rate, **settings
            )
            if spoken is not None:
                clip.utterances = read(spoken, duration=clip.duration / 1000, notes=clip.notes)
            if clip.frames is None and clip.waveform is None:
                raise ValueError(f"{clip.source} has nothing that this model takes: {' and '.join(chosen)}.")
            clips.append(clip)
        return clips

    def __call__(self, clip, question: str | None = None) -> dict[str, torch.Tensor]:
        """The model's inputs for one clip and question, a batch of one row.

        Raises:
            ChatModelError: the model's own processor refuses them; its reason is named.
        """
        content, media = [], {}
        if clip.frames is not None and self.sees == "video":
            content.append({"type": "video"})
            media |= {"videos": [clip.frames], "video_metadata": [metadata_of(clip)], "do_sample_frames": False}
        elif clip.frames is not None:
            content += [{"type": "image"}] * len(clip.frames)
            media["images"] = [[Image.fromarray(frame) for frame in clip.frames]]
        if clip.waveform is not None:
            content.append({"type": "audio"})
            media |= {"audio": [clip.waveform], "sampling_rate": self.sampling_rate}
        content.append({"type": "text", "text": self.text(clip, question)})
        try:
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            batch = self.processor(text=[prompt], return_tensors="pt", **media)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ChatModelError(f"{type(self.processor).__name__} refuses {clip.source}: {reason}") from error
        return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    def text(self, clip, question: str | None) -> str:
        """The question, behind what is said in the clip and when; a still picture or a silent clip has the question
        alone."""
        lines = []
        for spoken in clip.utterances:
            speaker = f" {spoken['speaker']}:" if spoken.get("speaker") else ""
            words = " ".join((spoken.get("text") or "").split())
            lines.append(f"[{spoken['start']:.1f}s - {spoken['end']:.1f}s]{speaker} {words}".rstrip())
        said = "What is said in the clip:\n" + "\n".join(lines) + "\n\n" if lines else ""
        return said + (question or self.default_question)

    def report(self, clip) -> dict[str, Any]:
        """What a clip gave; as `EmotionProcessor.report`, for a model that looks for no face."""
        times = [] if clip.frames is None else clip.frame_times.tolist()
        media = (("video", clip.frames), ("audio", clip.waveform))
        return {
            "modalities": [name for name, medium in media if medium is not None],
            "frames": [{"time": time / 1000} for time in times],
            "face_backend": None,
            "duration": clip.duration / 1000,
            "utterances": clip.utterances,
            "notes": list(clip.notes),
        }

    def decode(self, ids, **options) -> str:
        return self.tokenizer.decode(ids, **options)


class ChatPipeline(EmotionRecognitionPipeline):
    """`EmotionRecognitionPipeline` over a `ChatProcessor`."""

    _load_processor = False

    def __init__(self, model, processor, **kwargs):
        super().__init__(model=model, tokenizer=processor.tokenizer, **kwargs)
        self.processor = processor

    def measure(self, clip):
        return clip

    def ask(self, clips, questions):
        rows = [self.processor(clip, question) for clip, question in zip(clips, questions, strict=True)]
        return {"rows": rows}, [self.processor.report(clip) for clip in clips]

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
    ):
        options = self.options(generate_options)
        answers = []
        for clip, row, report, question in zip(clips, batch["rows"], reports, questions, strict=True):
            answer = self.answer_one(row, question, candidate_labels, {**options, "streamer": streamer})
            utterances = [dict(utterance) for utterance in report["utterances"]]
            for utterance in utterances if per_utterance else ():
                about = self._ensure_tensor_on_device(self.processor(clip, question_about(utterance)), self.device)
                utterance.update(self.answer_one(about, None, candidate_labels, options))
            answers.append(answer | report | {"utterances": utterances})
        return answers

    def answer_one(self, row, question, candidate_labels, options) -> dict:
        """`description` and `labels` for the inputs of one clip and question."""
        generated = self.model.generate(**row, return_dict_in_generate=True, output_logits=True, **options)
        ids = generated.sequences[0, row["input_ids"].shape[1] :]
        text = self.processor.decode(ids, skip_special_tokens=True)
        if candidate_labels:
            labels = self.label_shares_of(row, candidate_labels)
        else:
            scores = self.model.compute_transition_scores(
                generated.sequences, generated.logits, generated.get("beam_indices"), normalize_logits=True
            )
            labels = self.word_scores(text, ids, scores[0], question)
        return {"description": text.strip(), "labels": sorted(labels, key=lambda label: -label["score"])}

    @torch.no_grad()
    def label_shares_of(self, row, candidate_labels) -> list[dict]:
        """Each label with its share of the probability of all of them, as the whole answer to a prompt."""
        names = [str(label) for label in candidate_labels]
        scores = []
        for name in names:
            ids = [*self.tokenizer(name, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]
            answer = row["input_ids"].new_tensor([ids])
            logits = self.model(**{key: extended(key, value, row, answer) for key, value in row.items()}).logits
            chances = logits[0, -len(ids) - 1 : -1].float().log_softmax(-1)
            scores.append(chances.gather(-1, answer[0, :, None]).sum())
        shares = torch.stack(scores).softmax(0).tolist()
        return [{"label": name, "score": share} for name, share in zip(names, shares, strict=True)]


def extended(key: str, value: torch.Tensor, row: dict, answer: torch.Tensor) -> torch.Tensor:
    """An input of the prompt with room for an answer (1, A): ids get it, masks ones, kinds of tokens zeros."""
    if value.shape != row["input_ids"].shape:
        return value
    if key == "input_ids":
        return torch.cat([value, answer], dim=1)
    fill = torch.ones_like if key == "attention_mask" else torch.zeros_like
    return torch.cat([value, fill(answer).to(value)], dim=1)


def metadata_of(clip) -> dict[str, Any]:
    """What a video processor wants to know of frames that are already chosen."""
    seconds = max(clip.duration / 1000, 1e-3)
    fps = len(clip.frames) / seconds
    return {
        "fps": fps,
        "total_num_frames": len(clip.frames),
        "duration": seconds,
        "frames_indices": list(range(len(clip.frames))),
    }


def generating_model(model):
    """The part of a model that writes text: an omni model's thinker; a model without such parts is its own."""
    return getattr(model, "thinker", model)


__all__ = ["ChatModelError", "ChatPipeline", "ChatProcessor", "generating_model"]
