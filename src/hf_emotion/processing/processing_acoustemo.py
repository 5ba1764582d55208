"""AcoustEmo's inputs: the whole sound, its windows, and the prompt (sections 3.2 to 3.4).

In addition to what all papers share: the whole sound is read, in consecutive chunks, so that it contains every
utterance; the third row of Table 2, "fixed-length windows (2s)", is made here, as data; and the prompt fits into the
paper's 1,024 tokens. The paper prints no prompt, only that it "explicitly incorporates the timestamp information
corresponding to each utterance"; ours says which sound the audio tokens represent, in their order, and lists each
utterance with its number and times.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from .chat_formats import LLAMA_2, write_template
from .media import Clip
from .processing_emotion import ClipInputs, EmotionProcessor, Medium
from .utterances import fixed_windows

# A user's message; see `write_template`.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {%- set state.media = true -%}
        {{- 'The video content is as follows: <Video><video></Video>. ' -}}
    {%- elif part['type'] == 'audio' -%}
        {%- set state.media = true -%}
        {%- if part.get('shown', true) -%}
            {{- 'The audio content' ~ part.get('order', '') ~ ' is as follows: <Audio><audio></Audio>. ' -}}
        {%- endif -%}
    {%- elif part['type'] == 'utterances' -%}
        {{- 'The utterances are as follows:\\n' ~ part['lines'] -}}
    {%- endif -%}
{%- endfor -%}
{{- ('Now answer my question based on all of this. ' if state.media else '') ~ text -}}"""
CHAT_TEMPLATE = write_template(CONTENT, LLAMA_2)


