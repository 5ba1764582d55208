"""Teaches the starter, from nothing, on the teacher's faces and voices alone.

    hf-emotion starter --output FOLDER

1. Voices are synthesised once; scenes are drawn from them without end.
2. The landmark tower learns from single frames, then both branches learn from scenes and pictures: linear heads,
   discarded afterwards, read from each frame which action units have moved, and from the tokens of each window which
   clues, times and emotions are there. This replaces the published towers and Q-Formers that the papers start from.
3. These parts are frozen, and a small LLaMA learns from nothing to put their tokens into sentences.
4. The weights are stored as 16-bit floats, and temperatures for the scores of labels are fitted to further scenes.

The same seed on the same machine gives the same weights. No photograph, recording or published weight takes part, but
for those of the face mesh, with which the fields of `faces.py` were measured.
"""

import copy
import json
import random
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from tqdm import tqdm
from transformers import (
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from ..modeling.configuration_face_motion import FaceMotionConfig
from ..modeling.configuration_microemo import MicroEmoConfig
from ..modeling.configuration_voice_prosody import VoiceProsodyConfig
from ..modeling.generation_emotion import MediaTokens
from ..modeling.modeling_face_motion import face_motion
from ..modeling.modeling_microemo import MicroEmoForConditionalGeneration
from ..processing.chat_formats import LLAMA_2, write_template
from ..processing.faces import REGIONS
from ..processing.feature_extraction_voice import CUES, VoiceCueExtractor, pad_cues
from ..processing.image_processing_emotion import EmotionImageProcessor
from ..processing.processing_microemo import MicroEmoProcessor
from .faces import ACTION_UNITS, EMOTIONS, draw_movement, intensities, render
from .scenes import FACE_SHARES, Scene, draw_picture, draw_scene, draw_voices
from .sentences import (
    DESCRIBE,
    FACE_CLUES,
    LABELS,
    NAME_IT,
    STEP,
    VOICE_CLUES,
    VOICE_EMOTIONS,
    Facts,
    describe,
    label,
)

# The prompt of a small model is short: media, the times of utterances, the question. What was said is left out, since
# the starter does not read: it comes back in the result as it was given.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {{- '<video>' -}}
    {%- elif part['type'] == 'audio' -%}
        {{- '<audio>' -}}
    {%- elif part['type'] == 'utterances' -%}
        {%- for row in part['utterances'] -%}
            {{- '\\n' ~ loop.index ~ ': ' ~ '%.1f' | format(row['start']) ~ ' ' ~ '%.1f' | format(row['end']) -}}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{{- '\\n' ~ text -}}"""
# An answer begins without a blank, so that a label alone is spelled as the pipeline spells it when it weighs labels.
TURNS = replace(LLAMA_2, lead="''")
# As the pipeline asks about an utterance (`answers/pipeline_emotion.py`); here without its words.
UTTERANCE_QUESTION = (
    "Look and listen from {start:.1f}s to {end:.1f}s. Which emotions does the person show there, and which cues "
    "indicate them?"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<audio>", "[INST]", "[/INST]"]
VOCABULARY = 640
VIDEO_QUERIES, AUDIO_QUERIES, FRAME_QUERIES = 6, 3, 8
WIDTH, TEXT_WIDTH = 64, 128
LONGEST_SECONDS = 30
FRAME_EPOCHS = 6
SETTINGS = (
    *("speakers", "frames", "steps", "batch", "pictures", "rate"),
    *("scenes", "text_pictures", "epochs", "text_batch", "text_rate", "bfloat16"),
)
INITIAL_RANGE = 0.08
# Real faces are not the teacher's: what reads many weak signs carries over to them better than what reads a few.
DROPOUT, TOWER_DROPOUT = 0.1, 0.2
# A label is a few tokens, a description sixty: each of the former counts as much as several of the latter.
LABEL_WEIGHT = 8.0
# Sentences are taught where many faces and voices have no emotion, so that they name one only where it is clear;
# labels are taught about equally often, so that scores of candidate labels compare emotions.
CALM, CALM_PICTURES, LABELLED, NEUTRAL_LABELLED = 0.5, 0.6, 0.9, 0.25
# How much further scenes stray by which scores are calibrated, and how many of them there are.
STRAY_FURTHER, CALIBRATED = 2.0, 360


def texts_of(scene: Scene, rng) -> list[tuple[str, str]]:
    """Questions about a scene and their answers."""
    pairs = [(DESCRIBE[0] if rng.random() < 0.7 else str(rng.choice(DESCRIBE)), describe(scene.facts))]
    if scene.parts and rng.random() < 0.6:
        i = int(rng.integers(len(scene.parts)))
        pairs.append(
            (UTTERANCE_QUESTION.format(start=scene.spans[i][0], end=scene.spans[i][1]), describe(scene.parts[i]))
        )
    word = label(scene.facts, int(rng.integers(2)))
    if rng.random() < (NEUTRAL_LABELLED if word == "neutral" else LABELLED):
        pairs.append((str(rng.choice(NAME_IT)), word))
    return pairs


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the teacher's sentences; digits stay single, every byte is in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def new_model(tokenizer, seed: int):
    """The starter before it is taught, and its processor."""
    vocabulary = len(tokenizer)
    small = {
        "hidden_size": WIDTH,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "hidden_dropout_prob": DROPOUT,
        "attention_probs_dropout_prob": DROPOUT,
        "initializer_range": INITIAL_RANGE,
    }
    config = MicroEmoConfig(
        vision_config=FaceMotionConfig(hidden_size=WIDTH, regions=[list(indices) for indices in REGIONS.values()]),
        image_qformer_config=InstructBlipQFormerConfig(
            vocab_size=vocabulary, cross_attention_frequency=1, max_position_embeddings=32, **small
        ),
        num_query_tokens=FRAME_QUERIES,
        video_qformer_config=Blip2QFormerConfig(cross_attention_frequency=1, **small),
        num_video_query_tokens=VIDEO_QUERIES,
        num_frame_positions=32,
        audio_config=VoiceProsodyConfig(num_channels=len(CUES), hidden_size=WIDTH),
        audio_feature="frames",
        audio_windows="utterances",
        audio_qformer_config=Blip2QFormerConfig(cross_attention_frequency=1, **small),
        num_audio_query_tokens=AUDIO_QUERIES,
        num_audio_positions=64,
        region_attention_size=32,
        region_attention_heads=4,
        local_gate_init=1.0,
        share_video_qformers=True,
        initializer_range=INITIAL_RANGE,
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            initializer_range=INITIAL_RANGE,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
    )
    processor = MicroEmoProcessor(
        image_processor=EmotionImageProcessor(size={"height": 8, "width": 8}),
        feature_extractor=VoiceCueExtractor(),
        tokenizer=tokenizer,
        qformer_tokenizer=copy.deepcopy(tokenizer),
        chat_template=write_template(CONTENT, TURNS),
        num_video_query_tokens=VIDEO_QUERIES,
        num_audio_query_tokens=AUDIO_QUERIES,
        patch_grid=(1, len(REGIONS)),
        timestamp_template="{time:.1f}",
        frame_input="landmarks",
        audio_windows="utterances",
        num_frames=12,
        default_question=DESCRIBE[0],
    )
    config.video_token_id, config.audio_token_id = processor.video_token_id, processor.audio_token_id
    torch.manual_seed(seed)
    model = MicroEmoForConditionalGeneration(config)
    for kind in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, kind, getattr(tokenizer, kind))
    model.generation_config.bad_words_ids = repetitions(tokenizer)
    return model, processor


def repetitions(tokenizer) -> list[list[int]]:
    """Token ids of "high and high", "high, high" and so on: what a list of a voice's clues never says.

    On a voice unlike the teacher's, a small model promises one more word than it then finds.
    """
    pairs = []
    for word in VOICE_CLUES:
        for text in (f"The voice is {word} and {word}", f"The voice is {word}, {word}"):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if ids[-1] != ids[-3]:
                raise ValueError(f"the tokenizer splits {word!r}; a voice's clue has to be one token")
            pairs.append(ids[-3:])
    return pairs


def media_of(scenes: list[Scene], processor, rng, spread=1.0) -> dict[str, torch.Tensor]:
    """The model's media inputs for a batch of scenes, as the processor would make them of real clips."""
    batch = {}
    longest = max(len(scene.times) for scene in scenes)
    if longest:
        times = np.full((len(scenes), longest), -1, np.int64)
        landmarks = np.zeros((len(scenes), longest, 468, 3), np.float32)
        masks = np.zeros((len(scenes), longest, len(REGIONS), len(REGIONS)), bool)
        seen = [i for i, scene in enumerate(scenes) if scene.face]
        for count in sorted({len(scenes[i].times) for i in seen}):
            same = [i for i in seen if len(scenes[i].times) == count]
            landmarks[same, :count] = render(rng, np.stack([scenes[i].units for i in same]), spread)
        for i, scene in enumerate(scenes):
            times[i, : len(scene.times)] = scene.times
            if scene.face:
                masks[i, : len(scene.times)] = np.eye(len(REGIONS), dtype=bool)
                # Now and then the mesh loses the face.
                lost = np.flatnonzero(rng.random(len(scene.times)) < (0.15 if rng.random() < 0.2 else 0.0))[1:]
                landmarks[i, lost], masks[i, lost] = 0, False
        batch |= {"video_landmarks": landmarks, "video_times": times, "video_region_masks": masks}
        stamps = processor.timestamps(times[times >= 0])
        for name, values in stamps.items():
            empty = processor.padding.get(name, 0)
            batch[name] = np.full((*times.shape, values.shape[-1]), empty, np.int64)
            batch[name][times >= 0] = values
    with_voice = [i for i, scene in enumerate(scenes) if scene.cues is not None]
    if with_voice:
        for name, values in pad_cues([scenes[i].cues for i in with_voice]).items():
            rows = np.full((len(scenes), *values.shape[1:]), -1 if name == "audio_times" else 0, values.dtype)
            rows[with_voice] = values
            batch[name] = rows
    spans = np.full((len(scenes), max(len(scene.spans) for scene in scenes), 2), -1, np.int64)
    for i, scene in enumerate(scenes):
        spans[i, : len(scene.spans)] = np.round(np.array(scene.spans).reshape(-1, 2) * 1000)
    return {name: torch.from_numpy(values) for name, values in {**batch, "utterance_spans": spans}.items()}


# What the heads are asked. A window is a whole clip or one utterance of it.


def face_targets(facts: Facts) -> tuple[list[float], list[int], list[float]]:
    """Of two expressions: clues (2, C), emotions (2,), one beyond the last: none, thermometers of times (2, 2, N)."""
    clues, emotions, times = [], [], []
    shown = [item for item in facts.face or [] if item.clues]
    for i in range(2):
        item = shown[i] if i < len(shown) else None
        clues += [float(item is not None and phrase in item.clues) for phrase in FACE_CLUES]
        emotions.append(len(EMOTIONS) if item is None or item.emotion is None else list(EMOTIONS).index(item.emotion))
        for moment in (None, None) if item is None else (item.start, item.end):
            steps = np.arange(int(LONGEST_SECONDS / STEP))
            times += [0.0] * len(steps) if moment is None else (steps < moment / STEP).astype(float).tolist()
    return clues, emotions, times


def voice_targets(speech) -> tuple[list[float], int]:
    """Clues (C,), and the emotion (one beyond the last: none)."""
    clues = [float(speech is not None and word in speech.clues) for word in VOICE_CLUES]
    known = speech is not None and speech.emotion is not None
    return clues, VOICE_EMOTIONS.index(speech.emotion) if known else len(VOICE_EMOTIONS)


class Heads(nn.Module):
    """Linear readers of frames and windows, for the first stage only."""

    def __init__(self):
        super().__init__()
        frame = len(REGIONS) * WIDTH
        self.units = nn.Linear(frame, 2 * len(ACTION_UNITS))
        self.frame_emotion = nn.Linear(frame, len(EMOTIONS) + 1)
        steps = int(LONGEST_SECONDS / STEP)
        self.face = nn.Linear(VIDEO_QUERIES * TEXT_WIDTH, 2 * (len(FACE_CLUES) + len(EMOTIONS) + 1 + 2 * steps) + 1)
        self.voice = nn.Linear(AUDIO_QUERIES * TEXT_WIDTH, len(VOICE_CLUES) + len(VOICE_EMOTIONS) + 2)

    def frame_loss(self, tokens, units, emotions):
        """tokens (F, R, D), units (F, A, 2) as they have moved, emotions (F,), -1 where it cannot be told."""
        flat = tokens.flatten(1)
        loss = nn.functional.mse_loss(self.units(flat), units.flatten(1)) * 10
        return loss + nn.functional.cross_entropy(self.frame_emotion(flat), emotions, ignore_index=-1)

    def face_loss(self, tokens, facts: list[Facts]):
        """tokens (windows, K, H)."""
        found = self.face(tokens.flatten(1))
        targets = [face_targets(item) for item in facts]
        clues, emotions, times = (torch.tensor([t[i] for t in targets]) for i in range(3))
        sizes = [clues.shape[1], 2 * (len(EMOTIONS) + 1), times.shape[1], 1]
        of_clues, of_emotions, of_times, of_face = found.split(sizes, dim=1)
        present = torch.tensor([[float(item.face is not None)] for item in facts])
        bce = nn.functional.binary_cross_entropy_with_logits
        return (
            3 * bce(of_clues, clues)
            + 2 * nn.functional.cross_entropy(of_emotions.unflatten(1, (2, -1)).flatten(0, 1), emotions.flatten())
            + 3 * bce(of_times, times)
            + bce(of_face, present)
        )

    def voice_loss(self, tokens, facts: list[Facts]):
        """tokens (windows, K, H); of a clip the first utterance with an emotion counts."""
        found = self.voice(tokens.flatten(1))
        speeches = []
        for item in facts:
            spoken = item.voice or [None]
            speeches.append(next((part for part in spoken if part is not None and part.emotion), spoken[0]))
        targets = [voice_targets(speech) for speech in speeches]
        clues, emotions = (torch.tensor([t[i] for t in targets]) for i in range(2))
        of_clues, of_emotions, of_voice = found.split([clues.shape[1], len(VOICE_EMOTIONS) + 1, 1], dim=1)
        bce = nn.functional.binary_cross_entropy_with_logits
        # What is told of a clip's utterances is told of each; its own window knows their emotion.
        single = torch.tensor([[float(not item.numbered)] for item in facts])
        return (
            3 * bce(of_clues, clues, weight=single.expand_as(clues))
            + nn.functional.cross_entropy(of_emotions, emotions)
            + bce(of_voice, torch.tensor([[float(item.voice is not None)] for item in facts]))
        )


def windows_of(scenes: list[Scene]) -> list[Facts]:
    """Facts in the order of the model's windows: of each clip, then of each of its utterances."""
    return [facts for scene in scenes for facts in (scene.facts, *scene.parts)]


def frame_emotions(scene: Scene) -> list[int]:
    """The emotion of each frame: of the movement at half its strength or more; none else; -1 in between."""
    emotions = []
    for moment in scene.times / 1000:
        strength = [(float(m.strength(np.array(moment))), m.emotion) for m in scene.movements]
        best, emotion = max(strength, default=(0.0, None), key=lambda pair: pair[0])
        if best >= 0.5 and emotion is not None:
            emotions.append(list(EMOTIONS).index(emotion))
        else:
            emotions.append(len(EMOTIONS) if best < 0.15 or emotion is None else -1)
    return emotions


def learn_faces(tower, heads, rng, frames: int, epochs: int, batch=128, rate=2e-3) -> None:
    """Stage 2, first half: the landmark tower reads single frames, which cost little."""
    names = [*EMOTIONS, None]
    emotions = rng.choice(len(names), frames, p=[*(0.85 * FACE_SHARES), 0.15])
    units = np.stack([intensities([draw_movement(rng, names[i], -2, 2)], np.zeros(1)) for i in emotions])
    motion = []
    for part in np.array_split(units, max(frames // 250, 1)):
        landmarks, times = torch.from_numpy(render(rng, part)), torch.zeros(len(part), 1, dtype=torch.long)
        motion.append(face_motion(landmarks, times, tower.canonical)[0][:, 0])
    motion, units, emotions = torch.cat(motion), torch.from_numpy(units[:, 0]).float(), torch.from_numpy(emotions)
    steps = epochs * max(frames // batch, 1)
    parameters = [*tower.parameters(), *heads.units.parameters(), *heads.frame_emotion.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    for step in range(steps):
        if step % max(frames // batch, 1) == 0:
            order = torch.randperm(frames)
        rows = order[:batch]
        order = order[batch:]
        tokens = nn.functional.dropout(tower.tokens(motion[rows]).last_hidden_state, TOWER_DROPOUT)
        loss = heads.frame_loss(tokens, units[rows], emotions[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    say(f"frames: loss {loss.item():.3f}")


def sight_loss(inner, heads, scenes: list[Scene], media):
    """The loss of all scenes with frames, whose media are given."""
    output = inner.encode("video", media)
    faces = torch.tensor([scene.face for scene in scenes])
    rows = faces.repeat_interleave(torch.tensor([len(scene.times) for scene in scenes]))
    units = torch.from_numpy(np.concatenate([scene.units for scene in scenes])).float()
    emotions = torch.tensor([number for scene in scenes for number in frame_emotions(scene)])
    with_face = media["video_region_masks"].flatten(2).any(-1)[media["video_times"] >= 0] & rows
    tokens = torch.cat(output.pooler_output).unflatten(0, (-1, VIDEO_QUERIES))
    loss = heads.frame_loss(output.last_hidden_state[with_face], units[with_face], emotions[with_face])
    return loss + heads.face_loss(tokens, windows_of(scenes))


def learn_to_see_and_hear(
    model, processor, heads, voices, rng, steps: int, batch: int, pictures: int, rate: float
) -> list[float]:
    """Stage 2, second half: windows of frames and of sound, and single pictures; the loss of each step."""
    inner = model.model
    model.freeze(("language_model",))
    parameters = [p for module in (model, heads) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    hooks = [tower.register_forward_hook(with_dropout) for tower in (inner.vision_tower, inner.audio_tower)]
    losses = []
    for step in tqdm(range(steps), desc="seeing and hearing", disable=not sys.stderr.isatty()):
        scenes = [draw_scene(rng, voices) for _ in range(batch)]
        media = media_of(scenes, processor, rng)
        loss = torch.zeros(())
        seen = [scene for scene in scenes if len(scene.times)]
        if seen:
            loss = loss + sight_loss(inner, heads, seen, media)
        if pictures:
            # The cheapest scenes, and the hardest: there is no calm frame to compare with.
            faces = [draw_picture(rng) for _ in range(pictures)]
            loss = loss + sight_loss(inner, heads, faces, media_of(faces, processor, rng))
        with_voice = [scene for scene in scenes if scene.cues is not None]
        if with_voice:
            tokens = torch.cat(inner.encode("audio", media).pooler_output).unflatten(0, (-1, AUDIO_QUERIES))
            loss = loss + heads.voice_loss(tokens, windows_of(with_voice))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(steps // 10, 1) == 0:
            say(f"step {step + 1}: loss {np.mean(losses[-max(steps // 10, 1) :]):.3f}")
    for hook in hooks:
        hook.remove()
    model.eval()
    return losses


def with_dropout(tower, inputs, output):
    """A hook of a tower, for training only: some of its output is left out at random."""
    output.last_hidden_state = nn.functional.dropout(output.last_hidden_state, TOWER_DROPOUT)
    return output


@torch.no_grad()
def lessons(model, processor, voices, rng, count: int, pictures: int, batch: int) -> list[dict]:
    """Stage 3's material: for each scene its media tokens and its questions with answers, as token ids."""
    samples = []
    for first in tqdm(range(0, count + pictures, batch), desc="scenes", disable=not sys.stderr.isatty()):
        numbers = range(first, min(first + batch, count + pictures))
        scenes = [
            draw_scene(rng, voices, calm=CALM) if i < count else draw_picture(rng, CALM_PICTURES) for i in numbers
        ]
        media = model.encode_media(**media_of(scenes, processor, rng))
        for i, scene in enumerate(scenes):
            video = media.video[i] if media.video is not None else torch.zeros(0, TEXT_WIDTH)
            audio = media.audio[i] if media.audio is not None else torch.zeros(0, TEXT_WIDTH)
            for question, answer in texts_of(scene, rng):
                ids, answered = prompt_ids(processor, scene, question, answer, len(video), len(audio))
                weight = LABEL_WEIGHT if question in NAME_IT else 1.0
                samples.append(
                    {"ids": ids, "answer": answered, "weight": weight, "video": video.half(), "audio": audio.half()}
                )
    return samples


def prompt_ids(processor, scene: Scene, question: str, answer: str, num_video: int, num_audio: int):
    """Token ids of a prompt with its answer, and how many of them are the answer."""
    parts = []
    if num_video:
        parts.append({"type": "video"})
    if num_audio:
        parts.append({"type": "audio"})
    if scene.spans:
        rows = [{"start": start, "end": end, "text": None, "speaker": None} for start, end in scene.spans]
        parts.append({"type": "utterances", "utterances": rows})
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    prompt = processor.tokenizer.apply_chat_template(
        messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    prompt = prompt.replace("<video>", "<video>" * num_video).replace("<audio>", "<audio>" * num_audio)
    ids = processor.tokenizer(prompt, add_special_tokens=False).input_ids
    answered = processor.tokenizer(answer, add_special_tokens=False).input_ids
    answered = [*answered, processor.tokenizer.eos_token_id]
    return ids + answered, len(answered)


def learn_to_tell(model, processor, samples: list[dict], rng, epochs: int, batch: int, rate: float) -> list[float]:
    """Stage 3 of the head of this file; the loss of each step."""
    parts = [name for name, _ in model.model.named_children() if name != "language_model"]
    model.freeze(tuple(parts))
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Batches of like length, in random order.
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i]["ids"]), i))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    steps = epochs * len(batches)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    losses, pad = [], processor.tokenizer.pad_token_id
    with tqdm(total=steps, desc="telling", disable=not sys.stderr.isatty()) as bar:
        for _ in range(epochs):
            for which in rng.permutation(len(batches)):
                rows = [samples[i] for i in batches[which]]
                longest = max(len(row["ids"]) for row in rows)
                ids = torch.tensor([[pad] * (longest - len(row["ids"])) + row["ids"] for row in rows])
                mask = torch.tensor([[0] * (longest - len(row["ids"])) + [1] * len(row["ids"]) for row in rows])
                labels = torch.tensor(
                    [[-100] * (longest - row["answer"]) + row["ids"][-row["answer"] :] for row in rows]
                )
                media = MediaTokens(
                    video=[row["video"].float() for row in rows], audio=[row["audio"].float() for row in rows]
                )
                embeds = model.model.embed(ids, media)
                longest_answer = max(row["answer"] for row in rows)
                logits = model(inputs_embeds=embeds, attention_mask=mask, logits_to_keep=longest_answer + 1).logits
                labels = labels[:, -longest_answer:]
                each = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
                weights = torch.tensor([row["weight"] for row in rows])[:, None] * (labels != -100)
                loss = (each * weights).sum() / weights.sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.update()
                if len(losses) % max(steps // 10, 1) == 0:
                    say(f"step {len(losses)} of {steps}: loss {np.mean(losses[-max(steps // 10, 1) :]):.3f}")
    model.eval()
    return losses


@torch.no_grad()
def calibrate(model, processor, seed: int, count: int, batch: int) -> dict[str, float]:
    """Temperatures of labels, by what a clip has: fitted to new scenes, whose voices stray further than those taught.

    Real recordings differ from the teacher's more than those differ from each other; with `STRAY_FURTHER` the scores
    are those of a reader who expects that. Faces vary more than people do as it is.
    """
    rng = np.random.default_rng([seed, 1])
    voices = draw_voices(rng, max(count // 20, 4))
    answers = [processor.tokenizer(name, add_special_tokens=False).input_ids for name in LABELS]
    answers = [[*ids, processor.tokenizer.eos_token_id] for ids in answers]
    found: dict[str, list] = {}
    for first in range(0, count, batch):
        scenes = [draw_scene(rng, voices, stray=STRAY_FURTHER) for _ in range(min(batch, count - first))]
        media = model.encode_media(**media_of(scenes, processor, rng))
        for i, scene in enumerate(scenes):
            tokens = {name: rows[i] for name, rows in media.items() if isinstance(rows, list) and len(rows[i])}
            truth = LABELS.index(label(scene.facts, int(rng.integers(2))))
            lengths = [len(tokens.get(name, ())) for name in ("video", "audio")]
            ids, answered = prompt_ids(processor, scene, NAME_IT[0], LABELS[0], *lengths)
            prompt, longest = ids[:-answered], max(map(len, answers))
            ids = torch.tensor([[*prompt, *answer, *[0] * (longest - len(answer))] for answer in answers])
            rows = {name: [values] * len(answers) for name, values in tokens.items()}
            logits = model(inputs_embeds=model.model.embed(ids, MediaTokens(**rows)), logits_to_keep=longest + 1).logits
            scores = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, -longest:, None]).squeeze(-1)
            in_answer = torch.tensor([[float(k < len(answer)) for k in range(longest)] for answer in answers])
            found.setdefault("+".join(tokens), []).append(((scores * in_answer).sum(-1), truth))
    temperatures = {}
    for name, pairs in sorted(found.items()):
        scores, truth = torch.stack([row for row, _ in pairs]), torch.tensor([number for _, number in pairs])
        grid = np.geomspace(0.7, 5.0, 60)
        losses = [nn.functional.cross_entropy(scores / value, truth).item() for value in grid]
        temperatures[name] = round(float(grid[int(np.argmin(losses))]), 2)
    return temperatures


def say(text: str) -> None:
    print(text, flush=True)


def teach(args) -> dict:
    """The whole of it; writes the model's folder and returns what the training card says."""
    started, cpu = time.time(), time.process_time()
    set_seed(args.seed)
    random.seed(args.seed)
    rng = np.random.default_rng(args.seed)
    voices = draw_voices(rng, args.speakers, lambda speakers: tqdm(speakers, "voices", disable=not sys.stderr.isatty()))
    say(f"{len(voices)} voices after {time.time() - started:.0f} s")
    scenes = [draw_scene(rng, voices) for _ in range(2000)]
    sentences = [text for scene in scenes for pair in texts_of(scene, rng) for text in pair]
    tokenizer = make_tokenizer([*sentences, *LABELS, *DESCRIBE, *NAME_IT])
    model, processor = new_model(tokenizer, args.seed)
    say(f"{sum(p.numel() for p in model.parameters()):,} weights, {len(tokenizer)} tokens")
    heads = Heads()
    learn_faces(model.model.vision_tower, heads, rng, args.frames, FRAME_EPOCHS)
    say(f"single frames after {time.time() - started:.0f} s")
    seen = learn_to_see_and_hear(model, processor, heads, voices, rng, args.steps, args.batch, args.pictures, args.rate)
    say(f"saw and heard after {time.time() - started:.0f} s")
    samples = lessons(model, processor, voices, rng, args.scenes, args.text_pictures, args.batch)
    say(f"{len(samples)} questions after {time.time() - started:.0f} s")
    losses = learn_to_tell(model, processor, samples, rng, args.epochs, args.text_batch, args.text_rate)
    report = {
        "seed": args.seed,
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "weights": sum(p.numel() for p in model.parameters()),
        "loss_seeing": round(float(np.mean(seen[-100:])), 4),
        "loss_telling": round(float(np.mean(losses[-100:])), 4),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    model.to(torch.bfloat16 if args.bfloat16 else torch.float16).save_pretrained(args.output)
    processor.save_pretrained(args.output)
    temperatures = calibrate(model.float(), processor, args.seed, CALIBRATED, args.batch)
    say(f"temperatures {temperatures} after {time.time() - started:.0f} s")
    # The weights are small in 16 bits; `dtype="auto"` computes in 32, which a CPU does faster.
    config = json.loads((args.output / "config.json").read_text(encoding="utf-8"))
    (args.output / "config.json").write_text(
        json.dumps({**config, "dtype": "float32", "label_temperatures": temperatures}, indent=2) + "\n",
        encoding="utf-8",
    )
    # Inside the package the code is the package's own.
    for copied in (*args.output.glob("*.py"), *args.output.glob("*.tsv"), *args.output.glob("*.task")):
        copied.unlink()
    (args.output / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
