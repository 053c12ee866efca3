"""SA-TSP: a video encoder trained to tell actions, whether anything happens, and the concepts of captions.

Semantic-Aware Pretraining for Dense Video Captioning. Teng Wang, Zhu Liu, Feng Zheng, Zhichao Lu, Ran Cheng, Ping
Luo. ActivityNet Challenge 2021, arXiv:2204.07449. There is no released code. It adds a term to TSP (Alwassel,
Giancola, Ghanem, ICCV Workshops 2021, arXiv:2011.11479, github.com/HumamAlwassel/TSP); the asymmetric loss is that
of Ben-Baruch et al. (ICCV 2021, arXiv:2009.14119, github.com/Alibaba-MIIL/ASL).

A clip of an untrimmed video becomes one feature f. Linear heads tell from it the action (of clips that lie in one)
and the concepts, words of the sentences about the clip; from f and a feature of the whole video, whether the clip
lies in an action or in the background. Eq. 1 adds their losses. The trained encoder then makes features for dense
captioning, ``groundzoo extract``; the heads are thrown away.

Differs from the paper and from TSP's program (where the texts are silent or leave a choice):

- The feature of the whole video (TSP's GVF) is an input: the maximum over the video's features by the encoder that
  training starts from, extracted beforehand. No gradient, as in TSP. `context_dim: 0` is TSP without it.
- f is what the encoder gives for the clip; of one that gives several units per clip, their mean.
- The asymmetric loss is summed over concepts and averaged over clips: 1000 concepts then cost about 28 per clip at
  the start, times 0.1, beside 5.3 for 200 actions. The authors of the loss sum over clips, too
  (`reduction: sum`), about 90 for a batch of 32. Its other settings are the defaults of their program.
- Which sentences a clip's concepts come from is not said; here from all whose time overlaps the clip's. A clip
  that no sentence overlaps shows no concepts. Clips of videos without any sentences do not count in this term.
- A batch without clips in actions, where the mean of TSP's program is not a number, has an action loss of 0.
  Means are over the clips of all processes.
- Only the heads of terms that some stage counts exist. A weight of 0 takes the term out of all stages.
- TSP's clips are drawn by a random sequence that is the same in every loading process and epoch; here they differ.
- The optimiser is TSP's: SGD, the stem frozen but for the running statistics of its batch norms, rates of 1e-4
  (layers) and 2e-3 (heads) times the number of processes, warm-up and steps. With batches smaller than TSP's 32
  per process, divide both rates by the same factor. The best epoch is TSP's, too: by the mean of both accuracies.
- TSP's weights come from batch norms with a momentum of 0.9, see `R2Plus1D`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo.batch import ClipBatch
from ..zoo.losses import asymmetric_loss
from ..zoo.pair_attention import full_precision
from ..zoo.video.base import VideoEncoder
from .base import Prediction, Step, Task
from .metrics.clip_classification import ClipClassification
from .schedules import SGD, Stage, WarmupSteps

TERMS = ("action", "temporal", "semantic")
PAPER_STAGES = (
    Stage(
        losses=TERMS,
        lr=1e-4,
        epochs=8,
        schedule=WarmupSteps(),
        keep_batchnorm=False,
        lr_of={"network": 2e-3, "stem": 0.0},
        optimizer=SGD(),
        scale_lr=True,
    ),
)
TOP = 5  # concepts of a clip that predictions name at least


@dataclass(frozen=True)
class LossOptions:
    """Eq. 1 and the asymmetric loss; the defaults are the paper's, where it has any.

    Attributes:
        alpha: weight of the temporal region; 0 leaves the term out.
        beta: weight of the concepts; 0 leaves the term out.
        gamma_negative: how strongly concepts are played down that a clip clearly lacks; 0 or at least 1.
        gamma_positive: the same of those that it clearly shows.
        shift: an absent concept with a probability up to this costs nothing.
        stop_gradient: see `zoo.losses.asymmetric_loss`.
        reduction: sum over concepts divided by the number of clips, or the sum over both of each process.
    """

    alpha: float = 1.0
    beta: float = 0.1
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    shift: float = 0.05
    stop_gradient: bool = True
    reduction: Literal["clip", "sum"] = "clip"

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and self.beta >= 0):
            raise ValueError(f"alpha={self.alpha}, beta={self.beta}: weights are 0 or positive")
        if any(not (gamma == 0 or gamma >= 1) for gamma in (self.gamma_negative, self.gamma_positive)):
            raise ValueError(
                f"gamma_negative={self.gamma_negative}, gamma_positive={self.gamma_positive}: each is 0 or at "
                "least 1, or gradients are infinite"
            )
        if not 0 <= self.shift < 1:
            raise ValueError(f"shift={self.shift}: a probability below 1")
        if self.reduction not in ("clip", "sum"):
            raise ValueError(f"reduction={self.reduction!r}: choose from clip, sum")

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms of Eq. 1."""
        return {"action": 1.0, "temporal": self.alpha, "semantic": self.beta}


