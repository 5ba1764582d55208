"""The contract all models sign: what a user of transformers may take for granted of any of them.

A paper joins by adding a case to `CASES`; what the paper alone claims is tested in its own file.
"""

import copy
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from hf_emotion.modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration
from hf_emotion.modeling.modeling_affectgpt import AffectGPTForConditionalGeneration
from hf_emotion.modeling.modeling_emotion_llama_v2 import EmotionLLaMAV2ForConditionalGeneration
from hf_emotion.modeling.modeling_esva import ESVAForConditionalGeneration
from hf_emotion.modeling.modeling_humanomni import HumanOmniForConditionalGeneration
from hf_emotion.modeling.modeling_microemo import MicroEmoForConditionalGeneration
from hf_emotion.modeling.modeling_omni_emotion import FUSIONS, OmniEmotionForConditionalGeneration
from hf_emotion.papers import (
    acoustemo_config,
    affectgpt_config,
    emotion_llama_v2_config,
    esva_config,
    humanomni_config,
    microemo_config,
    omni_emotion_config,
)

VOCAB = 300


class Case:
    """A paper's tiny model and a batch of two unlike clips for it; a paper's case gives `build`, `batch` and `single`.

    Attributes:
        model_class: the generating class.
        towers: how many frames and chunks of sound each tower encodes for the batch.
        attends: parts whose attention follows `set_attn_implementation`.
        ablations: fields of the configuration that each change the logits.
        idle_parameters: those that a training step on the batch does not move, and `unused_parameters` without a
            gradient.
        zeroed: parameters that start at zero, which would hide a branch from the comparisons.
        lora_modules: parts trained whole beside LoRA.
    """

    model_class: type
    towers: dict[str, int]
    attends: tuple[str, ...]
    ablations: tuple[dict, ...] = ()
    idle_parameters = r"$^"
    unused_parameters = r"$^"
    zeroed = r"$^"
    lora_modules: list[str]
    media = ("video", "audio")
    # Fields that differ from the tiny model's.
    fields: dict = {}

    def config(self, **fields):
        ids = {f"{name}_token_id": VOCAB + place for place, name in enumerate(self.media)}
        return self.build("tiny", vocab_size=VOCAB, **{**ids, **self.fields, **fields})

    def model(self, seed=0, **fields):
        torch.manual_seed(seed)
        model = self.model_class(self.config(**fields)).eval()
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if re.search(self.zeroed, name):
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        return model

    def counts(self, config, clip):
        """Video and audio tokens of a clip, written out."""
        raise NotImplementedError

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        """A padded batch of two clips; `video` and `audio` say which clip has which modality."""
        raise NotImplementedError

    def single(self, batch, clip):
        """The clip alone, without the padding that its neighbour caused."""
        raise NotImplementedError


def prompts(rows):
    """Ids of unlike lengths -> a padded batch of them and of their mask."""
    rows = [torch.tensor(row) for row in rows]
    ids = pad_sequence(rows, batch_first=True, padding_side="left", padding_value=0)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return {"input_ids": ids, "attention_mask": mask}


def cut(batch, clip, **masks):
    """One clip of a batch, cropped: prefixes of names (joined by `__`) -> the places (L,) bool that are real."""
    row = {name: value[clip : clip + 1] for name, value in batch.items()}
    masks["input_ids__attention_mask"] = row["attention_mask"][0].bool()
    for prefixes, mask in masks.items():
        for name in row:
            if name.startswith(tuple(prefixes.split("__"))):
                row[name] = row[name][:, mask]
    return row


def clips_with_utterances(video, audio, generator):
    """Two clips: 4 frames, 2 utterances, 3 chunks of sound; 2 frames, 1 utterance, 1 chunk."""
    times = torch.tensor([[0, 500, 1000, 1500], [0, 400, -1, -1]])
    times[~torch.tensor(video)] = -1
    chunks = torch.tensor([[True, True, True], [True, False, False]])
    chunks[~torch.tensor(audio)] = False
    pixels = torch.randn(2, 4, 3, 112, 112, generator=generator)
    sound = torch.randn(2, 3, 128, 204, generator=generator)
    return {
        "pixel_values_videos": pixels * (times >= 0)[..., None, None, None],
        "video_times": times,
        "utterance_spans": torch.tensor([[[0, 700], [700, 1500]], [[100, 350], [-1, -1]]]),
        "input_features": sound * chunks[..., None, None],
        "audio_attention_mask": chunks,
        "audio_times": torch.where(chunks, torch.tensor([0, 500, 1000]), -1),
    }


def clip_with_utterances(batch, clip):
    return cut(
        batch,
        clip,
        video__pixel=batch["video_times"][clip] >= 0,
        audio__input_features=batch["audio_attention_mask"][clip],
        utterance_spans=batch["utterance_spans"][clip, :, 0] >= 0,
    )


