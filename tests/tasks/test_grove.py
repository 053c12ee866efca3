"""GROVE: what learns, that answers do not depend on the batch, how long clips are read, and where it starts."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from tiny_grove import CAPTIONS, T, corners, tiny_clips, tiny_grove, tiny_pretraining
from torch import Tensor

from groundzoo.tasks.grounded_answers import metric_records, own_times
from groundzoo.tasks.grove import GROVE, LossWeights


def losses(task: Any, batch: Any, stage: str = "val") -> dict[str, float]:
    return {name: value.item() for name, value in task.step(batch, stage).losses.items()}


# ---- learning -------------------------------------------------------------------------------------------


def test_every_trainable_parameter_gets_a_gradient() -> None:
    task = tiny_grove(awake=True)
    sum(task.step(tiny_clips(), "train").losses.values()).backward()
    learned = {name: p for name, p in task.named_parameters() if p.requires_grad}
    assert [name for name, p in learned.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    branches = ("video_encoder.adapters", "grounding_encoder.adapters", "language_model", "box_decoder", "network")
    assert all(any(name.startswith(branch) for name in learned) for branch in branches)
    frozen = [name for name, p in task.named_parameters() if not p.requires_grad]
    assert any("video_encoder.network" in n for n in frozen)
    assert any("grounding_encoder.network" in n for n in frozen)


def test_closed_adapters_learn_to_open_and_change_nothing() -> None:
    """At alpha = 0 every output is that of the image models, bit by bit, and alpha has a gradient."""
    task, batch = tiny_grove(), tiny_clips()
    without = tiny_grove(
        video_encoder=type(task.video_encoder)(
            "random", frames=T, adapters=[], train="none", config=task.video_encoder.config
        ),
        grounding_encoder=type(task.grounding_encoder)(
            "random", frames=T, size=32, adapters=[], train="none", config=task.grounding_encoder.config
        ),
    )
    without.load_state_dict(task.state_dict(), strict=False)
    assert losses(task.eval(), batch) == losses(without.eval(), batch)
    sum(task.train().step(batch, "train").losses.values()).backward()
    alphas = [p for name, p in task.named_parameters() if "alpha" in name]
    assert len(alphas) == 3
    assert all(p.grad is not None and p.grad.abs() > 0 for p in alphas)


def test_the_losses_are_the_papers() -> None:
    """CE + 2 gIoU + 2 L1 + 2 BCE, from the decoder's answers by hand."""
    task, batch = tiny_grove().eval(), tiny_clips()
    out = task.step(batch, "val")
    boxes, chance = out.outputs.given
    seen, n = batch.visible, batch.visible.sum()
    l1 = sum((boxes[i, t] - batch.boxes[i, t]).abs().sum() for i, t in seen.nonzero().tolist()) / n
    bce = F.binary_cross_entropy(chance, seen.float())
    assert out.losses["l1"].item() == pytest.approx(2 * l1.item(), rel=1e-4)
    assert out.losses["objectness"].item() == pytest.approx(2 * bce.item(), rel=1e-4)
    doubled = tiny_grove(weights=LossWeights(caption=3.0, giou=1.0, l1=0.0, objectness=4.0)).eval()
    other = losses(doubled, batch)
    assert other["caption"] == pytest.approx(3 * out.losses["caption"].item(), rel=1e-5)
    assert other["giou"] == pytest.approx(out.losses["giou"].item() / 2, rel=1e-5)
    assert other["l1"] == 0.0
    assert other["objectness"] == pytest.approx(2 * out.losses["objectness"].item(), rel=1e-5)


@pytest.mark.parametrize("what", ["nothing visible", "no phrase"])
def test_clips_without_boxes_have_finite_losses_and_all_gradients(what: str) -> None:
    task, batch = tiny_grove(awake=True), tiny_clips()
    if what == "nothing visible":
        hidden = {"visible": torch.zeros_like(batch.visible), "boxes": torch.zeros_like(batch.boxes)}
        batch = dataclasses.replace(batch, **hidden)
    else:
        batch = tiny_clips((T,), [CAPTIONS[2]])
    out = task.step(batch, "train").losses
    sum(out.values()).backward()
    assert all(torch.isfinite(value) for value in out.values())
    assert out["giou"] == 0
    assert out["l1"] == 0
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_it_learns_two_clips_by_heart() -> None:
    torch.manual_seed(0)
    task, batch = tiny_grove(), tiny_clips()
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    task.train()
    first = losses(task, batch)
    for _ in range(150):
        optimizer.zero_grad()
        sum(task.step(batch, "train").losses.values()).backward()
        optimizer.step()
    last = losses(task, batch)
    assert last["caption"] < 0.6
    assert last["l1"] < first["l1"] / 2
    assert last["giou"] < first["giou"]
    said = task.eval().step(batch, "test").outputs.said
    assert said is not None
    assert said.texts == batch.captions


