"""Dense captioning: the events of a video and a sentence for each, in order; the downstream half of SA-TSP.

Semantic-Aware Pretraining for Dense Video Captioning. Teng Wang, Zhu Liu, Feng Zheng, Zhichao Lu, Ran Cheng, Ping
Luo. ActivityNet Challenge 2021, arXiv:2204.07449, sections 1.2, 1.4 and 2. The captioner is the "off-the-shelf"
one of Dense-Captioning Events in Videos: SYSU Submission to ActivityNet Challenge 2020 (Teng Wang, Huicheng Zheng,
Mingjing Yu, arXiv:2006.11693; github.com/ttengwang/dense-video-captioning-pytorch).

Features of any encoders, side by side, are read from stores. Events are related to each other
(`zoo.event_encoder`) and told in order (`zoo.event_captioner`), first learned from given sentences, then by
rewarding whole sentences (self-critical training, Rennie et al., CVPR 2017). Which events there are is annotated,
given by a proposal file, or learned from the same features (`zoo.proposals`).

Differs from the paper (where the text is silent, or leaves a choice) and from the released captioner:

- Stages: the report names one learning rate, 1e-4, and 40 epochs; the released captioner has 1e-4 for given
  sentences (halved every 3 epochs from epoch 8) and 3e-5 for rewards (x 0.8 every 4 epochs, 40 epochs). The
  latter are the default.
- Proposals: the report takes those of a pointer network over the proposals of another detector (neither released
  as a whole). Here they come from a file, or from a network of our own that is trained beside the captioner and
  shares nothing with it but the features.
- Self-critical training draws and scores without dropout; the released program has dropout everywhere but in the
  decoder of the baseline. The baseline may be the mean of the other samples (`leave_one_out`), which varies less.
- Vocabulary, sizes and lengths follow the data and the released captioner: words that occur at least 4 times,
  30 words. The report's 8340 words could not be had from the annotations in any way that was tried.
- The captioner's own differences are named in its two files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ..zoo.batch import EventBatch
from ..zoo.event_captioner import CaptionerOptions, EventCaptioner
from ..zoo.event_encoder import EventEncoder, EventMemory
from ..zoo.proposals import ProposalNetwork, ProposalOptions
from ..zoo.self_critical import leave_one_out, policy_loss
from ..zoo.video.base import VideoEncoder
from .base import Prediction, Step, Task
from .metrics.caption_scorers import Score
from .metrics.dense_captions import DenseCaptionScores, submission
from .own_words import OwnWords
from .rewards import Reward, RewardOptions, training_frequencies
from .schedules import Stage, StepDecay
from .told_events import Answers, DescribedEvent, Told, event_rows

log = logging.getLogger(__name__)
PAPER_STAGES = (
    Stage(losses=("caption", "proposal"), lr=1e-4, epochs=25, schedule=StepDecay(0.5, 3, 8)),
    Stage(losses=("reward",), train="captioner", lr=3e-5, epochs=40, schedule=StepDecay(0.8, 4, 4)),
)
MOST = 1000  # events of a video that metrics tell apart
WORSE = 50  # steps in a row in which samples are worse than their baseline, before a warning


@dataclass(frozen=True)
class SelfCriticalOptions:
    """How sentences are rewarded.

    Attributes:
        baseline: what a sample is compared with: the `greedy` sentence of the same event, or its other samples.
        samples: drawn per event; the released captioner draws one.
        reward: what is rewarded.

    Raises:
        ValueError: a single sample has no others.
    """

    baseline: Literal["greedy", "leave_one_out"] = "greedy"
    samples: int = 1
    reward: RewardOptions = field(default_factory=RewardOptions)

    def __post_init__(self) -> None:
        if self.samples < 1 + (self.baseline == "leave_one_out"):
            raise ValueError(f"baseline={self.baseline} with samples={self.samples}: draw more samples per event")


@dataclass(frozen=True)
class EncoderOptions:
    """Widths of the event encoder.

    Attributes:
        dim: of an event.
        heads: of the relations between events.
        dropout: on events.
    """

    dim: int = 512
    heads: int = 16
    dropout: float = 0.5


class DenseCaptioningNetwork(nn.Module):
    """Event encoder and captioner, and a proposal network beside them.

    Args:
        dim: width of the features.
        encoder: widths of the event encoder.
        captioner: widths and variants of the captioner.
        proposals: of the proposal network; None does without.
    """

    def __init__(
        self, dim: int, encoder: EncoderOptions, captioner: CaptionerOptions, proposals: ProposalOptions | None
    ) -> None:
        super().__init__()
        self.encoder = EventEncoder(dim, encoder.dim, encoder.heads, encoder.dropout)
        self.captioner = EventCaptioner(self.encoder.clip_dim, self.encoder.event_dim, 2, captioner)
        self.proposer = None if proposals is None else ProposalNetwork(dim, proposals)

    def set_vocabulary(self, size: int) -> None:
        """Make embeddings and output layer anew for a vocabulary."""
        self.captioner.set_vocabulary(size)


class DenseCaptioning(OwnWords, Task):
    """Tells the events of a video in order.

    Args:
        video_encoder: what made the features: `Precomputed`, any frozen encoder, or a `Combined` of several.
        encoder: widths of the event encoder.
        captioner: widths and variants of the captioner.
        proposals: of the network that proposes events; None: events must be given.
        self_critical: how sentences are rewarded in stages with the loss `reward`.
        subsample: keep every n-th clip of the features; the released captioner has 2.
        min_count: words rarer than this in the training sentences are unknown.
        max_length: most words of a sentence.
        stages: training schedule, losses `caption`, `proposal` and `reward`; None is the released captioner's.

    Raises:
        ValueError: the encoder is trainable, a size is not positive, or a stage learns what is not there.
    """

    monitor = "val/dense/CIDEr"
    network: DenseCaptioningNetwork

    def __init__(
        self,
        video_encoder: VideoEncoder,
        encoder: EncoderOptions | None = None,
        captioner: CaptionerOptions | None = None,
        proposals: ProposalOptions | None = ProposalOptions(),  # noqa: B008
        self_critical: SelfCriticalOptions | None = None,
        subsample: int = 1,
        min_count: int = 4,
        max_length: int = 30,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        if stages is None:
            left_out = () if proposals is not None else ("proposal",)
            stages = [replace(s, losses=tuple(x for x in s.losses if x not in left_out)) for s in PAPER_STAGES]
        super().__init__(stages, {"video_encoder": video_encoder})
        if video_encoder.trainable:
            raise ValueError("dense captioning reads stored features: set the video encoder's trainable to false")
        if min(subsample, min_count, max_length) < 1:
            raise ValueError(
                f"subsample={subsample}, min_count={min_count}, max_length={max_length}: each is at least 1"
            )
        known = {"caption", "reward"} | ({"proposal"} if proposals is not None else set())
        for number, stage in enumerate(self.stages, start=1):
            if unknown := set(stage.losses) - known:
                raise ValueError(f"stage {number} has losses {sorted(unknown)}; choose from {sorted(known)}")
        self.network = DenseCaptioningNetwork(
            video_encoder.dim, encoder or EncoderOptions(), captioner or CaptionerOptions(), proposals
        )
        self.self_critical = self_critical or SelfCriticalOptions()
        self.subsample, self.min_count, self.max_length = subsample, min_count, max_length
        self._reward: Reward | None = None
        self._worse = 0

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """See `Task.trainable_parts`; `captioner` is all but the proposal network."""
        network = self.network
        parts = {"captioner": [*network.encoder.parameters(), *network.captioner.parameters()]}
        if network.proposer is not None:
            parts["proposer"] = list(network.proposer.parameters())
        return super().trainable_parts() | parts

    # ---- training ---------------------------------------------------------------------------------------

    def step(self, batch: EventBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Losses of the current stage; in evaluation what the model says instead."""
        if stage != "train":
            return Step({}, self._answers(batch))
        wanted, losses, seen = self.stage.losses, {}, None
        if "proposal" in wanted:
            losses["proposal"] = self._proposal_loss(batch)
        if "caption" in wanted:
            losses["caption"] = self._caption_loss(batch)
        if "reward" in wanted:
            losses["reward"], seen = self._reward_loss(batch)
        return Step(losses, seen)

    def diagnostics(self, step: Step) -> dict[str, Tensor]:
        """Of self-critical training: rewards of samples and baseline, their difference, words per sample."""
        values: dict[str, Tensor] = step.outputs or {}
        if "advantage" in values and self.self_critical.baseline == "greedy":  # other samples: 0 on average
            self._worse = self._worse + 1 if values["advantage"] < 0 else 0
            if self._worse == WORSE:
                log.warning(
                    "samples were worse than their baseline for %d steps in a row: train longer on given "
                    "sentences first, or compare samples with each other "
                    "(model.self_critical.baseline leave_one_out, samples 4)", WORSE,
                )  # fmt: skip
        return values

    def _proposal_loss(self, batch: EventBatch) -> Tensor:
        proposer = self.network.proposer
        assert proposer is not None
        output = proposer(batch.clips, batch.clip_mask)
        terms = proposer.loss(output, batch.truth_s, batch.truth_mask, batch.durations_s, self.normaliser)
        return torch.stack(list(terms.values())).sum()

    def _encode(self, batch: EventBatch, events_s: Tensor, mask: Tensor) -> EventMemory:
        memory: EventMemory = self.network.encoder(batch.clips, batch.clip_mask, batch.durations_s, events_s, mask)
        return memory

    def _targets(self, batch: EventBatch) -> Tensor:
        """Word ids ``(V, E, N)``: words, one end, 0 behind it; without an end where a sentence is too long."""
        assert self.words is not None, "no vocabulary: fit, or load a checkpoint"
        rows = [[self.words.encode(words, self.max_length + 1) for words in video] for video in batch.sentences]
        longest = max((len(row) for video in rows for row in video), default=1)
        table = torch.zeros(*batch.event_mask.shape, longest, dtype=torch.int64)
        for v, video in enumerate(rows):  # ragged lists become a tensor: there is no other way
            for e, row in enumerate(video):
                table[v, e, : len(row)] = torch.tensor(row)
        return table.to(self.device)

    def _caption_loss(self, batch: EventBatch) -> Tensor:
        """Cross-entropy of the given sentences: mean over the words of the batch, ends included."""
        targets = self._targets(batch)
        memory = self._encode(batch, batch.events_s, batch.event_mask)
        log_probs = self.network.captioner.log_probs(*memory, targets)
        before = F.pad(targets, (1, 0), value=1)[..., :-1]  # the first step always counts
        counts = (before > 0) & batch.event_mask[..., None]
        return -log_probs.sum() / self.normaliser(counts.sum())

    def _reward_loss(self, batch: EventBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of sampled sentences (`zoo.self_critical.policy_loss`), and what to log of them."""
        o, network = self.self_critical, self.network
        V, K = len(batch), o.samples
        network.eval()  # without dropout: what is drawn is what is scored
        memory = self._encode(batch, batch.events_s, batch.event_mask)
        copies = EventMemory(*(x.repeat_interleave(K, 0) for x in memory))
        with torch.no_grad():
            drawn = network.captioner.generate(*copies, max_length=self.max_length, sample=True).words
        rewards = self._rewards(drawn, copies.event_mask, batch, K)  # (V K, E)
        if o.baseline == "greedy":
            with torch.no_grad():
                greedy = network.captioner.generate(*memory, max_length=self.max_length).words
            baseline = self._rewards(greedy, batch.event_mask, batch, 1).repeat_interleave(K, 0)
        else:
            samples = rewards.unflatten(0, (V, K)).transpose(1, 2)  # (V, E, K)
            baseline = leave_one_out(samples.flatten(0, 1)).view_as(samples).transpose(1, 2).flatten(0, 1)
        log_probs = network.captioner.log_probs(*copies, drawn, network.captioner.options.carry_decoded)
        self.train(self.training)
        real = copies.event_mask
        advantage, words = (rewards - baseline)[real], drawn[real]
        seen = {
            "sample reward": rewards[real].mean(),
            "baseline reward": baseline[real].mean(),
            "advantage": advantage.mean(),
            "sample length": (words > 0).sum(1).float().mean(),
        }
        count = ((words > 0).sum(1) + 1).clamp(max=words.shape[1]).sum()  # words, and ends that were reached
        return policy_loss(log_probs[real], words, advantage) * (count / self.normaliser(count)), seen

    def _rewards(self, words: Tensor, mask: Tensor, batch: EventBatch, copies: int) -> Tensor:
        """Rewards ``(V copies, E)`` of sentences ``(V copies, E, N)``, 0 at padding."""
        if self._reward is None:
            raise RuntimeError("rewards are made ready when training starts: use the trainer, or `ready_rewards`")
        references = [[words_] for video in batch.sentences for _ in range(copies) for words_ in video]
        values = self._reward.score(words[mask].tolist(), references)
        table = torch.zeros(mask.shape, device=words.device)
        table[mask] = torch.tensor(values, device=words.device)
        return table

    def ready_rewards(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Start what rewards sentences.

        Args:
            references: of the training split; per event its sentences, each a list of words.
        """
        assert self.words is not None, "no vocabulary: fit, or load a checkpoint"
        options = self.self_critical.reward
        frequencies = training_frequencies(references) if options.cider else None
        self._reward = Reward(options, self.words, frequencies)

    def on_fit_start(self) -> None:
        """For training with rewards, start what gives them; the words are those of the checkpoint, if any."""
        if self._reward is None and any("reward" in s.losses for s in self.stages):
            self.ready_rewards([[words] for words in self.datamodule.training_sentences()])

    def teardown(self, stage: str) -> None:
        """End what rewards sentences."""
        if self._reward is not None:
            self._reward.close()
            self._reward = None

    # ---- what it says -----------------------------------------------------------------------------------

    def _answers(self, batch: EventBatch) -> Answers:
        given = learned = None
        if bool(batch.event_mask.any()):
            given = self.tell(batch, batch.events_s, batch.event_mask, batch.event_mask.float())
        if self.network.proposer is not None:
            output = self.network.proposer(batch.clips, batch.clip_mask)
            found = self.network.proposer.propose(output, batch.durations_s)
            learned = self.tell(batch, found.events_s, found.mask, found.scores)
        if given is None and learned is None:
            raise ValueError(
                "there are no events to tell: give data.init_args.proposals a file, or train with model.proposals"
            )
        return Answers(given, learned)

    def tell(self, batch: EventBatch, events_s: Tensor, mask: Tensor, scores: Tensor) -> Told:
        """Say a sentence about each event.

        Args:
            batch: features of V videos; its own events do not matter.
            events_s: ``(V, E, 2)`` seconds, in the order of their starts.
            mask: ``(V, E)`` bool.
            scores: ``(V, E)`` of the proposals.
        """
        assert self.words is not None, "no vocabulary: fit, or load a checkpoint"
        memory = self._encode(batch, events_s, mask)
        said = self.network.captioner.generate(*memory, max_length=self.max_length)
        steps = (said.lengths + 1).clamp(max=self.max_length)  # the longest have no end
        mean = (said.log_prob.sum(-1) / steps).tolist()
        counts = mask.sum(1).tolist()
        sentences = [
            [self.words.decode(row) for row in video[:n]]
            for video, n in zip(said.words.tolist(), counts, strict=True)
        ]
        log_probs = [video[:n] for video, n in zip(mean, counts, strict=True)]
        return Told(events_s, mask, scores, sentences, log_probs)

    # ---- metrics ----------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> MetricCollection:
        """Dense captioning with given events (`dense`) and with learned ones (`learned`)."""
        data: Any = self.datamodule
        references = data.dense_references(getattr(data, "test_split", stage) if stage == "test" else stage)
        scores: tuple[Score, ...] = ("CIDEr", "BLEU") if stage == "val" else ("METEOR", "CIDEr", "BLEU", "ROUGE_L")
        names = [n for n, there in (("dense", data.gives_events), ("learned", self.network.proposer)) if there]
        tokenizer: Literal["simple", "ptb"] = "simple" if stage == "val" else "ptb"
        return MetricCollection(
            {n: DenseCaptionScores(references, scores=scores, tokenizer=tokenizer, prefix=n) for n in names},
            compute_groups=False,
        )

    def monitor_on(self, data: Any) -> str | None:
        """CIDEr with given events, or else with learned ones."""
        return "val/dense/CIDEr" if data.gives_events else "val/learned/CIDEr"

    def update_metric(self, metric: MetricCollection, outputs: Answers, batch: EventBatch) -> None:
        """Hand over every event that was told; see `DenseCaptionScores`."""
        index = batch.index.tolist()
        for name, one in metric.items(keep_base=True):
            told = outputs.given if name == "dense" else outputs.learned
            if told is not None:
                rows = list(event_rows(told, batch.video_ids))
                one.update([MOST * index[v] + e for v, e, _ in rows], [record for _, _, record in rows])

    # ---- predictions ------------------------------------------------------------------------------------

    def predictions(self, outputs: Answers, batch: EventBatch) -> list[Prediction]:
        """One record per event: the given events, or else the learned ones."""
        told, index = outputs.main, batch.index.tolist()
        records = []
        for v, e, record in event_rows(told, batch.video_ids):
            more = {"query_id": f"{record['video']}#{e}", "score": round(told.log_probs[v][e], 4)}
            more["proposal"] = round(told.scores[v, e].item(), 4)
            records.append({"index": MOST * index[v] + e} | record | more)
        return records

    def submissions(self, records: Sequence[Prediction]) -> Mapping[str, Any]:
        """The benchmark's submission format."""
        return {"submission_dense.json": submission(records)}

    # ---- from a user's own video ------------------------------------------------------------------------

    @torch.inference_mode()
    def describe(
        self, video: str | Path, events_s: Sequence[Sequence[float]] | None = None
    ) -> list[DescribedEvent]:
        """Tell the events of one video file, in the order of their starts.

        Args:
            video: a file of any length.
            events_s: start and end of the events in seconds; None lets the model propose them.

        Raises:
            VideoError: the file cannot be read.
            ValueError: no events are given and the model proposes none; an event is empty or outside of the video.
        """
        if self.video_reader is None:
            raise RuntimeError("this task cannot read video files: open it with groundzoo.load(checkpoint)")
        was_training = self.training
        self.eval()
        units, _, duration_s = self.video_reader(self.video_encoder, Path(video))
        for start, end in events_s or ():
            if not 0 <= start < min(end, duration_s):
                raise ValueError(f"{video}: nothing lies between {start:g} s and {end:g} s of {duration_s:.2f} s")
        if not events_s and self.network.proposer is None:
            raise ValueError(f"{video}: this model proposes no events: say which there are, events_s")
        given = sorted([float(start), min(float(end), duration_s)] for start, end in events_s or ())
        clips = units.float()[None, :: self.subsample].to(self.device)
        batch = EventBatch(
            clips=clips,
            clip_mask=torch.ones(clips.shape[:2], dtype=torch.bool, device=self.device),
            durations_s=torch.tensor([duration_s], device=self.device),
            events_s=torch.tensor(given, device=self.device).reshape(1, -1, 2),
            event_mask=torch.ones(1, len(given), dtype=torch.bool, device=self.device),
            sentences=[[[] for _ in given]],
            truth_s=torch.zeros(1, 0, 2, device=self.device),
            truth_mask=torch.zeros(1, 0, dtype=torch.bool, device=self.device),
            video_ids=[Path(video).stem],
            index=torch.zeros(1, dtype=torch.int64, device=self.device),
        )
        told = self._answers(batch).main
        self.train(was_training)
        return [
            DescribedEvent(r["start_s"], r["end_s"], r["caption"], told.scores[0, e].item(), told.log_probs[0][e])
            for _, e, r in event_rows(told, batch.video_ids)
        ]
