"""Does AcoustEmo hear who felt what, when? The rows of its Table 2, and two controls, on speech of unseen actors.

    python benchmarks/acoustemo_dialogues.py RAVDESS_FOLDER --held-out 17 18 19 20 --seeds 0 1 2
    python benchmarks/acoustemo_dialogues.py --tower-time

RAVDESS_FOLDER has the layout `Actor_*/MM-VV-EE-II-SS-RR-AA.*` (Livingstone & Russo 2018; Zenodo 1188976, CC BY-NC-SA
4.0: weights trained on it inherit those terms, so none are shipped). A dialogue is three recordings of one actor with
three different emotions, cut to where they speak and joined with pauses, so that the utterance times are known. The
prompt gives number and times of each utterance and asks for the emotion of one, or of all in order. Both sentences of
RAVDESS are emotionally neutral, and the prompt leaves them out.

What tells emotions apart is how somebody speaks beside how the same person speaks otherwise, so the tower hears a whole
chunk, up to three recordings of one actor, as cepstra and pitch relative to that chunk (`VoiceExtractor`). Phase 1
trains a small Whisper encoder on them to tell the emotion of each recording from its own frames; then it is frozen.
Phase 2 trains Q-Formers, positions, projector and a small LLaMA from nothing, with the package's model, processor,
collator and transformers' `Trainer`, on the tower's cached output. The paper's LLaMA can read before it hears; so ours
first learns to, alone, on the same prompts with words for emotions in place of the audio tokens. Everything but the
row's own ablation is equal: dialogues, questions, steps, seed. Actors in --held-out are never trained on, and nothing
is selected by their scores; the defaults were chosen on actors 13 to 16 (--actors 1 .. 16 --held-out 13 14 15 16).
Chance is 12.5 %.

Each row's result is kept in --work as soon as it is there, so a run that was stopped goes on where it was.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
import transformers
from torch import nn
from tqdm import tqdm
from transformers import (
    BatchFeature,
    Blip2QFormerConfig,
    LlamaConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    set_seed,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from variants import (
    RESULTS,
    TEMPLATE,
    answers,
    read_then_see,
    say,
    small_llama,
    small_qformer,
    spelled,
    spread,
    times_up_to,
    word_tokenizer,
    write_json,
)

from hf_emotion.answers.choices import read_choice
from hf_emotion.evaluation.classes import class_scores
from hf_emotion.modeling.configuration_acoustemo import AcoustEmoConfig
from hf_emotion.modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration, AcoustEmoModel
from hf_emotion.modeling.sound import encode_sound
from hf_emotion.papers import TINY_RANGE
from hf_emotion.processing.media import load_clip
from hf_emotion.processing.processing_acoustemo import AcoustEmoProcessor
from hf_emotion.training.collator import encode

RATE = 16000
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
CHUNK_SECONDS = 10
STATES_PER_SECOND = 25
TOKENS = 4  # of each window
EQUAL_PARTS = "ordered reading, equal parts"
# Table 2, then two controls: configuration fields, and settings of the processor.
ROWS = {
    "full": ({}, {}),
    "w/o global": ({"use_global": False}, {}),
    "fixed 2-s windows": ({}, {"window_seconds": 2.0}),
    "w/o utterance-aware": ({"use_utterances": False}, {}),
    # Is it the number of tokens? As many as the full model has for a clip and three utterances.
    "global only, as many tokens": ({"use_utterances": False, "num_audio_query_tokens": 4 * TOKENS}, {}),
    # Is it the order of reading, or where utterances begin and end? As many windows, in order, of equal length.
    EQUAL_PARTS: ({}, {}),
}


# Recordings and dialogues


@dataclass
class Recording:
    actor: int
    emotion: int
    waveform: np.ndarray
    voices: list[torch.Tensor] | None = None


def spoken_part(waveform, floor_db=30.0, margin=0.05):
    """Where a recording speaks: from the first to the last 25 ms within `floor_db` of its loudest, with a margin, s."""
    total = np.cumsum(np.pad(waveform.astype(np.float64) ** 2, (200, 200)))
    energy = total[400:] - total[:-400]
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-floor_db / 10))
    return waveform[max(loud[0] - round(margin * RATE), 0) : loud[-1] + round(margin * RATE)]


def read_recordings(folder: Path) -> list[Recording]:
    recordings = []
    for path in sorted(folder.glob("Actor_*/03-01-*")):
        _, _, emotion, _, _, _, actor = (int(part) for part in path.stem.split("-"))
        waveform = load_clip(path, frames=False, sampling_rate=RATE).waveform
        recordings.append(Recording(actor, emotion - 1, spoken_part(waveform)))
    if not recordings:
        raise SystemExit(f"{folder} holds no Actor_*/03-01-* recordings; the layout of RAVDESS is accepted")
    return recordings


def joined(recordings, rng, augment):
    """Recordings one after another, with pauses; with `augment`, in another voice, level and noise.

    Returns:
        the waveform (samples,), and start and end of each recording in samples.
    """
    factor = rng.uniform(0.88, 1.14)
    parts, spans, length = [], [], 0
    for recording in recordings:
        sound = recording.waveform
        if augment:
            # Faster is higher, too: another speaker.
            sound = soxr.resample(sound, RATE * factor * rng.uniform(0.96, 1.04), RATE, quality="LQ")
            sound = sound * 10 ** (rng.uniform(-1.5, 1.5) / 20)
        pause = round(rng.uniform(0.2, 0.8) * RATE)
        parts += [np.zeros(pause, np.float32), sound]
        spans.append((length + pause, length + pause + len(sound)))
        length = spans[-1][1]
    waveform = np.concatenate(parts)
    if augment:
        waveform = waveform * 10 ** (rng.uniform(-6, 4) / 20)
        level = np.sqrt((waveform**2).mean()) * 10 ** (-rng.uniform(25, 50) / 20)
        waveform = waveform + np.random.default_rng(rng.randrange(2**32)).normal(0, level, len(waveform))
    return waveform.astype(np.float32)[: CHUNK_SECONDS * RATE], spans


def by_actor(recordings):
    groups = {}
    for recording in recordings:
        groups.setdefault(recording.actor, []).append(recording)
    return list(groups.values())


def threes(recordings, rng):
    """Every recording once, three of one actor together as far as they go."""
    groups = []
    for own in by_actor(recordings):
        rng.shuffle(own)
        groups += [own[first : first + 3] for first in range(0, len(own), 3)]
    rng.shuffle(groups)
    return groups


def dialogues(recordings, count, rng, augment):
    """Rows of the package's schema without question: three utterances of one actor, of three emotions."""
    groups, rows = by_actor(recordings), []
    while len(rows) < count:
        own = groups[len(rows) % len(groups)]
        emotions = rng.sample(sorted({recording.emotion for recording in own}), 3)
        chosen = [rng.choice([recording for recording in own if recording.emotion == emotion]) for emotion in emotions]
        waveform, spans = joined(chosen, rng, augment)
        if spans[-1][1] > CHUNK_SECONDS * RATE:
            continue
        spoken = [{"start": start / RATE, "end": end / RATE, "text": None, "speaker": None} for start, end in spans]
        clip = load_clip({"waveform": waveform, "sampling_rate": RATE})
        rows.append({"id": f"dialogue {len(rows)}", "video": clip, "utterances": spoken, "emotions": emotions})
    return rows


