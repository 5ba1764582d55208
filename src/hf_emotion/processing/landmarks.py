"""The tensors of a landmark tower (`modeling_face_motion.py`): mesh landmarks instead of pixels."""

import numpy as np

NUM_MESH_LANDMARKS = 468  # of the 478 that a refined mesh has; the last ten are the irises


def landmark_tensors(track, num_frames, size, num_regions) -> dict[str, np.ndarray]:
    """One clip's landmarks, and masks that make each region its own patch.

    Args:
        track: `FaceTrack` over T frames; `None` for a clip whose faces were not looked for.
        num_frames: T.
        size: width and height of the frames, pixels.
        num_regions: R.

    Returns:
        `video_landmarks` (T, 468, 3) float32: x and y in pixels, and 0, since MediaPipe's depth is not used; zero in a
        frame without a face or without one of the landmarks. `video_region_masks` (T, R, R) bool, the identity where
        there is a face.
    """
    landmarks = np.zeros((num_frames, NUM_MESH_LANDMARKS, 3), np.float32)
    has_face = np.zeros(num_frames, bool)
    if track is not None:
        pixels = track.landmarks[:, :NUM_MESH_LANDMARKS] * np.asarray(size, np.float32)
        has_face = track.found & np.isfinite(pixels).all((1, 2))
        landmarks[has_face, :, :2] = pixels[has_face]
    masks = np.eye(num_regions, dtype=bool) & has_face[:, None, None]
    return {"video_landmarks": landmarks, "video_region_masks": masks}


__all__ = ["NUM_MESH_LANDMARKS", "landmark_tensors"]