# ---- answers --------------------------------------------------------------------------------------------


def taught(**options: Any) -> GROVE:
    """A task whose sentences have phrases: it knows `CAPTIONS` by heart."""
    torch.manual_seed(1)
    task = tiny_grove(awake=True, **options)
    batch = tiny_clips((T, T, T), CAPTIONS)
    optimizer = torch.optim.Adam(task.language_model.learned_parameters(), lr=1e-2)
    task.train()
    for _ in range(40):
        optimizer.zero_grad()
        task.step(batch, "train").losses["caption"].backward()
        optimizer.step()
    return task.eval()


@pytest.fixture(scope="module")
def knowing() -> GROVE:
    return taught()


@torch.no_grad()
def test_answers_do_not_depend_on_the_batch(knowing: GROVE) -> None:
    lengths = (T, 11, 2)
    batch = tiny_clips(lengths, CAPTIONS)
    together = knowing.answer(batch.frames, batch.mask, None)
    assert sum(len(text.spans) for text in together.texts) > 0
    alone = []
    for b, n in enumerate(lengths):
        one = knowing.answer([x[b : b + 1, :n] for x in batch.frames], batch.mask[b : b + 1, :n], None)
        assert one.texts[0] == together.texts[b]
        rows = together.clip == b
        torch.testing.assert_close(one.boxes, together.boxes[rows, :n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.visible, together.visible[rows, :n], rtol=1e-4, atol=1e-5)
        assert not together.boxes[rows, n:].any()  # padding is never looked at
        alone += one.texts
    assert [len(t.spans) for t in alone] == torch.bincount(together.clip, minlength=3).tolist()


@torch.no_grad()
def test_answers_without_any_phrase(knowing: GROVE) -> None:
    batch = tiny_clips((6,), CAPTIONS[2:])
    said = knowing.answer(batch.frames, batch.mask, batch.captions)
    assert said.texts == batch.captions
    assert said.boxes.shape == (0, 6, 4)
    (caption,) = said.captions(own_times(batch), batch.sizes, 0.5)
    assert caption.phrases == []


@torch.no_grad()
@pytest.mark.parametrize("pass_size", [1, 3])
def test_windows_are_passed_through_in_any_number(knowing: GROVE, pass_size: int) -> None:
    batch = tiny_clips((13, 9), CAPTIONS[:2])
    whole = knowing.answer(batch.frames, batch.mask, batch.captions)
    task = copy.copy(knowing)
    task.windows_per_pass = pass_size
    parts = task.answer(batch.frames, batch.mask, batch.captions)
    torch.testing.assert_close(parts.boxes, whole.boxes, rtol=1e-4, atol=1e-5)
    assert (whole.boxes[:, :9].sum(-1) > 0).all()  # every frame has its box


@torch.no_grad()
def test_a_clip_of_one_window_is_what_training_sees(knowing: GROVE) -> None:
    """Generated and given sentences, inference and losses: one forward pass, one result."""
    batch = dataclasses.replace(tiny_clips((T, T), CAPTIONS[:2]), given=True)
    outputs = knowing.step(batch, "val").outputs
    given = knowing.answer(batch.frames, batch.mask, batch.captions)
    torch.testing.assert_close(given.boxes, outputs.given[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given.visible, outputs.given[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_evaluation_looks_at_the_middles_of_equal_parts(knowing: GROVE) -> None:
    batch = tiny_clips((13,), CAPTIONS[:1])
    outputs = knowing.step(batch, "val").outputs
    assert outputs.frames.tolist() == [[1, 4, 7, 11]]
    short = tiny_clips((13,), CAPTIONS[:1])
    short.frames = [x[:, [1, 4, 7, 11]] for x in short.frames]
    short = dataclasses.replace(
        short,
        mask=short.mask[:, :T],
        boxes=short.boxes[:, [1, 4, 7, 11]],
        visible=short.visible[:, [1, 4, 7, 11]],
    )
    assert losses(knowing, short) == pytest.approx(losses(knowing, batch))


@torch.no_grad()
def test_only_what_is_visible_enough_has_a_box(knowing: GROVE) -> None:
    batch = tiny_clips((6,), CAPTIONS[:1])
    said = knowing.answer(batch.frames, batch.mask, batch.captions)
    counts = []
    for threshold in (0.0, 0.25, 0.5, 0.75, 1.0):
        (caption,) = said.captions(own_times(batch), batch.sizes, threshold)
        kept = [box for phrase in caption.phrases for box in phrase.boxes]
        assert [len(p.boxes) for p in caption.phrases] == [6, 6]
        for phrase, chances in zip(caption.phrases, said.visible.tolist(), strict=True):
            assert [box is not None for box in phrase.boxes] == [chance >= threshold for chance in chances]
        counts.append(sum(box is not None for box in kept))
        assert all(0 <= x <= 64 for box in kept if box is not None for x in box)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 12


def test_records_of_the_truth_itself_are_perfect() -> None:
    """The way from boxes to records: what is annotated, answered."""
    from groundzoo.tasks.grounded_answers import Grounded
    from groundzoo.tasks.metrics.iground import grounding_scores

    batch = tiny_clips((7, T), CAPTIONS[:2])
    said = Grounded(batch.captions, [0.0, 0.0], batch.clip, batch.boxes, batch.visible.float())
    records = metric_records(said.captions(own_times(batch), batch.sizes, 0.5), batch)
    scores = grounding_scores(records)
    assert scores["AP50"] == pytest.approx(1)
    assert scores["recall"] == pytest.approx(1)


@torch.no_grad()
def test_given_sentences_are_not_written_anew(knowing: GROVE) -> None:
    batch = dataclasses.replace(tiny_clips((5, 6), CAPTIONS[:2]), given=True)
    said = knowing.step(batch, "test").outputs.said
    assert said is not None
    assert said.texts == batch.captions
    records = knowing.predictions(knowing.step(batch, "test").outputs, batch)
    assert [r["caption"] for r in records] == [text.text for text in batch.captions]
    assert all(r["score"] is None for r in records)


# ---- protocols of the data sets -------------------------------------------------------------------------


class Data:
    """What a task asks of a data module in evaluation."""

    test_split = "test"
    classes: ClassVar = {"circle", "cross", "he"}

    def __init__(self, protocol: str, segments: dict[str, Any] | None = None) -> None:
        self.protocol, self.segments = protocol, segments

    def entity_reference(self, split: str) -> Any:
        if self.segments is None:
            return None
        return {"annotations": {"v0": {"segments": self.segments}}}, ["v0"]


def judged(task: GROVE, batch: Any, monkeypatch: pytest.MonkeyPatch, data: Data) -> tuple[dict[str, float], Any]:
    """Values of the test metric of one batch, and its predictions."""
    monkeypatch.setattr(GROVE, "datamodule", data)
    metric = task.metric("test")
    with torch.no_grad():
        outputs = task.step(batch, "test").outputs
    task.update_metric(metric, outputs, batch)
    values = {name: value.item() for name, value in metric.compute().items()}
    return values, task.predictions(outputs, batch)


def entity_batch() -> Any:
    """Two segments of v0 with ten frames each; sentences are given, so that the test knows them."""
    batch = tiny_clips((10, 10), CAPTIONS[:2])
    return dataclasses.replace(batch, given=True, clip_ids=["v0#0", "v0#1"], video_ids=["v0", "v0"])


def word(name: str, place: int, frame: int, box: list[float]) -> dict[str, Any]:
    return {
        "tokens": ["a", "red", "circle", "moves"],
        "process_clss": [[name]],
        "process_idx": [[place]],
        "process_bnd_box": [box],
        "frame_ind": [frame],
    }


def test_words_of_entities(knowing: GROVE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are those of head nouns; boxes of all ten frames are in pixels of a picture 720 wide."""
    batch = entity_batch()
    never = copy.copy(knowing)
    never.threshold = 1.0
    values, records = judged(never, batch, monkeypatch, Data("entities"))
    assert not any(name.startswith("grounding") for name in values), "nothing is annotated"
    assert not any(box for r in records for p in r["phrases"] for box in p["boxes"])
    submission = knowing.submissions(records)["submission_grounding_gen.json"]
    assert submission["eval_mode"] == "gen"
    first, second = submission["results"]["v0"]["0"], submission["results"]["v0"]["1"]
    assert (first["clss"], first["idx_in_sent"]) == (["circle", "cross"], [2, 7])
    assert (second["clss"], second["idx_in_sent"]) == (["cross"], [2])
    with torch.no_grad():
        boxes = knowing.answer(batch.frames, batch.mask, batch.captions).boxes * 720
    for row, found in enumerate([*first["bbox_for_all_frames"], *second["bbox_for_all_frames"]]):
        assert len(found) == 10
        assert found[9] == pytest.approx(corners(boxes[row, 9]).clamp(0, 720).tolist(), abs=0.2)
    # found in its own frame alone, the first word is right, and the second sentence's is not
    circle = first["bbox_for_all_frames"][0][4]
    segments = {"0": word("circle", 2, 4, circle), "1": word("cross", 2, 0, [700, 700, 719, 719])}
    values, _ = judged(never, batch, monkeypatch, Data("entities", segments))
    assert values["grounding/F1_loc_per_sent"] == 50.0
    assert values["grounding/recall_all"] == 50.0


@pytest.mark.parametrize(("protocol", "name"), [("pointing", "pointing accuracy"), ("vidstg", "msIoU")])
def test_boxes_of_given_sentences(
    knowing: GROVE, monkeypatch: pytest.MonkeyPatch, protocol: str, name: str
) -> None:
    """Every annotated frame has its box, also where the model doubts that there is something."""
    batch = dataclasses.replace(tiny_clips((9,), CAPTIONS[1:2]), given=True)
    with torch.no_grad():
        boxes = knowing.answer(batch.frames, batch.mask, batch.captions).boxes[0]
    truth = [[("a green cross", (64 * corners(box)).tolist())] if t % 2 else [] for t, box in enumerate(boxes)]
    never = copy.copy(knowing)
    never.threshold = 1.0
    for factor, right in ((1.0, 100.0), (0.0, 0.0)):
        moved = [[(text, [x * factor for x in box]) for text, box in frame] for frame in truth]
        values, records = judged(never, dataclasses.replace(batch, truths=[moved]), monkeypatch, Data(protocol))
        assert values[name] == pytest.approx(right, abs=1.0)
    assert "grounding" not in records[0]


# ---- starting from other weights ------------------------------------------------------------------------


def checkpoint(task: Any, path: Path) -> Path:
    stored: dict[str, Any] = {"state_dict": task.state_dict()}
    task.recipe = {"class_path": f"groundzoo.tasks.{type(task).__name__}", "init_args": {}}
    for name in task.encoders:
        task.recipe["init_args"][name] = {"class_path": "X", "init_args": {}}
    task.on_save_checkpoint(stored)
    torch.save(stored, path)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_starts_from_itself_words_included(tmp_path: Path, knowing: GROVE) -> None:
    path = checkpoint(copy.deepcopy(knowing), tmp_path / "pt.ckpt")
    task = tiny_grove(init_from=path)
    task.setup("fit")
    assert same(task.state_dict(), knowing.state_dict())
    assert task.vocabulary == knowing.vocabulary


def test_it_starts_from_the_stand_in_but_for_what_that_lacks(tmp_path: Path) -> None:
    pretrained = tiny_pretraining()
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter += 0.01
    task = tiny_grove(init_from=checkpoint(pretrained, tmp_path / "si.ckpt"))
    before = {k: v.clone() for k, v in task.state_dict().items()}
    task.fit_vocabulary(CAPTIONS)
    task.setup("fit")
    after, given = task.state_dict(), pretrained.state_dict()
    taken = [k for k in given if k.startswith(("video_encoder", "grounding_encoder", "box_decoder"))]
    assert len(taken) > 50
    assert all(torch.equal(after[k], given[k]) for k in taken)
    kept = [k for k in before if "adapters" in k or k.startswith("network")]
    assert kept
    assert all(torch.equal(after[k], before[k]) for k in kept)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is a checkpoint not one of groundzoo"):
        tiny_grove(init_from=tmp_path / "other.ckpt").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"init_from: .*none\.ckpt does not exist"):
        tiny_grove(init_from=tmp_path / "none.ckpt").setup("fit")
    path = checkpoint(tiny_grove(tokens=(2, 2, 2)), tmp_path / "wide.ckpt")
    stored = torch.load(path, weights_only=True)
    stored["state_dict"]["network.visual.0.weight"] = torch.zeros(3, 3)
    torch.save(stored, path)
    with pytest.raises(ValueError, match=r"network\.visual\.0\.weight"):
        tiny_grove(init_from=path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"), [({"threshold": 1.5}, "threshold=1.5"), ({"frames": T + 1}, "set its `frames`")]
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_grove(**options)
