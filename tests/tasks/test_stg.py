"""STG's two branches, its choice of frames, and what it answers about untrimmed video."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
from tiny_stg import DIM, TEXTS, B, C, D, Ear, H, U, W, narration_batch, stg_task
from torch import Tensor

from groundzoo.tasks.localizing import Located, tubes
from groundzoo.tasks.schedules import Stage
from groundzoo.tasks.stg import (
    STG,
    InferenceOptions,
    LossOptions,
    NetworkOptions,
    Projected,
    SelectionOptions,
    dot_products,
)
from groundzoo.zoo.batch import MomentFeatures, NarrationBatch
from groundzoo.zoo.contrastive import contrastive_loss
from groundzoo.zoo.text.mil_nce import MILNCEText
from groundzoo.zoo.video.precomputed import Precomputed


def losses(model: STG, given: NarrationBatch) -> dict[str, float]:
    return {name: value.item() for name, value in model.step(given, "train").losses.items()}


# ---- losses ---------------------------------------------------------------------------------------------


def test_both_losses_equal_the_equations_written_out_pair_by_pair() -> None:
    model, given = stg_task(), narration_batch()
    net, (vectors, grid) = model.network, given.features.encoded
    text = model.text_encoder(given.texts)
    v = [net.f(vectors[i][given.mask[i]]).mean(0) for i in range(B)]  # all candidates, not the chosen ones
    s = [net.g(text.sentence[i]) for i in range(B)]
    cosine = torch.nn.functional.cosine_similarity

    def eq1(scores: list[list[Tensor]]) -> Tensor:
        total = torch.zeros(())
        for i in range(B):
            positive = (scores[i][i] - 0.001).exp()
            rows = sum(scores[i][k].exp() for k in range(B) if k != i)
            columns = sum(scores[k][i].exp() for k in range(B) if k != i)
            total -= (positive / (positive + rows)).log() + (positive / (positive + columns)).log()
        return total / B

    chosen = []
    for i in range(B):
        valid = int(given.mask[i].sum())
        words = net.g(text.words[i][text.mask[i]])
        P = torch.stack([cosine(net.f(vectors[i, u])[None], words) for u in range(valid)])
        K = (P.double() / 0.05).exp()
        a, b = torch.ones(valid).double(), torch.ones(len(words)).double()
        for _ in range(500):
            a = 1 / valid / (K @ b)
            b = 1 / len(words) / (K.T @ a)
        worth = (a[:, None] * K * b * P).sum(1)
        chosen.append(sorted(worth.argsort(descending=True)[:3].tolist()))
    scores = []
    for i in range(B):
        cells = net.f_local(grid[i, chosen[i]].flatten(0, 2))
        row = []
        for j in range(B):
            words = net.g_local(text.words[j][text.mask[j]])
            video, said = net.local(cells[None], words[None], torch.ones(1, len(words), dtype=torch.bool))
            row.append((video * said).sum())
        scores.append(row)
    found = model.step(given, "train").losses
    torch.testing.assert_close(found["global"], eq1([[a @ b for b in s] for a in v]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["local"], eq1(scores), atol=1e-5, rtol=1e-5)


def test_candidates_beyond_the_video_and_the_order_of_clips_change_nothing() -> None:
    model, given = stg_task(), narration_batch()
    before = losses(model, given)
    vectors, grid = (x.clone() for x in given.features.encoded)
    vectors[1, 6:], grid[1, 6:] = 1e3, -1e3
    given.features = MomentFeatures(vectors, grid)
    assert losses(model, given) == pytest.approx(before)
    order = torch.tensor([2, 0, 3, 1])
    turned = dataclasses.replace(
        given,
        features=MomentFeatures(vectors[order], grid[order]),
        mask=given.mask[order],
        texts=[given.texts[k] for k in order],
    )
    assert losses(model, turned) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("sound", [False, True])
def test_every_parameter_that_is_trained_gets_a_gradient(sound: bool) -> None:
    model = stg_task(audio_encoder=Ear() if sound else None)
    model.enter_stage(0)
    torch.stack(list(model.step(narration_batch(sound=sound), "train").losses.values())).sum().backward()
    # a key's bias moves all scores of a query alike, and the softmax forgets it
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


def test_a_stage_computes_only_the_losses_that_it_minimises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stg_task(stages=[Stage(losses=("global",), epochs=1)])
    monkeypatch.setattr(model.network.local, "forward", lambda *_: pytest.fail("the local branch ran"))
    assert losses(model, narration_batch()).keys() == {"global"}


def test_groups_of_the_local_branch_are_contrasted_apart() -> None:
    whole, grouped = stg_task(), stg_task(loss=LossOptions(local_group=2))
    given = narration_batch()
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        part = dataclasses.replace(
            given,
            features=MomentFeatures(*(x[rows] for x in given.features.encoded)),
            mask=given.mask[rows],
            texts=given.texts[rows],
        )
        halves.append(losses(whole, part)["local"])
    found = losses(grouped, given)
    assert found["local"] == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert found["global"] == pytest.approx(losses(whole, given)["global"])


def test_sound_is_contrasted_with_both_other_modalities() -> None:
    model, given = stg_task(audio_encoder=Ear()), narration_batch(sound=True)
    deaf = dataclasses.replace(given, sound=None)
    heard, plain = losses(model, given), losses(model, deaf)
    net = model.network
    vectors, _ = given.features.encoded
    v, s = net.pool(net.f(vectors), given.mask), net.g(model.text_encoder(given.texts).sentence)
    assert given.sound is not None
    a = net.h(model.audio_encoder(given.sound).frames).mean(1)  # type: ignore[misc]
    extra = contrastive_loss(v @ a.T) + contrastive_loss(a @ s.T)
    assert heard["global"] == pytest.approx(plain["global"] + extra.item(), rel=1e-5)
    assert heard["local"] > plain["local"]


@pytest.mark.parametrize("heat", ["rollout", "similarity"])
def test_no_score_is_rounded_under_autocast(
    heat: Literal["rollout", "similarity"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bfloat16 tells 188 from 187, and no margin of 0.001."""
    a, b = torch.randn(3, 512, generator=torch.Generator().manual_seed(0)), torch.randn(4, 512)
    model = stg_task(dim=C, audio_encoder=Ear(), inference=InferenceOptions(background=-1.0, heat=heat))
    given = narration_batch(sound=True)
    given.features.vectors = torch.randn(B, U, C)
    contrasted: list[Tensor] = []
    contrast = model._contrast
    monkeypatch.setattr(model, "_contrast", lambda scores: contrasted.append(scores) or contrast(scores))
    text = model.text_encoder(TEXTS)
    vectors, grid = given.features.encoded
    with torch.autocast("cpu", torch.bfloat16):
        products = dot_products(a, b)
        losses(model, given)
        p = Projected(model.network.f(vectors), model.network.g(text.sentence), text)
        assert p.frames.dtype == torch.bfloat16
        similarity = model.network.similarity(p, grid, "words", "both")[0]
        found = located(model, vectors[0], grid[0])
    torch.testing.assert_close(products, a @ b.T)
    assert {x.dtype for x in (*contrasted, similarity, found.similarity, found.heat)} == {torch.float32}
    assert len(contrasted) == 6


