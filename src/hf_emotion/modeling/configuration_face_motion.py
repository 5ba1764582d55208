"""Configuration of the landmark tower: a vision tower that reads the face mesh instead of pixels."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class FaceMotionConfig(PreTrainedConfig):
    """Configuration of `FaceMotionModel`.

    Args:
        hidden_size: D, width of a region's token.
        intermediate_size: width inside the region's two layers.
        regions: landmark indices of each facial region, in the order of the processor's regions; a frame has one token
            for each. Indices from 468 on (the irises) are left out: the canonical face has none.
        calm_share: the share of a clip's frames, those nearest to the canonical face, whose mean is taken as the
            person's calm face.
    """

    model_type = "face_motion"

    hidden_size: int = 64
    intermediate_size: int = 96
    regions: list[list[int]] | None = None
    calm_share: float = 0.25
    initializer_range: float = 0.1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.regions = [] if self.regions is None else [list(map(int, indices)) for indices in self.regions]

    @property
    def num_regions(self) -> int:
        """R, which is also the number of "patches" of a frame."""
        return len(self.regions)


FaceMotionConfig.register_for_auto_class()

__all__ = ["FaceMotionConfig"]