class AcoustEmoProcessor(EmotionProcessor):
    """Makes the inputs of `AcoustEmoForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    Args:
        feature_extractor: `ImageBindFeatureExtractor` with `hop_seconds`, `WhisperFeatureExtractor`, or
            `Wav2Vec2FeatureExtractor` for HuBERT, wav2vec 2.0 and WavLM.
        num_query_tokens: tokens of the image Q-Former for each frame.
        num_audio_query_tokens: K tokens of each window of the acoustic Q-Former: T_A of a clip with N utterances has
            K * (1 + N) (Eq. 3).
        use_global, use_utterances: as in `AcoustEmoConfig`; a clip whose only window is the whole sound has K tokens.
        window_seconds: length of windows over the whole sound that replace the utterances; the prompt still lists the
            utterances: Table 2's "w/ fixed-length windows (2s)" at 2.0.
        context_seconds: s of sound added before and after each utterance, for times that cut into words. Paper silent.
        interleave: each utterance's line of the prompt holds its own audio tokens, instead of one run of T_A. A
            finished prompt then needs one `<audio>` for the whole clip (with `use_global`) and one an utterance.
        max_length: "The maximum sequence length for the LLM is set to 1024 tokens" (4.1). Where a clip's prompt would
            not fit, its shortest neighbouring utterances (or windows) are merged until it does, with a warning and a
            note in the clip's report. `None`: no limit.
        reserved_tokens: of `max_length`, reserved for the question, the answer and the prompt's fixed words.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        num_query_tokens=32,
        num_audio_query_tokens=32,
        use_global=True,
        use_utterances=True,
        window_seconds=None,
        context_seconds=0.0,
        interleave=False,
        max_length=1024,
        reserved_tokens=256,
        default_question="Please infer the person's emotional state and provide your reasoning process.",
        **settings,
    ):
        super().__init__(
            image_processor, feature_extractor, tokenizer, chat_template, default_question=default_question, **settings
        )
        if not (use_global or use_utterances):
            raise ValueError("use_global and use_utterances are both False; at least one of them must be True.")
        if interleave and not (use_utterances and window_seconds is None):
            raise ValueError("interleave needs utterances as windows: use_utterances=True and window_seconds=None.")
        if getattr(feature_extractor, "hop_seconds", 0) is None:
            raise ValueError(
                "the feature extractor reads only a few chunks of a sound; AcoustEmo reads all of it: pass "
                "hop_seconds=2.0."
            )
        self.num_query_tokens = num_query_tokens
        self.num_audio_query_tokens = num_audio_query_tokens
        self.use_global = use_global
        self.use_utterances = use_utterances
        self.window_seconds = window_seconds
        self.context_seconds = context_seconds
        self.interleave = interleave
        self.max_length = max_length
        self.reserved_tokens = reserved_tokens

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        names = ("num_query_tokens", "num_audio_query_tokens", "use_global", "use_utterances")
        return {**super().settings_of(config), **{name: getattr(config, name) for name in names}}

    def num_video_tokens(self, num_utterances: int, num_frames: int | None = None) -> int:
        return self.num_query_tokens * (self.num_frames if num_frames is None else num_frames)

    def num_sound_tokens(self, num_utterances: int) -> int:
        windows = int(self.use_global) + (num_utterances if self.use_utterances else 0)
        return self.num_audio_query_tokens * max(windows, 1)

    # Windows and their number

    def windows(self, clip) -> list[dict]:
        """The windows of a clip: its utterances with their context, or windows of one length."""
        if self.window_seconds is not None:
            return self._merged(clip, self._fixed(clip))
        end, context = clip.duration / 1000, self.context_seconds
        return [
            {**row, "start": max(0.0, row["start"] - context), "end": min(max(end, row["end"]), row["end"] + context)}
            for row in clip.utterances
        ]

    def _fixed(self, clip) -> list[dict]:
        seconds = clip.duration / 1000 if clip.waveform is None else len(clip.waveform) / clip.sampling_rate
        return fixed_windows(seconds, self.window_seconds)

    def _merged(self, clip, rows) -> list[dict]:
        """The clip's utterances or windows, with neighbours merged until the prompt fits."""
        if self.max_length is None:
            return rows
        video = 0 if clip.frames is None else self.num_video_tokens(0, len(clip.frames))
        while True:
            # Merged utterances also save lines of the prompt.
            shown = clip.utterances if self.window_seconds is not None else rows
            text = len(self.tokenizer("".join(self._lines(shown)), add_special_tokens=False)["input_ids"])
            rest = self.max_length - self.reserved_tokens - video - text
            sound = 0 if clip.waveform is None else self.num_sound_tokens(len(rows))
            if sound <= rest:
                return rows
            if len(rows) < 2 or not self.use_utterances:
                raise ValueError(
                    f"{clip.source} has {video} video tokens and {text} tokens of utterances, which leaves {rest} of "
                    f"max_length {self.max_length} less reserved_tokens {self.reserved_tokens}; its sound needs "
                    f"{sound}. Give fewer frames (num_frames=), shorter utterances or a larger max_length."
                )
            # A quarter of the excess at once: each merge also saves a line, and a thousand windows take few rounds.
            for _ in range(max(1, (sound - rest) // self.num_audio_query_tokens // 4)):
                rows = merge_shortest(rows)

    def fit(self, clip):
        """The clip with its shortest neighbouring utterances merged until the prompt fits `max_length`, and a note.

        Raises:
            ValueError: merging is not enough; the message says how many tokens each part takes.
        """
        rows = clip.utterances if self.window_seconds is None else self._fixed(clip)
        merged = self._merged(clip, rows)
        if len(merged) == len(rows):
            return clip
        kind = "utterances" if self.window_seconds is None else f"windows of {self.window_seconds:g} s"
        note = f"{len(rows)} {kind} were merged into {len(merged)}, so that the prompt fits {self.max_length} tokens."
        if note in clip.notes:
            return clip
        warnings.warn(f"{clip.source}: {note}", stacklevel=2)
        clip = replace(clip, notes=[*clip.notes, note])
        return clip if self.window_seconds is not None else replace(clip, utterances=merged)

    def prepare(self, clip: Clip, modalities: Sequence[Medium]) -> Clip:
        return self.fit(clip)

    # The prompt

    def _lines(self, rows) -> list[str]:
        """One line of the prompt for each utterance."""
        lines = []
        for i, row in enumerate(rows, 1):
            speaker, text = self._line(row.get("speaker")), self._line(row.get("text"))
            named = f"Utterance {i} ({row['start']:.1f}s - {row['end']:.1f}s{f', {speaker}' if speaker else ''})"
            lines.append(f"{named}{f': {text}' if text else ''}\n")
        return lines

    def _clip_parts(self, clip: ClipInputs) -> list[dict]:
        parts = super()._clip_parts(clip)
        lines = self._lines(clip.utterances)
        for part in parts:
            if part["type"] == "audio" and self.interleave:
                part["shown"] = self.use_global or not lines
                lines = [f"{line[:-1]} <Audio>{self.audio_token}</Audio>\n" for line in lines]
            elif part["type"] == "audio":
                part["order"] = self._order(clip)
            elif part["type"] == "utterances":
                part["lines"] = "".join(lines)
        return parts

    def _order(self, clip: ClipInputs) -> str:
        """Which sound the audio tokens represent, in their order."""
        # A sound always has windows of a fixed length.
        if not self.use_utterances or (self.window_seconds is None and not clip.utterances):
            return ""
        each = "utterance" if self.window_seconds is None else f"{self.window_seconds:g} s"
        return f" (the whole clip, then each {each})" if self.use_global else f" (each {each})"

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        """As the base class; with `interleave`, one text for the whole clip and one for each utterance."""
        texts: dict[Medium, list[str]] = {"video": [], "audio": []}
        if clip.frames is not None:
            texts["video"] = [self.video_token * self.num_video_tokens(0, len(clip.frames))]
        if clip.waveform is not None:
            tokens = self.num_sound_tokens(len(self.windows(clip)))
            pieces = tokens // self.num_audio_query_tokens if self.interleave else 1
            texts["audio"] = [self.audio_token * (tokens // pieces)] * pieces
        return texts


def merge_shortest(rows: list[dict]) -> list[dict]:
    """The utterances with one pair of neighbours merged: the pair that spans the least time, the first of equals."""
    rows = list(rows)
    spans = [max(a["end"], b["end"]) - a["start"] for a, b in pairwise(rows)]
    i = spans.index(min(spans))
    pair = rows[i : i + 2]
    texts, speakers = ([row[key] for row in pair if row.get(key)] for key in ("text", "speaker"))
    rows[i : i + 2] = [
        {
            "start": pair[0]["start"],
            "end": max(row["end"] for row in pair),
            "text": " ".join(texts) or None,
            "speaker": ", ".join(dict.fromkeys(speakers)) or None,
        }
    ]
    return rows


AcoustEmoProcessor.register_for_auto_class()

__all__ = ["AcoustEmoProcessor"]
