"""Times DRN beside the authors' program: a training step, one query, and 148 queries of one video.

    git clone https://github.com/Alvin-Zeng/DRN released_drn
    python tests/benchmarks/bench_drn.py --released released_drn

Both programs run in this process with the same weights and inputs, in turns, so that whatever else the
machine does hits both. Their outputs are compared before anything is timed. Without ``--released`` only ours
is timed. The released code wants CUDA and a compiled detection library; what a CPU needs instead is put in
at run time, nothing in its folder is changed.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from groundzoo.tasks.drn import DRN, PAPER_STAGES, RELEASED_LOSS, NetworkOptions
from groundzoo.tasks.drn_released import load_released
from groundzoo.tasks.moments import Moment, best_moments
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.batch import GroundingBatch
from groundzoo.zoo.text.word_lstm import WordLSTM
from groundzoo.zoo.video.precomputed import Precomputed

VOCABULARY = [f"word{i}" for i in range(1301)]
CLIPS, CLIP_DIM, WORDS = 32, 4096, 10
TOP_K, NMS = 5, 0.45
Example = tuple[GroundingBatch, Tensor, Tensor]  # for ours, and token ids and lengths for the released code
RELEASED_CONFIG = {
    "feature_type": "C3D",
    "C3D": {"feature_dim": CLIP_DIM},
    "first_output_dim": 256,
    "fpn_feature_dim": 512,
    "fpn_stride": [1, 2, 4],
    "lstm_layers": 1,
    "fcos_conv_layers": 1,
    "fcos_prior_prob": 0.01,
    "fcos_loss_alpha": 0.25,
    "fcos_loss_gamma": 2.0,
    "fcos_inference_thr": 0.05,
    "fcos_pre_nms_top_n": 32,
    "fcos_nms_thr": 0.6,
    "fcos_num_class": 2,
    "test_detections_per_img": 32,
    "is_first_stage": True,
    "is_second_stage": False,
}


# ---- the released program on a CPU ----------------------------------------------------------------------


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules that the released code names but does not need here; any name in them exists."""

    roots = ("fcos_core", "matplotlib", "plotly", "seaborn", "tqdm")

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in self.roots:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_released(folder: Path) -> tuple[type[nn.Module], Callable[..., list[int]]]:
    """The authors' network and their NMS."""
    sys.path.insert(0, str(folder))
    missing, known = Missing(), dict(sys.modules)
    sys.meta_path.insert(0, missing)
    try:
        focal = importlib.import_module("model.layers.sigmoid_focal_loss")
        network = importlib.import_module("model.main_model").mainModel
        runner = importlib.import_module("utils.evaluate_utils").PostProcessRunner
    finally:
        sys.meta_path.remove(missing)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(known):
            if name.partition(".")[0] in Missing.roots:
                del sys.modules[name]
    theirs = focal.sigmoid_focal_loss_cpu  # takes gamma and alpha as vectors, gets numbers
    focal.sigmoid_focal_loss_cpu = lambda x, t, gamma, alpha: theirs(x, t, [gamma], [alpha])
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    return network, lambda *args: runner.nms_temporal(None, *args)