class ClipOutput(NamedTuple):
    """What is told of B clips.

    Attributes:
        feature: ``(B, D)`` float, f.
        logits: by term, ``(B, classes)`` float; of the heads there are.
    """

    feature: Tensor
    logits: dict[str, Tensor]


class SATSPNetwork(nn.Module):
    """The heads: linear, one per term.

    Args:
        dim: D, width of the clip's feature.
        context_dim: G, width of the video's feature, for the temporal head; 0: it sees the clip alone.
        terms: names of the heads there are to be.
        init_std: standard deviation of the weights at the start; biases are 0.
    """

    def __init__(self, dim: int, context_dim: int, terms: Sequence[str] = TERMS, init_std: float = 0.01) -> None:
        super().__init__()
        self.dim, self.context_dim, self.terms, self.init_std = dim, context_dim, tuple(terms), init_std
        self.heads = nn.ModuleDict()
        self.set_classes(0, 0)

    def set_classes(self, actions: int, concepts: int) -> None:
        """Make the heads anew; without classes there is no head."""
        sizes = {"action": actions, "temporal": 2, "semantic": concepts}
        self.heads.clear()
        for term in self.terms:
            if sizes[term]:
                seen = self.dim + (self.context_dim if term == "temporal" else 0)
                head = self.heads[term] = nn.Linear(seen, sizes[term])
                nn.init.normal_(head.weight, std=self.init_std)
                nn.init.zeros_(head.bias)

    def forward(self, feature: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, classes)`` by term, in single precision under autocast, too.

        Args:
            feature: ``(B, D)``.
            context: ``(B, G)``.
        """
        logits = {}
        for term, head in self.heads.items():
            assert isinstance(head, nn.Linear)
            seen = feature
            if term == "temporal" and self.context_dim:
                seen = torch.cat([feature, context.to(feature.dtype)], dim=1)
            with full_precision(feature.device):
                logits[term] = head(seen.to(head.weight.dtype)).float()
        return logits


class SATSP(Task):
    """Semantic-aware pretraining of a video encoder.

    Args:
        video_encoder: what is pretrained, any that looks at clips; the paper's is R(2+1)D-34, trainable.
        context_dim: G, width of the feature of the whole video; None: as wide as a clip's. 0: there is none.
        init_std: standard deviation of the heads' weights at the start.
        loss: see `LossOptions`.
        stages: training schedule; None is TSP's. Losses are `action`, `temporal` and `semantic`.

    Attributes:
        terms: terms of Eq. 1 that some stage counts.
        uses_context: whether features of whole videos are needed.

    Raises:
        ValueError: a stage names an unknown loss, or has none left.
    """

    network: SATSPNetwork
    monitor = "val/accuracy"

    def __init__(
        self,
        video_encoder: VideoEncoder,
        context_dim: int | None = None,
        init_std: float = 0.01,
        loss: LossOptions | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        self.loss = loss or LossOptions()
        if stages is None:
            parts = {"network"} | (
                {"stem"} if video_encoder.trainable and video_encoder.stem is not None else set()
            )
            stages = [
                dataclasses.replace(s, lr_of={k: lr for k, lr in s.lr_of.items() if k in parts})
                for s in PAPER_STAGES
            ]
        super().__init__([self._counted(stage) for stage in stages], {"video_encoder": video_encoder})
        self.terms = tuple(term for term in TERMS if any(term in stage.losses for stage in self.stages))
        width = video_encoder.dim if context_dim is None else context_dim
        self.uses_context = width > 0 and "temporal" in self.terms
        if self.terms == ("semantic",):
            self.monitor = "val/concept mAP"
        self.network = SATSPNetwork(video_encoder.dim, width, self.terms, init_std)
        self.actions: list[str] = []
        self.concepts: list[str] = []

    def _counted(self, stage: Stage) -> Stage:
        """A stage without the terms whose weight is 0."""
        if unknown := set(stage.losses) - set(TERMS):
            raise ValueError(
                f"a stage of model.init_args.stages counts {sorted(unknown)}; choose from {list(TERMS)}"
            )
        losses = tuple(term for term in stage.losses if self.loss.weights[term] > 0)
        if not losses:
            raise ValueError(
                f"a stage of model.init_args.stages counts {list(stage.losses)}, which have no weight: set "
                "model.init_args.loss.alpha and beta, or other losses"
            )
        return dataclasses.replace(stage, losses=losses)

    # ---- vocabulary -------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> list[Any] | None:
        """Pairs of kind and name, actions and then concepts, each in the order of its classes."""
        pairs = [["action", name] for name in self.actions] + [["concept", word] for word in self.concepts]
        return pairs or None

    def fit_vocabulary(self, texts: Iterable[Sequence[str]]) -> None:
        """Take over the classes of the data."""
        self.set_vocabulary(list(texts))

    def set_vocabulary(self, words: Sequence[Any]) -> None:
        """Take over classes; the heads are made anew.

        Raises:
            ValueError: a term has no classes, or the data of the run has others.
        """
        self.actions = [name for kind, name in words if kind == "action"]
        self.concepts = [word for kind, word in words if kind == "concept"]
        if "action" in self.terms and not self.actions:
            raise ValueError(
                "the data names no actions: leave `action` out of the losses in model.init_args.stages"
            )
        if "semantic" in self.terms and not self.concepts:
            raise ValueError(
                "the data names no concepts: set data.init_args.concepts to a list made by `groundzoo concepts`, "
                "or model.init_args.loss.beta to 0"
            )
        self._require_own_classes()
        self.network.set_classes(len(self.actions), len(self.concepts))
        self.network.to(self.device)

    def setup(self, stage: str) -> None:
        """See `Task.setup`; the data must number actions and concepts as the checkpoint does."""
        super().setup(stage)
        self._require_own_classes()

    def _require_own_classes(self) -> None:
        texts = getattr(self.datamodule, "vocabulary_texts", None)
        if texts is None or self.vocabulary is None:
            return
        given = list(texts())
        for kind, term, own in (("action", "action", self.actions), ("concept", "semantic", self.concepts)):
            names = [name for k, name in given if k == kind]
            if term in self.terms and names != own:
                k = next((k for k, pair in enumerate(zip(own, names, strict=False)) if pair[0] != pair[1]), None)
                first = "" if k is None else f"; {kind} {k} is '{names[k]}' there and '{own[k]}' here"
                raise ValueError(
                    f"the data has other {kind}s ({len(names)}) than the model knows ({len(own)}){first}: "
                    "give data.init_args the files of its training"
                )

    # ---- training ---------------------------------------------------------------------------------------

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """See `Task.trainable_parts`; also the first layers of the encoder."""
        parts, stem = super().trainable_parts(), self.video_encoder.stem
        if self.video_encoder.trainable and stem is not None:
            parts["stem"] = list(stem.parameters())
        return parts

    def prepare(self, batch: ClipBatch) -> ClipBatch:
        """Encode the clips, ``(B, L, 3, H, W)``; a clip's feature is the mean over the units of its pass."""
        if batch.clips.ndim == 2:
            return batch
        return dataclasses.replace(batch, clips=self.video_encoder(batch.clips).frames.mean(1).float())

    def step(self, batch: ClipBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """The terms of Eq. 1 that the current stage counts, with their weights, and what the heads say."""
        if self.vocabulary is None:
            raise ValueError("actions and concepts are not known: fit, load a checkpoint or call set_vocabulary")
        width = batch.context.shape[1]
        if self.uses_context and width != self.network.context_dim:
            raise ValueError(
                f"features of whole videos are {width} wide, not {self.network.context_dim}: set "
                "model.init_args.context_dim to their width, or data.init_args.features to those of this encoder"
            )
        logits = self.network(batch.clips, batch.context)
        losses: dict[str, Tensor] = {}
        if stage != "predict":
            compute = {
                "action": self._action_loss,
                "temporal": self._temporal_loss,
                "semantic": self._semantic_loss,
            }
            losses = {t: self.loss.weights[t] * compute[t](logits[t], batch) for t in self.stage.losses}
        return Step(losses, ClipOutput(batch.clips, logits))

    def _action_loss(self, logits: Tensor, batch: ClipBatch) -> Tensor:
        """Cross-entropy, mean over the clips in actions; 0 where there are none."""
        total = F.cross_entropy(logits, batch.actions, ignore_index=-1, reduction="sum")
        return total / self.normaliser((batch.actions >= 0).sum())

    def _temporal_loss(self, logits: Tensor, batch: ClipBatch) -> Tensor:
        """Cross-entropy, mean over all clips."""
        total = F.cross_entropy(logits, batch.regions, reduction="sum")
        return total / self.normaliser(torch.tensor(len(batch), device=logits.device))

    def _semantic_loss(self, logits: Tensor, batch: ClipBatch) -> Tensor:
        """Asymmetric loss of the clips whose videos have sentences; 0 where there are none."""
        o = self.loss
        losses = asymmetric_loss(
            logits, batch.concepts, o.gamma_negative, o.gamma_positive, o.shift, o.stop_gradient
        )
        total = (losses * batch.described[:, None]).sum()
        return total if o.reduction == "sum" else total / self.normaliser(batch.described.sum())

    def diagnostics(self, step: Step) -> dict[str, Tensor]:
        """Length of every term's gradient at the clips' features, mean over the batch: do the terms balance?"""
        feature = step.outputs.feature
        if not feature.requires_grad:
            return {}
        gradients = {
            term: torch.autograd.grad(loss, feature, retain_graph=True)[0] for term, loss in step.losses.items()
        }
        return {f"gradient/{term}": gradient.norm(dim=1).mean() for term, gradient in gradients.items()}

    # ---- evaluation -------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> ClipClassification:
        """Accuracies and mean average precision."""
        return ClipClassification()

    def update_metric(self, metric: ClipClassification, outputs: ClipOutput, batch: ClipBatch) -> None:
        """See `Task.update_metric`."""
        metric.update(outputs.logits, batch.actions, batch.regions, batch.concepts, batch.described, batch.index)

    def predictions(self, outputs: ClipOutput, batch: ClipBatch) -> list[Prediction]:
        """One record per clip: ids, start in seconds, what each head says with probabilities, and the truth.

        Concepts are those with a probability above 0.5, and in any case the `TOP` likeliest.
        """
        logits, records = outputs.logits, []
        columns = [batch.index, batch.actions, batch.regions, batch.described]
        for b, (index, action, region, described) in enumerate(torch.stack(columns, dim=1).tolist()):
            record: Prediction = {"index": index, "clip_id": batch.clip_ids[b], "video": batch.video_ids[b]}
            record["start_s"] = round(batch.starts_s[b].item(), 3)
            if "action" in logits:
                score, best = logits["action"][b].softmax(0).max(0)
                record |= {"action": self.actions[int(best)], "action_score": round(score.item(), 4)}
            if "temporal" in logits:
                record["foreground_score"] = round(logits["temporal"][b].softmax(0)[0].item(), 4)
            if "semantic" in logits:
                scores, ranked = logits["semantic"][b].sigmoid().sort(descending=True)
                n = max(TOP, int((scores > 0.5).sum()))
                pairs = zip(ranked[:n].tolist(), scores[:n].tolist(), strict=True)
                record["concepts"] = [[self.concepts[k], round(score, 4)] for k, score in pairs]
            shown = batch.concepts[b].nonzero().flatten().tolist()
            record["target"] = {
                "action": self.actions[action] if action >= 0 else None,
                "foreground": region == 0,
                "concepts": [self.concepts[k] for k in shown] if described else None,
            }
            records.append(record)
        return records
