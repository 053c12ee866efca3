"""GROVE: a sentence about a clip, and boxes of its phrases in every frame.

Large-scale Pre-training for Grounded Video Caption Generation. Evangelos Kazakos, Cordelia Schmid, Josef Sivic.
ICCV 2025, arXiv:2503.10781; the released program is github.com/ekazakos/grove.

T frames of a clip are seen twice. The global branch (`AdaptedCLIP`) gives tokens that a language model reads; it
writes a sentence whose phrases are marked ``<p> a red circle </p> [DET]``. The state that predicts a [DET] is a
query to the grounding branch (`AdaptedSAM`): a decoder (`BoxDecoder`) answers, in every frame on its own, with a
box p_bb = h_bb(o_d) and the chance p_tobj = h_tobj(o_d) that the thing is to be seen. Between the frozen layers of
both branches adapters a(o) = o + tanh(alpha) f(o) let the frames see each other.

L = CE + 2 gIoU + 2 L1 + 2 BCE. The i-th phrase belongs to the i-th [DET], so nothing is matched.

Differs from the paper and its program:

- Adapters of both branches learn, as in the text; in the program those of CLIP stand behind a `no_grad`.
- CLIP's cells keep their places. The program folds 24 x 24 cells as 16 x 36 there.
- gIoU and L1 are divided by the number of boxes, BCE by the number of (frame, phrase) pairs, of all processes; in
  the program of one process, which has one clip.
- All frames of a clip, however long, are read in windows of T frames; shorter clips repeat their last frame. The
  program fails on less than T frames.
- An answer whose tags do not fit together keeps the phrases that do (`zoo.text.tagged_text`).
- For windows beside the one that the sentence is made of the *parsed* sentence is given, and not its raw tokens.
- The best checkpoint is that with the lowest loss, as in the program, but in evaluation mode.
- Prompts are in our own words. A language model of random weights is trained as a whole (`language_model.train`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ..zoo.adapters import pool_grid
from ..zoo.batch import GroundedClipBatch
from ..zoo.box_decoder import BoxDecoder
from ..zoo.box_losses import box_losses
from ..zoo.frame_windows import strided_windows, window_middles
from ..zoo.language import LanguageModel
from ..zoo.text.grounded_text import GroundedText
from ..zoo.video.base import VideoEncoder
from .base import Prediction, Step, Task
from .checkpoints import read_checkpoint
from .grounded_answers import Grounded, judge, own_times, protocol_of, protocol_records, submission
from .grounded_caption import GroundedCaption, caption_record
from .metrics.entity_grounding import official_submission
from .metrics.given_phrases import GivenPhrases, given_records
from .phrase_pretraining import PhrasePretraining
from .schedules import AdamW, Stage, Warmup

log = logging.getLogger(__name__)
LOSSES = ("caption", "giou", "l1", "objectness")
PAPER_STAGES = (
    Stage(
        losses=LOSSES,
        lr=5e-5,
        epochs=20,
        schedule=Warmup(100, "linear"),
        optimizer=AdamW(betas=(0.9, 0.95), weight_decay=0.0),
    ),
)
FPS = 5.0  # of annotations, and of answers about a user's own video


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses.

    Attributes:
        caption: of the cross-entropy.
        giou: of 1 - gIoU.
        l1: of the sum of the four differences.
        objectness: of the binary cross-entropy of being visible.
    """

    caption: float = 1.0
    giou: float = 2.0
    l1: float = 2.0
    objectness: float = 2.0


class Outputs(NamedTuple):
    """What `step` hands to metrics and predictions.

    Attributes:
        said: answers with sentences of the model's own, or those given (VidSTG); None in training and validation.
        given: boxes ``(N, T, 4)`` and visibility ``(N, T)`` for given sentences in the T frames of validation.
        frames: ``(B, T)`` int64, which frames these are.
    """

    said: Grounded | None
    given: tuple[Tensor, Tensor]
    frames: Tensor


# ---- network --------------------------------------------------------------------------------------------


