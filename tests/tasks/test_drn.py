"""DRN: what may not change its answers, what each stage trains, and every rule against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_grounding import STAGES, chosen, random_batch, tiny_task
from torch import Tensor, nn

from groundzoo.tasks.drn import (
    DRN,
    PAPER_STAGES,
    RELEASED_LOSS,
    DRNOutput,
    LossOptions,
    NetworkOptions,
    assign_targets,
    decode,
    drn_losses,
    without_quality,
)
from groundzoo.tasks.drn_released import PREFIXES, UNUSED, load_released, released_name
from groundzoo.tasks.moments import Candidates, best_moments
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.batch import GroundingBatch
from groundzoo.zoo.text.base import TextFeatures

SEEDS = range(20)


def run(task: DRN, batch: GroundingBatch, text: TextFeatures | None = None) -> DRNOutput:
    text = text or task.text_encoder(batch.queries)
    return task.network(batch.clips, batch.bounds, batch.video_index, text)


def close(a: DRNOutput, b: DRNOutput, rows: list[int] | slice = slice(None)) -> None:
    for name in ("match_logits", "distances", "quality_logits"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name)[rows], rtol=1e-5, atol=1e-5, msg=name)


# ---- what may not matter -------------------------------------------------------------------------------


def test_padding_of_queries_does_not_matter() -> None:
    task, batch = tiny_task().eval(), random_batch()
    text = task.text_encoder(batch.queries)
    n = text.words.shape[1]
    noise = torch.randn(5, n, text.words.shape[2]) * 100  # whatever stands behind the words
    padded = TextFeatures(
        torch.cat([text.words, noise], 1), torch.nn.functional.pad(text.mask, (0, n)), text.sentence
    )
    close(run(task, batch, padded), run(task, batch, text))


@pytest.mark.parametrize("rows", [[0], [3], [4, 1], [2, 0, 4, 1, 3], [3, 0], [1, 1]])
def test_a_query_is_answered_as_if_alone(rows: list[int]) -> None:
    """Batch, order of the batch, and further queries about the same video (0 and 3) leave no trace."""
    task, batch = tiny_task().eval(), random_batch()
    assert batch.video_index[0] == batch.video_index[3]
    close(run(task, chosen(batch, rows)), run(task, batch), rows)


def test_batch_of_one_trains_and_evaluates() -> None:
    batch = random_batch(1)
    for stage in range(3):
        task = tiny_task()
        task.enter_stage(stage)
        loss = sum(task.train().step(batch, "train").losses[name] for name in task.stage.losses)
        loss.backward()
        out = task.eval().step(batch, "val")
        assert torch.isfinite(loss)
        assert out.outputs.boxes.shape[0] == 1
        assert len(task.predictions(out.outputs, batch)) == 1


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("clips", [1, 2, 7, 32, 50])
@pytest.mark.parametrize("hidden", [1, 5])
def test_any_number_of_clips_and_levels_and_any_text_width(levels: int, clips: int, hidden: int) -> None:
    task = tiny_task(levels=levels, clips=clips, hidden=hidden)
    batch = random_batch(4, clips)
    task.enter_stage(2)
    output = run(task.train(), batch)
    lengths = [-(-clips // 2**k) for k in range(levels)]
    assert output.match_logits.shape == (4, sum(lengths))
    assert output.levels.tolist() == [k for k, n in enumerate(lengths) for _ in range(n)]
    assert output.locations.tolist() == [2**k * (i + 0.5) for k, n in enumerate(lengths) for i in range(n)]
    losses = drn_losses(output, batch.moments, LossOptions())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in task.network.parameters() if p.grad is not None)
    assert (decode(output, True).boxes.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("options", [{}, {"fusion": "same"}, {"fusion": "first"}, {"location": False}])
def test_variants_depend_on_what_they_should(options: dict[str, object]) -> None:
    """Table 6: words matter in all, the clips' place only with the location embedding."""
    task, batch = tiny_task(**options).eval(), random_batch()
    before = run(task, batch).match_logits
    moved = replace(batch, bounds=batch.bounds.flip(1))
    assert torch.equal(run(task, moved).match_logits, before) == (options.get("location") is False)
    other = replace(batch, queries=["chair walks away"] * 5)
    assert not torch.allclose(run(task, other).match_logits, before)