class MicroEmoCase(Case):
    model_class = MicroEmoForConditionalGeneration
    build = staticmethod(microemo_config)
    towers = {"vision_tower": 6, "audio_tower": 4}
    attends = ("vision_tower", "audio_tower", "region_attention", "language_model")
    ablations = ({"use_utterances": False}, {"use_regions": False}, {"use_utterances": False, "use_regions": False})
    # The Q-Former's last layer has a feed-forward for the timestamp's text, whose output is dropped.
    idle_parameters = r"image_qformer\..*\.encoder\.layer\.1\.(intermediate|output)\.|word_embeddings"
    zeroed = r"region_attention\.output|gate$|region_embedding$"
    lora_modules = [
        "image_qformer",
        "region_attention",
        "local_fusion",
        "frame_position_embedding",
        "video_qformer",
        "video_projector",
        "audio_position_embedding",
        "audio_qformer",
        "audio_projector",
    ]

    def counts(self, config, clip):
        windows = 1 + (2, 1)[clip] * config.use_utterances
        return config.num_video_query_tokens * windows, config.num_audio_query_tokens

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        media = clips_with_utterances(video, audio, generator)
        regions = torch.zeros(2, 4, 13, 64, dtype=torch.bool)
        regions[0, :3, 0, 3:9] = True
        regions[0, :3, 1, 7:20] = True
        regions[1, 0, 2, 30] = True
        rows = []
        for clip in range(2):
            video_tokens, audio_tokens = self.counts(config, clip)
            ids = [config.video_token_id] * (video_tokens * video[clip])
            ids += [config.audio_token_id] * (audio_tokens * audio[clip])
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        return {
            **prompts(rows),
            **media,
            "video_region_masks": regions & (media["video_times"] >= 0)[..., None, None],
            "video_timestamp_ids": torch.randint(5, VOCAB, (2, 4, 6), generator=generator),
            "video_timestamp_mask": torch.ones(2, 4, 6, dtype=torch.long),
        }

    single = staticmethod(clip_with_utterances)


class AcoustEmoCase(Case):
    model_class = AcoustEmoForConditionalGeneration
    build = staticmethod(acoustemo_config)
    towers = {"vision_tower": 6, "audio_tower": 4}
    attends = ("vision_tower", "audio_tower", "language_model")
    ablations = ({"use_utterances": False}, {"use_global": False})
    # ImageBind's head, which turns a chunk into one vector, lies behind the frames that AcoustEmo takes.
    unused_parameters = r"audio_tower\.(layernorm|projection)\."
    lora_modules = ["audio_qformer", "audio_projector", "audio_position_embedding", "video_projector"]

    def counts(self, config, clip):
        windows = config.use_global + (2, 1)[clip] * config.use_utterances
        return (4, 2)[clip] * config.num_query_tokens, windows * config.num_audio_query_tokens

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        media = clips_with_utterances(video, audio, torch.Generator().manual_seed(seed))
        rows = []
        for clip in range(2):
            video_tokens, audio_tokens = self.counts(config, clip)
            ids = [config.video_token_id] * (video_tokens * video[clip])
            ids += [config.audio_token_id] * (audio_tokens * audio[clip])
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        return {**prompts(rows), **media}

    single = staticmethod(clip_with_utterances)


class OmniEmotionCase(Case):
    """Two unlike clips: 4 frames, a sound of 4.3 s in chunks of 3 s; 2 frames, one of them without a face, 0.61 s."""

    model_class = OmniEmotionForConditionalGeneration
    build = staticmethod(omni_emotion_config)
    media = ("video", "audio", "face")
    towers = {"vision_tower": 6, "audio_tower": 3, "face_tower": 6}
    attends = ("vision_tower", "audio_tower", "face_tower", "language_model")
    # LLaVA-OneVision takes SigLIP's states before its last norm, FaceXFormer Swin's; Whisper's positions are constants.
    unused_parameters = r"vision_tower\.post_layernorm|backbone\.layernorm|audio_tower\.embed_positions"
    zeroed = r"frame_embedding"
    lora_modules = ["multi_modal_projector", "face_projector", "audio_projector", "frame_embedding"]
    mel_frames = ((300, 130), (61, 0))
    sound_tokens = (50 + 22, 11)
    # What an absent sound has room for in the prompt: at most one chunk.
    absent_sound_tokens = 30

    def __init__(self, fusion):
        self.fields = {"fusion": fusion}
        others = [{"fusion": other} for other in FUSIONS if other != fusion]
        self.ablations = (*others, {"face_config": None}, {"face_config": None, "audio_config": None})
        if fusion == "frame_cross_attention":
            self.attends += ("face_attention",)
            self.lora_modules = [*self.lora_modules, "face_attention"]

    def counts(self, config, clip):
        return (4, 2)[clip] * config.tokens_per_frame + 1, self.sound_tokens[clip]

    def visual_ids(self, config, clip):
        """Figure 6, written out."""
        frame = [config.video_token_id] * config.tokens_per_frame
        face = [config.face_token_id] * (0 if config.face_config is None else 4)
        if config.fusion == "clip_concat":
            return frame * (4, 2)[clip] + [config.video_token_id] + face * (4, 2)[clip]
        return (frame + face) * (4, 2)[clip] + [config.video_token_id]

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        times = torch.tensor([[0, 500, 1000, 1500], [0, 400, -1, -1]])
        times[~torch.tensor(video)] = -1
        mask = torch.arange(300) < torch.tensor(self.mel_frames).unsqueeze(-1)
        mask[~torch.tensor(audio)] = False
        rows = []
        for clip in range(2):
            ids = [*self.visual_ids(config, clip), 8]
            if config.audio_config is not None:
                tokens = self.sound_tokens[clip] if audio[clip] else self.absent_sound_tokens
                ids += [config.audio_token_id] * tokens
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        real = (times >= 0)[..., None, None, None]
        return {
            **prompts(rows),
            "pixel_values_videos": torch.randn(2, 4, 3, 98, 98, generator=generator) * real,
            "video_times": times,
            "pixel_values_faces": torch.randn(2, 4, 3, 64, 64, generator=generator) * real,
            "face_found": torch.tensor([[True, True, False, True], [False, True, False, False]]) & (times >= 0),
            "input_features": torch.randn(2, 2, 128, 300, generator=generator) * mask.any(-1)[..., None, None],
            "audio_attention_mask": mask,
        }

    def single(self, batch, clip):
        return cut(
            batch,
            clip,
            video__pixel__face=batch["video_times"][clip] >= 0,
            audio__input_features=batch["audio_attention_mask"][clip].any(-1),
        )


