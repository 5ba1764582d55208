"""Configuration of ESVA (Informatica 49, 2025), and with its additions off of Emotion-LLaMA (arXiv 2406.11161)."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec, frame_rate_of

EVA_448 = {"model_type": "instructblip_vision_model", "image_size": 448}
# The large models that gave the 1,024-wide features of Emotion-LLaMA.
VIT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
MAE_LARGE = {"model_type": "vit_mae", "mask_ratio": 0.0, **VIT_LARGE}
VIDEOMAE_LARGE = {"model_type": "videomae", "use_mean_pooling": False, **VIT_LARGE}
HUBERT_LARGE = {
    "model_type": "hubert",
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "feat_proj_layer_norm": True,
    **VIT_LARGE,
}


@strict
class ESVAConfig(EmotionConfig):
    """Configuration of `ESVAModel` and `ESVAForConditionalGeneration`.

    The defaults are the paper's model. Its ablations are fields: Table 5's encoders are missing or other sub-configs
    (`vision_config=None` is "MAE, VideoMAE"), Table 6's "w/o MSFE" is `msfe_kernel_sizes=[]`, "w/o Audio & Video
    alignment" `use_alignment=False`, and "Emotion-LLaMA (Baseline)" is both with `contrast_weight=0.0`.

    Args:
        vision_config: EVA, the "global encoder" (3.2): ViT-g/14 at 448 pixels, as in Emotion-LLaMA. `None`: without.
        vision_post_layernorm_eps: eps of its last LayerNorm alone; 1e-5 in the LAVIS family of checkpoints, where
            transformers' class has one eps for all. `None` leaves the tower as it is.
        patches_per_token: patches that stand in a row and make one token; Emotion-LLaMA's 4 turn 1,024 into 256.
        face_config: MAE, the "local encoder", on the picture of each frame's face. `None`: without.
        motion_config: VideoMAE, the "temporal encoder", on sequences of such pictures. `None`: without.
        face_feature_size, motion_feature_size: width of the features of a face or motion encoder that is not at hand
            though its projector was trained: the projector is kept and given zeros. The encoders of the published
            Emotion-LLaMA were never released, and its authors advise zeros.
        audio_config: "HuBERT serves as the audio encoder" (3.2); Emotion-LLaMA's is a HuBERT-large for Chinese. Any
            audio encoder of transformers that takes a waveform or chunks of a spectrum may stand in its place.
            `None`: without sound.
        audio_frame_rate: frames per second of the audio tower's output, Hz; by default the tower's own.
        audio_tokens: tokens of a clip's sound. One, a mean over time, in Emotion-LLaMA; more are means over equal parts
            of the clip.
        msfe_kernel_sizes: phi_i of Eq. 1, in frames of the audio tower: convolutions of these kernels. 3, 7 and 15 are
            60, 140 and 300 ms of HuBERT; paper silent on N, kernels and weights. Empty: w/o MSFE.
        msfe_depthwise: each convolution runs over channels one by one, and a linear layer joins them. Paper silent;
            whole convolutions by default.
        msfe_residual: F_A' = F_A + gate * (Eq. 1), with a gate per channel that starts at zero, so that training starts
            from the published audio encoder. `False` is Eq. 1 by the letter.
        contrast_weight: gamma of L = L_align + lambda L_emo + gamma L_contrast. The paper has the loss (Eq. 2) and
            leaves it out of Eq. 7, which is `0.0`, without its head.
        contrast_temperature, contrast_size: of the similarities of Eq. 2, and width in which they are taken. Paper
            silent.
        contrast_queue_size: clips of earlier batches kept for Eq. 2. Paper silent; 0, of 0.1.0, takes the batches of
            all processes alone, which leaves nothing where each step trains on one clip.
        use_alignment: section 3.4. Needs the sound and one of MAE and VideoMAE: EVA sees one frame.
        alignment_size: width in which sound and picture are compared. Paper silent.
        alignment_rate: steps per second of their common grid, Hz. Paper silent.
        alignment_max_offset, alignment_window: ms; the range of tau, and Delta t, the "fixed-length time window".
            Paper silent on both.
        alignment_min_overlap: share of the shorter of sound and picture that must overlap for an offset to be searched.
        alignment_local_weight, alignment_global_weight: alpha and beta of Eq. 8. Paper silent on their values.
        alignment_search: `"combined"` is Eq. 9; `"global"` is Eq. 6, the greatest correlation.
        alignment_selection: `"argmin"` is Eq. 9; `"softmin"` takes the mean of the loss over all offsets by
            softmax(-L / `alignment_temperature`), which has a gradient everywhere, in place of Eq. 9's minimum. It is
            one over a search, and makes `"search"` the default of `alignment_training`.
        alignment_training: `"zero"`, the default: in training sound and picture are taken to be in step, as "strictly
            aligned" data are (4.1.1), and L_align is that of tau = 0; tau* is what the trained model searches for.
            `"search"` takes L_align(tau*) also in training, which is Eq. 9 by the letter; nothing in it tells the true
            offset from any other that all clips could share (`benchmarks/esva_demo.py` measures both).
        apply_offset: the sound is moved by tau* before it is pooled into tokens: "ensures precise alignment [...]
            laying the foundation for subsequent multimodal fusion" (3.4). What is moved out of the clip is left out.
        fuse_aligned: each step of the sound joins the step of the picture at t + tau*, by two layers, and their means
            over the parts of the clip are added to the sound's tokens. Without it, as in 0.1.0 and in Emotion-LLaMA,
            tokens are means over time, in which tau* changes nothing but what is left out. Paper silent on the fusion.
        controller: 4.4, "dynamically adjusts ESVA's cross-modal alignment parameters based on the temporal drift":
            `"fuzzy"`, `"neural"` or `"backstepping"`, which set alpha and beta from window to window. The paper prints
            no equation: what they do is our reading (`alignment.py`).
        emotion_weight: lambda of Eq. 7. Paper silent on its value.
        text_config: LLaMA-2-7B-chat.
        missing_modality: `"zero_feature"`: zeros stand for what a tower would give, and are projected, as in
            Emotion-LLaMA; the prompt keeps its length. `"drop"`: no placeholder, no token.
    """

    model_type = "esva"
    defaults_of_0_1 = {"fuse_aligned": False, "contrast_queue_size": 0, "alignment_training": "zero"}
    keys_to_ignore_at_inference = [*EmotionConfig.keys_to_ignore_at_inference, "loss_terms", "alignment"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model", optional=True),
        "face_config": SubConfigSpec(config_class=AutoConfig, model_type="vit_mae", optional=True),
        "motion_config": SubConfigSpec(config_class=AutoConfig, model_type="videomae", optional=True),
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="hubert", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = field(default_factory=EVA_448.copy)
    vision_post_layernorm_eps: float | None = 1e-5
    patches_per_token: int = 4
    face_config: dict | PreTrainedConfig | None = field(default_factory=MAE_LARGE.copy)
    motion_config: dict | PreTrainedConfig | None = field(default_factory=VIDEOMAE_LARGE.copy)
    face_feature_size: int | None = None
    motion_feature_size: int | None = None
    audio_config: dict | PreTrainedConfig | None = field(default_factory=HUBERT_LARGE.copy)
    audio_frame_rate: float | int | None = None
    audio_tokens: int = 1
    msfe_kernel_sizes: list[int] = field(default_factory=lambda: [3, 7, 15])
    msfe_depthwise: bool = False
    msfe_residual: bool = True
    contrast_weight: float | int = 0.1
    contrast_temperature: float = 0.07
    contrast_size: int = 128
    contrast_queue_size: int = 256
    use_alignment: bool = True
    alignment_size: int = 256
    alignment_rate: float | int = 25.0
    alignment_max_offset: float | int = 1000
    alignment_window: float | int = 1000
    alignment_min_overlap: float = 0.5
    alignment_local_weight: float | int = 1.0
    alignment_global_weight: float | int = 1.0
    alignment_search: Literal["combined", "global"] = "combined"
    alignment_selection: Literal["argmin", "softmin"] = "argmin"
    alignment_temperature: float = 0.1
    alignment_training: Literal["zero", "search"] | None = None
    apply_offset: bool = True
    fuse_aligned: bool = True
    controller: Literal["fuzzy", "neural", "backstepping"] | None = None
    emotion_weight: float | int = 1.0
    missing_modality: Literal["zero_feature", "drop"] = "zero_feature"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.alignment_training is None:
            self.alignment_training = "search" if self.alignment_selection == "softmin" else "zero"
        if getattr(self.face_config, "mask_ratio", None):
            # A masked autoencoder drops three quarters of a picture also when it only encodes.
            self.face_config.mask_ratio = 0.0
        if self.audio_config is not None and self.audio_frame_rate is None:
            self.audio_frame_rate = frame_rate_of(self.audio_config)

    @property
    def face_width(self) -> int | None:
        """Width of the features of the face encoder, whether it is at hand or not; `None` for a model without."""
        return self.face_feature_size if self.face_config is None else self.face_config.hidden_size

    @property
    def motion_width(self) -> int | None:
        """As `face_width`, of the motion encoder."""
        return self.motion_feature_size if self.motion_config is None else self.motion_config.hidden_size

    @property
    def has_motion(self) -> bool:
        """The model sees how a face changes in time: it has MAE or VideoMAE."""
        return self.face_config is not None or self.motion_config is not None

    @property
    def aligns(self) -> bool:
        """Sound and picture are aligned: asked for, and both are there."""
        return self.use_alignment and self.audio_config is not None and self.has_motion

    @property
    def face_size(self) -> int | None:
        """Pixels of the side of a face's picture, of which MAE and VideoMAE take the same; `None` without both."""
        config = self.face_config or self.motion_config
        return None if config is None else config.image_size

    @property
    def num_patch_tokens(self) -> int:
        """Tokens of the merged patches of EVA: 256 at full size."""
        if self.vision_config is None:
            return 0
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2 // self.patches_per_token

    @property
    def feature_kinds(self) -> list[str]:
        """What follows the patches, token by token: Emotion-LLaMA's `<FeatureHere>` is MAE, VideoMAE, HuBERT and EVA's
        class token. `"video"` or `"audio"` each, the placeholder that the token takes."""
        visual = ["video"] * ((self.face_width is not None) + (self.motion_width is not None))
        audio = ["audio"] * (0 if self.audio_config is None else self.audio_tokens)
        return visual + audio + ["video"] * (self.vision_config is not None)

    def validate_towers(self):
        towers = (self.vision_config, self.face_config, self.motion_config, self.audio_config)
        if all(tower is None for tower in towers):
            raise ValueError(
                "vision_config, face_config, motion_config and audio_config are all None; at least one is needed"
            )
        if self.vision_config is not None:
            patches = (self.vision_config.image_size // self.vision_config.patch_size) ** 2
            if patches % self.patches_per_token:
                raise ValueError(
                    f"the vision tower has {patches} patches, which patches_per_token {self.patches_per_token} does "
                    f"not divide"
                )
        if self.face_config is not None and self.motion_config is not None:
            sizes = (self.face_config.image_size, self.motion_config.image_size)
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"face_config takes pictures of {sizes[0]} pixels and motion_config of {sizes[1]}; they are shown "
                    f"the same pictures, so equal sizes are accepted"
                )

    def validate_numbers(self):
        for size in self.msfe_kernel_sizes:
            if size < 1 or size % 2 == 0:
                raise ValueError(f"msfe_kernel_sizes are {self.msfe_kernel_sizes}; odd numbers from 1 are accepted")
        for name, least in (
            ("audio_tokens", 1),
            ("patches_per_token", 1),
            ("alignment_size", 1),
            ("alignment_max_offset", 0),
            ("contrast_weight", 0),
            ("contrast_queue_size", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; numbers from {least} are accepted")
        for name in ("alignment_rate", "alignment_window", "alignment_temperature", "contrast_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a positive number is accepted")

    def tokens_per_clip(self, num_frames: int, num_utterances: int = 0) -> dict[str, int]:
        """Media tokens of a clip in the language model's prompt: the same for every clip, of any length."""
        kinds = self.feature_kinds
        return {"video": self.num_patch_tokens + kinds.count("video"), "audio": kinds.count("audio")}


# Its own files travel with whatever is saved, so that a folder loads without this package.
ESVAConfig.register_for_auto_class()

__all__ = ["ESVAConfig"]
