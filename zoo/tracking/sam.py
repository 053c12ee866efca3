"""SAM 2 and EdgeTAM of Transformers as trackers: a box is segmented, and its mask followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import hub
from .base import Tracker, Tracks

KINDS = {"sam2_video": "Sam2VideoModel", "edgetam_video": "EdgeTamVideoModel"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of all published weights
CORNERS = (2, 3)  # labels with which the prompt encoder marks a box's two corners among points


class Sam2Tracker(Tracker):
    """Video object segmentation of Transformers, from a box in one frame to boxes around masks in all frames.

    Each thing has a memory of its own and is followed as if it were alone: which others are asked for, and where
    their boxes are, changes nothing. They share the features of the frames, the greatest part of the work.
    Backwards each thing starts anew from its box. Memory does not grow with the length of the video: a frame is
    prepared when its turn comes, and results too old to be looked at again are dropped.

    The score of a frame is the network's own probability that the thing is there (sigmoid of its object score);
    the box is the rectangle around the mask, score 0 without one.

    Args:
        weights: a local folder or a name on the Hub, of `sam2_video` or `edgetam_video`; `random` needs `config`.
        config: the contents of a ``config.json``, to build the network without files.
        download: fetch `weights` from the Hub if they are not on this machine.
        dtype: of weights and features.

    Raises:
        ValueError: the weights are not on this machine or do not fit, or are of another type of model.
        ImportError: EdgeTAM's published weights need the package timm.
    """

    def __init__(
        self,
        weights: str | Path,
        config: dict[str, Any] | None = None,
        download: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        import transformers

        settings = hub.read_config(weights, config, download)
        if settings.model_type not in KINDS:
            raise ValueError(
                f"'{weights}' is a model of type {settings.model_type}; a tracker is one of {', '.join(KINDS)}"
            )
        network = hub.build(getattr(transformers, KINDS[settings.model_type]), settings, weights, download)
        self.network = network.to(getattr(torch, dtype)).eval().requires_grad_(False)
        self.size = _pair(settings.image_size)  # of the network's input, (height, width)

    def train(self, mode: bool = True) -> Sam2Tracker:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def track(self, frames: Tensor, boxes: Tensor, starts: Tensor) -> Tracks:
        """See `Tracker.track`."""
        num_frames, _, height, width = frames.shape
        found, scores = torch.zeros(len(boxes), num_frames, 4), torch.zeros(len(boxes), num_frames)
        if not len(boxes):
            return Tracks(found, scores)
        first = starts.tolist()
        for reverse in (False, True):
            order = range(max(first), -1, -1) if reverse else range(min(first), num_frames)
            prepared = _Frames(frames, self.size, self.network.device, self.network.dtype)
            sessions = self._sessions(prepared, boxes, first)
            for t in order:
                for k, session in enumerate(sessions):
                    if t < first[k] if not reverse else t > first[k]:
                        continue
                    output = self.network(session, frame_idx=t, reverse=reverse)
                    _forget(session, t, self._horizon(), reverse)
                    box, there = mask_boxes(output.pred_masks.float()[:, 0], (height, width))
                    probability = output.object_score_logits.float().sigmoid()
                    found[k, t], scores[k, t] = box[0].cpu(), (probability * there)[0].cpu()
        index = torch.arange(len(boxes))
        found[index, starts], scores[index, starts] = boxes.float().cpu(), 1.0
        return Tracks(found, scores)

    def _horizon(self) -> int:
        """How many frames back the network looks at most."""
        settings = self.network.config
        return max(int(settings.num_maskmem), int(settings.max_object_pointers_in_encoder))

    def _sessions(self, frames: _Frames, boxes: Tensor, starts: list[int]) -> list[Any]:
        """One state per thing, prompted with its box; all with the same frames and the same features of them."""
        from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        edge = self.network.config.model_type == "edgetam_video"
        kind: Any = EdgeTamVideoInferenceSession if edge else Sam2VideoInferenceSession
        device, dtype = self.network.device, self.network.dtype
        places = dict(inference_device=device, inference_state_device=device, video_storage_device=device)
        sessions = [
            kind(video_height=frames.height, video_width=frames.width, dtype=dtype, **places) for _ in boxes
        ]
        rate = torch.tensor([self.size[1] / frames.width, self.size[0] / frames.height])
        corners = (boxes.float().cpu().view(-1, 1, 1, 2, 2) * rate).to(device, dtype)
        labels = torch.tensor([[CORNERS]], dtype=torch.int32, device=device)
        for session, corner, start in zip(sessions, corners, starts, strict=True):
            session.processed_frames = frames
            session.cache = sessions[0].cache
            place = session.obj_id_to_idx(0)
            session.add_point_inputs(place, start, {"point_coords": corner, "point_labels": labels})
            session.obj_with_new_inputs = [0]
        return sessions


class _Frames:
    """A video's frames as the network wants them, each made when it is asked for."""

    def __init__(self, frames: Tensor, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.frames, self.size, self.device, self.dtype = frames, size, device, dtype
        self.height, self.width = int(frames.shape[2]), int(frames.shape[3])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, t: int) -> Tensor:
        """``(3, height, width)`` of the network's input, normalised."""
        frame = self.frames[t : t + 1].to(self.device).float() / 255
        frame = F.interpolate(frame, size=self.size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (MEAN, STD))
        return ((frame[0] - mean) / std).to(self.dtype)


def _forget(session: Any, t: int, horizon: int, reverse: bool) -> None:
    """Drop what no later frame looks at: full-size masks at once, everything beyond the horizon."""
    outputs = session.output_dict_per_obj[0]
    for kept in (*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()):
        kept.pop("high_res_masks", None)
    outputs["non_cond_frame_outputs"].pop(t + horizon if reverse else t - horizon, None)


def mask_boxes(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rectangles around masks.

    Args:
        logits: ``(K, h, w)``, a pixel belongs to the mask where they are positive.
        size: (height, width) of the frame, to which they are resized before they are compared with 0.

    Returns:
        ``(K, 4)`` boxes, xyxy in pixels of the frame, zeros without a mask; ``(K,)`` whether there is a mask.
    """
    mask = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0
    boxes = torch.zeros(len(mask), 4, device=logits.device)
    for axis, side in ((0, 1), (1, 2)):  # x from the columns, y from the rows
        filled = mask.any(side)
        length = filled.shape[1]
        boxes[:, axis] = filled.int().argmax(1)
        boxes[:, axis + 2] = length - filled.flip(1).int().argmax(1)
    there = mask.flatten(1).any(1)
    return boxes * there[:, None], there


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height), int(width)