# ---- choice of frames -----------------------------------------------------------------------------------


def chosen(model: STG, given: NarrationBatch) -> list[list[int]]:
    text = model.text_encoder(given.texts)
    vectors, grid = given.features.encoded
    p = Projected(model.network.f(vectors), model.network.g(text.sentence), text)
    index, valid = model.select(p, grid, given)
    return [row[ok].tolist() for row, ok in zip(index, valid, strict=True)]


def test_frames_that_fit_the_words_are_chosen() -> None:
    for method in ("sinkhorn", "top"):
        model, given = (
            stg_task(selection=SelectionOptions(frames=2, method=method, video="frame")),
            narration_batch(),
        )
        words = model.network.g(model.text_encoder(given.texts).words[0, :2])
        f = model.network.f
        wanted = torch.linalg.lstsq(f.weight, (words - f.bias).T).solution.T  # frames that f maps to the words
        vectors = given.features.encoded[0].clone()
        vectors[0] = torch.linalg.lstsq(f.weight, (-words.mean(0) - f.bias)[:, None]).solution[:, 0]
        vectors[0, [1, 7]] = wanted
        given.features.vectors = vectors
        assert chosen(model, given)[0] == [1, 7]


def test_the_other_ways_of_choosing() -> None:
    given = narration_batch()
    given.inside[2] = False  # a narration between two candidates: all are as good

    def by(**options: object) -> list[list[int]]:
        return chosen(stg_task(selection=SelectionOptions(video="frame", **options)), given)  # type: ignore[arg-type]

    assert by(method="narration", frames=3)[0] == [2, 3, 4]
    assert len(by(method="narration", frames=3)[2]) == 3
    assert by(method="all") == [list(range(9)), list(range(6)), list(range(9)), list(range(9))]
    model = stg_task(selection=SelectionOptions(video="frame", method="random", frames=3))
    drawn = [chosen(model, given)[1] for _ in range(20)]
    assert all(len(set(d)) == 3 and max(d) < 6 and d == sorted(d) for d in drawn)
    assert len({tuple(d) for d in drawn}) > 3
    assert by(method="sinkhorn", text="sentence", frames=3) == by(method="top", text="sentence", frames=3)


