"""Frames to pixel values: the fast path against PIL and numpy, the standard call, saving and reloading."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend

from hf_emotion.processing.image_processing_emotion import EmotionImageProcessor


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(5, 90, 160, 3) uint8: smooth shapes with some noise, as pictures are."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 9, 16, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(x).resize((160, 90), Image.BICUBIC)) for x in coarse])
    return np.clip(smooth.astype(int) + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def pil_twin(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frame by frame, PIL and numpy -> (T, h, w, 3) uint8."""
    return np.stack([np.asarray(Image.fromarray(x).resize(size[::-1], Image.BICUBIC)) for x in frames])


@pytest.mark.parametrize("size", [(224, 224), (32, 48), (448, 448)])
def test_the_fast_resize_stays_within_two_levels_of_pil_bicubic(frames, size):
    processor = EmotionImageProcessor(size={"height": size[0], "width": size[1]}, do_rescale=False, do_normalize=False)
    ours = processor.frames_to_pixels(frames)
    assert ours.dtype == torch.uint8
    off = np.abs(ours.permute(0, 2, 3, 1).numpy().astype(int) - pil_twin(frames, size).astype(int))
    assert off.max() <= 2
    assert (off > 0).mean() < 0.02
    # The same bounds must notice another filter, or they say nothing.
    bilinear = np.stack([np.asarray(Image.fromarray(x).resize(size[::-1], Image.BILINEAR)) for x in frames])
    assert (np.abs(bilinear.astype(int) - pil_twin(frames, size).astype(int)) > 0).mean() > 0.2


def test_rescaling_and_normalising_in_one_step_equals_the_two_steps(frames):
    processor = EmotionImageProcessor(size={"height": 90, "width": 160})  # no resize: the arithmetic alone
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    twin = ((frames / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    ours = processor.frames_to_pixels(frames)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    np.testing.assert_allclose(ours.numpy(), twin, atol=2e-6)


@pytest.mark.parametrize("steps", [{"do_normalize": False}, {"do_rescale": False}, {"do_resize": False}])
def test_each_step_can_be_left_out_as_in_the_pil_backend(frames, steps):
    class Twin(PilBackend):
        size = {"height": 224, "width": 224}
        resample = EmotionImageProcessor.resample
        image_mean, image_std = EmotionImageProcessor.image_mean, EmotionImageProcessor.image_std
        do_resize = do_rescale = do_normalize = do_convert_rgb = True

    ours = EmotionImageProcessor(**steps)(list(frames), return_tensors="pt")["pixel_values"]
    twin = Twin(**steps)(list(frames), return_tensors="pt")["pixel_values"]
    assert ours.shape == twin.shape
    scale = 255 if steps.get("do_rescale", True) else 1  # one level of 255, divided by the smallest deviation
    assert (ours.float() - twin.float()).abs().max() <= 2 / scale / min(EmotionImageProcessor.image_std) + 1e-5


def test_pictures_that_are_many_get_the_pixels_that_each_gets_alone(frames):
    processor = EmotionImageProcessor(size={"height": 40, "width": 48})
    many = np.concatenate([frames, frames[::-1], frames[:, ::-1], frames[:4]])  # no multiple of those taken at once
    alone = [processor.frames_to_pixels(frame[None]) for frame in many]
    assert torch.equal(processor.frames_to_pixels(many), torch.cat(alone))


def test_the_standard_call_gives_what_frames_to_pixels_gives(frames):
    processor = EmotionImageProcessor()
    expected = processor.frames_to_pixels(frames)
    assert torch.equal(processor(list(frames), return_tensors="pt")["pixel_values"], expected)
    pictures = [Image.fromarray(x) for x in frames]
    assert torch.equal(processor.preprocess(pictures, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(processor.frames_to_pixels(torch.from_numpy(frames)), expected)
    plain = processor(frames[0])["pixel_values"]
    assert isinstance(plain[0], np.ndarray)
    np.testing.assert_array_equal(plain[0], expected[0].numpy())


def test_pictures_of_unlike_sizes_keep_their_order(frames):
    processor = EmotionImageProcessor()
    mixed = [frames[0], frames[1][:, :100].copy(), frames[2], frames[3][:, :100].copy()]
    batch = processor(mixed, return_tensors="pt")["pixel_values"]
    for image, pixels in zip(mixed, batch, strict=True):
        assert torch.equal(processor.frames_to_pixels(image[None])[0], pixels)


def test_nothing_is_cropped_so_that_relative_positions_stay():
    frame = np.zeros((1, 100, 400, 3), dtype=np.uint8)
    frame[0, 70:80, 380:400] = 255  # at the far right edge, where a centre crop would cut it off
    pixels = EmotionImageProcessor().frames_to_pixels(frame)[0, 0]
    rows, columns = torch.nonzero(pixels > pixels.min() + 0.5 * (pixels.max() - pixels.min()), as_tuple=True)
    assert (rows.float().mean() + 0.5) / 224 == pytest.approx(0.75, abs=0.01)
    assert (columns.float().mean() + 0.5) / 224 == pytest.approx(0.975, abs=0.01)


def test_settings_given_for_one_call_hold_for_that_call_alone(frames):
    processor = EmotionImageProcessor()
    small = processor(list(frames), size={"height": 16, "width": 16}, return_tensors="pt")["pixel_values"]
    assert small.shape == (5, 3, 16, 16)
    assert processor.frames_to_pixels(frames).shape == (5, 3, 224, 224)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 30, 30), np.uint8),
        np.zeros((2, 3, 30, 30), np.uint8),
        np.zeros((2, 30, 30, 3), np.float32),
        np.zeros((0, 30, 30, 3), np.uint8),
    ],
)
def test_frames_of_another_shape_or_type_are_named_in_the_error(bad):
    with pytest.raises(ValueError, match=r"frames of shape \(.*uint8 RGB"):
        EmotionImageProcessor().frames_to_pixels(bad)


def test_a_saved_processor_loads_as_remote_code_where_the_package_is_not_importable(tmp_path, frames):
    processor = EmotionImageProcessor(size={"height": 24, "width": 40}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "frames.npy", frames)
    script = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'hf_emotion': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import numpy as np\n"
        "from transformers import AutoImageProcessor\n"
        "p = AutoImageProcessor.from_pretrained(sys.argv[1] + '/model', trust_remote_code=True)\n"
        "np.save(sys.argv[1] + '/pixels.npy', p.frames_to_pixels(np.load(sys.argv[1] + '/frames.npy')).numpy())\n"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), processor.frames_to_pixels(frames).numpy())
