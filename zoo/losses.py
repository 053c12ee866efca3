"""Loss functions that several papers share. All are safe in fp32 under autocast callers and reduce nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of Lin et al. (ICCV 2017) on logits, element by element.

    Args:
        logits: any shape; finite values of any size are safe.
        labels: same shape, 0 or 1.
        alpha: weight of the positive class, 1 - alpha of the negative.
        gamma: how strongly easy elements are played down.

    Returns:
        Loss of every element, same shape, >= 0.
    """
    labels = labels.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p = logits.sigmoid()
    p_wrong = p + labels - 2 * p * labels
    return (alpha * labels + (1 - alpha) * (1 - labels)) * p_wrong**gamma * cross_entropy


def interval_iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """IoU loss of UnitBox (Yu et al., ACM MM 2016) in one dimension, -log(IoU).

    Args:
        pred: ``(..., 2)`` positive distances from a location to start and end.
        target: ``(..., 2)``, the true ones.

    Returns:
        ``(...)``, >= 0.
    """
    intersection = torch.minimum(pred, target).sum(-1)
    union = pred.sum(-1) + target.sum(-1) - intersection
    return -torch.log((intersection + 1e-8) / (union + 1e-8))


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    shift: float = 0.05,
    stop_gradient: bool = True,
) -> Tensor:
    """Asymmetric loss of Ben-Baruch et al. (ICCV 2021, arXiv:2009.14119) on logits, element by element.

    ``-(1 - q)^gamma log q`` with q = p for present and q = min(1 - p + shift, 1) for absent classes: many absent
    ones that are easy cost nothing at all.

    Args:
        logits: any shape; finite values of any size are safe.
        labels: same shape, bool, True = present.
        gamma_negative: how strongly easy absent classes are played down; 0 or at least 1.
        gamma_positive: the same of present classes.
        shift: an absent class with a probability up to this costs nothing.
        stop_gradient: the weight ``(1 - q)^gamma`` counts as a constant, as in the authors' training program.
            Values are the same, gradients two to three times smaller.

    Returns:
        Loss of every element, same shape, >= 0. Logarithms are cut at 1e-8, below which no gradient flows.
    """
    absent = ((-logits).sigmoid() + shift).clamp(max=1)
    right = torch.where(labels, logits.sigmoid(), absent)
    wrong = 1 - (right.detach() if stop_gradient else right)
    gamma = torch.full_like(right, gamma_negative).masked_fill(labels, gamma_positive)
    return -(wrong**gamma) * right.clamp(min=1e-8).log()