class GROVENetwork(nn.Module):
    """What lies between encoders, language model and decoder: both projections.

    Args:
        vision_dim: width of the cells of the global branch.
        language_dim: width of the language model.
        query_dim: width of the decoder's queries.
        tokens: T', h', w': what the cells of a clip are averaged to.
    """

    def __init__(self, vision_dim: int, language_dim: int, query_dim: int, tokens: tuple[int, int, int]) -> None:
        super().__init__()
        self.tokens = tokens
        self.visual = nn.Sequential(
            nn.Linear(vision_dim, language_dim), nn.GELU(), nn.Linear(language_dim, language_dim)
        )
        self.query = nn.Sequential(
            nn.Linear(language_dim, language_dim), nn.ReLU(), nn.Linear(language_dim, query_dim)
        )

    def read(self, grid: Tensor) -> Tensor:
        """Cells ``(B, T, h, w, D)`` -> tokens for the language model ``(B, T' h' w', language_dim)``."""
        tokens: Tensor = self.visual(pool_grid(grid, self.tokens).flatten(1, 3))
        return tokens

    def ask(self, states: Tensor) -> Tensor:
        """States that predict [DET] ``(N, language_dim)`` -> queries ``(N, query_dim)``."""
        queries: Tensor = self.query(states)
        return queries


# ---- the task -------------------------------------------------------------------------------------------


