"""The landmark tower: how a face has moved, region by region, from its mesh landmarks alone.

landmarks in pixels -> pose fitted and removed -> displacement from the canonical face, displacement from the person's
own calm frames, speed -> one token a region

It stands where a vision tower stands. Its "patches" are the facial regions of MicroEmo (arXiv 2407.16552, section 3.2),
so regional attention, utterance windows and ablations run on it unchanged. It never sees a pixel, which is why a model
on it can be taught on synthetic faces: the face mesh has already learned what faces look like.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from .canonical_face import NUM_MESH_LANDMARKS, POSE_WEIGHTS, canonical_face
from .configuration_face_motion import FaceMotionConfig

CHANNELS = 6  # x and y of: displacement from the canonical face, from the own calm face, speed


def remove_pose(landmarks, canonical):
    """Landmarks as a camera straight ahead would see them, in the canonical face's frame.

    Weak perspective: scale, rotation and shift that take the canonical face to the picture are fitted by weighted least
    squares over the landmarks that hold still against the skull (MediaPipe's `POSE_WEIGHTS`); each landmark is then
    moved back in the canonical depth. Only x and y are used: the mesh's own depth is a guess from the same picture.

    Args:
        landmarks: (..., 468, 2 or 3), pixels, y downwards; frames without a face may hold anything finite.
        canonical: (468, 3), cm.

    Returns:
        (..., 468, 2), cm, y upwards. Frames whose landmarks do not span an area give zeros.
    """
    points = landmarks[..., :2].float() * landmarks.new_tensor([1.0, -1.0], dtype=torch.float)
    canonical = canonical.float()
    index = torch.tensor(list(POSE_WEIGHTS), device=points.device)
    weight = torch.tensor(list(POSE_WEIGHTS.values()), device=points.device)
    weight = weight / weight.sum()
    still = canonical[index]  # (K, 3)
    centre = weight @ still
    middle = torch.einsum("k,...kc->...c", weight, points[..., index, :])
    # Least squares for the 2 x 3 matrix of the projection: a constant 3 x K matrix does it for every frame.
    offsets = (still - centre) * weight.sqrt().unsqueeze(-1)
    solve = torch.linalg.pinv(offsets) * weight.sqrt()  # (3, K)
    projection = torch.einsum("ak,...kc->...ca", solve, points[..., index, :] - middle.unsqueeze(-2))  # (..., 2, 3)
    # The nearest scaled rotation: P (P P^T)^-1/2 has orthonormal rows; the square root of a 2 x 2 matrix is closed.
    gram = projection @ projection.transpose(-1, -2)
    determinant = (gram[..., 0, 0] * gram[..., 1, 1] - gram[..., 0, 1] ** 2).clamp(min=0).sqrt()
    trace = gram[..., 0, 0] + gram[..., 1, 1]
    flat = (determinant <= 1e-6 * trace) | (trace <= 1e-12)
    determinant = torch.where(flat, torch.ones_like(determinant), determinant)[..., None, None]
    trace = torch.where(flat, torch.full_like(trace, 2.0), trace)[..., None, None]
    eye = torch.eye(2, device=points.device)
    gram = torch.where(flat[..., None, None], eye, gram)
    root = (gram + determinant * eye) / (trace + 2 * determinant).sqrt()
    inverse = inverse_2x2(root)
    rotation = inverse @ projection  # (..., 2, 3)
    scale = (root[..., 0, 0] + root[..., 1, 1]).div(2)[..., None, None]
    seen = (points - middle.unsqueeze(-2)) / scale
    depth = (canonical - centre)[:, 2:]  # (468, 1)
    seen = seen - depth * rotation[..., None, :, 2]
    turned = torch.where(flat[..., None, None], eye, rotation[..., :2])
    frontal = seen @ inverse_2x2(turned).transpose(-1, -2)
    frontal = frontal + centre[:2]
    return frontal.masked_fill(flat[..., None, None], 0.0)


def inverse_2x2(matrix):
    """Inverse of (..., 2, 2); a matrix near singular (a head seen from the side) is inverted as if it were less so."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * d - b * c
    determinant = torch.where(determinant < 0, determinant.clamp(max=-0.2), determinant.clamp(min=0.2))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return adjugate / determinant[..., None, None]


def face_motion(landmarks, times, canonical, calm_share=0.25):
    """What the landmark tower reads.

    Args:
        landmarks: (B, T, 468, 2 or 3), pixels; all zero in a frame without a face.
        times: (B, T) int64 ms, -1 for padded frames.
        canonical: (468, 3), cm.
        calm_share: share of the frames whose mean is the person's own calm face.

    Returns:
        (B, T, 468, 6): displacement from the canonical face in cm, displacement from the own calm face in cm (zero in a
        clip with one frame), speed in cm per 0.1 s (zero in the first frame); zero where there is no face. And (B, T)
        bool, there is one.
    """
    visible = (times >= 0) & (landmarks[..., :2] != 0).flatten(2).any(-1)  # (B, T)
    shown = remove_pose(landmarks, canonical) - canonical[:, :2].float()  # (B, T, 468, 2)
    shown = shown.masked_fill(~visible[..., None, None], 0.0)
    # The calmest frames of each clip; distances of frames without a face are infinite.
    distance = shown.square().sum(-1).mean(-1).masked_fill(~visible, torch.inf)  # (B, T)
    count = (visible.sum(-1, keepdim=True) * calm_share).ceil().clamp(min=1)
    calm = (distance.argsort(dim=-1).argsort(dim=-1) < count) & visible
    share = calm.float() / calm.sum(-1, keepdim=True).clamp(min=1)
    from_calm = shown - torch.einsum("bt,btpc->bpc", share, shown).unsqueeze(1)
    from_calm = from_calm.masked_fill(~visible[..., None, None], 0.0)
    step = (times[:, 1:] - times[:, :-1]).clamp(min=20).float() / 100
    steady = (visible[:, 1:] & visible[:, :-1])[..., None, None]
    speed = torch.where(steady, (shown[:, 1:] - shown[:, :-1]) / step[..., None, None], 0.0)
    speed = nn.functional.pad(speed, (0, 0, 0, 0, 1, 0))
    return torch.cat([shown, from_calm, speed], dim=-1), visible


class FaceMotionModel(PreTrainedModel):
    """Tokens of the facial regions of each frame; see the head of this file."""

    config: FaceMotionConfig
    # It has no attention: a model that holds it may choose any for its other parts.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    main_input_name = "video_landmarks"
    input_modalities = ("video",)

    def __init__(self, config: FaceMotionConfig):
        super().__init__(config)
        if not config.regions:
            raise ValueError("FaceMotionConfig.regions is empty; give the landmark indices of each facial region")
        regions = [[i for i in indices if i < NUM_MESH_LANDMARKS] for indices in config.regions]
        longest = max(map(len, regions))
        self.num_places = longest
        table = torch.tensor([indices + [0] * (longest - len(indices)) for indices in regions])
        real = torch.arange(longest) < torch.tensor([len(indices) for indices in regions])[:, None]
        self.register_buffer("table", table, persistent=False)  # (R, places)
        self.register_buffer("real", real, persistent=False)
        self.register_buffer("canonical", torch.tensor(canonical_face()), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(regions), longest * CHANNELS, config.intermediate_size))
        self.bias = nn.Parameter(torch.empty(len(regions), config.intermediate_size))
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FaceMotionModel):
            init.normal_(module.weight, std=0.2)
            init.normal_(module.bias, std=self.config.initializer_range)
            init.copy_(module.canonical, torch.tensor(canonical_face()))
            regions = [[i for i in indices if i < NUM_MESH_LANDMARKS] for indices in self.config.regions]
            init.copy_(module.table, torch.tensor([i + [0] * (module.num_places - len(i)) for i in regions]))
            lengths = torch.tensor([len(indices) for indices in regions])
            init.copy_(module.real, torch.arange(module.num_places) < lengths[:, None])

    def forward(self, video_landmarks, video_times, return_dict=True, **kwargs) -> BaseModelOutputWithPooling:
        """Tokens of the real frames of a padded batch.

        Args:
            video_landmarks: (B, T, 468, 2 or 3), pixels; all zero in a frame without a face.
            video_times: (B, T) int64 ms, -1 for padded frames.

        Returns:
            `last_hidden_state` (F, R, D), F real frames in the order of `video_times >= 0`; a frame without a face has
            the tokens of a face that does not move.
        """
        if video_landmarks.shape[-2] != NUM_MESH_LANDMARKS:
            raise ValueError(
                f"video_landmarks hold {video_landmarks.shape[-2]} landmarks a frame; the {NUM_MESH_LANDMARKS} of "
                f"MediaPipe's face mesh are accepted"
            )
        motion, _ = face_motion(video_landmarks, video_times, self.canonical, self.config.calm_share)
        return self.tokens(motion[video_times >= 0])

    def tokens(self, motion) -> BaseModelOutputWithPooling:
        """(F, 468, 6) -> `last_hidden_state` (F, R, D)."""
        placed = motion[:, self.table] * self.real[..., None]  # (F, R, places, 6)
        hidden = torch.einsum("frk,rkd->frd", placed.flatten(2).to(self.weight.dtype), self.weight) + self.bias
        return BaseModelOutputWithPooling(last_hidden_state=self.layernorm(self.output(nn.functional.gelu(hidden))))


FaceMotionModel.register_for_auto_class("AutoModel")

__all__ = ["FaceMotionModel", "face_motion", "remove_pose"]
