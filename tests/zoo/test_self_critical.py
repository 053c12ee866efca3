"""Self-critical training: whose words count, and that following the loss raises the reward."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.self_critical import leave_one_out, policy_loss


def test_words_count_up_to_the_first_end() -> None:
    words = torch.tensor([[3, 0, 4, 0], [1, 2, 3, 4]])  # what stands behind an end may be a word
    log_probs = -torch.arange(1.0, 9.0).view(2, 4)
    loss = policy_loss(log_probs, words, torch.tensor([2.0, -1.0]))
    assert loss.item() == pytest.approx(((1 + 2) * 2 - (5 + 6 + 7 + 8)) / 6)


def test_another_end() -> None:
    words = torch.tensor([[3, 7, 0]])
    assert policy_loss(torch.tensor([[-1.0, -2.0, -4.0]]), words, torch.ones(1), end=7).item() == pytest.approx(
        1.5
    )


def test_what_stands_behind_an_end_may_be_anything() -> None:
    words = torch.tensor([[2, 0, 0]])
    log_probs = torch.tensor([[-1.0, -2.0, -torch.inf]], requires_grad=True)
    loss = policy_loss(log_probs, words, torch.tensor([1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[-0.5, -0.5, 0.0]]


def test_no_sentence_has_no_loss() -> None:
    log_probs = torch.zeros(0, 5, requires_grad=True)
    loss = policy_loss(log_probs, torch.zeros(0, 5, dtype=torch.long), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


def test_leave_one_out() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]))
    assert found.tolist() == [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]]


def test_one_sample_has_no_others() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(4, 1))


def gradient(advantage: Tensor, words: Tensor) -> Tensor:
    logits = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    log_probs = logits.log_softmax(0)[words]
    policy_loss(log_probs, words, advantage).backward()
    assert logits.grad is not None
    return logits.grad


def test_a_reward_for_all_changes_nothing() -> None:
    """Whatever the reward adds to every sentence, sampled or greedy, the gradient is the same."""
    torch.manual_seed(0)
    words = torch.randint(0, 5, (12, 6))
    rewards = torch.rand(3, 4, dtype=torch.float64)
    greedy = torch.rand(3, 1, dtype=torch.float64)
    for baseline in (leave_one_out, lambda r: greedy + (r - rewards)[:, :1]):
        plain, raised = ((r - baseline(r)).flatten() for r in (rewards, rewards + 7.5))
        assert plain.abs().max() > 0.1
        torch.testing.assert_close(gradient(plain, words), gradient(raised, words))


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Over all pairs of samples, weighed by their probability: the leave-one-out baseline adds no bias."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    found = torch.zeros(3, dtype=torch.float64)
    for pair in itertools.product(range(3), repeat=2):
        words = torch.tensor(pair)
        rewards = reward[words][None]
        log_probs = logits.log_softmax(0)[words]
        loss = policy_loss(log_probs[:, None], words[:, None], (rewards - leave_one_out(rewards))[0], end=9)
        (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
        found -= log_probs.sum().exp().item() * slope
    torch.testing.assert_close(found, expected)


def mean_reward(logits: Tensor, learn: float, steps: int, samples: int = 16) -> float:
    """Train a table of 6 x 5 logits to say word 3, and tell how much of what it says at the end is word 3."""
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps + 1):
        policy = torch.distributions.Categorical(logits=logits)
        words = policy.sample((samples,))
        said = (words == 0).cumsum(1) == 0
        rewards = ((words == 3) & said).float().mean(1)
        advantage = learn * (rewards - leave_one_out(rewards[None])[0])
        optimizer.zero_grad()
        policy_loss(policy.log_prob(words), words, advantage).backward()
        optimizer.step()
    return float(rewards.mean())


def test_a_policy_learns_to_say_what_is_rewarded() -> None:
    torch.manual_seed(0)
    start = torch.zeros(6, 5)
    assert mean_reward(start, 1.0, 0, 1000) < 0.2
    assert mean_reward(start, 1.0, 150) > 0.8
    assert mean_reward(start, -1.0, 150) < 0.05
