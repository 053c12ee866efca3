"""Self-critical training of a sentence decoder (Rennie et al., CVPR 2017): sampled sentences, weighed by reward.

The advantage of a sampled sentence is its reward minus a baseline: the reward of the greedy sentence of the same
event, or of its other samples (`leave_one_out`), which varies less.
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(log_probs: Tensor, words: Tensor, advantage: Tensor, end: int = 0) -> Tensor:
    """Loss whose gradient is that of the expected reward, per word, with the sign turned.

    Args:
        log_probs: ``(R, N)`` log-probability of every sampled word; what stands behind an end does not count, even
            if it is infinite.
        words: ``(R, N)`` int64, ids of the sampled words.
        advantage: ``(R,)`` reward of each sentence minus its baseline.
        end: the id that ends a sentence.

    Returns:
        A scalar: the mean of -log p x advantage over the words up to the first end, that included, of all
        sentences; 0 for no sentence.
    """
    ends = words == end
    counts = ends.cumsum(1) - ends.long() == 0  # no end before this word
    weighted = log_probs.masked_fill(~counts, 0.0) * advantage.to(log_probs)[:, None]
    return -weighted.sum() / counts.sum().clamp(min=1)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Baseline of every sample: the mean reward of the other samples of the same event.

    Args:
        rewards: ``(R, K)``, K samples of each of R events.

    Returns:
        ``(R, K)``.

    Raises:
        ValueError: K < 2.
    """
    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(f"{samples} sample per event has no others to be compared with: draw at least 2")
    return (torch.sum(rewards, 1, keepdim=True) - rewards) / (samples - 1)