def test_similarity_of_cells_is_that_of_their_sum() -> None:
    model = stg_task(dim=C, selection=SelectionOptions(frames=2))
    given = narration_batch()
    given.features.vectors = torch.randn(B, U, C)
    vectors, grid = given.features.encoded
    text = model.text_encoder(given.texts)
    net = model.network
    p = Projected(net.f(vectors), net.g(text.sentence), text)
    frame, cells, both = (net.similarity(p, grid, "words", kind)[0] for kind in ("frame", "cells", "both"))
    total = net.f(grid[2, 4]).sum((0, 1))
    one = torch.nn.functional.cosine_similarity(total, net.g(text.words[2, 1]), dim=0)
    assert cells[2, 4, 1].item() == pytest.approx(one.item(), abs=1e-6)
    torch.testing.assert_close(both, (frame + cells) / 2)


def test_a_frame_may_be_the_mean_of_its_cells() -> None:
    given = narration_batch()
    plain = stg_task(dim=C)
    by_cells = stg_task(network=NetworkOptions(dim=DIM, frame="cells"))
    by_cells.load_state_dict(plain.state_dict())
    found = losses(by_cells, given)
    given.features.vectors = given.features.encoded[1].mean((2, 3))
    assert found == pytest.approx(losses(plain, given), rel=1e-5)


def test_no_gradient_flows_through_the_choice() -> None:
    model, given = stg_task(stages=[Stage(losses=("local",), epochs=1)]), narration_batch()
    model.step(given, "train").losses["local"].backward()
    assert model.network.f.weight.grad is None
    assert model.network.g.weight.grad is None


# ---- inference ------------------------------------------------------------------------------------------


def located(model: STG, vectors: Tensor, grid: Tensor, **options: object) -> Located:
    with torch.no_grad():
        return model.eval().locate(MomentFeatures(vectors, grid), model.text_encoder(TEXTS[:3]), **options)  # type: ignore[arg-type]


def test_every_moment_gets_the_most_similar_action_or_none() -> None:
    model, (vectors, grid) = stg_task(), (x[0] for x in narration_batch().features.encoded)
    found = located(model, vectors, grid)
    f, g = model.network.f(vectors), model.network.g(model.text_encoder(TEXTS[:3]).sentence)
    expected = torch.nn.functional.cosine_similarity(f[:, None], g[None], dim=-1)
    torch.testing.assert_close(found.similarity, expected)
    best = expected.max(1)
    for threshold in (0.0, best.values.median().item() - 1e-4):
        found = located(model, vectors, grid, background=threshold)
        assert found.labels.tolist() == torch.where(best.values >= threshold, best.indices, -1).tolist()
        assert not found.heat[found.labels < 0].any()
        shown = found.heat[found.labels >= 0]
        torch.testing.assert_close(shown.mean((1, 2)), torch.ones(len(shown)))  # multiples of an even spread
    assert located(model, vectors, grid, given=1).labels.tolist() == [1] * U