def asked(row, i=None, names=EMOTIONS):
    """The row with its question and answer: about utterance `i`, or about all of them in order."""
    if i is None:
        question = "Emotions in order"
        answer = ", ".join(names[emotion] for emotion in row["emotions"])
    else:
        spoken = row["utterances"][i]
        question = f"Emotion at {spoken['start']:.1f}s - {spoken['end']:.1f}s, utterance {i + 1}"
        answer = names[row["emotions"][i]]
    return {**row, "question": question, "answer": answer}


# Phase 1: the tower


class VoiceExtractor(WhisperFeatureExtractor):
    """Cepstra, pitch and periodicity of a chunk of speech, in the shape of Whisper's spectra: (B, channels, F).

    Frames of 64 ms every 20 ms, long enough to tell harmonics apart. Each cepstrum is taken relative to its mean and
    deviation over the chunk's loud frames, pitch to the chunk's median: what is left is how the voice moves, not whose
    it is or how far the microphone stood.
    """

    mel_bins = 80
    cepstra = 26
    # dB below the loudest mel bin of the chunk; what is weaker is background.
    range_db = 60.0

    def __init__(self, **settings):
        super().__init__(
            **{
                "feature_size": self.mel_bins,
                "chunk_length": CHUNK_SECONDS,
                "hop_length": 320,
                "n_fft": 1024,
                "sampling_rate": RATE,
                **settings,
            }
        )
        self.window = torch.hann_window(self.n_fft)
        self.filters = torch.from_numpy(self.mel_filters).float().T  # (mel, frequencies)
        steps = (torch.arange(self.mel_bins) + 0.5) * math.pi / self.mel_bins
        scale = torch.full((self.cepstra, 1), 2 / self.mel_bins).sqrt()
        scale[0] /= math.sqrt(2)
        self.cosines = scale * (torch.arange(self.cepstra)[:, None] * steps).cos()  # (cepstra, mel), orthonormal DCT-II

    def analyse(self, waveform):
        """(samples,) -> (mel + 2, F): log10 power of each mel bin, pitch in octaves over 150 Hz, periodicity 0 .. 1."""
        padded = nn.functional.pad(torch.from_numpy(waveform).float(), (self.n_fft // 2, self.n_fft // 2))
        frames = padded.unfold(0, self.n_fft, self.hop_length) * self.window  # (F, n_fft)
        mel = self.filters @ torch.fft.rfft(frames).abs().square().T
        # Autocorrelation, the window's own divided out (Boersma 1993).
        power = torch.fft.rfft(torch.stack([*frames, self.window]), 2 * self.n_fft).abs().square()
        correlation = torch.fft.irfft(power)[:, : RATE // 70]
        correlation = correlation / (correlation[:, :1] + 1e-9)
        correlation = correlation[:-1] / (correlation[-1] + 1e-3)
        lags = torch.arange(RATE // 600, RATE // 70)
        # Of equally good lags the shortest: the others are its multiples.
        periodicity, best = (correlation[:, lags] - 0.03 * (lags / lags[0]).log2()).max(-1)
        pitch = (RATE / lags[best] / 150).log2()
        return torch.cat([mel.clamp(min=1e-10).log10(), pitch[None], periodicity[None]])

    def relative(self, analysed, range_db=None):
        """(mel + 2, F) of a chunk, padded -> (cepstra + 2, F), the tower's input."""
        mel, pitch, periodicity = analysed[:-2], analysed[-2], analysed[-1]
        mel = mel.clamp(min=mel.max() - (range_db or self.range_db) / 10)
        loudness = mel.mean(0)
        loud = loudness > loudness.max() - 2
        cepstra = self.cosines @ mel
        deviation, mean = torch.std_mean(cepstra[:, loud], 1, correction=0, keepdim=True)
        voiced = loud & (periodicity > 0.5)
        usual = pitch[voiced].median() if voiced.any() else 0.0
        pitch = torch.where(periodicity > 0.4, pitch - usual, 0.0)
        return torch.cat([(cepstra - mean) / (deviation + 0.1), 3 * pitch[None], 3 * (periodicity[None] - 0.5)])

    def padded(self, analysed):
        """(mel + 2, F) with silence up to the length of a chunk."""
        rest = self.nb_max_frames - analysed.shape[1]
        if rest <= 0:
            return analysed[:, : self.nb_max_frames]
        return torch.cat([analysed, silence(rest)], dim=1)

    def __call__(self, raw_speech, return_attention_mask=True, return_tensors="np", **_):
        features = [self.relative(self.padded(self.analyse(waveform))) for waveform in raw_speech]
        counts = torch.tensor([-(-len(waveform) // self.hop_length) for waveform in raw_speech])
        mask = (torch.arange(self.nb_max_frames) < counts[:, None]).int()
        return BatchFeature(
            {"input_features": torch.stack(features).numpy(), "attention_mask": mask.numpy()},
            tensor_type=return_tensors,
        )


def silence(frames):
    """(mel + 2, frames) of what `VoiceExtractor.analyse` finds where there is no sound."""
    return torch.cat([torch.full((VoiceExtractor.mel_bins, frames), -10.0), torch.zeros(2, frames)])


def tower_config(width, layers):
    return WhisperConfig(
        num_mel_bins=VoiceExtractor.cepstra + 2,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        max_source_positions=CHUNK_SECONDS * STATES_PER_SECOND,
        dropout=0.1,
        activation_dropout=0.1,
        init_std=0.08,
    )


class UtteranceClassifier(nn.Module):
    """The tower, and a linear layer on the standardised mean of an utterance's states.

    What tells emotions apart is small beside what all speech has in common, so the layer learns little from states as
    they are; `standardise` gives the frozen tower the same scale, for the Q-Formers of phase 2.
    """

    def __init__(self, config):
        super().__init__()
        self.tower = WhisperEncoder(config)
        for convolution in (self.tower.conv1, self.tower.conv2):
            nn.init.kaiming_normal_(convolution.weight)
        with torch.no_grad():
            # Whisper's sinusoids have amplitude 1 and would drown what the small convolutions say at first.
            self.tower.embed_positions.weight.mul_(0.2)
        self.norm = nn.BatchNorm1d(config.d_model, affine=False)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(config.d_model, len(EMOTIONS))

    def forward(self, features, spans):
        """Features (B, channels, F) and B lists of (start, end) in seconds -> logits (utterances, emotions)."""
        states = self.tower(features).last_hidden_state
        pooled = [
            row[int(start * STATES_PER_SECOND) : math.ceil(end * STATES_PER_SECOND)].mean(0)
            for row, own in zip(states, spans, strict=True)
            for start, end in own
        ]
        return self.head(self.dropout(self.norm(torch.stack(pooled))))

    @torch.no_grad()
    def standardise(self):
        """Write the normalisation into the tower's last layer, which is affine."""
        scale = (self.norm.running_var + self.norm.eps).rsqrt()
        self.tower.layer_norm.weight.mul_(scale)
        self.tower.layer_norm.bias.sub_(self.norm.running_mean).mul_(scale)


def voices(recordings, extractor, copies, rng):
    """Each recording analysed as it is and at `copies` speeds: faster is higher, too, and so another speaker."""
    low, high = 0.86, 1.16
    for recording in tqdm(recordings, desc="Analysing recordings", disable=not sys.stderr.isatty()):
        factors = [low * (high / low) ** ((i + rng.random()) / copies) for i in range(copies)]
        sounds = [soxr.resample(recording.waveform, RATE * factor, RATE, quality="LQ") for factor in factors]
        recording.voices = [extractor.analyse(sound).half() for sound in (recording.waveform, *sounds)]


def varied(recordings, extractor, rng):
    """A chunk of up to three recordings of one actor, in another voice, pace, room and level each time.

    Returns:
        the tower's input (channels, F), and start and end of each recording, s.
    """
    copies = len(recordings[0].voices) - 1
    voice = rng.randrange(copies) + 1 if rng.random() < 0.85 else 0
    parts, spans, length = [], [], 0
    for recording in recordings:
        near = min(max(voice + rng.choice((-1, 0, 0, 1)), 1), copies) if voice else 0
        sound = recording.voices[near].float()
        frames = max(8, round(sound.shape[1] * rng.uniform(0.88, 1.12)))
        sound = nn.functional.interpolate(sound[None], size=frames, mode="linear", align_corners=True)[0]
        sound[:-2] += rng.uniform(-0.2, 0.2)
        pause = round(rng.uniform(0.2, 0.8) * RATE / extractor.hop_length)
        parts += [silence(pause), sound]
        length += pause + frames
        spans.append(((length - frames) * extractor.hop_length / RATE, length * extractor.hop_length / RATE))
    chunk = extractor.padded(torch.cat(parts, 1))
    mel = chunk[:-2]
    # Another microphone, and another length of the vocal tract.
    height = torch.linspace(-1, 1, len(mel))[:, None]
    mel = mel + rng.uniform(-0.3, 0.3) * height + rng.uniform(-0.3, 0.3) * height**2
    place = (torch.arange(len(mel)) * (1 + rng.uniform(-0.08, 0.08))).clamp(max=len(mel) - 1.001)
    mel = torch.lerp(mel[place.long()], mel[place.long() + 1], place.frac()[:, None])
    features = extractor.relative(torch.cat([mel, chunk[-2:]]), extractor.range_db + rng.uniform(-20, 10))
    for axis, count, longest in ((0, 1, 3), (1, 3, 12)):
        for _ in range(count):
            masked = rng.randint(0, longest)
            features.narrow(axis, rng.randint(0, features.shape[axis] - masked), masked).zero_()
    return features, spans


def heard(groups, extractor):
    """Groups of unchanged recordings as the model will hear them: the tower's input and spans in s, one by one."""
    rng = random.Random(0)
    for group in groups:
        waveform, spans = joined(group, rng, augment=False)
        features = extractor([waveform], return_tensors="pt")["input_features"][0]
        yield features, [(start / RATE, end / RATE) for start, end in spans]


def train_tower(train, held_out, seed, args):
    """Phase 1.

    Returns:
        the frozen tower and what it reached on single utterances of the held-out actors.
    """
    started, cpu = time.time(), time.process_time()
    rng = random.Random(seed)
    set_seed(seed)
    config = tower_config(args.width, args.layers)
    extractor = VoiceExtractor()
    if train[0].voices is None:
        voices(train, extractor, args.copies, random.Random(0))
    model = UtteranceClassifier(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.tower_lr, weight_decay=0.05)
    for epoch in range(args.tower_epochs):
        model.train()
        # What would run over the end of a chunk, in a slow copy, is left out of this epoch.
        chunks = [(*varied(group, extractor, rng), group) for group in threes(train, rng)]
        chunks = [chunk for chunk in chunks if chunk[1][-1][1] <= CHUNK_SECONDS]
        losses = []
        for first in range(0, len(chunks), 6):
            features, spans, groups = zip(*chunks[first : first + 6], strict=True)
            progress = (epoch + first / len(chunks)) / args.tower_epochs
            for group in optimizer.param_groups:
                group["lr"] = args.tower_lr * min(1, 20 * progress + 0.01) * (1 + math.cos(math.pi * progress)) / 2
            logits = model(torch.stack(features), spans)
            truth = torch.tensor([recording.emotion for group in groups for recording in group])
            loss = nn.functional.cross_entropy(logits, truth, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        say(f"seed {seed} tower epoch {epoch + 1}: loss {statistics.mean(losses):.3f}, {time.time() - started:.0f} s")
    model.eval()
    groups = threes(held_out, random.Random(0))
    features, spans = zip(*heard(groups, extractor), strict=True)
    with torch.no_grad():
        found = model(torch.stack(features), spans).argmax(-1)
    result = {
        **scores([recording.emotion for group in groups for recording in group], found.tolist()),
        "parameters": sum(parameter.numel() for parameter in model.tower.parameters()),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    model.standardise()
    return model.tower, result


# Phase 2: the model


def tokenizer_of_prompts():
    """Words it has not seen would be `<unk>`; the prompts of this benchmark hold none."""
    prompts = ["Utterance 1 2 3 ( - )\n", "Emotion at, utterance", "Emotions in order", ", ".join(EMOTIONS)]
    return word_tokenizer([*prompts, *times_up_to(CHUNK_SECONDS)])


def model_config(tower, tokenizer, **fields):
    fields = {"num_audio_query_tokens": TOKENS, **fields}
    return AcoustEmoConfig(
        vision_config=None,
        audio_config=tower.config,
        audio_frame_rate=STATES_PER_SECOND,
        num_audio_positions=256,
        acoustic_qformer_config=small_qformer(Blip2QFormerConfig),
        text_config=small_llama(tokenizer),
        initializer_range=TINY_RANGE,
        **fields,
    )


def processor_of(config, tokenizer, sounds, **settings):
    """The row's processor. `sounds` keeps the spectra of each waveform: rows and questions share dialogues."""
    processor = AcoustEmoProcessor.from_config(
        config, tokenizer, feature_extractor=VoiceExtractor(), chat_template=TEMPLATE, max_length=None, **settings
    )
    extract = processor.sound_features

    def remembered(waveforms):
        [waveform] = waveforms
        key = id(waveform)
        if key not in sounds:
            sounds[key] = (waveform, extract(waveforms))
        return sounds[key][1]

    processor.sound_features = remembered
    return processor


def equal_parts(row):
    """Spans (1, N, 2), ms, of N equal parts of a dialogue of N utterances."""
    clip = row["video"]
    edges = torch.linspace(0, 1000 * len(clip.waveform) / RATE, len(row["utterances"]) + 1).long()
    return torch.stack([edges[:-1], edges[1:]], -1)[None]


def samples_of(processor, rows, cache, tower, in_equal_parts=False):
    """Rows -> samples with the tower's cached output in place of sound; one tower pass for each dialogue."""
    samples = []
    for row in rows:
        sample = encode(processor, [row])
        if in_equal_parts:
            sample["utterance_spans"] = equal_parts(row)
        features, mask = sample.pop("input_features"), sample.pop("audio_attention_mask")
        if row["id"] not in cache:
            with torch.no_grad():
                _, states, real = encode_sound(tower, "frames", features, None, mask)
            length = int(real.sum())
            cache[row["id"]] = (states[:, :length].half(), real[:, :length])
        sample["audio_features"], sample["audio_attention_mask"] = cache[row["id"]]
        samples.append(sample)
    return samples


def scores(truth, found):
    """Accuracy, UAR and confusion (true rows, found columns, last column: no emotion of the eight), in percent."""
    truth, found = np.array(truth), np.array(found)
    result = class_scores(truth, found, len(EMOTIONS))
    table = np.zeros((len(EMOTIONS), len(EMOTIONS) + 1), dtype=int)
    np.add.at(table, (truth, found), 1)
    return {
        "accuracy": round(100 * result["war"], 2),
        "uar": round(100 * result["uar"], 2),
        "answers": len(truth),
        "confusion": table.tolist(),
    }


def number_of(reply):
    """The emotion a reply names, as a number; 8 for none of them."""
    found = read_choice(reply, EMOTIONS)
    return len(EMOTIONS) if found is None else EMOTIONS.index(found)


def words_of(sample, row, config, names=EMOTIONS):
    """For each audio token of a sample, the emotions that it can stand for while the language model learns to read.

    For a window of one length that is the emotion of the utterance that it shares most time with; for the whole clip,
    any of the three for each token, so that nothing but the windows tells which utterance it belongs to.
    """
    windows = sample["utterance_spans"][0] if config.use_utterances else sample["utterance_spans"][0, :0]
    own = torch.tensor([(1000 * spoken["start"], 1000 * spoken["end"]) for spoken in row["utterances"]])
    shared = torch.minimum(windows[:, None, 1], own[:, 1]) - torch.maximum(windows[:, None, 0], own[:, 0])  # (W, 3)
    named = [names[emotion] for emotion in row["emotions"]]
    said = [[named[i]] for i in shared.argmax(-1).tolist()]
    if config.use_global:
        said = [named, *said]
    return [words for words in said for _ in range(config.num_audio_query_tokens)]


def train_row(name, tower, train_rows, seed, shared, args):
    """Phase 2 for one row of the table: the model on the CPU, its processor, and the losses of reading and hearing."""
    fields, settings = ROWS[name]
    set_seed(seed)
    tokenizer = tokenizer_of_prompts()
    config = model_config(tower, tokenizer, **fields)
    processor = processor_of(config, tokenizer, shared["sounds"], **settings)
    model = AcoustEmoForConditionalGeneration(config)
    model.model.audio_tower.load_state_dict(tower.state_dict())
    questions = [asked(row, i) for row in train_rows for i in (0, 1, 2, None)]
    train = samples_of(processor, questions, shared["train"], tower, name == EQUAL_PARTS)
    rng = random.Random(seed)
    written = [
        spelled(sample, words_of(sample, row, config), config.audio_token_id, tokenizer, rng)
        for sample, row in zip(train, questions, strict=True)
    ]
    read, heard = read_then_see(model, processor, train, written, args, seed)
    return model, processor, read, heard


def run_row(name, tower, train_rows, test_rows, seed, shared, args):
    """One row of the table: phase 2, then the questions about held-out dialogues."""
    started, cpu = time.time(), time.process_time()
    model, processor, read, heard = train_row(name, tower, train_rows, seed, shared, args)
    trained = time.time() - started

    def samples(questions):
        return samples_of(processor, questions, shared["test"], tower, name == EQUAL_PARTS)

    one = [asked(row, i) for row in test_rows for i in range(3)]
    replies = answers(model, processor, samples(one), max_new_tokens=3)
    truth = [emotion for row in test_rows for emotion in row["emotions"]]
    result = scores(truth, [number_of(reply) for reply in replies])
    replies = answers(model, processor, samples(map(asked, test_rows)), max_new_tokens=8)
    found = [[number_of(part) for part in (*reply.split(","), "", "")[:3]] for reply in replies]
    in_order = scores(truth, [number for own in found for number in own])
    whole = [own == row["emotions"] for own, row in zip(found, test_rows, strict=True)]
    return {
        **result,
        "in_order": {**in_order, "all_three_right": round(100 * statistics.mean(whole), 2)},
        "reading_loss": read,
        "loss": heard,
        "training_seconds": round(trained, 1),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


# Runs, summary and plot


PHASE_1 = ("held_out", "actors", "width", "layers", "tower_epochs", "tower_lr", "copies")
PHASE_2 = ("dialogues", "test_dialogues", "reading_steps", "reading_lr", "steps", "batch", "lr")


def tower_seed_of(args, seed):
    return seed if args.tower_seed is None else args.tower_seed


def settings_of(args, names) -> dict:
    return {name: getattr(args, name) for name in names}


def row_settings(args, seed) -> dict:
    return {**settings_of(args, PHASE_1 + PHASE_2), "tower_seed": tower_seed_of(args, seed)}


def made(path: Path, settings) -> bool:
    """Whether the part lies there, made with these settings."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings


def run_seed(recordings, seed, args):
    train = [recording for recording in recordings if recording.actor not in args.held_out]
    held_out = [recording for recording in recordings if recording.actor in args.held_out]
    if not train or not held_out:
        raise SystemExit(f"--held-out {args.held_out}: actors on both sides are needed")
    folder = args.work / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    source = args.work / f"seed_{tower_seed_of(args, seed)}"
    if not made(source / "tower.json", settings_of(args, PHASE_1)):
        if source != folder:
            raise SystemExit(f"{source} holds no tower of these settings; make it with --seeds {args.tower_seed}")
        tower, result = train_tower(train, held_out, seed, args)
        tower.save_pretrained(folder / "tower")
        write_json(folder / "tower.json", {"settings": settings_of(args, PHASE_1), **result})
        say(f"seed {seed} tower: {result['accuracy']} % of single utterances, {result['cpu_seconds']} CPU s")
    if args.tower_only:
        return
    tower = WhisperEncoder.from_pretrained(source / "tower").eval().requires_grad_(False)
    train_rows = dialogues(train, args.dialogues, random.Random(seed), augment=True)
    # The same held-out dialogues for every seed.
    test_rows = dialogues(held_out, args.test_dialogues, random.Random(12345), augment=False)
    shared = {"sounds": {}, "train": {}, "test": {}}
    for i, name in enumerate(ROWS):
        if args.rows and i not in args.rows:
            continue
        part = folder / f"row_{i}.json"
        if made(part, row_settings(args, seed)):
            continue
        result = run_row(name, tower, train_rows, test_rows, seed, shared, args)
        write_json(part, {"row": name, "settings": row_settings(args, seed), **result})
        say(
            f"seed {seed} {name}: {result['accuracy']} %, in order {result['in_order']['accuracy']} %, loss "
            f"{result['loss'][0]} -> {result['loss'][-1]}, {result['seconds']} s, {result['cpu_seconds']} CPU s"
        )
        summarise(args)


def summarise(args):
    """The JSON of everything that lies in --work, and its plot."""
    seeds, rows = {}, {name: [] for name in ROWS}
    for folder in sorted(args.work.glob("seed_*")):
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("row_*.json"))]
        parts = [part for part in parts if part["settings"] == row_settings(args, int(folder.name[5:]))]
        tower = None
        if made(folder / "tower.json", settings_of(args, PHASE_1)):
            tower = json.loads((folder / "tower.json").read_text(encoding="utf-8"))
            del tower["settings"]
        if tower or parts:
            source = f"seed_{tower_seed_of(args, int(folder.name[5:]))}"
            seeds[folder.name] = {"tower_of": source, "tower": tower, "rows": {part.pop("row"): part for part in parts}}
            for part in parts:
                del part["settings"]
    complete = {name: own for name, own in seeds.items() if set(own["rows"]) == set(ROWS)}
    tower_cpu = {name: own["tower"]["cpu_seconds"] for name, own in seeds.items() if own["tower"]}
    for own in complete.values():
        for name, part in own["rows"].items():
            rows[name].append(part)
        own["rows_cpu_minutes"] = round(sum(part["cpu_seconds"] for part in own["rows"].values()) / 60, 1)
        own["cpu_minutes_with_tower"] = round(own["rows_cpu_minutes"] + tower_cpu[own["tower_of"]] / 60, 1)
    table = {}
    for name, parts in rows.items():
        if parts:
            table[name] = {
                "accuracy": spread([part["accuracy"] for part in parts]),
                "uar": spread([part["uar"] for part in parts]),
                "in_order_accuracy": spread([part["in_order"]["accuracy"] for part in parts]),
                "in_order_all_three_right": spread([part["in_order"]["all_three_right"] for part in parts]),
                "confusion": np.sum([part["confusion"] for part in parts], axis=0).tolist(),
            }
    summary = {
        "what": "emotion of one asked utterance of three, held-out actors of RAVDESS, percent; chance 12.5",
        "emotions": EMOTIONS,
        "settings": {**settings_of(args, PHASE_1 + PHASE_2), "tower_seed": args.tower_seed},
        "complete_seeds": list(complete),
        "table": table,
        "seeds": seeds,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_json(args.output, summary)
    if table:
        plot(summary, args.output.with_suffix(".png"))
    return summary


def plot(summary, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    table = summary["table"]
    for i, row in enumerate(table.values()):
        left.bar(i, row["accuracy"]["mean"], yerr=row["accuracy"]["sd"] or 0, color="tab:blue", alpha=0.5, capsize=4)
        left.plot([i] * len(row["accuracy"]["values"]), row["accuracy"]["values"], "k.", markersize=5)
        left.text(i, 1, f"{row['accuracy']['mean']:.1f}", ha="center")
    left.axhline(12.5, color="gray", linestyle=":", label="chance")
    left.set_xticks(range(len(table)), list(table), rotation=35, ha="right")
    left.set_ylabel("asked utterance right, %")
    left.set_title(f"Held-out actors, {len(summary['complete_seeds'])} seeds (dots; bar: mean, whisker: sd)")
    left.legend()
    confusion = np.array(table["full"]["confusion"], dtype=float)[:, : len(EMOTIONS)]
    confusion = 100 * confusion / np.maximum(np.array(table["full"]["confusion"]).sum(1, keepdims=True), 1)
    right.imshow(confusion, cmap="Blues", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(confusion):
        right.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7)
    right.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
    right.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    right.set_xlabel("answered")
    right.set_title("full model: % of each true emotion")
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(unfinished, dpi=110)
    pyplot.close(figure)
    os.replace(unfinished, path)


def tower_time(args):
    """Processor time of the whole acoustic branch at the paper's size over some seconds of sound, by its utterances.

    The numbers of utterances take turns within each repetition, and processor time leaves out what else the machine
    does meanwhile.
    """
    seconds, repetitions, counts = args.seconds, args.repetitions, (1, 8, 32)
    torch.manual_seed(0)
    config = AcoustEmoConfig(
        vision_config=None,
        text_config=LlamaConfig(hidden_size=4096, num_hidden_layers=1, intermediate_size=64, vocab_size=64),
    )
    model = AcoustEmoModel(config).eval()
    calls = []
    model.audio_tower.register_forward_hook(lambda *_: calls.append(1))
    chunks = seconds // 2
    sound = {
        "input_features": torch.randn(1, chunks, 128, 204),
        "audio_attention_mask": torch.ones(1, chunks, dtype=torch.bool),
        "audio_times": torch.arange(chunks)[None] * 2000,
    }
    edges = {n: torch.linspace(0, 1000 * seconds, n + 1).long() for n in counts}
    spans = {n: torch.stack([edge[:-1], edge[1:]], dim=-1)[None] for n, edge in edges.items()}
    times, passes = {n: [] for n in counts}, {}
    with torch.inference_mode():
        for repetition in range(repetitions + 1):
            for n in counts:
                calls.clear()
                started = time.process_time()
                model.get_audio_features(**sound, utterance_spans=spans[n])
                if repetition:  # the first warms up
                    times[n].append(time.process_time() - started)
                passes[n] = len(calls)
    ratios = {n: statistics.median(t / o for t, o in zip(times[n], times[1], strict=True)) for n in counts}
    result = {
        "what": f"get_audio_features at paper size (ImageBind, 2-layer Q-Formers, K = 32, d = 768), {seconds} s",
        "threads": torch.get_num_threads(),
        "repetitions": repetitions,
        "cpu_seconds_median": {n: round(statistics.median(times[n]), 3) for n in counts},
        "cpu_seconds": {n: [round(seconds, 3) for seconds in times[n]] for n in counts},
        "ratio_to_one_utterance": {n: round(ratio, 3) for n, ratio in ratios.items()},
        "tower_passes": passes,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    say(json.dumps(result, indent=1))
    write_json(args.output.with_name("acoustemo_tower_time.json"), result)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="RAVDESS speech: Actor_*/03-01-*.wav or .flac")
    parser.add_argument("--held-out", nargs="+", type=int, default=[17, 18, 19, 20], help="actors never trained on")
    parser.add_argument("--actors", nargs="+", type=int, help="actors to read at all (default: all there are)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("acoustemo_dialogues_work"), help="parts, to go on from")
    parser.add_argument("--output", type=Path, default=RESULTS / "acoustemo_dialogues.json")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--width", type=int, default=96, help="of the tower")
    parser.add_argument("--layers", type=int, default=2, help="of the tower")
    parser.add_argument("--tower-epochs", type=int, default=30)
    parser.add_argument("--tower-lr", type=float, default=3e-3)
    parser.add_argument("--copies", type=int, default=6, help="speeds at which phase 1 hears each recording")
    parser.add_argument("--dialogues", type=int, default=600, help="for training")
    parser.add_argument("--test-dialogues", type=int, default=200)
    parser.add_argument("--reading-steps", type=int, default=150, help="of the language model alone, on words")
    parser.add_argument("--reading-lr", type=float, default=4e-3)
    parser.add_argument("--steps", type=int, default=300, help="of phase 2, on sound")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="of phase 2")
    parser.add_argument("--tower-seed", type=int, help="one tower for all seeds: that of this one")
    parser.add_argument("--rows", nargs="+", type=int, help="rows by number, for runs side by side (default: all)")
    parser.add_argument("--tower-only", action="store_true", help="phase 1 alone")
    parser.add_argument("--tower-time", action="store_true", help="only time the acoustic branch by utterances")
    parser.add_argument("--repetitions", type=int, default=5, help="of --tower-time")
    parser.add_argument("--seconds", type=int, default=20, help="of sound, an even number, in --tower-time")
    return parser


def main():
    args = parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.tower_time:
        return tower_time(args)
    if args.folder is None:
        parser().error("the RAVDESS folder is needed")
    recordings = read_recordings(args.folder)
    if args.actors:
        recordings = [recording for recording in recordings if recording.actor in args.actors]
    for seed in args.seeds:
        run_seed(recordings, seed, args)
    summary = summarise(args)
    for name, row in summary["table"].items():
        accuracy, uar, in_order = row["accuracy"], row["uar"]["mean"], row["in_order_accuracy"]["mean"]
        say(
            f"{name:<22} accuracy {accuracy['mean']:5.1f} (sd {accuracy['sd']}) uar {uar:5.1f} in order {in_order:5.1f}"
        )


if __name__ == "__main__":
    main()
