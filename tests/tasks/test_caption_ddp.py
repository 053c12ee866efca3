"""Captioning in two processes computes what one computes on the doubled batch; bfloat16 nearly the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny_captions import SENTENCES, SMALL, Cells, labels_for, tiny_caption_batch

from groundzoo.datamodules.activitynet_entities import ActivityNetEntities
from groundzoo.datamodules.labels import CaptionLabels, VideoLabels, WordTrack, write_labels
from groundzoo.datamodules.toyworld.generate import generate
from groundzoo.tasks.cvg import CVG, NetworkOptions

PROGRAM = Path(__file__).with_name("two_caption_processes.py")
SHARES = ("even", "one without grounded words", "none with grounded words", "uneven")
RULES = ("paper", "sentence_sum", "entities")
FRAMES = 10
BF16_LOSS, BF16_GRADIENT = 1e-3, 0.99
WITHOUT_EFFECT = [
    f"network.attentions.{k}.score.bias" for k in (0, 1)
]  # a softmax follows: its gradient is noise, made big by Adam


class Results(NamedTuple):
    """What `two_caption_processes` found, in the group of two and alone."""

    pair: list[dict[str, Any]]
    alone: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world; a third of its videos has no labels."""
    options: dict[str, Any] = {"format": "activitynet_entities", "preset": "captions", "test_fraction": 0.25}
    world = generate(tmp_path_factory.mktemp("world") / "toy", videos=12, seed=7, workers=1, **options)
    data = ActivityNetEntities(world)
    store = world / "labels"
    store.mkdir()
    (store / "manifest.json").write_text(json.dumps({"frames": FRAMES}))
    videos: dict[str, dict[str, tuple[CaptionLabels, ...]]] = {}
    for split in ("train", "val", "test"):
        for s in data.read(split):
            (caption,) = s.captions
            tracks = []
            for box in caption.boxes:
                boxes = np.repeat(np.array([box.box], dtype=np.float32), FRAMES, 0).clip(0, 1)
                annotated = np.arange(FRAMES) == box.frame
                scores = np.where(annotated, 1, 0.8).astype(np.float32)
                tracks.append(WordTrack(box.words, boxes, scores, annotated))
            labels = CaptionLabels(caption.tokens, tuple(tracks))
            videos.setdefault(s.video_id, {})[s.segment_id] = (labels,)
    for k, (video, segments) in enumerate(sorted(videos.items())):
        if k % 3:
            write_labels(store, VideoLabels(video, 96, 96, segments))
    return world


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of the two processes of the group, of the one alone, and their folder."""
    out = tmp_path_factory.mktemp("results")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROUNDZOO_RUN")}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PATH": ""}  # without Java, which is slow
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(root), str(out), str(port)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=out,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    *pair, alone = (torch.load(out / f"{k}.pt", weights_only=True) for k in range(3))
    return Results(pair, alone, out)


# ---- two processes --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rule", RULES)
def test_losses_and_gradients_are_those_of_the_doubled_batch(rule: str, share: str, results: Results) -> None:
    pair, alone, _ = results
    name = f"{rule}, {share}"
    values, grads, _ = alone["gradients"][name]
    assert values["caption"] > 1
    assert (values["grounding"] > 1e-2) == (share != "none with grounded words")
    boxes = [rank["gradients"][name][2] for rank in pair]
    assert (min(boxes) == 0) == (share not in ("even", "uneven")), "the shares are not what their name says"
    assert max(boxes) > min(boxes) or max(boxes) == 0
    for rank in pair:
        theirs, their_grads, _ = rank["gradients"][name]
        assert theirs == pytest.approx(values, rel=1e-5, abs=1e-7)
        assert their_grads.keys() == grads.keys()
        for parameter, grad in grads.items():
            torch.testing.assert_close(their_grads[parameter], grad, rtol=1e-5, atol=1e-6, msg=parameter)


@pytest.mark.slow
def test_metrics_of_uneven_shares_with_a_repeated_segment(
    results: Results,
) -> None:
    pair, alone, _ = results
    expected, absent = alone["metrics"]
    for name in ("CIDEr_simple", "dense/CIDEr_simple", "dense@0.7/ROUGE_L_simple", "dense/recall"):
        assert expected[name] > 1
    assert 5 < expected["grounding/GT_accuracy"] < 95
    assert 5 < expected["grounding/F1_all"] < 95
    assert {"METEOR", "SPICE"} <= absent.keys()
    for rank in pair:
        theirs, missing = rank["metrics"]
        assert theirs == pytest.approx(expected, rel=1e-9)
        assert missing == absent


@pytest.mark.slow
def test_an_error_of_the_evaluation_reaches_all(results: Results) -> None:
    pair, alone, _ = results
    assert "v1#3: needs a list of at least one reference" in alone["failure"]
    assert [rank["failure"] for rank in pair] == [alone["failure"]] * 2


@pytest.mark.slow
def test_processes_share_the_captions(results: Results) -> None:
    """Step by step, both shares together are the batch of one process."""
    pair, alone, _ = results
    ours, theirs = (rank["run"]["seen"] for rank in pair)
    assert len(ours) == len(theirs) == len(alone["run"]["seen"]) >= 6
    for step, batch in enumerate(alone["run"]["seen"]):
        together = Counter(map(tuple, ours[step] + theirs[step]))
        assert together == Counter(map(tuple, batch)), step


@pytest.mark.slow
def test_weights_are_those_of_one_process(results: Results) -> None:
    pair, alone, _ = results
    ours, theirs = (rank["run"]["weights"] for rank in pair)
    for step, expected in enumerate(alone["run"]["weights"]):
        for name, value in expected.items():
            assert torch.equal(ours[step][name], theirs[step][name]), (step, name)
            if name not in WITHOUT_EFFECT:
                torch.testing.assert_close(ours[step][name], value, rtol=1e-4, atol=1e-4, msg=f"{step} {name}")
    first, last = alone["run"]["weights"][0], alone["run"]["weights"][-1]
    moved = [name for name in last if (last[name] - first[name]).abs().max() > 3e-3]
    assert len(moved) > len(last) // 2, "weights that hardly move agree by themselves"
    means = [sum(x) / 2 for x in zip(*(rank["run"]["losses"] for rank in pair), strict=True)]
    assert means == pytest.approx(alone["run"]["losses"], rel=1e-4)


@pytest.mark.slow
def test_predictions_and_metrics_are_whole(root: Path, results: Results) -> None:
    two, one = (results.folder / f"devices{n}" / "run" for n in (2, 1))
    segments = [s.segment_id for s in ActivityNetEntities(root).read("test")]
    assert len(segments) % 2 == 1, "one segment is to be computed twice"
    records = [json.loads(line) for line in (two / "predictions.jsonl").read_text().splitlines()]
    assert [r["query_id"] for r in records] == segments
    assert {r["index"] for r in records} == set(range(len(segments)))
    expected = [json.loads(line) for line in (one / "predictions.jsonl").read_text().splitlines()]
    assert [r["caption"] for r in records] == [r["caption"] for r in expected]
    for name in ("submission_dense.json", "submission_grounding_gt.json", "submission_grounding_gen.json"):
        ours, theirs = (json.loads((run / name).read_text())["results"] for run in (two, one))
        assert ours.keys() == theirs.keys()
        assert sum(map(len, ours.values())) == len(segments)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert ours["provenance"]["test"]["devices"] == 2
    assert ours["provenance"]["test"]["evaluated"] == len(segments)
    names = [name for name in theirs if name != "provenance" and not name.endswith("/loss")]
    assert len(names) > 50
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name
    assert ours["val/loss"] == pytest.approx(theirs["val/loss"], rel=0.1)


@pytest.mark.slow
def test_one_process_writes(results: Results) -> None:
    pair, alone, _ = results
    assert pair[1]["run"]["written"] == []
    assert pair[0]["run"]["written"] == alone["run"]["written"]
    counts = Counter(alone["run"]["written"])
    for name in ("predictions.jsonl", "submission_dense.json", "submission_grounding_gt.json"):
        assert counts[name] == 1


# ---- bfloat16 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words", "side"), [(SMALL, 0, 3), (NetworkOptions(dropout=0.0), 4000, 7)])
def test_bfloat16_gives_nearly_the_same(options: NetworkOptions, words: int, side: int) -> None:
    """At tiny and at the paper's widths: losses, and the direction of every part's gradient."""
    torch.manual_seed(0)
    channels = 1024 if words else 5
    task = CVG(Cells(channels), Cells(channels), frames=4, network=options, min_count=1).eval()
    task.fit_vocabulary([*(s.split() for s in SENTENCES), [f"word{i}" for i in range(words)]])
    batch = tiny_caption_batch()
    batch.visual, batch.motion = (torch.randn(4, 4, side, side, channels) for _ in range(2))
    batch.labels = labels_for(batch.captions)
    found = []
    for enabled in (False, True):
        task.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = task.step(batch, "train").losses
        sum(losses.values()).backward()
        grads = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
        found.append(({name: value.item() for name, value in losses.items()}, grads))
    (full, grads), (half, half_grads) = found
    assert half != full, "nothing ran in bfloat16"
    assert half == pytest.approx(full, rel=BF16_LOSS)
    for name, grad in grads.items():
        if name not in WITHOUT_EFFECT:
            cosine = torch.cosine_similarity(grad.flatten(), half_grads[name].flatten(), dim=0)
            assert cosine > BF16_GRADIENT, name
