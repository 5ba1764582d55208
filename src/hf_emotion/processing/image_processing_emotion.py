"""Frames of a clip -> the pixel values of a vision tower: resize, rescale, normalise.

The papers take their towers' own preprocessing (MicroEmo: EVA ViT-g/14 at 224 x 224 with CLIP's mean and deviation, as
in BLIP-2 and Video-LLaMA). What differs from `CLIPImageProcessor`: the whole picture is resized, nothing is cropped, so
that a landmark at (x, y) of the frame is at (x, y) of the tower's input; and uint8 frames of one size are resized
together by torch's antialiased kernel and rescaled and normalised in one step. That kernel keeps its weights in 16 bits
where PIL keeps 32: of the values of a resized picture about 1 in 200 differs from PIL's, by 1 level of 255, rarely 2
(`tests/test_image_processing.py` holds the bounds). Needs no torchvision.
"""

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

# The filters that torch's antialiased kernels share with PIL.
TORCH_MODES = {int(PILImageResampling.BILINEAR): "bilinear", int(PILImageResampling.BICUBIC): "bicubic"}
# Pictures that are resized and normalised together: few enough that they stay in a core's cache in between.
PICTURES_AT_ONCE = 8


class EmotionImageProcessor(PilBackend):
    """Frames or pictures -> `pixel_values`; plain resize, CLIP normalisation by default.

    `processor(images)` accepts what any transformers image processor accepts and returns `pixel_values` (N, 3, h, w).
    `frames_to_pixels` is for the frames of a clip.
    """

    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def frames_to_pixels(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """One clip's frames, or crops of one size, through the tower's preprocessing.

        Args:
            frames: (T, H, W, 3) uint8 RGB.

        Returns:
            (T, 3, h, w) float32, h and w of `size`.

        Raises:
            ValueError: another shape or type.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or 0 in frames.shape:
            raise ValueError(
                f"frames of shape {tuple(frames.shape)} and type {frames.dtype} were found, "
                "(T, H, W, 3) uint8 RGB with T, H, W from 1 is accepted."
            )
        images = list(frames.permute(0, 3, 1, 2).numpy())
        kwargs = {name: getattr(self, name) for name in self._valid_kwargs_names}
        if self._has_fast_path(images[:1], kwargs):
            return self._pixels(frames.permute(0, 3, 1, 2), **kwargs)
        return self._preprocess(images, **{**kwargs, "return_tensors": "pt"})["pixel_values"]

    def _preprocess(self, images, return_tensors=None, **kwargs) -> BatchFeature:
        """images: list of (3, H, W) arrays; the torch path where torch has PIL's filter, else PIL."""
        if not self._has_fast_path(images, kwargs):
            return super()._preprocess(images, return_tensors=return_tensors, **kwargs)
        places: dict[tuple, list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.shape, []).append(place)
        pixels = [None] * len(images)
        for same in places.values():
            # Channels stay last in memory, as decoded: the layout torch resizes fastest.
            stack = torch.from_numpy(np.stack([images[place].transpose(1, 2, 0) for place in same]))
            batch = self._pixels(stack.permute(0, 3, 1, 2), **kwargs)
            if len(places) == 1:
                pixels = batch
            else:
                for place, image in zip(same, batch, strict=True):
                    pixels[place] = image
        if return_tensors is None:
            pixels = [image.numpy() for image in pixels]
        elif not torch.is_tensor(pixels):
            pixels = torch.stack(pixels)
        return BatchFeature(data={"pixel_values": pixels}, tensor_type=return_tensors)

    def _has_fast_path(self, images, kwargs) -> bool:
        size, resample = kwargs["size"], kwargs["resample"]
        return (
            len(images) > 0
            and all(image.dtype == np.uint8 and image.shape[0] == 3 for image in images)
            and bool(kwargs["do_resize"] and size.height and size.width)
            and not (kwargs.get("do_center_crop") or kwargs.get("do_pad"))
            and resample is not None
            and int(resample) in TORCH_MODES
        )

    def _pixels(self, images: torch.Tensor, **kwargs) -> torch.Tensor:
        """images: (N, 3, H, W) uint8 -> (N, 3, h, w) float32 (uint8 when neither rescaled nor normalised)."""
        size = (kwargs["size"].height, kwargs["size"].width)
        mode = TORCH_MODES[int(kwargs["resample"])]

        def resized(some: torch.Tensor) -> torch.Tensor:
            if tuple(some.shape[-2:]) == size:
                return some
            return torch.nn.functional.interpolate(some, size=size, mode=mode, antialias=True, align_corners=False)

        if not (kwargs["do_rescale"] or kwargs["do_normalize"]):
            return resized(images).contiguous()
        factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        mean, std = (kwargs["image_mean"], kwargs["image_std"]) if kwargs["do_normalize"] else (0.0, 1.0)
        # Without normalisation mean and std are numbers; with it, one value a channel.
        mean = torch.tensor(mean, dtype=torch.float64).reshape(-1, 1, 1)
        std = torch.tensor(std, dtype=torch.float64).reshape(-1, 1, 1)
        scale, shift = (factor / std).float(), (-mean / std).float()
        pixels = torch.empty((*images.shape[:2], *size))
        for some, target in zip(images.split(PICTURES_AT_ONCE), pixels.split(PICTURES_AT_ONCE), strict=True):
            target.copy_(resized(some)).mul_(scale).add_(shift)
        return pixels


EmotionImageProcessor.register_for_auto_class()

__all__ = ["EmotionImageProcessor"]