# ---- stages --------------------------------------------------------------------------------------------


# Constants that the softmax or batch norm behind them takes away: their gradient is zero or rounding noise.
WITHOUT_EFFECT = ("attention.w1.bias", "_tower.0.bias", "quality.0.0.bias", "quality.1.0.bias")


@pytest.mark.parametrize("quality", ["iou", "centerness", "none"])
@pytest.mark.parametrize("fusion", ["multi", "same", "first"])
def test_gradient_reaches_every_parameter_in_some_stage(quality: str, fusion: str) -> None:
    task, batch = tiny_task(quality=quality, fusion=fusion), random_batch(8)
    reached: set[str] = set()
    for index in range(len(task.stages)):
        task.enter_stage(index)
        task.zero_grad(set_to_none=True)
        losses = task.train().step(batch, "train").losses
        sum(losses[name] for name in task.stage.losses).backward()
        trainable = {name for name, p in task.named_parameters() if p.requires_grad}
        got = {
            name
            for name, p in task.named_parameters()
            if p.grad is not None and (p.grad.abs().sum() > 0 or name.endswith(WITHOUT_EFFECT))
        }
        assert got <= trainable
        assert got == trainable, trainable - got
        reached |= got
    assert reached == {name for name, _ in task.named_parameters()}


def one_step(task: DRN, batch: GroundingBatch) -> None:
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    losses = task.train().step(batch, "train").losses
    sum(losses[name] for name in task.stage.losses).backward()
    optimizer.step()


@pytest.mark.parametrize("keep", [True, False])
def test_second_stage_leaves_the_grounder_alone(keep: bool) -> None:
    stages = tuple(replace(stage, keep_batchnorm=keep) for stage in STAGES)
    task, batch = tiny_task(stages=stages), random_batch()
    task.enter_stage(1)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    for _ in range(3):
        one_step(task, batch)
    changed = {name for name, value in task.state_dict().items() if not torch.equal(before[name], value)}
    head = {name for name in before if name.startswith("network.head.quality.")}
    assert {name for name, _ in task.named_parameters() if name in head} <= changed
    if keep:
        assert changed <= head, changed - head
    else:
        statistics = {n for n in before if n not in head and n.endswith(("running_mean", "running_var"))}
        assert statistics <= changed
        assert changed - head <= statistics | {n for n in before if n.endswith("num_batches_tracked")}


def test_first_stage_leaves_the_quality_head_alone() -> None:
    task = tiny_task()
    before = {name: value.clone() for name, value in task.network.head.quality.state_dict().items()}
    one_step(task, random_batch())
    for name, value in task.network.head.quality.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_wrong_part_names_the_choices() -> None:
    choices = r"stage 1 trains 'head'; choose from \['all', 'grounder', .*'quality'"
    with pytest.raises(ValueError, match=choices):
        tiny_task(stages=(Stage(("match",), train="head"),))


def test_no_quality_head_no_quality_stage() -> None:
    task = tiny_task(quality="none")
    assert [stage.losses for stage in task.stages] == [("match", "location"), ("match", "location")]
    assert without_quality(PAPER_STAGES)[1].lr == PAPER_STAGES[2].lr
    out = task.step(random_batch(), "train")
    assert set(out.losses) == {"match", "location"}
    assert not task.ranks_by_quality
    with pytest.raises(ValueError, match="stages is empty"):
        tiny_task(stages=())


def test_quality_ranks_from_its_first_stage_on() -> None:
    task, batch = tiny_task().eval(), random_batch()
    scores = []
    for stage in range(3):
        task.enter_stage(stage)
        scores.append(task.step(batch, "predict").outputs.scores)
    assert not torch.equal(scores[0], scores[1])
    assert torch.equal(scores[1], scores[2])


# ---- numbers out of the ordinary -----------------------------------------------------------------------


@pytest.mark.parametrize("quality", ["iou", "centerness"])
@pytest.mark.parametrize("options", [LossOptions(), RELEASED_LOSS, LossOptions(positives="random")])
def test_odd_moments_have_finite_loss_and_gradient(quality: str, options: LossOptions) -> None:
    task, batch = tiny_task(loss=options, quality=quality), random_batch(5)
    odd = torch.tensor([[0.3, 0.3], [0.7, 0.2], [0.0, 1e-9], [1.2, 1.5], [0.5001, 0.5002]])
    for moments in (odd, odd[:1].expand(5, 2)):  # the second: not one positive in the batch
        task.enter_stage(2)
        task.zero_grad()
        losses = task.step(replace(batch, moments=moments.contiguous()), "train").losses
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values()), losses
        assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
    assert losses["location"] == 0
    assert losses["match"] > 0


