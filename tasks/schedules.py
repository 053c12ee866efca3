"""Stages of training: what is minimised, by which optimiser, and how the learning rate runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class StepDecay:
    """A learning rate that falls in steps.

    Attributes:
        factor: of every step.
        every: epochs from one step to the next.
        first: epoch of the first step, counted from 0.
    """

    factor: float = 0.8
    every: int = 3
    first: int = 3

    def share(self, epoch: int) -> float:
        """Share of the initial learning rate in an epoch, counted from 0."""
        steps = 0 if epoch < self.first else 1 + (epoch - self.first) // self.every
        return self.factor**steps


@dataclass(frozen=True)
class Warmup:
    """A learning rate that rises linearly and falls to 0, step by step.

    Attributes:
        steps: of the rise; at most half of the stage.
        fall: in half a cosine, or in a line.
    """

    steps: int = 5000
    fall: Literal["cosine", "linear"] = "cosine"

    def share(self, step: int, total: float) -> float:
        """Share of the greatest learning rate at a step of `total` steps, counted from 0."""
        rise = min(float(self.steps), total / 2)
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = min(1.0, (step - rise) / max(1.0, total - rise))
        return (1 + math.cos(math.pi * progress)) / 2 if self.fall == "cosine" else 1 - progress


@dataclass(frozen=True)
class WarmupSteps:
    """A learning rate that rises linearly and then falls in steps, as in video classification (torchvision, TSP).

    Attributes:
        epochs: of the rise, which ends at `lr`.
        start: share of `lr` that the rise begins with.
        milestones: epochs at whose beginning it falls, counted from 0.
        factor: of every fall.
    """

    epochs: int = 2
    start: float = 1e-5
    milestones: tuple[int, ...] = (4, 6)
    factor: float = 0.01

    def share(self, epoch: float) -> float:
        """Share of the greatest learning rate after so many epochs, parts of them counted."""
        rise = 1.0 if epoch >= self.epochs else self.start + (1 - self.start) * epoch / self.epochs
        return rise * self.factor ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class AdamW:
    """Adam with other settings than its own.

    Attributes:
        betas: of the running means of gradients and of their squares.
        weight_decay: apart from the gradient, of all parameters that are trained.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent in place of Adam.

    Attributes:
        momentum: 0 to 1.
        weight_decay: of all parameters that are trained.
    """

    momentum: float = 0.9
    weight_decay: float = 0.005


@dataclass(frozen=True)
class Stage:
    """One stage of training: what is minimised, what is trained, how fast and how long.

    A new stage starts from the best weights of the one before (by the task's monitor) with a fresh
    optimiser; parameters that it does not train are frozen.

    Attributes:
        losses: names of the losses that count.
        train: a name of `Task.trainable_parts`.
        lr: (peak) learning rate of Adam, or of `optimizer`.
        epochs: length.
        schedule: `constant`, `one_cycle` with its peak at `lr`, steps down from `lr`, or a warm-up and a
            fall, smooth or in steps.
        keep_batchnorm: frozen parts keep their batch norm statistics (True) or go on updating them.
        lr_of: learning rates of parts that have one of their own, by names of `Task.trainable_parts`; of two that
            overlap the later counts. A part with the rate 0 is frozen.
        monitor: key of the metric whose best epoch the next stage starts from; None is the task's.
        optimizer: Adam, or another one with its settings.
        scale_lr: multiply all rates by the number of processes: as many times larger is the batch.
    """

    losses: tuple[str, ...]
    train: str = "all"
    lr: float = 1e-3
    epochs: int = 10
    schedule: Literal["constant", "one_cycle"] | StepDecay | Warmup | WarmupSteps = "constant"
    keep_batchnorm: bool = True
    lr_of: dict[str, float] = field(default_factory=dict)
    monitor: str | None = None
    optimizer: Literal["adam"] | AdamW | SGD = "adam"
    scale_lr: bool = False


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: up from 1/25 in the first 20 % of the steps, down to 0, both cosine.

    Smith and Topin, arXiv:1708.07120. A function of the progress alone, so that a resumed run follows the
    schedule that it is given now.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < 0.2:
        return 1 - 0.96 * (1 + math.cos(math.pi * progress / 0.2)) / 2
    return (1 + math.cos(math.pi * (progress - 0.2) / 0.8)) / 2
