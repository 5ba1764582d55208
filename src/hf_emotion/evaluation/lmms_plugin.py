"""Our models as the model `hf_emotion` of lmms-eval, by its entry point `lmms_eval.models`.

    lmms-eval --model hf_emotion --model_args pretrained=FOLDER_OR_ID --tasks TASK

Needs lmms-eval; nothing else of this package imports this file.
"""

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from ..inference import describe, load


def manifest() -> ModelManifest:
    """What the entry point gives: the name and the class of the model."""
    return ModelManifest(model_id="hf_emotion", simple_class_path=f"{__name__}.EmotionLMM")


class EmotionLMM(lmms):
    """A model folder or Hub id of this package; clips are paths, or sound as `array` and `sampling_rate`.

    Args:
        pretrained: folder or Hub id.
        device: as for `inference.load`.
        batch_size: clips generated together.
        trust_remote_code: run the repository's own code.
    """

    is_simple = True

    def __init__(self, pretrained: str, device=None, batch_size=1, trust_remote_code=False, **_):
        super().__init__()
        self.model, self.processor = load(pretrained, device=device, trust_remote_code=bool(trust_remote_code))
        self.batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A reply to each request, in order; a clip that cannot be read is an error, since a score would hide it."""
        replies = [""] * len(requests)
        waiting: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            # Clips that are asked the same question, with the same options, share a batch.
            waiting.setdefault(str((request.args[0], request.args[1])), []).append(place)
        with tqdm(total=len(requests), desc="hf_emotion", disable=self.rank != 0) as bar:
            for places in waiting.values():
                for first in range(0, len(places), self.batch_size):
                    batch = places[first : first + self.batch_size]
                    for place, answer in zip(batch, self._describe([requests[i] for i in batch]), strict=True):
                        if "error" in answer:
                            raise ValueError(f"{answer['clip']}: {answer['error']}")
                        replies[place] = answer["description"]
                    bar.update(len(batch))
        return replies

    def _describe(self, requests: list[Instance]) -> list[dict]:
        question, options = requests[0].args[:2]
        clips = []
        for request in requests:
            _, _, doc_to_visual, doc_id, task, split = request.args
            clips.append(_clip(doc_to_visual(self.task_dict[task][split][doc_id])))
        known = {key: options[key] for key in ("max_new_tokens", "num_beams", "do_sample") if key in options}
        return describe(
            clips,
            self.model,
            self.processor,
            question=question or None,
            batch_size=len(clips),
            per_utterance=False,
            **known,
        )

    def loglikelihood(self, requests: list[Instance]):
        raise NotImplementedError(
            "hf_emotion answers questions (generate_until); it does not compute the likelihood of given answers"
        )

    def generate_until_multi_round(self, requests: list[Instance]):
        raise NotImplementedError("hf_emotion answers one question about a clip; it holds no conversation")


def _clip(visuals: list):
    """What a task shows of a clip -> what `load_clip` takes."""
    if len(visuals) != 1:
        raise ValueError(f"a clip is one video or one sound; the task gives {len(visuals)} pieces")
    [visual] = visuals
    if isinstance(visual, dict) and "array" in visual:
        return {"waveform": visual["array"], "sampling_rate": visual["sampling_rate"]}
    return visual
