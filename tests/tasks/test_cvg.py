"""CVG: the network against its equations word by word, and properties of losses and answers."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_captions import FRAMES, SENTENCES, SIDE, Cells, tiny_caption_batch, tiny_cvg
from torch import Tensor

from groundzoo.tasks.cvg import CVG, PAPER_STAGES, GroundingOptions, NetworkOptions
from groundzoo.tasks.schedules import Stage, StepDecay
from groundzoo.zoo.batch import CaptionBatch
from groundzoo.zoo.text.vocabulary import END, UNKNOWN, Vocabulary
from groundzoo.zoo.video.spec import FrameSpec
from groundzoo.zoo.word_grounding import CellRule

# ---- the equations --------------------------------------------------------------------------------------


def lstm(cell: torch.nn.LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM from its weights: gates i, f, g, o."""
    gates = x @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h @ cell.weight_hh_l0.T + cell.bias_hh_l0
    i, f, g, o = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def by_the_book(task: CVG, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
    """Losses of Eq. 1 to 10, one caption and one word at a time, with plain sums and logarithms."""
    net, o = task.network, task.grounding
    caption_terms, grounding_terms = [], []
    for b, words in enumerate(batch.captions):
        grids = [g[batch.segment_index[b]] for g in task.grids(batch)]
        cells = [
            F.relu(g.reshape(-1, g.shape[-1]) @ p[0].weight.T + p[0].bias)
            for g, p in zip(grids, net.projections, strict=True)
        ]
        mean = torch.stack([v.mean(0) for v in cells]).sum(0)
        h1, c1, h2, c2 = torch.zeros(4, net.options.dim)
        before = 0
        for t, target in enumerate(task.words.encode(words, task.max_length)):
            h1, c1 = lstm(net.attention_lstm, torch.cat([mean, F.relu(net.embedding.weight[before])]), h1, c1)
            q = torch.zeros(net.options.dim)
            maps = word_maps(task, batch, b, t)
            term = []
            for v, a, gamma in zip(cells, net.attentions, maps, strict=True):
                hidden = torch.tanh(v @ a.key.weight.T + a.key.bias + a.query.weight @ h1 + a.query.bias)
                alpha = (hidden @ a.score.weight[0] + a.score.bias).softmax(0)
                q = q + (alpha[:, None] * v).sum(0)
                if gamma is not None and gamma.max() > 0:
                    term.append(-torch.log((gamma * alpha).sum()))
            if term:
                grounding_terms.append(torch.stack(term).sum())
            h2, c2 = lstm(net.language_lstm, torch.cat([q, h1]), h2, c2)
            log_p = (net.head.weight @ h2 + net.head.bias).log_softmax(0)
            caption_terms.append(-log_p[target])
            before = target
    return torch.stack(caption_terms).mean(), o.weight * torch.stack(grounding_terms).mean()


def word_maps(task: CVG, batch: CaptionBatch, b: int, t: int) -> list[Tensor | None]:
    """gamma and delta of one word: cells whose centre is in a kept box, by hand."""
    labels, o = batch.labels, task.grounding
    assert labels is not None

    def tracks(word: int) -> list[list[tuple[list[float], float] | None]]:
        found = []
        for n in range(len(labels.word)):
            if (labels.caption[n], labels.word[n]) == (b, word):
                row: list[tuple[list[float], float] | None] = []
                for f in range(FRAMES):
                    score = 1.0 if labels.annotated[n, f] else labels.scores[n, f].item()
                    kept = bool(labels.annotated[n, f]) or (o.propagate_labels and score > o.score_threshold)
                    row.append((labels.boxes[n, f].tolist(), score) if kept else None)
                found.append(row)
        return found

    boxes: list[list[tuple[list[float], float]]] = [[] for _ in range(FRAMES)]
    if o.entity_grounding:
        for track in tracks(t):
            for f, box in enumerate(track):
                boxes[f] += [box] if box else []
    links = zip(labels.link_caption, labels.link_verb, labels.link_entity, strict=True)
    entities = [int(e) for c, v, e in links if (c, v) == (b, t)]
    if o.action_grounding and entities:
        for need in ("all", "any"):
            for f in range(FRAMES):
                groups = [[tr[f] for tr in tracks(e) if tr[f]] for e in entities]
                there = [g for g in groups if g]
                if not there or (need == "all" and len(there) < len(groups)):
                    continue
                every = [x for g in there for x in g]
                low = [min(x[0][k] for x in every) for k in (0, 1)]
                high = [max(x[0][k] for x in every) for k in (2, 3)]
                boxes[f].append(([*low, *high], min(max(x[1] for x in g) for g in there)))
            if any(boxes) or (o.missing == "all" and need == "any"):
                break
    if not any(boxes):
        return [None] * len(task.grids(batch))
    maps = torch.zeros(FRAMES, SIDE, SIDE)
    for f, row in enumerate(boxes):
        for (x1, y1, x2, y2), score in row:
            hits = [
                (i, j)
                for i in range(SIDE)
                for j in range(SIDE)
                if x1 <= (j + 0.5) / SIDE < x2 and y1 <= (i + 0.5) / SIDE < y2
            ] or [(min(int((y1 + y2) / 2 * SIDE), SIDE - 1), min(int((x1 + x2) / 2 * SIDE), SIDE - 1))]
            for i, j in hits:
                maps[f, i, j] = max(maps[f, i, j].item(), score if o.soft_scores else 1.0)
    return [maps.flatten()] * len(task.grids(batch))


ROWS = {
    "EG": {"propagate_labels": False, "action_grounding": False, "soft_scores": False},
    "EG+DLP": {"action_grounding": False, "soft_scores": False},
    "AG": {"entity_grounding": False, "propagate_labels": False, "soft_scores": False},
    "EG+AG+SGS": {"propagate_labels": False},
    "EG+DLP+AG": {"soft_scores": False},
    "all": {},
    "threshold 0.2": {"score_threshold": 0.2, "weight": 0.5},
}


@pytest.mark.parametrize("motion", [True, False])
@pytest.mark.parametrize("row", ROWS)
def test_losses_are_the_papers_equations(row: str, motion: bool) -> None:
    task = tiny_cvg(motion, grounding=GroundingOptions(**ROWS[row]), max_length=20)
    batch = tiny_caption_batch(motion=motion, seed=1)
    losses = task.step(batch, "train").losses
    caption, grounding = by_the_book(task, batch)
    assert losses["caption"].item() == pytest.approx(caption.item(), abs=1e-5)
    assert losses["grounding"].item() == pytest.approx(grounding.item(), abs=1e-5)


def test_the_rows_of_table_1_differ() -> None:
    values = {}
    for name, options in ROWS.items():
        task = tiny_cvg(grounding=GroundingOptions(**options))
        values[name] = task.step(tiny_caption_batch(), "train").losses["grounding"].item()
    assert len({round(v, 5) for v in values.values()}) == len(values)


def test_threshold_one_is_no_propagation() -> None:
    batch = tiny_caption_batch()
    off = tiny_cvg(grounding=GroundingOptions(propagate_labels=False)).step(batch, "train").losses
    one = tiny_cvg(grounding=GroundingOptions(score_threshold=1.0)).step(batch, "train").losses
    assert torch.equal(off["grounding"], one["grounding"])


def test_without_grounding_there_is_no_such_loss_and_no_boxes_are_asked_for() -> None:
    for options in (GroundingOptions(weight=0), GroundingOptions(entity_grounding=False, action_grounding=False)):
        task = tiny_cvg(grounding=options)
        batch = dataclasses.replace(tiny_caption_batch(), labels=None)
        assert set(task.step(batch, "train").losses) == {"caption"}
        assert all(stage.losses == ("caption",) for stage in task.stages)


def test_grounding_without_labels_says_what_to_do() -> None:
    batch = dataclasses.replace(tiny_caption_batch(), labels=None)
    with pytest.raises(ValueError, match="groundzoo annotate propagate"):
        tiny_cvg().step(batch, "train")


def test_evaluation_needs_no_labels() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    with_boxes = task.step(batch, "test")
    without = task.step(dataclasses.replace(batch, labels=None), "test")
    assert without.outputs.sentences == with_boxes.outputs.sentences
    assert torch.equal(without.losses["caption"], with_boxes.losses["caption"])
    assert without.losses["grounding"] == 0 < with_boxes.losses["grounding"]


def test_sentence_sum_is_equation_10_as_printed() -> None:
    batch = tiny_caption_batch()
    mean, total = (
        tiny_cvg(caption_loss=kind).step(batch, "train").losses["caption"].item()
        for kind in ("token_mean", "sentence_sum")
    )
    words = sum(min(len(s.split()) + 1, 12) for s in SENTENCES)
    assert total == pytest.approx(mean * words / len(SENTENCES), rel=1e-5)


# ---- captions -------------------------------------------------------------------------------------------


def test_a_long_caption_is_cut_and_has_no_end() -> None:
    task = tiny_cvg(max_length=4)
    words = SENTENCES[1].split()
    targets, mask = task._targets([words, words[:2]], 4)
    assert task.words is not None
    assert targets[0].tolist() == [task.words.words.index(w) for w in words[:4]]
    assert targets[1].tolist()[2:] == [0, 0]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]], "one end counts"