class ESVACase(Case):
    """Two unlike clips: 20 frames of a face in two sequences, 2 s of sound; 5 frames, not all with a face, 0.6 s."""

    model_class = ESVAForConditionalGeneration
    build = staticmethod(esva_config)
    towers = {"vision_tower": 2, "face_tower": 25, "motion_tower": 3, "audio_tower": 2}
    attends = ("vision_tower", "face_tower", "motion_tower", "audio_tower", "language_model")
    ablations = (
        {"msfe_kernel_sizes": []},
        {"use_alignment": False},
        {"vision_config": None},
        {"face_config": None},
        {"motion_config": None},
        {"audio_config": None},
    )
    # Two clips have a positive or a negative, never both, so nothing draws or pushes.
    idle_parameters = r"contrast_head"
    # MAE's positions are constants.
    unused_parameters = r"face_tower\.embeddings\.position_embeddings"
    zeroed = r"gate$"
    frames = (20, 5)
    samples = (32000, 9600)

    def __init__(self, **fields):
        self.fields = fields

    @property
    def lora_modules(self):
        trained = {name for name, _ in self.model().model.named_children()} - set(self.model_class.frozen_parts)
        return sorted(trained)

    def counts(self, config, clip):
        """Emotion-LLaMA's layout, written out: 8 x 8 patches by four, MAE, VideoMAE, class token; and the sound."""
        eva = 0 if config.vision_config is None else 16 + 1
        faces = (config.face_config is not None) + (config.motion_config is not None)
        return eva + faces, 0 if config.audio_config is None else config.audio_tokens

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        faces = torch.where(torch.arange(20) < torch.tensor(self.frames).unsqueeze(-1), torch.arange(20) * 100, -1)
        faces[~torch.tensor(video)] = -1
        key = torch.tensor([[700], [200]])
        key[~torch.tensor(video)] = -1
        sound = torch.arange(32000) < torch.tensor(self.samples).unsqueeze(-1)
        sound[~torch.tensor(audio)] = False
        rows = []
        for clip in range(2):
            video_tokens, audio_tokens = self.counts(config, clip)
            behind = 1 if config.vision_config is not None else 0
            ids = [config.video_token_id] * (video_tokens - behind) + [config.audio_token_id] * audio_tokens
            ids += [config.video_token_id] * behind
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        real = (faces >= 0)[..., None, None, None]
        batch = {
            **prompts(rows),
            "pixel_values_videos": torch.randn(2, 1, 3, 112, 112, generator=generator),
            "video_times": key,
            "pixel_values_faces": torch.randn(2, 20, 3, 32, 32, generator=generator) * real,
            "face_times": faces,
            "face_found": (faces >= 0) & (torch.arange(20) != 1),
            "input_values": torch.randn(2, 32000, generator=generator) * sound,
            "audio_attention_mask": sound.long(),
        }
        if config.contrast_weight and config.audio_config is not None:
            batch["emotion_ids"] = torch.tensor([2, 2])
        return batch

    def single(self, batch, clip):
        return cut(
            batch,
            clip,
            pixel_values_faces__face=batch["face_times"][clip] >= 0,
            input_values__audio=batch["audio_attention_mask"][clip].bool(),
        )


