"""What video and text encoders share: their settings are remembered, and they may be frozen for good."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Self

from torch import nn

from .weights import CHECKPOINT


class Encoder(nn.Module):
    """Base of all encoders.

    A frozen encoder (`trainable` is False) is in evaluation mode, has no gradient and no optimiser state.

    Args:
        trainable: whether a task may train it.

    Attributes:
        trainable: whether a task may train it.
        settings: the constructor's arguments, defaults included.
    """

    trainable: bool
    settings: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the constructor's arguments: they are part of the manifest of all features made."""
        encoder = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(encoder, *args, **kwargs)
        bound.apply_defaults()
        settings = {k: v for k, v in bound.arguments.items() if k != "self"}
        object.__setattr__(encoder, "settings", settings)
        return encoder

    def __init__(self, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """What training changes, where the encoder is trainable: all there is, unless a subclass keeps a part."""
        return self.parameters()

    def freeze_unless_trainable(self) -> None:
        """Take what is not learned out of training; call it at the end of a subclass's constructor."""
        self.requires_grad_(False)
        if self.trainable:
            for parameter in self.learned_parameters():
                parameter.requires_grad_(True)
        self.train(self.trainable)

    def train(self, mode: bool = True) -> Self:
        """Training mode never reaches a frozen encoder (its batch norm and dropout stay off)."""
        return super().train(mode and self.trainable)

    def rebuild_arguments(self) -> dict[str, Any]:
        """Constructor arguments that stand in for files: a checkpoint stores them with the weights."""
        return {"weights": CHECKPOINT} if "weights" in self.settings else {}