def test_words_behind_the_cut_are_not_grounded() -> None:
    task = tiny_cvg(max_length=5)
    batch = tiny_caption_batch([SENTENCES[1]])
    assert batch.labels is not None
    early = batch.labels.word < 5
    cut = {f.name: getattr(batch.labels, f.name) for f in dataclasses.fields(batch.labels)}
    for name in ("caption", "word", "boxes", "scores", "annotated"):
        cut[name] = cut[name][early]
    links = batch.labels.link_verb < 5
    # links of a late verb need late entities: those of the early one go on to see all of them
    late = dataclasses.replace(
        batch.labels, **{k: cut[k][links] for k in ("link_caption", "link_verb", "link_entity")}
    )
    loss = task.step(batch, "train").losses["grounding"]
    assert torch.equal(loss, task.step(dataclasses.replace(batch, labels=late), "train").losses["grounding"])


def test_vocabulary() -> None:
    words = Vocabulary.fitted([["a", "b", "a"], ["b", "", "c"], ["B"]], min_count=2)
    assert words.words == [END, "a", "b", UNKNOWN]
    assert words.encode(["b", "c", "a"], 10) == [2, 3, 1, 0]
    assert words.encode(["b", "c", "a"], 3) == [2, 3, 1]
    assert words.decode([2, 1, 0, 2]) == ["b", "a"]
    for wrong in ([], ["a", "b"], [END, "a", "a", UNKNOWN], [UNKNOWN, END]):
        with pytest.raises(ValueError, match="vocabulary"):
            Vocabulary(wrong)


