"""Configuration of the ImageBind audio tower (arXiv 2305.05665), the audio encoder of MicroEmo and AcoustEmo."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class ImageBindAudioConfig(PreTrainedConfig):
    """Configuration of `ImageBindAudioModel`; the defaults are the audio branch of the released `imagebind_huge`.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the transformer (ViT-B).
        projection_dim: width of the space all ImageBind modalities share.
        num_mel_bins, num_frames: size of one chunk's log-mel spectrogram: 2 s of sound.
        patch_size, patch_stride: patches overlap: 16 x 16, every 10 bins and every 10 frames.
        mel_window_ms, mel_hop_ms: analysis window and hop of the spectrogram, in ms; the times of the tower's steps are
            computed from them.
        layer_norm_eps: eps of the norms in the blocks and the head.
        stem_layer_norm_eps: eps of the norm after the patch embedding.
        logit_scale: L2 norm of the pooled output; fixed at 20 for sound, never trained.
        add_bias_kv: each attention has one additional, learned key and value.
    """

    model_type = "imagebind_audio"
    base_config_key = "audio_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    projection_dim: int = 1024
    num_mel_bins: int = 128
    num_frames: int = 204
    patch_size: int = 16
    patch_stride: int = 10
    mel_window_ms: int = 25
    mel_hop_ms: int = 10
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    stem_layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    logit_scale: float | int = 20.0
    add_bias_kv: bool = True
    initializer_range: float = 0.02

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along frequency and along time; (12, 19) at full size."""
        rows = (self.num_mel_bins - self.patch_size) // self.patch_stride + 1
        columns = (self.num_frames - self.patch_size) // self.patch_stride + 1
        return rows, columns

    def validate_sizes(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if min(self.num_mel_bins, self.num_frames) < self.patch_size:
            raise ValueError(
                f"a spectrogram of {self.num_mel_bins} bins x {self.num_frames} frames is smaller than one patch of "
                f"{self.patch_size} x {self.patch_size}"
            )


__all__ = ["ImageBindAudioConfig"]
