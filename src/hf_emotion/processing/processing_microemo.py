"""MicroEmo's inputs: region masks, frame timestamps and its prompt (arXiv 2407.16552, sections 3.2 to 3.4).

Beside what all papers share, a frame brings the masks of its facial regions over the vision tower's patches, and the
sentence that tells the image Q-Former its time. The prompt has the paper's order (3.4): video tokens T_V, audio tokens
T_A, then "transcribed speech and instruction". The paper prints no prompt; ours follows the skeleton of AffectGPT, to
which it compares, in LLaMA-2's turn format, with the utterances and their times where AffectGPT has one subtitle.
"""

import numpy as np

from .chat_formats import LLAMA_2, write_template
from .processing_emotion import EmotionProcessor, pad_rows
from .sound_chunks import whole_sound_features

# A user's message; see `write_template`.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {%- set state.media = true -%}
        {{- 'The video content is as follows: <Video><video></Video>. ' -}}
    {%- elif part['type'] == 'audio' -%}
        {%- set state.media = true -%}
        {{- 'The audio content is as follows: <Audio><audio></Audio>. ' -}}
    {%- elif part['type'] == 'utterances' -%}
        {{- 'The utterances are as follows:\\n' -}}
        {%- for row in part['utterances'] -%}
            {{- 'Utterance ' ~ loop.index ~ ' (' ~ '%.1f' | format(row['start']) ~ 's - ' -}}
            {{- '%.1f' | format(row['end']) ~ 's' ~ (', ' ~ row['speaker'] if row['speaker'] else '') ~ ')' -}}
            {{- (': ' ~ row['text'] if row['text'] else '') ~ '\\n' -}}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{{- ('Now answer my question based on all of this. ' if state.media else '') ~ text -}}"""
CHAT_TEMPLATE = write_template(CONTENT, LLAMA_2)


class MicroEmoProcessor(EmotionProcessor):
    """Makes the inputs of `MicroEmoForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    Args:
        qformer_tokenizer: of the image Q-Former, for the timestamps (InstructBLIP: BERT's).
        num_video_query_tokens: K_v tokens of each window of the video Q-Former: a clip with N utterances has
            K_v * (1 + N), T_V = [T_global, T_1, ..., T_N] (3.3).
        num_audio_query_tokens: K_a tokens of the audio Q-Former, for the whole clip.
        patch_grid: rows and columns of the vision tower's patches (EVA ViT-g/14 at 224 pixels: 16 x 16).
        timestamp_template: "This frame is sampled at 0.0s." (3.2); TimeChat's weights were made with
            "This frame is sampled at {time:.1f} second.".
        use_utterances: `False` is Table 2's "w/o utterance-aware V-QF": K_v tokens for any clip. The prompt still
            holds the transcribed speech.
        max_waveform_seconds: longest sound for a tower that attends to a whole waveform.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    prompt_markers = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<Video>", "</Video>", "<Audio>", "</Audio>")

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        qformer_tokenizer=None,
        chat_template=None,
        num_video_query_tokens=32,
        num_audio_query_tokens=8,
        patch_grid=(16, 16),
        timestamp_template="This frame is sampled at {time:.1f}s.",
        use_utterances=True,
        max_waveform_seconds=120.0,
        modalities=("video", "audio"),
        num_frames=8,
        sampling="uniform",
        fps=None,
        max_duration=1800.0,
        default_question="Please infer the person's emotional state and provide your reasoning process.",
        face_config=None,
    ):
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            modalities=modalities,
            num_frames=num_frames,
            sampling=sampling,
            fps=fps,
            max_duration=max_duration,
            default_question=default_question,
            face_config=face_config,
            qformer_tokenizer=qformer_tokenizer,
        )
        self.num_video_query_tokens = num_video_query_tokens
        self.num_audio_query_tokens = num_audio_query_tokens
        self.patch_grid = list(patch_grid)
        self.timestamp_template = timestamp_template
        self.use_utterances = use_utterances
        self.max_waveform_seconds = max_waveform_seconds

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "video_region_masks", "video_timestamp_ids", "video_timestamp_mask"]

    def num_video_tokens(self, num_utterances: int) -> int:
        return self.num_video_query_tokens * (1 + num_utterances if self.use_utterances else 1)

    def num_sound_tokens(self, num_utterances: int) -> int:
        return self.num_audio_query_tokens

    def sound_features(self, waveforms) -> dict:
        return whole_sound_features(self.feature_extractor, waveforms, self.max_waveform_seconds)

    def _process_videos(self, videos, faces=None, landmarks=None, **kwargs):
        """As the base class, and for clips with a picture

        `video_region_masks` (B, T, R, P) bool, all False for a frame without a face; `video_timestamp_ids` and
        `video_timestamp_mask` (B, T, W) int64, padded on the right.
        """
        data, replacements = super()._process_videos(videos, **kwargs)
        if "pixel_values_videos" in data:
            tracks = self.find_faces(videos, landmarks, faces)
            rows = []
            for clip, track in zip(videos, tracks, strict=True):
                if clip is None or clip.frames is None:
                    rows.append({})
                elif track is None:
                    shape = (len(clip.frames), len(self.face_finder.region_names), int(np.prod(self.patch_grid)))
                    rows.append({"video_region_masks": np.zeros(shape, dtype=bool)})
                else:
                    rows.append({"video_region_masks": self.face_finder.region_masks(track, tuple(self.patch_grid))})
            data.update(pad_rows(rows))
            data.update(self.timestamps(data["video_times"]))
            data["video_metadata"] = [
                None if clip is None else self.report(clip, track) for clip, track in zip(videos, tracks, strict=True)
            ]
        return data, replacements

    def timestamps(self, video_times: np.ndarray) -> dict[str, np.ndarray]:
        """The sentence that tells each frame's time, for the image Q-Former.

        Args:
            video_times: (B, T) int64 ms, -1 where padded.

        Returns:
            `video_timestamp_ids` (B, T, W) and `video_timestamp_mask` (B, T, W), int64, 0 in the mask where padded.
        """
        real = video_times >= 0
        sentences = [self.timestamp_template.format(time=time / 1000) for time in video_times[real].tolist()]
        tokens = self.qformer_tokenizer(sentences, padding=True, padding_side="right", return_tensors="np")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        data = {
            "video_timestamp_ids": np.full((*real.shape, ids.shape[1]), self.qformer_tokenizer.pad_token_id, np.int64),
            "video_timestamp_mask": np.zeros((*real.shape, ids.shape[1]), np.int64),
        }
        data["video_timestamp_ids"][real] = ids
        data["video_timestamp_mask"][real] = mask
        return data


MicroEmoProcessor.register_for_auto_class()

__all__ = ["MicroEmoProcessor"]