# ---- properties -----------------------------------------------------------------------------------------


def chosen(batch: CaptionBatch, rows: list[int]) -> CaptionBatch:
    """Some captions of a batch, each with its own segment."""
    captions = [batch.captions[i] for i in rows]
    labels, index = batch.labels, torch.tensor(rows)
    assert labels is not None
    kept = {}
    for names, owner in ((("caption", "word", "boxes", "scores", "annotated"), labels.caption),
                         (("link_caption", "link_verb", "link_entity"), labels.link_caption)):  # fmt: skip
        keep = torch.cat([(owner == i).nonzero().flatten() for i in rows])
        place = torch.cat([torch.full(((owner == i).sum(),), k) for k, i in enumerate(rows)])
        kept |= {n: place if n in ("caption", "link_caption") else getattr(labels, n)[keep] for n in names}
    return dataclasses.replace(
        batch, visual=batch.visual[index], motion=None if batch.motion is None else batch.motion[index],
        segment_index=torch.arange(len(rows)), captions=captions, entities=[batch.entities[i] for i in rows],
        references=[batch.references[i] for i in rows], labels=dataclasses.replace(labels, **kept),
        segment_ids=[batch.segment_ids[i] for i in rows], video_ids=[batch.video_ids[i] for i in rows],
        spans_s=batch.spans_s[index], sizes=batch.sizes[index], index=batch.index[index],
    )  # fmt: skip


def test_order_of_a_batch_does_not_matter() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    turned = chosen(batch, [2, 0, 3, 1])
    a, b = (task.step(x, "test") for x in (batch, turned))
    for name in a.losses:
        assert torch.allclose(a.losses[name], b.losses[name], atol=1e-6)
    assert [a.outputs.sentences[i] for i in (2, 0, 3, 1)] == b.outputs.sentences
    assert torch.allclose(a.outputs.given[2].boxes, b.outputs.given[0].boxes)


def test_padding_does_not_matter() -> None:
    """A caption's losses are the same beside longer ones and alone."""
    task, batch = tiny_cvg(), tiny_caption_batch()
    alone = [task.step(chosen(batch, [i]), "train").losses["caption"] for i in range(4)]
    counts = torch.tensor([min(len(c) + 1, task.max_length) for c in batch.captions])
    together = task.step(batch, "train").losses["caption"]
    assert torch.allclose((torch.stack(alone) * counts).sum() / counts.sum(), together, atol=1e-6)


def test_captions_of_one_segment_share_its_row() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch(shared=True)
    apart = dataclasses.replace(
        batch,
        visual=batch.visual.expand(4, *batch.visual.shape[1:]),
        motion=batch.motion.expand(4, *batch.motion.shape[1:]),  # type: ignore[union-attr]
        segment_index=torch.arange(4),
    )
    for name, value in task.step(batch, "train").losses.items():
        assert torch.allclose(value, task.step(apart, "train").losses[name], atol=1e-6)


