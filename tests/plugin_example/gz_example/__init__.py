"""An example of a plug-in: importing this package makes its classes known by their short names."""

from .encoder import MeanColour
from .task import ClipScorer

__all__ = ["ClipScorer", "MeanColour"]