def test_a_heat_map_is_that_of_its_window_and_action() -> None:
    model = stg_task(inference=InferenceOptions(window=4, normalise="window"))
    vectors, grid = (x[0] for x in narration_batch().features.encoded)
    net, text = model.network, model.text_encoder(TEXTS[:3])
    found = located(model, vectors, grid, background=-1.0)
    for n, label in enumerate(found.labels.tolist()):
        first = n // 4 * 4
        cells = net.f_local(grid[first : first + 4].flatten(0, 2))
        words = net.g_local(text.words[label : label + 1])
        rolled = net.local.heat(cells[None], words, text.mask[label : label + 1])
        torch.testing.assert_close(found.heat[n].flatten(), rolled.view(-1, H * W)[n - first])


def test_pieces_of_whole_windows_say_what_the_whole_video_says() -> None:
    model, (vectors, grid) = stg_task(), (x[0] for x in narration_batch().features.encoded)
    whole = located(model, vectors, grid)
    parts = [located(model, vectors[k : k + 4], grid[k : k + 4]) for k in (0, 4, 8)]
    for name in Located._fields:
        torch.testing.assert_close(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))


def test_without_projections_heat_is_the_cosine_of_cells_and_sentence() -> None:
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=C, max_words=8)
    words.fit_vocabulary(TEXTS)
    options = NetworkOptions(dim=C, projection="identity"), InferenceOptions(heat="similarity", background=-1.0)
    model = STG(Precomputed(C, grid=(H, W, C)), words, network=options[0], inference=options[1])
    grid = narration_batch().features.encoded[1][0]
    found = located(model, grid.mean((1, 2)), grid)
    sentence = words(TEXTS[:3]).sentence[found.labels[2]]
    cosine = torch.nn.functional.cosine_similarity(grid[2], sentence[None, None], dim=-1)
    torch.testing.assert_close(found.heat[2], cosine)
    assert model.mask_threshold == 0.5


def test_tubes_are_runs_of_one_action_in_seconds_and_pixels() -> None:
    labels = torch.tensor([-1, 0, 0, 1, -1, 1])
    heat = torch.zeros(6, 2, 2)
    heat[1:3, 0, 1] = 4.0  # top right
    heat[3, 1, 0] = 4.0
    similarity = torch.tensor([[0.1, 0.0], [0.8, 0.1], [0.6, 0.2], [0.1, 0.9], [0.0, 0.0], [0.0, 0.7]])
    found = tubes(Located(similarity, labels, heat), ["a", "b"], torch.arange(6) * 0.5, (40, 20), 2.0)
    assert [(t.action, t.start_s, t.end_s, t.score) for t in found] == [
        ("a", 0.5, 1.5, 0.7),
        ("b", 1.5, 2.0, 0.9),
        ("b", 2.5, 3.0, 0.7),
    ]
    x, y = found[0].points[0]
    assert (x > 30, y < 5) == (True, True)
    x1, y1, x2, y2 = found[0].boxes[1]
    assert (x1 > 15, y1, x2, y2 < 15) == (True, 0.0, 40.0, True)
    assert found[2].boxes[0][:2] == found[2].boxes[0][2:]  # no cell reaches the threshold: a point


# ---- what does not fit ----------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_words() -> None:
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=6, max_words=8)
    with pytest.raises(ValueError, match=r"model\.video_encoder \(Precomputed\) gives vectors but no grid"):
        STG(Precomputed(D), words)
    with pytest.raises(ValueError, match="frames are 10 wide, cells 7"):
        stg_task(selection=SelectionOptions(video="both"))
    with pytest.raises(ValueError, match="identity needs frames, cells and text of width 6"):
        stg_task(network=NetworkOptions(dim=6, projection="identity"))
    with pytest.raises(ValueError, match=r"model\.audio_encoder \(Precomputed\) looks"):
        stg_task(audio_encoder=Precomputed(5))
    with pytest.raises(ValueError, match="local_group=1"):
        LossOptions(local_group=1)
    with pytest.raises(ValueError, match="each is positive"):
        SelectionOptions(frames=0)
    with pytest.raises(ValueError, match="extract them with --grid true"):
        stg_task().encode(MomentFeatures(torch.zeros(2, D), None), 2)
    with pytest.raises(ValueError, match=r"lr_of names \['text'\]"):
        stg_task(stages=[Stage(losses=("global",), lr_of={"text": 1.0})]).configure_optimizers()
