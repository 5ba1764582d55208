"""ESVA's supervised contrast of sounds (3.3, Eq. 2), over the clips of all processes and of earlier steps."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


class ContrastHead(nn.Module):
    """Supervised contrast of sounds (3.3, Eq. 2): those of one emotion move together, those of others apart.

    Eq. 2 has the same positive in its numerator and in every term of its denominator, which makes it a constant. Read
    as InfoNCE, for each positive of a clip: -log exp(s+) / (exp(s+) + sum over the negatives of exp(s-)), with s the
    cosine over a temperature, in two layers' projection of F_A''; then the mean over positives and clips. A clip
    without a positive is skipped.

    A clip is compared with those of its batch, of the batches of other processes and of a queue of earlier steps; only
    this process's part has a gradient. A clip that is already in the queue is not a positive of itself, so the queue
    gives positives only to clips whose numbers are known.

    Args:
        input_size, size: width of F_A'', and of its projection.
        temperature: see above.
        queue_size: number of projections of earlier clips used as further positives and negatives.
    """

    queue: Tensor  # (queue_size, size)
    queue_ids: Tensor  # (queue_size,), as `emotion_ids`
    queue_clips: Tensor  # (queue_size,), as `clip_ids`

    def __init__(self, input_size: int, size: int, temperature: float, queue_size: int):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(input_size, input_size), nn.ReLU(), nn.Linear(input_size, size))
        self.temperature = temperature
        self.queue_size = queue_size
        self.most_clips = 0  # of any step so far
        self.register_buffer("queue", torch.zeros(queue_size, size), persistent=False)
        self.register_buffer("queue_ids", torch.full((queue_size,), -1), persistent=False)
        self.register_buffer("queue_clips", torch.full((queue_size,), -1), persistent=False)

    @property
    def gathers(self) -> bool:
        """Whether several processes train together; each must then take part in every step."""
        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        return self.training and together

    def embed(self, voice: Tensor) -> Tensor:
        """voice (B, D) -> (B, size), of length 1: the space in which emotions are separated."""
        return functional.normalize(self.projection(voice.to(self.projection[0].bias.dtype)).float(), dim=-1)

    def forward(self, voice: Tensor, emotion_ids: Tensor, clip_ids: Tensor | None = None) -> Tensor | None:
        """The loss, () or `None` if no clip has a positive.

        Args:
            voice: (B, D).
            emotion_ids: (B,) int64; -1 for a clip of unknown emotion, or without sound.
            clip_ids: (B,) int64, the number of each clip; -1 or `None` where it is not known.

        Raises:
            ValueError: no step can ever have a positive: each has one clip, and no queue could supply one.
        """
        local = self.embed(voice)
        clip_ids = torch.full_like(emotion_ids, -1) if clip_ids is None else clip_ids
        # Each process's rows (W entries), this one's with their gradient.
        vectors, ids, clips, rank = (
            gather(local, emotion_ids, clip_ids) if self.gathers else ([local], [emotion_ids], [clip_ids], 0)
        )
        if self.training:
            self.refuse_single_clips(torch.cat(ids), torch.cat(clips))
        others = [place for place in range(len(ids)) if place != rank]
        keys = torch.cat([local, *(vectors[i] for i in others), self.queue.to(local)])
        key_ids = torch.cat([emotion_ids, *(ids[i] for i in others), self.queue_ids])
        key_clips = torch.cat([clip_ids, *(clips[i] for i in others), self.queue_clips])

        known = (emotion_ids >= 0).unsqueeze(-1) & (key_ids >= 0)  # (B, keys)
        same = emotion_ids.unsqueeze(-1) == key_ids
        itself = torch.eye(len(local), len(keys), dtype=torch.bool, device=local.device)
        numbered = (clip_ids >= 0).unsqueeze(-1) & (key_clips >= 0)
        itself |= numbered & (clip_ids.unsqueeze(-1) == key_clips)
        in_queue = torch.arange(len(keys), device=local.device) >= len(keys) - len(self.queue_ids)
        positive = known & same & ~itself & (numbered | ~in_queue)
        negative = known & ~same
        if self.training and self.queue_size:
            self.push(torch.cat(vectors).detach(), torch.cat(ids), torch.cat(clips))
        if not positive.any():
            return None
        similar = local @ keys.T / self.temperature
        # Not infinity, which would give a clip without negatives a NaN gradient.
        nothing = torch.finfo(similar.dtype).min / 2
        apart = similar.masked_fill(~negative, nothing).logsumexp(-1, keepdim=True)  # (B, 1)
        each = torch.logaddexp(similar, apart) - similar
        count = positive.sum(-1)
        clip_loss = (each * positive).sum(-1) / count.clamp(min=1)
        return clip_loss.sum() / (count > 0).sum()

    def refuse_single_clips(self, ids: Tensor, clips: Tensor) -> None:
        self.most_clips = max(self.most_clips, len(ids))
        if self.most_clips == 1 and not (self.queue_size and (clips >= 0).all()):
            lacks = "clip_ids are not given" if self.queue_size else "contrast_queue_size is 0"
            raise ValueError(
                f"L_contrast cannot have a positive: each step trains on one clip, and {lacks}; give clip_ids with "
                f"contrast_queue_size > 0, or larger batches, or set contrast_weight=0"
            )

    @torch.no_grad()
    def push(self, vectors: Tensor, ids: Tensor, clips: Tensor) -> None:
        """Add this step's projections to the queue and drop the oldest."""
        known = ids >= 0
        self.queue = torch.cat([vectors[known].to(self.queue), self.queue])[: self.queue_size]
        self.queue_ids = torch.cat([ids[known], self.queue_ids])[: self.queue_size]
        self.queue_clips = torch.cat([clips[known], self.queue_clips])[: self.queue_size]


def gather(local: Tensor, ids: Tensor, clips: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], int]:
    """Rows of all processes, in the order of their ranks, and this one's rank.

    local (B, size), ids and clips (B,); B can differ between processes. Only the rows of this process have a gradient.
    """
    world, rank = distributed.get_world_size(), distributed.get_rank()
    counts = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in range(world)]
    distributed.all_gather(counts, torch.tensor([len(local)], device=local.device))
    longest = max(int(count) for count in counts)
    vectors = [local.new_zeros(longest, local.shape[-1]) for _ in range(world)]
    padded = local.new_zeros(longest, local.shape[-1])
    padded[: len(local)] = local.detach()
    distributed.all_gather(vectors, padded)
    numbers = torch.full((2, longest), -1, device=local.device)
    numbers[:, : len(local)] = torch.stack([ids, clips])
    everywhere = [torch.empty_like(numbers) for _ in range(world)]
    distributed.all_gather(everywhere, numbers)
    vectors = [rows[: int(count)] for rows, count in zip(vectors, counts, strict=True)]
    vectors[rank] = local
    ids, clips = ([rows[i, : int(count)] for rows, count in zip(everywhere, counts, strict=True)] for i in range(2))
    return vectors, ids, clips, rank


__all__ = ["ContrastHead"]
