"""What a clip costs a model: operations of its towers and its language model, and bytes of cached features.

Counted on torch's meta device, so no weights are needed: `FlopCounterMode` over one pass of each tower, and the shapes
of what `FeatureCache` keeps of it.
"""

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from .training.cache import STEPS_AFTER_SOUND

BFLOAT16 = 2  # bytes


@dataclass
class TowerCost:
    """Of one clip, for one tower.

    Attributes:
        flop: forward.
        bytes: of its cached output in bfloat16.
    """

    name: str
    flop: int
    bytes: int


def tower_costs(model, frames: int = 8, seconds: float = 5.0) -> list[TowerCost]:
    """What each tower of a generating model costs for a clip of so many frames and so much sound.

    Args:
        model: on any device; on "meta" (`with torch.device("meta")`) nothing is computed.
        frames: T; a tower that sees only the key frame (ESVA's ViT) runs once.
        seconds: of sound.

    Raises:
        ValueError: a tower of a kind whose input is not known here.
    """
    base = model.base_model
    return [
        TowerCost(name, *_cost(base, name, tower, frames, seconds))
        for name, tower in base.named_children()
        if name.endswith("_tower")
    ]


def _cost(base, name, tower, frames, seconds) -> tuple[int, int]:
    config, device, dtype = tower.config, base.device, base.dtype
    if config.model_type in ("face_motion", "voice_prosody"):
        raise ValueError(f"{name} is a {config.model_type}, which reads landmarks or prosody; it costs next to nothing")

    def run(*shape, call=None):
        inputs = torch.empty(*shape, device=device, dtype=dtype)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = (call or tower)(inputs)
        return counter.get_total_flops(), output

    if name == "audio_tower":
        if config.model_type == "whisper":
            chunks = ceil(seconds * 50 / config.max_source_positions)
            flop, output = run(1, config.num_mel_bins, 2 * config.max_source_positions)
            steps = chunks * config.max_source_positions
            if not getattr(base.config, "keep_padding", False):
                steps = min(steps, round(seconds * 50) + STEPS_AFTER_SOUND * chunks)
            return chunks * flop, steps * output.last_hidden_state.shape[-1] * BFLOAT16
        if config.model_type == "imagebind_audio":
            chunks = ceil(seconds / 2)  # chunks of 2 s
            flop, output = run(chunks, config.num_mel_bins, config.num_frames)
            return flop, prod(output.last_hidden_state.shape) * BFLOAT16
        flop, output = run(1, round(16000 * seconds))
        return flop, prod(output.last_hidden_state.shape) * BFLOAT16
    side = config.image_size
    side = side if isinstance(side, int) else side[0]  # towers of the papers see squares
    if config.model_type == "videomae":
        windows = ceil(frames / config.num_frames)
        flop, output = run(1, config.num_frames, config.num_channels, side, side)
        return windows * flop, windows * output.last_hidden_state.shape[-1] * BFLOAT16
    if name == "face_tower":
        flop, output = run(1, 3, side, side)
        states = output.last_hidden_state
        grid = getattr(base.config, "face_grid", None)
        stored = states.shape[-1] if grid is None else grid**2 * states.shape[-1 if states.dim() == 3 else 1]
        return frames * flop, frames * stored * BFLOAT16
    if name == "frame_tower":
        flop, output = run(1, 3, side, side)
        return frames * flop, base.config.num_steps * output.last_hidden_state.shape[-1] * BFLOAT16
    if name == "vision_tower":
        count = 1 if base.config.model_type in ("esva", "emotion_llama_v2") else frames
        flop, states = run(1, 3, side, side, call=base.frame_features)
        states = states[0] if isinstance(states, tuple) else states
        return count * flop, count * prod(states.shape) * BFLOAT16
    raise ValueError(f"{name} is a {config.model_type}, whose input is not known here")


def language_cost(model, tokens: int) -> int:
    """Operations of the language model, forward, for so many tokens: two for each weight, and the attention's."""
    text = model.config.text_config
    base = model.base_model
    weights = sum(parameter.numel() for parameter in base.language_model.layers.parameters())
    attention = 4 * text.num_hidden_layers * text.hidden_size * tokens**2
    return 2 * weights * tokens + attention


__all__ = ["TowerCost", "language_cost", "tower_costs"]