class HumanOmniCase(Case):
    """Two unlike clips: 4 frames, two chunks of sound; 2 frames, one; instructions of 6 and 4 tokens."""

    model_class = HumanOmniForConditionalGeneration
    build = staticmethod(humanomni_config)
    towers = {"vision_tower": 6, "audio_tower": 3}
    attends = ("vision_tower", "audio_tower", "instruction_encoder", "language_model")
    ablations = ({"compress_frames": True}, {"audio_config": None})
    # SigLIP is read before its last layer; Whisper's positions are constants.
    unused_parameters = r"vision_tower\..*(post_layernorm|layers\.2\.)|audio_tower\.embed_positions"
    lora_modules = ["video_branch", "body_branch", "face_branch", "gate", "audio_projector"]

    def counts(self, config, clip):
        frames = (4, 2)[clip]
        # 56 pixels in patches of 14 are 4 x 4, halved 2 x 2; compressed, 1 for each frame and 4 for every fourth.
        return (frames + 4 if config.compress_frames else frames * 4), (2, 1)[clip] * 50

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        times = torch.tensor([[0, 500, 1000, 1500], [0, 400, -1, -1]])
        times[~torch.tensor(video)] = -1
        chunks = torch.tensor([[True, True], [True, False]])
        chunks[~torch.tensor(audio)] = False
        instruction = torch.arange(6) < torch.tensor([[6], [4]])
        rows = []
        for clip in range(2):
            frames, sound = self.counts(config, clip)
            ids = [config.video_token_id] * (frames if video[clip] else 0) + [8]
            ids += [config.audio_token_id] * (sound if audio[clip] and config.audio_config is not None else 0)
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        return {
            **prompts(rows),
            "pixel_values_videos": torch.randn(2, 4, 3, 56, 56, generator=generator)
            * (times >= 0)[..., None, None, None],
            "video_times": times,
            "video_instruction_ids": torch.randint(1, VOCAB, (2, 6), generator=generator) * instruction,
            "video_instruction_mask": instruction.long(),
            "input_features": torch.randn(2, 2, 128, 300, generator=generator) * chunks[..., None, None],
            "audio_attention_mask": chunks,
        }

    def single(self, batch, clip):
        return cut(
            batch,
            clip,
            video_times__pixel__video_features=batch["video_times"][clip] >= 0,
            video_instruction=batch["video_instruction_mask"][clip].bool(),
            input_features__audio_attention_mask=batch["audio_attention_mask"][clip],
        )


class AffectGPTCase(Case):
    """Two unlike clips: 4 faces, 3 segments of sound; 2 faces, one segment."""

    model_class = AffectGPTForConditionalGeneration
    build = staticmethod(affectgpt_config)
    towers = {"vision_tower": 6, "audio_tower": 4}
    attends = ("vision_tower", "audio_tower", "language_model")
    ablations = ({"audio_layers": [-1]},)
    # A mask that HuBERT does not apply to what it reads here.
    unused_parameters = r"masked_spec_embed|audio_tower\.encoder\.layer_norm"
    lora_modules = ["video_projector", "audio_projector", "fusion_projector", "fusion_attention"]

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        times = torch.tensor([[0, 500, 1000, 1500], [0, 400, -1, -1]])
        times[~torch.tensor(video)] = -1
        segments = torch.tensor([[True, True, True], [True, False, False]])
        segments[~torch.tensor(audio)] = False
        rows = []
        for clip in range(2):
            ids = [config.video_token_id] * (video[clip] and audio[clip]) + [9]
            ids += [config.audio_token_id] * audio[clip] + [8] + [config.video_token_id] * video[clip]
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        return {
            **prompts(rows),
            "pixel_values_videos": torch.randn(2, 4, 3, 56, 56, generator=generator)
            * (times >= 0)[..., None, None, None],
            "video_times": times,
            "input_values": torch.randn(2, 3, 3200, generator=generator) * segments[..., None],
            "audio_attention_mask": segments,
        }

    def counts(self, config, clip):
        return 2, 1

    def single(self, batch, clip):
        return cut(
            batch,
            clip,
            video__pixel=batch["video_times"][clip] >= 0,
            input_values__audio=batch["audio_attention_mask"][clip],
        )


class EmotionLLaMAV2Case(Case):
    """Two unlike clips: 6 frames, two chunks of sound; 3 frames, one. Every clip gets all tokens."""

    model_class = EmotionLLaMAV2ForConditionalGeneration
    build = staticmethod(emotion_llama_v2_config)
    towers = {"vision_tower": 2, "frame_tower": 9, "audio_tower": 3}
    attends = ("vision_tower", "frame_tower", "audio_tower", "language_model")
    keeps_placeholders = True
    # Whisper's positions are constants.
    unused_parameters = r"audio_tower\.embed_positions"
    lora_modules = ["video_projector", "frame_projector", "audio_projector", "fusion", "fusion_projector"]

    def counts(self, config, clip):
        # 112 pixels in patches of 14 are 64, by four; 4 frames x 2 x 2 steps.
        return 16 + 2 * 16, 16

    def batch(self, config, video=(True, True), audio=(True, True), seed=0):
        generator = torch.Generator().manual_seed(seed)
        times = torch.tensor([[0, 300, 600, 900, 1200, 1500], [0, 400, 800, -1, -1, -1]])
        key = torch.tensor([[900], [400]])
        times[~torch.tensor(video)] = key[~torch.tensor(video)] = -1
        chunks = torch.tensor([[True, True], [True, False]])
        chunks[~torch.tensor(audio)] = False
        rows = []
        for clip in range(2):
            video_tokens, audio_tokens = self.counts(config, clip)
            ids = [config.video_token_id] * video_tokens + [config.audio_token_id] * audio_tokens
            rows.append([5, 6, 7, *ids, *range(10, 14 + clip)])
        return {
            **prompts(rows),
            "pixel_values_videos": torch.randn(2, 1, 3, 112, 112, generator=generator),
            "video_times": key,
            "pixel_values_frames": torch.randn(2, 6, 3, 56, 56, generator=generator)
            * (times >= 0)[..., None, None, None],
            "frame_times": times,
            "input_features": torch.randn(2, 2, 128, 300, generator=generator) * chunks[..., None, None],
            "audio_attention_mask": chunks,
        }

    def single(self, batch, clip):
        return cut(
            batch,
            clip,
            pixel_values_frames__frame=batch["frame_times"][clip] >= 0,
            input_features__audio_attention_mask=batch["audio_attention_mask"][clip],
        )