@pytest.mark.parametrize("motion", [True, False])
def test_every_parameter_gets_a_gradient(motion: bool) -> None:
    task = tiny_cvg(motion).train()
    losses = task.step(tiny_caption_batch(motion=motion), "train").losses
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in task.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # softmax does not see a shift of all scores
    assert without == [f"attentions.{k}.score.bias" for k in range(1 + motion)] or without == []
    assert all(torch.isfinite(p.grad).all() for p in task.network.parameters() if p.grad is not None)


def test_grounding_loss_reaches_attention_but_not_the_words() -> None:
    task = tiny_cvg().train()
    task.step(tiny_caption_batch(), "train").losses["grounding"].backward()
    assert task.network.attentions[0].key.weight.grad.abs().sum() > 0
    assert task.network.attentions[1].query.weight.grad.abs().sum() > 0
    assert task.network.head.weight.grad is None
    assert task.network.language_lstm.weight_hh_l0.grad is None


def test_training_moves_attention_into_the_boxes() -> None:
    """200 steps on one batch: both losses fall, and attention of nouns lies in their boxes."""
    task = tiny_cvg(grounding=GroundingOptions(weight=1.0)).train()
    batch = tiny_caption_batch()
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-2)
    first = task.step(batch, "train").losses
    for _ in range(200):
        losses = task.step(batch, "train").losses
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert losses["caption"] < 0.1 * first["caption"]
    assert losses["grounding"] < 0.6 * first["grounding"]
    said = task.eval().step(batch, "predict").outputs.sentences
    assert said == [c[: task.max_length] for c in batch.captions]


def test_dropout_is_for_training_alone() -> None:
    task = tiny_cvg(network=NetworkOptions(dim=16, word_dim=8, attention_dim=12, dropout=0.5))
    batch = tiny_caption_batch()
    a, b = (task.eval().step(batch, "test").losses["caption"] for _ in range(2))
    assert torch.equal(a, b)
    a, b = (task.train().step(batch, "train").losses["caption"] for _ in range(2))
    assert not torch.equal(a, b)


def test_step_by_step_and_all_at_once_agree() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    memory = task.network.remember(task.grids(batch))
    words = torch.tensor([[3, 5, 1], [2, 2, 4], [1, 6, 6], [7, 3, 2]])
    at_once = task.network(memory, F.pad(words, (1, 0))).logits
    state, before = task.network.begin(memory), torch.zeros(4, dtype=torch.int64)
    for t in range(4):
        logits, state = task.network.step(memory, before, state)
        assert torch.allclose(logits, at_once[:, t], atol=1e-5)
        before = words[:, t] if t < 3 else before


def test_attention_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    whole = task.step(batch, "train").losses
    monkeypatch.setattr("groundzoo.tasks.cvg.CHUNK", 1)
    for name, value in task.step(batch, "train").losses.items():
        assert torch.allclose(value, whole[name], atol=1e-6)


@pytest.mark.parametrize("beam", [1, 3])
def test_one_video_at_a_time_says_the_same(beam: int) -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    grids = task.grids(batch)
    together = task.describe(grids, beam, 0.0)
    for v in range(4):
        alone = task.describe([g[v : v + 1] for g in grids], beam, 0.0)
        assert alone.sentences[0] == together.sentences[v]
        assert alone.scores[0] == pytest.approx(together.scores[v], abs=1e-5)


def test_sampled_sentences() -> None:
    """Drawn words vary and are scored as what they are; next to no heat is greedy."""
    task, batch = tiny_cvg(), tiny_caption_batch()
    grids = task.grids(batch)
    torch.manual_seed(0)
    drawn = [task.describe(grids, temperature=1.0) for _ in range(5)]
    assert len({tuple(map(tuple, answers.sentences)) for answers in drawn}) == 5
    torch.manual_seed(0)
    assert task.describe(grids, temperature=1.0).sentences == drawn[0].sentences
    greedy = task.describe(grids)
    assert task.describe(grids, temperature=1e-4).sentences == greedy.sentences
    assert sum(drawn[0].scores) < sum(greedy.scores)


def test_bfloat16_gives_nearly_the_same_losses() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    full = task.step(batch, "train").losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = task.step(batch, "train").losses
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(value.item(), rel=0.02)


# ---- answers --------------------------------------------------------------------------------------------