class Released:
    """The authors' program, used as their `main.py` does."""

    def __init__(self, folder: Path) -> None:
        network, self.nms = import_released(folder)
        self.model = network(len(VOCABULARY), SimpleNamespace(**RELEASED_CONFIG))
        for name, parameter in self.model.named_parameters():
            if "iou_scores" in name or "mix_fc" in name:
                parameter.requires_grad = False
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, 1e-3)

    def forward(self, batch: GroundingBatch, tokens: Tensor, lengths: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Boxes (in evaluation mode) and losses."""
        video = batch.video_index
        clips = batch.clips if len(batch.clips) == len(video) else batch.clips[video]
        bounds = batch.bounds[video].double()
        found: tuple[Any, dict[str, Tensor]] = self.model(
            tokens, lengths, clips, bounds, batch.moments, [CLIPS] * len(tokens), [0] * len(tokens)
        )
        return found

    def train_step(self, batch: GroundingBatch, tokens: Tensor, lengths: Tensor) -> None:
        """One optimiser step."""
        losses = self.forward(batch, tokens, lengths)[1]
        loss = sum(losses.values())
        assert isinstance(loss, Tensor)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def answer(self, batch: GroundingBatch, tokens: Tensor, lengths: Tensor) -> list[list[Moment]]:
        """The best moments of every query after NMS."""
        answers = []
        for found in self.forward(batch, tokens, lengths)[0]:
            starts, ends = found["detections"].t().tolist()
            scores = found["scores"].tolist()
            picks = self.nms(starts, ends, scores, NMS)[:TOP_K]
            answers.append([Moment(starts[i], ends[i], scores[i]) for i in picks])
        return answers


# ---- ours -----------------------------------------------------------------------------------------------


class Ours:
    """This package's DRN with the rules of the released code, in its first stage of training."""

    def __init__(self) -> None:
        stages = tuple(Stage(s.losses, s.train, s.lr, s.epochs) for s in PAPER_STAGES)
        video, text = Precomputed(CLIP_DIM), WordLSTM()
        text.set_vocabulary(VOCABULARY)
        self.task = DRN(video, text, network=NetworkOptions(), loss=RELEASED_LOSS, stages=stages)
        self.task.enter_stage(0)
        self.optimizer = self.task.configure_optimizers()

    def load(self, released: Released) -> None:
        """Take over the weights of the released network."""
        load_released(self.task, released.model.state_dict(), VOCABULARY)
        self.task.enter_stage(0)

    def train_step(self, batch: GroundingBatch, bf16: bool = False) -> None:
        """One optimiser step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # Lightning's `bf16-mixed`
            losses = self.task.step(batch, "train").losses
        torch.stack([losses[name] for name in self.task.stage.losses]).sum().backward()
        clip_grad_norm_([p for p in self.task.parameters() if p.grad is not None], 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def answer(self, batch: GroundingBatch, bf16: bool = False) -> list[list[Moment]]:
        """The best moments of every query after NMS."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = self.task.step(batch, "predict").outputs
        return best_moments(found, batch.durations_s[batch.video_index], TOP_K, NMS)


# ---- inputs, comparison, clock --------------------------------------------------------------------------


def make_batch(queries: int, videos: int) -> Example:
    """Random features and queries of 2 to 10 words, longest first as the released loader sorts them."""
    lengths = torch.randint(2, WORDS + 1, (queries,)).sort(descending=True).values
    lengths[0] = WORDS
    tokens = torch.zeros(queries, WORDS, dtype=torch.int64)
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[:length] = torch.randint(1, len(VOCABULARY) + 1, (length,))
    edges = torch.linspace(0, 1, CLIPS + 1)
    moments = torch.rand(queries, 2).sort(1).values
    batch = GroundingBatch(
        clips=torch.randn(videos, CLIPS, CLIP_DIM).relu(),
        bounds=torch.stack([edges[:-1], edges[1:]], -1).expand(videos, -1, -1).contiguous(),
        durations_s=torch.ones(videos),
        video_index=torch.arange(queries) % videos,
        queries=[" ".join(VOCABULARY[i - 1] for i in row if i) for row in tokens.tolist()],
        moments=moments,
        query_ids=[str(i) for i in range(queries)],
        video_ids=[str(i) for i in range(videos)],
        index=torch.arange(queries),
    )
    return batch, tokens, lengths


def part(example: Example, rows: slice) -> Example:
    """Some queries as a batch of their own, as the released loader makes it: a row of features for every query."""
    batch, tokens, lengths = example
    few, video = lengths[rows], batch.video_index[rows]
    picked = replace(
        batch,
        clips=batch.clips[video],
        video_index=video,
        queries=batch.queries[rows],
        moments=batch.moments[rows],
    )
    return picked, tokens[rows, : int(few.max())], few


def interleave(
    calls: dict[str, Callable[[], object]], rounds: int, warm_up: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every call, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(warm_up + rounds):
        for name, call in calls.items():
            start = clock()
            call()
            if i >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def row(title: str, seconds: dict[str, list[float]], per: int = 1) -> None:
    """Print one line of the table per call; ratios are medians of the rounds' own ratios to ours."""
    ours = seconds["ours"]
    for name, values in seconds.items():
        ms = sorted(1000 * s / per for s in values)
        low, high = ms[len(ms) // 10], ms[-1 - len(ms) // 10]
        times = statistics.median(b / a for a, b in zip(ours, values, strict=True))
        ratio = "" if name == "ours" else f"{times:.2f}x"
        print(f"| {title} | {name} | {statistics.median(ms):.2f} | {low:.2f}-{high:.2f} | {ratio} |", flush=True)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=2e-4, atol=2e-5)


def compare_training(ours: Ours, released: Released, example: Example) -> None:
    """Losses and gradients of one training step are the same."""
    ours.task.train()
    released.model.train()
    losses = ours.task.step(example[0], "train").losses
    expected = released.forward(*example)[1]
    close(losses["match"], expected["loss_cls"])
    close(losses["location"], expected["loss_reg"])
    (losses["match"] + losses["location"]).backward()
    (expected["loss_cls"] + expected["loss_reg"]).backward()
    mine, theirs = ours.task.network, released.model
    first_conv = theirs.backbone_net.forward_conv0[0]
    for a, b in ((mine.video_projection, theirs.prop_fc), (mine.backbone[0][0], first_conv)):
        error = (a.weight.grad - b.weight.grad).norm() / b.weight.grad.norm()
        assert error < 1e-2, f"gradients differ by {error:.2g}"  # rounding at random weights; in float64 1e-14
    ours.task.zero_grad()
    released.model.zero_grad()


def compare_answers(ours: Sequence[Sequence[Moment]], theirs: Sequence[Sequence[Moment]]) -> None:
    """The same boxes and scores, query by query; where no box passes, ours scores the video 0, theirs 1."""
    assert [len(a) for a in ours] == [len(a) for a in theirs]
    nothing = [Moment(0.0, 1.0, 1.0)]
    theirs = [[Moment(0.0, 1.0, 0.0)] if a == nothing else a for a in theirs]
    close(torch.tensor([m for a in ours for m in a]), torch.tensor([m for a in theirs for m in a]))


def let_boxes_pass(released: Released, example: Example) -> None:
    """Untrained scores all lie below the threshold: spread and shift them until about a third passes."""
    layer = released.model.fcos.head.cls_logits
    seen: list[Tensor] = []
    with torch.no_grad():
        layer.weight.mul_(20)
        handle = layer.register_forward_hook(lambda _module, _input, output: seen.append(output.flatten()))
        released.forward(*example)
        handle.remove()
        layer.bias += -2.944 - torch.cat(seen).quantile(0.67)  # sigmoid(-2.944) = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", type=Path, help="a checkout of the authors' code")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm_up", type=int, default=20, help="rounds before the clock runs")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=["train", "one", "many"], choices=["train", "one", "many"])
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time of this process; with one thread, what a busy machine can still measure",
    )
    parser.add_argument("--bf16", action="store_true", help="also time ours in bf16-mixed precision")
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours = Ours()
    released = Released(args.released.resolve()) if args.released else None
    os.chdir(tempfile.mkdtemp())  # the released evaluation writes a file on every batch
    training, one, many = make_batch(32, 32), make_batch(1, 1), make_batch(148, 1)
    if released:
        ours.load(released)
        compare_training(ours, released, training)

    print("| task | program | median ms | p10-p90 | time / ours |\n|---|---|---|---|---|")
    if "train" in args.only:
        ours.task.train()
        calls: dict[str, Callable[[], object]] = {"ours": lambda: ours.train_step(training[0])}
        if args.bf16:
            calls["ours, bf16"] = lambda: ours.train_step(training[0], bf16=True)
        if released:
            released.model.train()
            calls["released"] = lambda: released.train_step(*training)
        row("training step, batch 32", interleave(calls, args.rounds, args.warm_up, clock))

    ours.task.eval()
    if released:
        released.model.eval()
        let_boxes_pass(released, many)
        ours.load(released)
    if "one" in args.only:
        calls = {"ours": lambda: ours.answer(one[0])}
        if args.bf16:
            calls["ours, bf16"] = lambda: ours.answer(one[0], bf16=True)
        if released:
            compare_answers(ours.answer(one[0]), released.answer(*one))
            calls["released"] = lambda: released.answer(*one)
        row("one query", interleave(calls, 5 * args.rounds, args.warm_up, clock))
    if "many" in args.only:
        calls = {"ours": lambda: ours.answer(many[0])}
        if args.bf16:
            calls["ours, bf16"] = lambda: ours.answer(many[0], bf16=True)
        if released:
            for name, size in (("released, batch 1", 1), ("released, batch 16", 16)):
                batches = [part(many, slice(i, i + size)) for i in range(0, 148, size)]
                answers = [a for b in batches for a in released.answer(*b)]
                compare_answers(ours.answer(many[0]), answers)
                calls[name] = lambda batches=batches: [released.answer(*b) for b in batches]
        rounds, warm_up = max(5, args.rounds // 4), 3  # 148 queries each: many steps of warm-up
        row("148 queries of one video, per query", interleave(calls, rounds, warm_up, clock), per=148)


if __name__ == "__main__":
    main()