CASES = {
    "microemo": MicroEmoCase(),
    "acoustemo": AcoustEmoCase(),
    "omni_emotion": OmniEmotionCase("clip_concat"),
    "omni_emotion_frame_concat": OmniEmotionCase("frame_concat"),
    "omni_emotion_frame_cross_attention": OmniEmotionCase("frame_cross_attention"),
    "esva": ESVACase(),
    "humanomni": HumanOmniCase(),
    "affectgpt": AffectGPTCase(),
    "emotion_llama_v2": EmotionLLaMAV2Case(),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def labels_of(batch, config):
    """The four last tokens of each row are the answer."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -4:] = batch["input_ids"][:, -4:]
    return labels


def without_gradient(case, model):
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    return [name for name in missing if not re.search(case.unused_parameters, name)]


def logits_of(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(case):
    model = case.model().train()
    batch = case.batch(model.config)
    loss = model(**batch, labels=labels_of(batch, model.config)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert without_gradient(case, model) == []
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) < 1e3


@pytest.mark.parametrize("missing", ["video", "audio", "video and audio"])
def test_a_training_batch_without_a_modality_still_reaches_every_parameter(case, missing):
    model = case.model().train()
    batch = case.batch(
        model.config,
        video=(False, False) if "video" in missing else (True, True),
        audio=(False, False) if "audio" in missing else (True, True),
    )
    model(**batch, labels=labels_of(batch, model.config)).loss.backward()
    assert without_gradient(case, model) == []


def test_a_batch_equals_its_clips_one_by_one(case):
    model = case.model()
    batch = case.batch(model.config)
    together = logits_of(model, batch)
    for clip in range(2):
        alone = logits_of(model, case.single(batch, clip))
        kept = batch["attention_mask"][clip].bool()
        torch.testing.assert_close(together[clip, kept], alone[0], rtol=1e-4, atol=1e-5)


def test_left_padding_changes_nothing(case):
    model = case.model()
    batch = case.batch(model.config)
    padded = dict(batch)
    for name, value in (("input_ids", 0), ("attention_mask", 0)):
        padded[name] = torch.nn.functional.pad(batch[name], (7, 0), value=value)
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(
        logits_of(model, padded)[:, 7:][kept], logits_of(model, batch)[kept], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_placeholders_is_refused_with_both_numbers(case, change):
    model = case.model()
    batch = case.batch(model.config)
    ids = batch["input_ids"].clone()
    tokens, _ = case.counts(model.config, 0)
    if change < 0:
        ids[0, (ids[0] == model.config.video_token_id).nonzero()[0]] = 5
    else:
        ids[0, -1] = model.config.video_token_id
    with pytest.raises(ValueError, match=rf"row 0 .* {tokens + change} video placeholders .* {tokens} video tokens"):
        model(**{**batch, "input_ids": ids})


def test_placeholders_that_move_from_one_clip_to_its_neighbour_are_refused(case):
    model = case.model()
    batch = case.batch(model.config)
    ids = batch["input_ids"].clone()
    ids[0, (ids[0] == model.config.video_token_id).nonzero()[0]] = 5
    ids[1, -1] = model.config.video_token_id
    with pytest.raises(ValueError, match="row 0"):
        model(**{**batch, "input_ids": ids})


@pytest.mark.parametrize(
    ("video", "audio"),
    [((True, True), (False, False)), ((False, False), (True, True)), ((True, False), (False, True))],
)
def test_an_absent_modality_equals_a_batch_that_never_had_it(case, video, audio):
    model = case.model()
    batch = case.batch(model.config, video=video, audio=audio)
    output = model(**batch)
    used = dict(zip(model.modality_names, output.modalities.T.tolist(), strict=True))
    assert used["video"] == list(video)
    assert used["audio"] == list(audio)
    for clip in range(2):
        alone = case.single(batch, clip)
        if not video[clip]:
            alone = {name: value for name, value in alone.items() if not name.startswith(("video", "pixel"))}
        if not audio[clip]:
            alone = {
                name: value
                for name, value in alone.items()
                if not name.startswith(("audio", "input_features", "input_values"))
            }
        kept = batch["attention_mask"][clip].bool()
        torch.testing.assert_close(output.logits[clip, kept], logits_of(model, alone)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
def test_generate_encodes_each_clip_once(case, search):
    model = case.model()
    batch = case.batch(model.config)
    rows = dict.fromkeys(case.towers, 0)

    def count(name):
        def hook(module, inputs, kwargs, output):
            rows[name] += len(inputs[0] if inputs else next(iter(kwargs.values())))

        return hook

    for name in case.towers:
        getattr(model.model, name).register_forward_hook(count(name), with_kwargs=True)
    generated = model.generate(**batch, max_new_tokens=4, **search)
    assert generated.shape[0] == 2 * search.get("num_return_sequences", 1)
    assert rows == case.towers


def test_a_placeholder_within_the_vocabulary_is_never_written(case):
    model = case.model()
    batch = case.batch(model.config)
    for i, name in enumerate(model.model.media_names):
        # The ids move into the vocabulary, which the prompt must follow, and their rows win every step.
        outside, inside = getattr(model.config, f"{name}_token_id"), 7 + i
        batch["input_ids"][batch["input_ids"] == inside] = 200
        batch["input_ids"][batch["input_ids"] == outside] = inside
        setattr(model.config, f"{name}_token_id", inside)
    wins = torch.zeros_like(model.lm_head(torch.zeros(1, model.config.text_config.hidden_size)))
    wins[..., 7 : 7 + len(model.model.media_names)] = 1e4
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + wins)
    prompt = batch["input_ids"].shape[1]
    for search in ({}, {"num_beams": 2}):
        written = model.generate(**batch, max_new_tokens=4, do_sample=False, **search)[:, prompt:]
        assert not torch.isin(written, torch.arange(7, 7 + len(model.model.media_names))).any()


def test_generate_returns_the_prompt_with_its_placeholders(case):
    model = case.model()
    batch = case.batch(model.config)
    generated = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert torch.equal(generated[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    result = model.generate(
        **batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    assert torch.equal(result.sequences, generated)


def test_greedy_search_with_a_cache_equals_without(case):
    model = case.model()
    batch = case.batch(model.config)
    search = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**batch, **search), model.generate(**batch, **search, use_cache=False))


@pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 3}])
def test_generating_for_a_batch_equals_generating_for_each_clip(case, search):
    model = case.model()
    batch = case.batch(model.config)
    together = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, **search)[:, -5:]
    for clip in range(2):
        alone = model.generate(
            **case.single(batch, clip), max_new_tokens=5, min_new_tokens=5, do_sample=False, **search
        )[:, -5:]
        assert torch.equal(together[clip], alone[0])


def test_penalties_that_read_the_prompt_meet_no_id_beyond_the_vocabulary(case):
    model = case.model()
    batch = case.batch(model.config)
    generated = model.generate(
        **batch, max_new_tokens=5, repetition_penalty=1.5, no_repeat_ngram_size=1, do_sample=False
    )
    assert generated[:, -5:].max() < VOCAB


def test_media_encoded_once_answer_many_questions(case):
    model = case.model()
    batch = case.batch(model.config)
    media = model.encode_media(**batch)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    search = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**text, media=media, **search), model.generate(**batch, **search))
    other = {**text, "input_ids": torch.where(text["input_ids"] == 10, 20, text["input_ids"])}
    assert torch.equal(model.generate(**other, media=media, **search), model.generate(**{**batch, **other}, **search))


def test_encoded_media_give_the_logits_and_the_loss_of_their_inputs(case):
    model = case.model()
    batch = case.batch(model.config)
    labels = labels_of(batch, model.config)
    rest = {name: value for name, value in batch.items() if name not in model.media_inputs}
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        media = model.encode_media(**batch)
        output = model(**rest, media=media, labels=labels)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.modalities, expected.modalities)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=r"both media and .*video_times.* are given"):
            call(**batch, media=media)


def test_prompt_lookup_finds_the_greedy_answer_and_an_assistant_is_refused(case):
    model = case.model()
    batch = case.single(case.batch(model.config), 0)
    search = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**batch, **search)
    assert torch.equal(model.generate(**batch, **search, prompt_lookup_num_tokens=2), expected)
    with pytest.raises(ValueError, match="assistant_model= is not supported with a clip"):
        model.generate(**batch, **search, assistant_model=model)


def test_labels_given_to_generate_end_the_prompt_before_the_answer(case):
    model = case.model()
    batch = case.batch(model.config)
    search = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    expected = model.generate(**batch, **search)[:, -5:]
    # As the collator pads: an answer of two tokens behind one prompt, of one behind the other.
    answered = dict(batch)
    for name, filler in (("input_ids", 20), ("attention_mask", 1)):
        answers = [torch.tensor([filler, filler]), torch.tensor([filler])]
        rows = zip(batch[name], batch["attention_mask"].bool(), answers, strict=True)
        rows = [torch.cat([row[kept], answer]) for row, kept, answer in rows]
        answered[name] = pad_sequence(rows, batch_first=True, padding_side="left")
    labels = torch.full_like(answered["input_ids"], -100)
    labels[0, -2:] = labels[1, -1] = 20
    assert torch.equal(model.generate(**answered, labels=labels, **search), expected)


def test_a_prompt_of_a_clip_without_its_inputs_is_refused(case):
    model = case.model()
    batch = case.batch(model.config)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="the batch has no input of that clip"):
            call(**text)


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}])
def test_encoded_media_serve_a_search_without_a_cache(case, search):
    model = case.model()
    batch = case.batch(model.config)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    search = {"max_new_tokens": 3, "do_sample": False, **search}
    generated = model.generate(**text, media=model.encode_media(**batch), use_cache=False, **search)
    assert torch.equal(generated, model.generate(**batch, **search))


def test_an_unknown_input_is_refused_with_the_nearest_known_one(case):
    model = case.model()
    batch = case.batch(model.config)
    with pytest.raises(TypeError, match="no input 'video_timess'; did you mean 'video_times'"):
        model(**batch, video_timess=batch["video_times"])
    with pytest.raises(TypeError, match="no input 'attention_maks'; did you mean 'attention_mask'"):
        model.model(input_ids=batch["input_ids"], attention_maks=batch["attention_mask"])
    with pytest.raises(ValueError, match="video_timess"):
        model.generate(**batch, video_timess=batch["video_times"], max_new_tokens=1)


def test_frames_or_sound_without_what_says_which_are_real_are_refused(case):
    model = case.model()
    batch = case.batch(model.config)
    sound = "input_values" if "input_values" in batch else "input_features"
    for name, mask in (("pixel_values_videos", "video_times"), (sound, "audio_attention_mask")):
        with pytest.raises(ValueError, match=f"{name} is given without {mask}"):
            model(**{other: value for other, value in batch.items() if other != mask})


def test_an_unknown_field_is_refused_with_the_nearest_one_and_saved_folders_load(case):
    config = case.config()
    with pytest.raises(ValueError, match=r"has no field 'vision_confg'; did you mean 'vision_config'\?"):
        type(config)(vision_confg=None)
    with pytest.raises(ValueError, match="has no field 'qqq'"):
        type(config)(qqq=1)
    saved = {**config.to_dict(), "unsloth_version": "1", "quantization_config": None, "pad_token_id": 0}
    assert type(config).from_dict(saved).to_dict()["text_config"] == config.to_dict()["text_config"]
    with pytest.raises(ValueError, match="did you mean 'missing_modality'"):
        type(config).from_dict({**saved, "mising_modality": "drop"})


def test_trainer_drops_no_media_input_as_an_unused_column(case, tmp_path):
    model = case.model().freeze()
    batch = case.batch(model.config)
    batch["labels"] = labels_of(batch, model.config)
    samples = [{**{name: value[clip] for name, value in batch.items()}, "junk": torch.zeros(3)} for clip in range(2)]
    with torch.no_grad():
        expected = model(**batch).loss.item()
    lora = LoraConfig(r=2, target_modules=r"model\.language_model\..*\.q_proj", task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        tmp_path, max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no"
    )
    assert arguments.remove_unused_columns
    for trained in (model, get_peft_model(copy.deepcopy(model), lora)):
        trainer = Trainer(trained, arguments, train_dataset=samples)
        [step] = list(trainer.get_train_dataloader())
        assert step.keys() == batch.keys()
        assert trainer.compute_loss(trained.eval(), step).item() == pytest.approx(expected, rel=1e-5)


def test_what_the_model_keeps_of_its_towers_gives_the_same_loss_without_them(case):
    model = case.model()
    batch = case.batch(model.config)
    labels = labels_of(batch, model.config)
    media = {name: batch.pop(name) for name in model.media_inputs if name in batch}
    kept = model.base_model.tower_features(**media)
    assert not any(name.startswith(("pixel_values", "input_")) for name in kept)
    assert set(kept) <= set(model.media_inputs)
    with torch.no_grad():
        loss = model(**batch, **media, labels=labels).loss
        for name, module in model.base_model.named_children():
            if name.endswith("_tower"):
                module.forward = None
        torch.testing.assert_close(model(**batch, **kept, labels=labels).loss, loss, rtol=0, atol=1e-6)


def test_eager_and_sdpa_attention_agree(case):
    model = case.model()
    batch = case.batch(model.config)
    kept = batch["attention_mask"].bool()
    results = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        found = {getattr(model.model, name).config._attn_implementation for name in case.attends}
        assert found == {implementation}
        results[implementation] = logits_of(model, batch)[kept]
    torch.testing.assert_close(results["eager"], results["sdpa"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_equals_loaded(case, dtype, tmp_path):
    case.model().save_pretrained(tmp_path / "float32")
    # Not `.to(dtype)`, which would also round the buffers that loading keeps in float32.
    model = case.model_class.from_pretrained(tmp_path / "float32", dtype=dtype)
    batch = case.batch(model.config)
    model.save_pretrained(tmp_path)
    loaded, report = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.dtype == dtype
    assert torch.equal(logits_of(model, batch), logits_of(loaded, batch))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_weights_that_a_checkpoint_lacks_are_initialised(case, tmp_path):
    model = case.model()
    batch = case.batch(model.config)
    torch.manual_seed(0)
    empty = case.model_class.from_pretrained(None, config=model.config, state_dict={})
    for name, parameter in empty.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 10, name
    assert torch.isfinite(logits_of(empty.eval(), batch)).all()


def test_the_model_can_be_built_without_memory(case):
    with torch.device("meta"):
        model = case.model_class(case.config())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_embeddings_as_input_equal_ids_as_input(case):
    model = case.model()
    ids = torch.tensor([[5, 6, 7, 8]])
    by_ids = logits_of(model, {"input_ids": ids})
    by_embeds = logits_of(model, {"inputs_embeds": model.get_input_embeddings()(ids)})
    torch.testing.assert_close(by_ids, by_embeds)
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids))


def test_outputs_come_as_tuple_or_dict_with_states_and_attentions(case):
    model = case.model()
    model.set_attn_implementation("eager")
    batch = case.batch(model.config)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
        as_tuple = model(**batch, return_dict=False)
    layers = model.config.text_config.num_hidden_layers
    assert len(output.hidden_states) == layers + 1
    assert len(output.attentions) == layers
    assert torch.equal(as_tuple[0], output.logits)


def test_the_embedding_table_can_be_resized(case):
    model = case.model()
    model.resize_token_embeddings(VOCAB + 8)
    batch = case.batch(model.config)
    assert model.get_input_embeddings().num_embeddings == VOCAB + 8
    assert model.get_output_embeddings().out_features == VOCAB + 8
    assert logits_of(model, batch).shape[-1] == VOCAB + 8


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(case, use_reentrant):
    def gradients(checkpointing):
        model = case.model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        batch = case.batch(model.config)
        model(**batch, labels=labels_of(batch, model.config)).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        if checkpointed[name] is None and use_reentrant:
            continue  # reentrant checkpoints cut towers whose input (pixels, sound) takes no gradient
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_freezing_trains_exactly_the_parts_the_paper_trains(case):
    model = case.model().freeze()
    trained = {
        name.split(".")[1] for name, parameter in model.model.named_parameters("model") if parameter.requires_grad
    }
    children = {name for name, _ in model.model.named_children()}
    assert trained == children - set(model.frozen_parts)
    assert model.lm_head.weight.requires_grad == ("language_model" in trained)


def test_lora_trains_one_step_and_moves_only_what_it_names(case, tmp_path):
    model = case.model().freeze()
    config = LoraConfig(
        r=4,
        target_modules=r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
        modules_to_save=case.lora_modules,
        task_type="CAUSAL_LM",
    )
    base = copy.deepcopy(model)
    adapted = get_peft_model(model, config)
    batch = case.batch(base.config)
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):  # the first step moves LoRA's B, whose zero hides A from the gradient
        optimizer.zero_grad()
        adapted(**batch, labels=labels_of(batch, base.config)).loss.backward()
        torch.nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
        optimizer.step()
    moved = {n for n, p in adapted.named_parameters() if not torch.equal(p, before[n])}
    named = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert moved <= named
    assert [name for name in sorted(named - moved) if not re.search(case.idle_parameters, name)] == []
    assert {n.split(".")[3] for n in moved if "lora_" in n} == {"language_model"}
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(logits_of(again, batch), logits_of(adapted.eval(), batch))


class Int8Linear(torch.nn.Module):
    """A linear layer whose weight is held in int8, as quantisers hold it, each row with its scale."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.scale = linear.weight.detach().abs().amax(-1, keepdim=True) / 127
        weight = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, states):
        assert states.is_floating_point(), states.dtype
        return torch.nn.functional.linear(states, self.weight.to(states.dtype) * self.scale, self.bias)


def test_quantised_weights_leave_the_activations_their_dtype(case):
    model = case.model()
    batch = case.batch(model.config)
    last = batch["attention_mask"].bool()
    plain = logits_of(model, batch)[last]
    for name, module in list(model.model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.model.get_submodule(parent), child, Int8Linear(module))
    quantised = logits_of(model, batch)[last]
    assert torch.nn.functional.cosine_similarity(plain.flatten(), quantised.flatten(), dim=0) > 0.98


def test_every_ablation_changes_the_output(case):
    whole = case.model()
    batch = case.batch(whole.config)
    outputs = [logits_of(whole, batch)[:, -1]]
    for fields in case.ablations:
        model = case.model(**fields)
        common = {name: tensor for name, tensor in whole.state_dict().items() if name in model.state_dict()}
        model.load_state_dict(common, strict=False)
        outputs.append(logits_of(model, case.batch(model.config))[:, -1])
    for i, one in enumerate(outputs):
        for other in outputs[i + 1 :]:
            assert (one - other).abs().max() > 1e-3