def test_predictions_are_in_pixels_of_the_original() -> None:
    task, batch = tiny_cvg(), tiny_caption_batch()
    outputs = task.step(batch, "predict").outputs
    for record, words in zip(task.predictions(outputs, batch), outputs.sentences, strict=True):
        assert record["caption"] == " ".join(words)
        assert [w["text"] for w in record["phrases"]] == words
        assert [record["caption"][w["start"] : w["end"]] for w in record["phrases"]] == words
        for word in record["phrases"]:
            assert len(word["boxes"]) == len(word["scores"]) == FRAMES
            assert sum(word["scores"]) == pytest.approx(1, abs=1e-3)
            assert all(0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 48 for x1, y1, x2, y2 in word["boxes"])
    unknown = dataclasses.replace(batch, sizes=torch.full_like(batch.sizes, torch.nan))
    assert "phrases" not in task.predictions(outputs, unknown)[0]


# ---- raw frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 3])
def test_frames_become_grids(context: int) -> None:
    """Of P passes the first F units count; a trainable encoder gets gradients."""
    task = CVG(
        Cells(5, trainable=True, context=context), None, frames=FRAMES, network=NetworkOptions(8, 4, 6, 0.0)
    )
    passes = -(-FRAMES // context)
    frames = torch.randint(256, (2, passes, context, 3, 6, 6), dtype=torch.uint8)
    batch = dataclasses.replace(tiny_caption_batch(SENTENCES[:2]), visual=frames, motion=None)
    ready = task.prepare(batch)
    assert ready.visual.shape == (2, FRAMES, SIDE, SIDE, 5)
    single = task.video_encoder(frames[1].flatten(0, 1)[None]).grid
    assert single is not None
    assert torch.allclose(ready.visual[1], single[0, :FRAMES], atol=1e-6)
    ready.visual.sum().backward()
    assert all(p.grad is not None for p in task.video_encoder.parameters())


def test_large_grids_are_averaged() -> None:
    task = tiny_cvg(max_cells=1)
    batch = tiny_caption_batch()
    pooled = task.prepare(batch)
    assert torch.allclose(pooled.visual[:, :, 0, 0], batch.visual.mean((2, 3)), atol=1e-6)


# ---- settings -------------------------------------------------------------------------------------------


def test_the_papers_schedule() -> None:
    (stage,) = PAPER_STAGES
    assert (stage.lr, stage.epochs) == (5e-4, 25)
    assert isinstance(stage.schedule, StepDecay)
    shares = [stage.schedule.share(e) for e in range(8)]
    assert shares == pytest.approx([1, 1, 1, 0.8, 0.8, 0.8, 0.64, 0.64])
    gvd = StepDecay(0.8, 3, 4)  # its first step comes an epoch later
    assert [round(gvd.share(e), 3) for e in (3, 4, 6, 7)] == [1, 0.8, 0.8, 0.64]


def test_default_widths_are_gvds() -> None:
    o = NetworkOptions()
    assert (o.dim, o.word_dim, o.attention_dim, o.dropout) == (1024, 512, 512, 0.5)
    g = GroundingOptions()
    assert (g.weight, g.score_threshold, g.cells) == (0.1, 0.5, CellRule("center"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"frames": 0}, "at least 1"), ({"max_length": 0}, "at least 1"), ({"stages": ()}, "at least one stage")],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CVG(Cells(), **wrong)


def test_wrong_thresholds_and_encoders() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        GroundingOptions(score_threshold=1.5)
    blind = Cells()
    blind.grid = None
    with pytest.raises(ValueError, match="no grid"):
        CVG(blind)
    with pytest.raises(ValueError, match="motion_encoder"):
        CVG(Cells(), blind)


def test_an_encoder_that_crops_is_told(caplog: pytest.LogCaptureFixture) -> None:
    crops = Cells()
    crops.spec = FrameSpec(fps=2.0, window=1, stride=1, size=(6, 6), resize=8)
    CVG(Cells(), crops)
    assert [r.getMessage().split()[0] for r in caplog.records] == ["model.motion_encoder"]


def test_a_stage_may_train_without_grounding_first() -> None:
    stages = (Stage(("caption",), epochs=1), Stage(("caption", "grounding"), epochs=1))
    assert [s.losses for s in tiny_cvg(stages=stages).stages] == [("caption",), ("caption", "grounding")]


def test_copies_are_independent() -> None:
    task = tiny_cvg()
    other = copy.deepcopy(task)
    other.set_vocabulary([END, "x", UNKNOWN])
    assert len(task.vocabulary or []) > 3
    assert task.network.head.out_features > 3
