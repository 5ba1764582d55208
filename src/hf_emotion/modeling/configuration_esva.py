"""Configuration of ESVA (Informatica 49, 2025), and with its additions off of Emotion-LLaMA (arXiv 2406.11161)."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec, frame_rate_of

EVA_448 = {"model_type": "instructblip_vision_model", "image_size": 448}
# The large models behind the 1,024-wide features of Emotion-LLaMA.
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

    The defaults are the paper's model. Its ablations are fields: Table 5's encoders are absent or different sub-configs
    (`vision_config=None` is "MAE, VideoMAE"), Table 6's "w/o MSFE" is `msfe_kernel_sizes=[]`, "w/o Audio & Video
    alignment" `use_alignment=False`, and "Emotion-LLaMA (Baseline)" is both with `contrast_weight=0.0`.

    Args:
        vision_config: EVA, the "global encoder" (3.2): ViT-g/14 at 448 pixels, as in Emotion-LLaMA. `None`: without.
        vision_post_layernorm_eps: eps of its last LayerNorm only; 1e-5 in the LAVIS family of checkpoints, where
            transformers' class has one eps for all. `None` leaves the tower unchanged.
        patches_per_token: number of consecutive patches in a token; Emotion-LLaMA's 4 turn 1,024 into 256.
        face_config: MAE, the "local encoder", on the crop of each frame's face. `None`: without.
        motion_config: VideoMAE, the "temporal encoder", on sequences of such crops. `None`: without.
        face_feature_size, motion_feature_size: width of the features of a face or motion encoder that is not available
            although its projector was trained: the projector is kept and reads zeros. The encoders of the published
            Emotion-LLaMA were never released, and its authors recommend zeros.
        audio_config: "HuBERT serves as the audio encoder" (3.2); Emotion-LLaMA's is a HuBERT-large for Chinese. Any
            audio encoder of transformers that takes a waveform or chunks of a spectrum can be used instead.
            `None`: without sound.
        audio_frame_rate: frames per second of the audio tower's output, Hz; by default the tower's own.
        audio_tokens: tokens of a clip's sound. One, a mean over time, in Emotion-LLaMA; more are means over equal parts
            of the clip.
        msfe_kernel_sizes: phi_i of Eq. 1, in frames of the audio tower: convolutions of these kernels. 3, 7 and 15 are
            60, 140 and 300 ms of HuBERT; the paper does not give N, kernels and weights. Empty: w/o MSFE.
        msfe_depthwise: each convolution is per channel, followed by a linear layer. Not specified in the paper; full
            convolutions by default.
        msfe_residual: F_A' = F_A + gate * (Eq. 1), with a gate per channel that starts at zero, so that training starts
            from the published audio encoder. `False` is literally Eq. 1.
        contrast_weight: gamma of L = L_align + lambda L_emo + gamma L_contrast. The paper defines the loss (Eq. 2) but
            leaves it out of Eq. 7; that is `0.0`, without its head.
        contrast_temperature, contrast_size: temperature of the similarities of Eq. 2, and the width in which they are
            computed. Not specified in the paper.
        contrast_queue_size: number of clips of earlier batches used in Eq. 2. Not specified in the paper; 0, as in
            0.1.0, uses only the batches of all processes, which leaves nothing if each step trains on one clip.
        use_alignment: section 3.4. Needs the sound and MAE or VideoMAE, because EVA sees one frame.
        alignment_size: width in which sound and picture are compared. Not specified in the paper.
        alignment_rate: steps per second of their common grid, Hz. Not specified in the paper.
        alignment_max_offset, alignment_window: ms; the range of tau, and Delta t, the "fixed-length time window".
            Neither is specified in the paper.
        alignment_min_overlap: share of the shorter of sound and picture that must overlap for an offset to be searched.
        alignment_local_weight, alignment_global_weight: alpha and beta of Eq. 8. The paper does not give their values.
        alignment_search: `"combined"` is Eq. 9; `"global"` is Eq. 6, the greatest correlation.
        alignment_selection: `"argmin"` is Eq. 9; `"softmin"` takes the mean of the loss over all offsets by
            softmax(-L / `alignment_temperature`), which has a gradient everywhere, instead of Eq. 9's minimum. It needs
            a search, and makes `"search"` the default of `alignment_training`.
        alignment_training: `"zero"`, the default: in training, sound and picture are assumed to be synchronous, as in
            "strictly aligned" data (4.1.1), and L_align is that of tau = 0; the trained model then searches for tau*.
            `"search"` uses L_align(tau*) in training too, which is literally Eq. 9. From random projections it settles
            on wrong offsets; after training with `"zero"` it learns from late sound as well
            (`benchmarks/esva_recognition.py` measures both).
        apply_offset: the sound is shifted by tau* before it is pooled into tokens: "ensures precise alignment [...]
            laying the foundation for subsequent multimodal fusion" (3.4). Frames shifted out of the clip are left out.
        fuse_aligned: two layers join each step of the sound with the step of the picture at t + tau*, and their means
            over the parts of the clip are added to the sound's tokens. Without it, as in 0.1.0 and in Emotion-LLaMA,
            tokens are means over time, in which tau* only changes which frames are left out. The paper does not specify
            the fusion.
        controller: 4.4, "dynamically adjusts ESVA's cross-modal alignment parameters based on the temporal drift":
            `"fuzzy"`, `"neural"` or `"backstepping"`, which set alpha and beta from window to window. The paper gives
            no equations; the implementation is our reading (`alignment_esva.py`).
        emotion_weight: lambda of Eq. 7. The paper does not give its value.
        text_config: LLaMA-2-7B-chat.
        missing_modality: `"zero_feature"`: zeros replace a tower's output and are projected, as in Emotion-LLaMA; the
            prompt keeps its length. `"drop"`: no placeholder, no token.
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
            # A masked autoencoder drops three quarters of an image even when it only encodes.
            self.face_config.mask_ratio = 0.0
        if self.audio_config is not None and self.audio_frame_rate is None:
            self.audio_frame_rate = frame_rate_of(self.audio_config)

    @property
    def face_width(self) -> int | None:
        """Width of the face encoder's features, whether or not the encoder is available; `None` without one."""
        return self.face_feature_size if self.face_config is None else self.face_config.hidden_size

    @property
    def motion_width(self) -> int | None:
        """`face_width` for the motion encoder."""
        return self.motion_feature_size if self.motion_config is None else self.motion_config.hidden_size

    @property
    def has_motion(self) -> bool:
        """Whether the model sees how a face changes over time: it has MAE or VideoMAE."""
        return self.face_config is not None or self.motion_config is not None

    @property
    def aligns(self) -> bool:
        """Whether sound and picture are aligned: the alignment is on and the model has both."""
        return self.use_alignment and self.audio_config is not None and self.has_motion

    @property
    def face_size(self) -> int | None:
        """Side of a face crop in pixels, the same for MAE and VideoMAE; `None` without both."""
        config = self.face_config or self.motion_config
        return None if config is None else config.image_size

    @property
    def num_patch_tokens(self) -> int:
        """Number of tokens of EVA's merged patches: 256 at full size."""
        if self.vision_config is None:
            return 0
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2 // self.patches_per_token

    @property
    def feature_kinds(self) -> list[str]:
        """The kind of each token after the patches: Emotion-LLaMA's `<FeatureHere>` is MAE, VideoMAE, HuBERT and EVA's
        class token. Each is `"video"` or `"audio"`, the placeholder that the token replaces."""
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
                    f"face_config takes images of {sizes[0]} pixels and motion_config of {sizes[1]}; both read the "
                    f"same images, so the sizes must be equal"
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
        """Media tokens of a clip in the language model's prompt: the same for clips of any length."""
        kinds = self.feature_kinds
        return {"video": self.num_patch_tokens + kinds.count("video"), "audio": kinds.count("audio")}


# The source files are saved with the model, so that a folder loads without this package.
ESVAConfig.register_for_auto_class()

__all__ = ["ESVAConfig"]