class GROVE(Task):
    """Grounded video caption generation.

    Args:
        video_encoder: the global branch, T frames per pass.
        grounding_encoder: the branch that boxes are found in.
        language_model: writes the sentence.
        box_decoder: finds the boxes.
        frames: T, frames of a clip that are looked at together.
        tokens: T', h', w' that the cells of the global branch are averaged to.
        weights: of the losses.
        threshold: a thing with a lower probability of being visible has no box.
        max_new_tokens: most tokens of an answer.
        windows_per_pass: windows of T frames that are encoded together in evaluation.
        init_from: a checkpoint whose weights it starts from: of this task ("PT" before "FT"), or of
            `PhrasePretraining`.
        stages: training schedule; None is the paper's.

    Raises:
        ValueError: encoders do not give grids, or do not see T frames per pass.
    """

    monitor = "val/loss"
    large = ("video_encoder", "grounding_encoder", "language_model")
    grounding_encoder: VideoEncoder
    language_model: LanguageModel
    box_decoder: BoxDecoder

    def __init__(
        self,
        video_encoder: VideoEncoder,
        grounding_encoder: VideoEncoder,
        language_model: LanguageModel,
        box_decoder: BoxDecoder,
        frames: int = 8,
        tokens: tuple[int, int, int] = (8, 8, 9),
        weights: LossWeights | None = None,
        threshold: float = 0.5,
        max_new_tokens: int = 64,
        windows_per_pass: int = 8,
        init_from: str | Path | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        stages = PAPER_STAGES if stages is None else stages
        if box_decoder.objectness_head is None:
            stages = [replace(s, losses=tuple(n for n in s.losses if n != "objectness")) for s in stages]
        super().__init__(
            stages,
            {
                "video_encoder": video_encoder,
                "grounding_encoder": grounding_encoder,
                "language_model": language_model,
                "box_decoder": box_decoder,
            },
        )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: probabilities lie between 0 and 1")
        for name in ("video_encoder", "grounding_encoder"):
            self._require_frames(name, frames)
        assert video_encoder.grid is not None
        self.frames, self.threshold, self.max_new_tokens = frames, threshold, max_new_tokens
        self.windows_per_pass, self.weights = windows_per_pass, weights or LossWeights()
        self.network: GROVENetwork = GROVENetwork(
            video_encoder.grid[2], language_model.dim, box_decoder.dim, tokens
        )
        self.init_from = None if init_from is None else Path(init_from)

    def _require_frames(self, name: str, frames: int) -> None:
        encoder: VideoEncoder = getattr(self, name)
        if encoder.grid is None:
            raise ValueError(f"model.{name} ({type(encoder).__name__}) gives vectors but no grid of cells")
        if encoder.spec.window != 1 or encoder.spec.context not in (1, frames):
            raise ValueError(
                f"model.{name} ({type(encoder).__name__}) sees {encoder.spec.context} units of "
                f"{encoder.spec.window} frames per pass; the task has {frames} frames: set its `frames`"
            )

    def monitor_on(self, data: Any) -> str | None:
        """The loss; None where nothing is validated, as in HowToGround1M without a split for it."""
        return self.monitor if getattr(data, "validates", True) else None

    @property
    def streams(self) -> list[VideoEncoder]:
        """The encoders that look at frames: global, then grounding."""
        return [self.video_encoder, self.grounding_encoder]

    # ---- vocabulary -------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> list[str] | None:
        """Words of a language model that has its words from the training captions; see `LanguageModel`."""
        return self.language_model.vocabulary

    def fit_vocabulary(self, texts: Iterable[GroundedText]) -> None:
        """Collect the words of the training captions, where the language model has none of its own."""
        self.language_model.fit_vocabulary(texts)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over stored words."""
        self.language_model.set_vocabulary(words)
        self.language_model.to(self.device)

    def setup(self, stage: str) -> None:
        """Start from other weights, where the configuration names some and no checkpoint brings its own."""
        if self.init_from is not None and not self.awaits_checkpoint:
            self._start_from(self.init_from)
            self.init_from = None  # once
        super().setup(stage)

    def _start_from(self, path: Path) -> None:
        """Take over the weights of a checkpoint: all of GROVE's, or encoders and decoder of a pre-training."""
        stored = read_checkpoint(path, "init_from:")
        made = (stored.get("groundzoo", {}).get("task") or {}).get("class_path", "").rpartition(".")[2]
        state = stored.get("state_dict", {})
        if made == type(self).__name__:
            if stored["groundzoo"]["vocabulary"] is not None:
                self.set_vocabulary(stored["groundzoo"]["vocabulary"])
            wanted = state
        elif made == PhrasePretraining.__name__:
            shared = ("video_encoder.", "grounding_encoder.", "box_decoder.")
            wanted = {name: value for name, value in state.items() if name.startswith(shared)}
        else:
            what = f"of {made}" if made else "not one of groundzoo"
            raise ValueError(
                f"init_from: {path} is a checkpoint {what}; GROVE starts from GROVE or PhrasePretraining"
            )
        own = self.state_dict()
        strange = [name for name, value in wanted.items() if name not in own or own[name].shape != value.shape]
        if strange:
            raise ValueError(
                f"init_from: {path} does not fit: {len(strange)} of its {len(wanted)} tensors have no place of "
                f"their shape here ({', '.join(strange[:3])} ...); build both with the same encoders"
            )
        self.load_state_dict(wanted, strict=False)
        log.info("starts from %s: %d of %d tensors", path, len(wanted), len(own))

    # ---- training ---------------------------------------------------------------------------------------

    def step(self, batch: GroundedClipBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Losses in T frames of each clip; in `test` and `predict` also answers in all frames."""
        chosen = self._chosen(batch)
        views = [_pick(x, chosen) for x in batch.frames]
        visual = self.network.read(_cells(self.video_encoder, views[0]))
        told = self.language_model.teacher_forced(visual, batch.captions, stage == "train", batch.given)
        frames = chosen[batch.clip]
        rows = told.kept.nonzero().squeeze(1)  # phrases that a long sentence has lost have no query
        true = batch.boxes.gather(1, frames[..., None].expand(-1, -1, 4))[rows]
        seen = batch.visible.gather(1, frames)[rows]
        found = self.box_decoder(
            self.network.ask(told.states), _cells(self.grounding_encoder, views[1]), batch.clip[rows]
        )
        losses = self._losses(told.loss_sum, told.tokens, found, true, seen)
        boxes, visible = (x.new_zeros(len(batch.clip), *x.shape[1:]) for x in (found.boxes, found.visible))
        boxes[rows], visible[rows] = found.boxes.detach(), found.visible.detach()
        said = None
        if stage in ("test", "predict"):
            said = self.answer(batch.frames, batch.mask, batch.captions if batch.given else None)
        return Step(losses, Outputs(said, (boxes, visible), chosen))

    def _chosen(self, batch: GroundedClipBatch) -> Tensor:
        """``(B, T)`` int64: all frames in training, the middles of T equal parts in evaluation."""
        counts = batch.mask.sum(1).tolist()
        if batch.mask.shape[1] == self.frames:
            return torch.arange(self.frames, device=self.device).expand(len(counts), -1)
        return torch.stack([window_middles(n, self.frames) for n in counts]).to(self.device)

    def _losses(
        self, loss_sum: Tensor, tokens: Tensor, found: Any, true: Tensor, seen: Tensor
    ) -> dict[str, Tensor]:
        parts, w = box_losses(found.boxes, found.logits, true, seen), self.weights
        boxes, pairs = self.normaliser(parts.boxes), self.normaliser(parts.pairs)
        losses = {
            "caption": w.caption * loss_sum / self.normaliser(tokens),
            "giou": w.giou * parts.giou / boxes,
            "l1": w.l1 * parts.l1 / boxes,
        }
        if parts.objectness is not None:
            losses["objectness"] = w.objectness * parts.objectness / pairs
        return losses

    # ---- answers ----------------------------------------------------------------------------------------

    def answer(self, frames: Sequence[Tensor], mask: Tensor, given: Sequence[GroundedText] | None) -> Grounded:
        """Sentences about clips of any length, and boxes in all of their frames.

        The sentence is made of one window of T frames, in the middle of the strided ones; boxes are found window
        by window with that sentence given.

        Args:
            frames: per encoder ``(B, F, 3, H, W)``.
            mask: ``(B, F)`` bool.
            given: sentences whose phrases are looked for; None lets the model write them.
        """
        windows = [strided_windows(n, self.frames) for n in mask.sum(1).tolist()]
        if given is None:
            first = torch.stack([w.index[w.caption] for w in windows]).to(mask.device)
            visual = self.network.read(_cells(self.video_encoder, _pick(frames[0], first)))
            answers = self.language_model.answer(visual, self.max_new_tokens)
            texts, scores = answers.texts, answers.scores
        else:
            texts, scores = list(given), [float("nan")] * len(given)
        counts = torch.tensor([len(text.spans) for text in texts], device=mask.device)
        first_row = counts.cumsum(0) - counts
        total = int(counts.sum())
        boxes = torch.zeros(total, mask.shape[1], 4, device=mask.device)
        visible = torch.zeros(total, mask.shape[1], device=mask.device)
        owner = torch.cat([torch.full((len(w.index),), b) for b, w in enumerate(windows)]).to(mask.device)
        index = torch.cat([w.index for w in windows]).to(mask.device)
        fresh = torch.cat([w.fresh for w in windows]).to(mask.device)
        worth = counts[owner] > 0  # a sentence without phrases asks for no boxes
        parts = (x[worth].split(self.windows_per_pass) for x in (owner, index, fresh))
        for clips, numbers, new in zip(*parts, strict=True):
            if not len(clips):  # what `split` makes of nothing: no sentence has a phrase
                break
            visual = self.network.read(_cells(self.video_encoder, _pick(frames[0][clips], numbers)))
            known = [texts[b] for b in clips.tolist()]
            told = self.language_model.teacher_forced(visual, known, given=given is not None)
            window = torch.arange(len(clips), device=mask.device).repeat_interleave(counts[clips])
            place = torch.arange(len(window), device=mask.device) - _first_of_each(window)
            rows = (first_row[clips][window] + place)[told.kept]
            window = window[told.kept]
            cells = _cells(self.grounding_encoder, _pick(frames[1][clips], numbers))
            found = self.box_decoder(self.network.ask(told.states), cells, window)
            keep = new[window]
            where = rows[:, None].expand_as(keep)[keep], numbers[window][keep]
            boxes[where], visible[where] = found.boxes[keep].float(), found.visible[keep].float()
        clip = torch.arange(len(texts), device=mask.device).repeat_interleave(counts)
        return Grounded(texts, scores, clip, boxes, visible)

    # ---- metrics ----------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> MetricCollection:
        """Boxes of given phrases; in `test` also the protocol of the data set."""
        metrics: dict[str, Metric] = {"given": GivenPhrases()}
        answers = judge(self.datamodule) if stage == "test" else None
        if answers is not None:
            metrics["answers"] = answers
        return MetricCollection(metrics, compute_groups=False)

    def update_metric(self, metric: MetricCollection, outputs: Outputs, batch: GroundedClipBatch) -> None:
        """Hand each metric what it asks for."""
        index, (boxes, visible), frames = batch.index.tolist(), outputs.given, outputs.frames[batch.clip]
        true = batch.boxes.gather(1, frames[..., None].expand(-1, -1, 4))
        seen = batch.visible.gather(1, frames)
        metric["given"].update(index, given_records(boxes, visible, true, seen, batch.clip, len(batch)))
        if outputs.said is not None and "answers" in metric:
            records = protocol_records(self.datamodule, outputs.said, batch, self.threshold)
            metric["answers"].update(index, records)

    # ---- predictions ------------------------------------------------------------------------------------

    def predictions(self, outputs: Outputs, batch: GroundedClipBatch) -> list[Prediction]:
        """One record per clip: ids, sentence, references, and the tube of every phrase in pixels."""
        assert outputs.said is not None
        captions = outputs.said.captions(own_times(batch), batch.sizes, self.threshold)
        ids = zip(batch.index.tolist(), batch.clip_ids, batch.video_ids, batch.references, captions, strict=True)
        records: list[Prediction] = [
            {"index": i, "query_id": clip, "video": video, **caption_record(caption), "references": references}
            for i, clip, video, references, caption in ids
        ]
        if protocol_of(self.datamodule) == "entities":
            words = protocol_records(self.datamodule, outputs.said, batch, self.threshold)
            records = [{**record, "grounding": w} for record, w in zip(records, words, strict=True)]
        return records

    def submissions(self, records: Sequence[Prediction]) -> Mapping[str, Any]:
        """The file that the evaluation of ActivityNet-Entities reads, or else the released one of iGround."""
        grounded = [r["grounding"] for r in records if "grounding" in r]
        if grounded:
            return {"submission_grounding_gen.json": official_submission(grounded, "gen")}
        return {"submission_iground.json": submission(records)}

    # ---- from a user's own video ------------------------------------------------------------------------

    @torch.inference_mode()
    def caption(
        self,
        video: str | Path,
        start_s: float | None = None,
        end_s: float | None = None,
        threshold: float | None = None,
    ) -> GroundedCaption:
        """Describe one video file, or a stretch of it, with a sentence whose phrases have boxes, 5 per second.

        Args:
            video: a file; the stretch is read as a whole, so it should not be longer than some minutes.
            start_s: start of the stretch; None is the start of the video.
            end_s: its end; None is the end of the video.
            threshold: least probability of being visible for a box; None is the task's own.

        Raises:
            VideoError: the file cannot be read.
            ValueError: the stretch is empty or outside of the video.
        """
        if self.sample_reader is None:
            raise RuntimeError("this task cannot read video files: open it with groundzoo.load(checkpoint)")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: probabilities lie between 0 and 1")
        was_training = self.training
        self.eval()
        specs = [encoder.spec for encoder in self.streams]
        read = self.sample_reader(Path(video), specs, self.frames, start_s or 0.0, end_s, FPS)
        count = len(read.times_s)
        frames = [passes.flatten(0, 1)[None, :count].to(self.device) for passes in read.passes]
        mask = torch.ones(1, count, dtype=torch.bool, device=self.device)
        said = self.answer(frames, mask, None)
        self.train(was_training)
        size = torch.tensor([read.size], dtype=torch.float32)
        (caption,) = said.captions([read.times_s], size, self.threshold if threshold is None else threshold)
        return caption


def _pick(frames: Tensor, index: Tensor) -> Tensor:
    """Frames ``(B, F, ...)`` at ``(B, T)``."""
    return frames[torch.arange(len(index), device=frames.device)[:, None], index.to(frames.device)]


def _cells(encoder: VideoEncoder, frames: Tensor) -> Tensor:
    cells: Tensor | None = encoder(frames).grid
    assert cells is not None
    return cells


def _first_of_each(window: Tensor) -> Tensor:
    """For ascending numbers, the position at which each one's run begins."""
    return torch.searchsorted(window, window)