def fixed_output(match: Tensor, distances: Tensor, quality: Tensor | None = None) -> DRNOutput:
    n = match.shape[1]
    return DRNOutput(match, distances, quality, torch.arange(n) + 0.5, torch.zeros(n, dtype=torch.int64), n)


@pytest.mark.parametrize("size", [-1e4, -100.0, 100.0, 1e4])
def test_huge_outputs_are_finite(size: float) -> None:
    match = torch.full((2, 4), size, requires_grad=True)
    distances = torch.full((2, 4, 2), 1.6e5 if size > 0 else 1e-30, requires_grad=True)
    quality = torch.full((2, 4), size, requires_grad=True)
    output = fixed_output(match, distances, quality)
    for options in (LossOptions(), RELEASED_LOSS):
        losses = drn_losses(output, torch.tensor([[0.1, 0.9], [0.4, 0.6]]), options)
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values()), losses
    for leaf in (match, distances, quality):
        assert torch.isfinite(leaf.grad).all()
    candidates = decode(output, True)
    assert torch.isfinite(candidates.boxes).all()
    assert torch.isfinite(candidates.scores).all()


def test_head_never_overflows() -> None:
    task, batch = tiny_task(), random_batch()
    with torch.no_grad():
        task.network.head.distance.bias.fill_(1e6)
    task.enter_stage(2)
    output = run(task, batch)
    losses = drn_losses(output, batch.moments, LossOptions())
    assert torch.isfinite(output.distances).all()
    assert all(torch.isfinite(value) for value in losses.values())


def test_nan_names_the_batch() -> None:
    task, batch = tiny_task(), random_batch(2)
    batch.clips[0, 0, 0] = torch.nan
    task.log = task.log_dict = lambda *args, **kwargs: None  # no trainer here
    with pytest.raises(FloatingPointError, match=r"match=nan.*v0#0.*v1#1"):
        task.training_step(batch, 0)
    task.training_step(random_batch(2), 0)


def test_bfloat16_is_close_to_float32() -> None:
    task, batch = tiny_task().eval(), random_batch(8)
    task.enter_stage(2)
    exact = run(task, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(task, batch)
        losses = drn_losses(rough, batch.moments, LossOptions())
    assert rough.distances.dtype == torch.float32
    assert (rough.match_logits.float() - exact.match_logits).abs().max() < 0.05 * exact.match_logits.abs().max()
    assert ((rough.distances / exact.distances).log().abs() < 0.1).all()
    for name, value in drn_losses(exact, batch.moments, LossOptions()).items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(value.item(), rel=0.05), name
    sum(losses.values()).backward()


@pytest.mark.parametrize("options", [LossOptions(), RELEASED_LOSS], ids=["paper", "released"])
def test_two_samples_are_learned_by_heart(options: LossOptions) -> None:
    task, batch = tiny_task(loss=options, width=4, loud=False), random_batch(2, videos=2, seed=4)
    batch.moments = torch.tensor([[0.2, 0.55], [0.4, 0.95]])
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=150)
    for _ in range(150):
        optimizer.zero_grad()
        sum(task.step(batch, "train").losses[name] for name in task.stage.losses).backward()
        optimizer.step()
        decay.step()
    out = task.eval().step(batch, "predict").outputs
    for row, answers in enumerate(best_moments(out, torch.ones(2), 1, 0.45)):
        a, b = batch.moments[row].tolist()
        s, e, _ = answers[0]
        assert (min(b, e) - max(a, s)) / (max(b, e) - min(a, s)) > 0.9


# ---- targets and losses, location by location ----------------------------------------------------------


