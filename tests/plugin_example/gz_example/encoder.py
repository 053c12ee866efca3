"""A video encoder of three numbers."""

from __future__ import annotations

from torch import Tensor

from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures


class MeanColour(VideoEncoder):
    """The mean colour of every frame.

    Args:
        fps: frames per second to look at.
    """

    def __init__(self, fps: float = 2.0) -> None:
        super().__init__()
        self.dim = 3
        self.spec = FrameSpec(fps=fps, window=1, stride=1, size=(16, 16))

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one frame and one unit per pass, values in [0, 1]."""
        return VideoFeatures(clips.mean((-2, -1)))