def random_output(seed: int, B: int = 6, clips: int = 16) -> tuple[DRNOutput, Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths = [clips, clips // 2, clips // 4]
    locations = torch.tensor([2**k * (i + 0.5) for k, n in enumerate(lengths) for i in range(n)])
    levels = torch.tensor([k for k, n in enumerate(lengths) for _ in range(n)])
    L = len(levels)
    moments = torch.rand(B, 2, generator=g).sort(-1).values
    if seed % 3 == 0:
        moments[0] = moments[0].flip(0)  # inverted
        moments[1] = torch.tensor([0.0, 1.0])
        moments[2] = torch.tensor([0.25, 0.5])  # on the edges of clips
    distances = torch.rand(B, L, 2, generator=g) * 6 + 0.01
    near = torch.rand(B, L, generator=g) < 0.3  # some boxes nearly right, so that IoU > 0.9 occurs
    truth = torch.stack([locations - moments[:, :1] * clips, moments[:, 1:] * clips - locations], -1)
    distances = torch.where(near[..., None] & (truth > 0).all(-1, keepdim=True), truth * 1.02, distances)
    match, quality = (torch.randn(B, L, generator=g) * 3 for _ in range(2))
    return DRNOutput(match, distances, quality, locations, levels, clips), moments


def naive_positive(x: float, level: int, s: float, e: float, ranges: list[tuple[float, float]] | None) -> bool:
    if not (x - s > 0 and e - x > 0):
        return False
    return ranges is None or ranges[level][0] <= max(x - s, e - x) <= ranges[level][1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ranges", [None, ((-1, 6), (5.6, 11), (11, 1e8)), ((0, 2), (2, 4), (4, 9))])
def test_targets_against_a_loop(seed: int, ranges: tuple[tuple[float, float], ...] | None) -> None:
    output, moments = random_output(seed)
    options = LossOptions(level_ranges=ranges)
    positive, distances = assign_targets(moments, output.locations, output.levels, 16, options)
    for b, (s, e) in enumerate((moments * 16).tolist()):
        for k, (x, level) in enumerate(zip(output.locations.tolist(), output.levels.tolist(), strict=True)):
            assert positive[b, k].item() == naive_positive(x, level, s, e, ranges), (b, k)
            assert distances[b, k].tolist() == pytest.approx([x - s, e - x], abs=1e-5)


def test_targets_want_a_range_per_level() -> None:
    output, moments = random_output(0)
    with pytest.raises(ValueError, match="names 2 levels, the network has 3"):
        assign_targets(moments, output.locations, output.levels, 16, LossOptions(level_ranges=((0, 4), (4, 99))))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ranges", [None, RELEASED_LOSS.level_ranges])
def test_how_many_positives_are_chosen(seed: int, ranges: tuple[tuple[float, float], ...] | None) -> None:
    torch.manual_seed(seed)
    output, moments = random_output(seed)

    def positives(rule: str) -> Tensor:
        options = LossOptions(positives=rule, level_ranges=ranges)
        return assign_targets(moments, output.locations, output.levels, 16, options)[0]

    everything = positives("all")
    inside = everything.sum(1)
    for rule, expected in (
        ("half", (inside + 1) // 2),
        ("random", inside.clamp(max=1)),
        ("center", inside.clamp(max=1)),
    ):
        some = positives(rule)
        assert (some <= everything).all()
        assert torch.equal(some.sum(1), expected), rule
    assert torch.equal(positives("center"), positives("center"))
    for b in torch.nonzero(inside).flatten().tolist():
        middle = moments[b].mean() * 16
        away = (output.locations - middle).abs()
        best = away[everything[b]].min()
        assert away[positives("center")[b]].item() == pytest.approx(best.item(), abs=1e-3)


def test_random_and_half_positives_change_from_step_to_step() -> None:
    output, moments = random_output(1)
    for rule in ("half", "random"):
        options = LossOptions(positives=rule)
        drawn = [assign_targets(moments, output.locations, output.levels, 16, options)[0] for _ in range(8)]
        assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


def naive_losses(output: DRNOutput, moments: Tensor, options: LossOptions, quality: str) -> dict[str, float]:
    """Eq. 5, 6 and 7 as loops over queries and locations."""
    clips, B = output.num_clips, len(moments)
    match = location = good = 0.0
    positives = counted = 0
    for b in range(B):
        s, e = (moments[b] * clips).tolist()
        for k, x in enumerate(output.locations.tolist()):
            p = 1 / (1 + math.exp(-output.match_logits[b, k].item()))
            y = naive_positive(x, int(output.levels[k]), s, e, options.level_ranges)
            match += -0.25 * (1 - p) ** 2 * math.log(p) if y else -0.75 * p**2 * math.log(1 - p)
            left, right = output.distances[b, k].tolist()
            u = 1 / (1 + math.exp(-output.quality_logits[b, k].item()))
            if y:
                positives += 1
                inter = min(left, x - s) + min(right, e - x)
                location += -math.log(inter / (left + right + e - s - inter))
            if quality == "centerness":
                if y:
                    t = math.sqrt(min(x - s, e - x) / max(x - s, e - x))
                    good += -t * math.log(u) - (1 - t) * math.log(1 - u)
                continue
            a, z = (x - left) / clips, (x + right) / clips
            if options.clip_quality_boxes == "all" or k == 0:
                a, z = min(max(a, 0.0), 1.0), min(max(z, 0.0), 1.0)
            s1, e1 = s / clips, e / clips
            iou = max(0.0, min(z, e1) - max(a, s1)) / (max(z, e1) - min(a, s1) + 1e-6)
            if options.quality_min_iou is None or iou > options.quality_min_iou:
                counted += 1
                good += 0.5 * (u - iou) ** 2  # smooth L1 below 1
    extra = B if options.match_normaliser == "positives_and_batch" else 0
    if quality == "centerness":
        good /= max(positives, 1)
    else:
        good /= max(counted, 1) if options.quality_reduction == "mean" else B
    return {
        "match": match / max(positives + extra, 1),
        "location": location / max(positives, 1),
        "quality": good,
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("options", "quality"),
    [(LossOptions(), "iou"), (RELEASED_LOSS, "iou"), (LossOptions(), "centerness")],
    ids=["paper", "released", "centerness"],
)
def test_losses_against_a_loop(seed: int, options: LossOptions, quality: str) -> None:
    output, moments = random_output(seed)
    losses = drn_losses(output, moments, options, quality)
    expected = naive_losses(output, moments, options, quality)
    assert losses.keys() == expected.keys()
    assert expected["quality"] > 0
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=2e-4), name


def test_released_switches_make_the_difference_they_should() -> None:
    output, moments = random_output(2)
    output.distances.requires_grad_()
    paper = drn_losses(output, moments, LossOptions())
    for name, changed in (
        ("level_ranges", {"match", "location"}),
        ("match_normaliser", {"match"}),
        ("quality_min_iou", {"quality"}),
        ("quality_reduction", {"quality"}),
        ("clip_quality_boxes", {"quality"}),
    ):
        other = drn_losses(output, moments, replace(LossOptions(), **{name: getattr(RELEASED_LOSS, name)}))
        assert {key for key in paper if paper[key] != other[key]} == changed, name
    assert not paper["quality"].requires_grad
    attached = drn_losses(output, moments, LossOptions(detach_quality_target=False))["quality"]
    assert attached == paper["quality"]
    attached.backward()
    assert output.distances.grad.abs().sum() > 0


# ---- inference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_decoding_against_a_loop(seed: int) -> None:
    output, _ = random_output(seed)
    for use_quality in (False, True):
        candidates = decode(output, use_quality, threshold=0.3)
        for b in range(6):
            for k, x in enumerate(output.locations.tolist()):
                m, u = (v[b, k].sigmoid().item() for v in (output.match_logits, output.quality_logits))
                box = [(x - output.distances[b, k, 0].item()) / 16, (x + output.distances[b, k, 1].item()) / 16]
                assert candidates.valid[b, k].item() == (m > 0.3)
                assert candidates.boxes[b, k].tolist() == pytest.approx(
                    [min(max(v, 0.0), 1.0) for v in box], abs=1e-6
                )
                assert candidates.scores[b, k].item() == pytest.approx(math.sqrt(m * u if use_quality else m))


def test_nothing_found_is_the_whole_video() -> None:
    match = torch.tensor([[-9.0, -9.0], [-9.0, 3.0]])
    candidates = decode(fixed_output(match, torch.full((2, 2, 2), 0.4)), False)
    assert candidates.valid.tolist() == [[True, False], [False, True]]
    assert candidates.boxes[0, 0].tolist() == [0, 1]
    assert candidates.scores[0, 0] == 0
    assert candidates.boxes[1, 0].tolist() != [0, 1]
    assert decode(fixed_output(match, torch.ones(2, 2, 2)), False, empty_score=1.0).scores[0, 0] == 1
    answers = best_moments(candidates, torch.tensor([30.0, 10.0]), top_k=5, threshold=0.45)
    assert [list(m) for m in answers[0]] == [[0.0, 30.0, 0.0]]
    assert len(answers[1]) == 1


def test_moments_are_in_seconds_best_first_and_cut_to_top_k() -> None:
    boxes = torch.tensor([[[0.0, 0.5], [0.02, 0.5], [0.6, 0.7], [0.8, 1.0]]])
    candidates = Candidates(boxes, torch.tensor([[0.5, 0.6, 0.9, 0.1]]), torch.tensor([[True, True, True, False]]))
    answers = best_moments(candidates, torch.tensor([20.0]), top_k=5, threshold=0.5)[0]
    assert [list(m) for m in answers] == [
        pytest.approx([12.0, 14.0, 0.9]),
        pytest.approx([0.4, 10.0, 0.6]),
    ]
    assert len(best_moments(candidates, torch.tensor([20.0]), top_k=1, threshold=0.5)[0]) == 1


def test_predictions_name_query_video_and_truth() -> None:
    task, batch = tiny_task().eval(), random_batch()
    batch.moments[1] = torch.nan
    records = task.predictions(task.step(batch, "predict").outputs, batch)
    assert [r["query_id"] for r in records] == batch.query_ids
    assert [r["video"] for r in records] == ["v0", "v1", "v2", "v0", "v1"]
    assert records[1]["target"] is None
    truth = batch.moments[3] * batch.durations_s[0]
    assert records[3]["target"] == pytest.approx(truth.tolist(), abs=1e-3)
    for record in records:
        assert 1 <= len(record["moments"]) <= 5
        scores = [m[2] for m in record["moments"]]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= s <= e <= record["duration_s"] + 1e-3 for s, e, _ in record["moments"])


# ---- the authors' checkpoints --------------------------------------------------------------------------


def theirs(task: DRN) -> dict[str, Tensor]:
    """Our weights under the authors' names, in their shapes."""
    state = {}
    for name, value in task.state_dict().items():
        if name.startswith(("metrics.", "video_encoder.")) or name.endswith("num_batches_tracked"):
            continue
        back = [(a, b) for a, b in PREFIXES.items() if name.startswith(b)]
        their, ours = max(back, key=lambda pair: len(pair[1]))
        value = value[:-1] if name == "text_encoder.embedding.weight" else value
        state[f"module.{their}{name.removeprefix(ours)}"] = value.clone()
    state[f"module.{UNUSED[0]}qInput.weight"] = torch.zeros(2)
    return state


def test_released_weights_round_trip() -> None:
    source, batch = tiny_task(seed=1).eval(), random_batch()
    with torch.no_grad():
        source.text_encoder.embedding.weight[-1] = 0
    task = tiny_task(seed=2)
    words = source.text_encoder.vocabulary
    load_released(task, theirs(source), words)
    assert task.stage_index == 2
    close(run(task.eval(), batch), run(source, batch))
    assert task.text_encoder.vocabulary == words


def test_released_weights_are_loaded_strictly() -> None:
    task = tiny_task()
    words = task.text_encoder.vocabulary
    state = theirs(task)
    with pytest.raises(ValueError, match=rf"has {len(words)} words, the vocabulary {len(words) - 1}"):
        load_released(task, state, words[:-1])
    with pytest.raises(KeyError, match=r"fcos\.tail"):
        load_released(task, state | {"fcos.tail.weight": torch.zeros(1)}, words)
    missing = {k: v for k, v in state.items() if "prop_fc.bias" not in k}
    with pytest.raises(RuntimeError, match=r"video_projection\.bias"):
        load_released(task, missing, words)
    assert released_name("fcos.head.centerness.weight") is None


def test_default_widths_are_the_papers() -> None:
    options = NetworkOptions()
    assert (options.channels, options.pyramid_dim, options.location_dim) == ((256, 512, 1024), 512, 256)
    assert [(s.train, s.lr) for s in PAPER_STAGES] == [("grounder", 1e-3), ("quality", 1e-5), ("all", 1e-6)]
    head = tiny_task().network.head.quality
    assert isinstance(head, nn.Sequential)
    assert len(head) == 3
