"""CVG: captions of video segments whose nouns and verbs are grounded in the frames.

Comprehensive Visual Grounding for Video Description. Wenhui Jiang, Yibo Cheng, Linxin Liu, Yuming Fang, Yuxin
Peng, Yang Liu. AAAI 2024. There is no released code; what the paper inherits from GVD (Zhou et al., Grounded Video
Description, CVPR 2019, arXiv:1812.06587) follows github.com/facebookresearch/grounded-video-description.

F frames of a segment give two grids, visual V with G = F N_V cells and motion M with H = F N_M cells. At every
word an attention LSTM asks both grids (Eq. 1 and 2), a language LSTM says the word (Eq. 6 to 8). Where boxes of
nouns and verbs are known in some frames, the attention of the step that *predicts* the word is pulled into them
(Eq. 3 to 5). Boxes are made beforehand by ``groundzoo annotate propagate``; captioning needs none.

Differs from the paper (where the text is silent, contradicts itself or leaves a choice):

- Eq. 1 adds the means of *projected* V and M, which alone have the same width; Eq. 2 attends to cells, not to
  their means; Eq. 7 takes the states of both LSTMs as h_1 and h_2.
- Projections, embeddings and dropout are GVD's: Linear (or table) + ReLU + dropout 0.5, and dropout on h_2.
- Eq. 5 is computed from logits in float32. A word whose boxes cover no cell of a stream has no term there. The
  mean is over all grounded words of the batch, of all processes.
- Eq. 10 is averaged over words (GVD), not summed: the weight 0.1 of Eq. 9 depends on it (`caption_loss`).
- A box covers the cells whose centre is inside, or the cell of its own centre (`cells`).
- Action boxes in frames where an entity has none: the frame does not count, unless the verb would lose all frames
  (`missing`). "Soft" keeps scores, "hard" sets every kept score to 1 (Table 1).
- Captions are cut to `max_length` words in training; words behind it are not grounded. Frames that the trackers'
  boxes were made for must be the frames that are looked at.
- No beam search is mentioned: greedy by default, `beam_size` in `caption`.
- Learning rate, decay and epochs are the paper's; batch size, gradient clipping and selection by CIDEr are GVD's.
- The 6,573 training clips of MSR-VTT in the text are the official 6,513.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo.batch import CaptionBatch
from ..zoo.decoding import Sentences, State, beam_search, generate
from ..zoo.video.base import VideoEncoder
from ..zoo.word_grounding import CellRule, actions, entity_maps, kept_scores, rasterise, soft_grounding_loss
from .base import Step
from .captions import Answers, CaptionTask, places_of, scores_of
from .own_words import OwnWords
from .schedules import Stage, StepDecay

PAPER_STAGES = (Stage(losses=("caption", "grounding"), lr=5e-4, epochs=25, schedule=StepDecay(0.8, 3, 3)),)
EVAL_LENGTH = 40  # words of given captions that are looked at in evaluation (GVD)
CHUNK, GPU_CHUNK = 2**18, 2**25  # numbers per piece of the attention's hidden layer; a CPU's cache holds them


@dataclass(frozen=True)
class NetworkOptions:
    """Widths of the network; the defaults are the paper's and GVD's.

    Attributes:
        dim: width of projected cells and of both LSTMs.
        word_dim: width of word embeddings.
        attention_dim: width of W_k v and W_q h in Eq. 2.
        dropout: on embeddings, projected cells and h_2.
    """

    dim: int = 1024
    word_dim: int = 512
    attention_dim: int = 512
    dropout: float = 0.5


@dataclass(frozen=True)
class GroundingOptions:
    """What attention is supervised with; the defaults are the paper's full model, other values rows of Table 1.

    Attributes:
        entity_grounding: nouns (and pronouns) are grounded (EG).
        propagate_labels: boxes that a tracker carried to the other frames count, too (DLP).
        action_grounding: verbs are grounded in the boxes of their entities (AG).
        soft_scores: a box counts as much as its score (SGS); False: every kept box counts fully.
        score_threshold: s_th, tracked boxes with a score above it are kept (Fig. 4).
        missing: frames in which some entity of a verb has no box, see `zoo.word_grounding.actions`.
        cells: which cells of a grid belong to a box.
        weight: lambda of Eq. 9.
    """

    entity_grounding: bool = True
    propagate_labels: bool = True
    action_grounding: bool = True
    soft_scores: bool = True
    score_threshold: float = 0.5
    missing: Literal["all", "any"] = "all"
    cells: CellRule = dataclasses.field(default_factory=CellRule)
    weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold={self.score_threshold}: scores lie between 0 and 1")

    @property
    def any(self) -> bool:
        """Whether there is anything to supervise."""
        return self.weight > 0 and (self.entity_grounding or self.action_grounding)


class Memory(NamedTuple):
    """What the decoder looks at; one entry per stream, V segments.

    Attributes:
        values: ``(V, G, dim)`` projected cells.
        keys: ``(V, G, attention_dim)`` W_k v, the same for all words.
        mean: ``(V, dim)`` sum of the streams' means.
    """

    values: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    mean: Tensor

    def rows(self, index: Tensor) -> Memory:
        """The memories of the segments `index`."""
        if torch.equal(index, torch.arange(len(self.mean), device=index.device)):
            return self
        return Memory(tuple(v[index] for v in self.values), tuple(k[index] for k in self.keys), self.mean[index])


class CaptionOutput(NamedTuple):
    """Teacher-forced predictions; N steps.

    Attributes:
        logits: ``(B, N, vocabulary)``.
        attention: per stream ``(B, N, G)``, before the softmax.
    """

    logits: Tensor
    attention: tuple[Tensor, ...]


# ---- network ("Video Grounding", "Caption Generation") --------------------------------------------------


class AdditiveAttention(nn.Module):
    """Eq. 2: W_a tanh(W_k v + W_q h) over all cells of all frames of one stream."""

    def __init__(self, dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, attention_dim)
        self.query = nn.Linear(dim, attention_dim)
        self.score = nn.Linear(attention_dim, 1)

    def forward(self, keys: Tensor, hidden: Tensor) -> Tensor:
        """``(B, G, A)`` keys and ``(B, N, dim)`` states h_1 -> logits ``(B, N, G)``."""
        query, chunk = self.query(hidden), (CHUNK if keys.is_cpu else GPU_CHUNK) // keys.shape[1:].numel()
        steps = max(1, min(query.shape[1], chunk))
        rows = max(1, chunk // steps)
        return torch.cat(
            [
                torch.cat([self._logits(k, some) for some in q.split(steps, 1)], dim=1)
                for k, q in zip(keys.split(rows), query.split(rows), strict=True)
            ]
        )

    def _logits(self, keys: Tensor, query: Tensor) -> Tensor:
        logits: Tensor = self.score((keys[:, None] + query[:, :, None]).tanh_()).squeeze(-1)
        return logits


class CVGNetwork(nn.Module):
    """The captioner on grids of cells.

    h_1 does not depend on what was attended to, so with given words all steps of Eq. 1, 2, 6 and 7 are computed
    together; the two recurrences are the only loops.

    Args:
        cell_dims: width of the cells of each stream: visual, then motion where there is one.
        vocabulary: number of words, the end included.
        options: widths.
    """

    def __init__(self, cell_dims: Sequence[int], vocabulary: int, options: NetworkOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or NetworkOptions()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, o.dim), nn.ReLU(), nn.Dropout(o.dropout)) for dim in cell_dims
        )
        self.attentions = nn.ModuleList(AdditiveAttention(o.dim, o.attention_dim) for _ in cell_dims)
        self.attention_lstm = nn.LSTM(o.dim + o.word_dim, o.dim, batch_first=True)
        self.language_lstm = nn.LSTM(2 * o.dim, o.dim, batch_first=True)
        self.dropout = nn.Dropout(o.dropout)
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, size: int) -> None:
        """Make W_e and W_s anew for a vocabulary."""
        device = next(self.attention_lstm.parameters()).device
        self.embedding = nn.Embedding(size, self.options.word_dim, device=device)
        self.head = nn.Linear(self.options.dim, size, device=device)

    def remember(self, grids: Sequence[Tensor]) -> Memory:
        """Project the cells ``(V, F, h, w, C)`` of every stream."""
        values = tuple(p(g.flatten(1, 3)) for p, g in zip(self.projections, grids, strict=True))
        keys = tuple(a.key(v) for a, v in zip(self.attentions, values, strict=True))  # type: ignore[operator]
        return Memory(values, keys, torch.stack([v.mean(1) for v in values]).sum(0))

    def _embed(self, words: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(F.relu(self.embedding(words)))
        return embedded

    def forward(self, memory: Memory, words: Tensor) -> CaptionOutput:
        """Predict every word from the words before it.

        Args:
            memory: of the B captions' segments.
            words: ``(B, N)`` int64, the words *before* each step; the first is 0.
        """
        mean = memory.mean[:, None].expand(-1, words.shape[1], -1)
        h1 = _recur(self.attention_lstm, torch.cat([mean, self._embed(words)], dim=-1))  # Eq. 1
        logits, q = self._look(memory, h1)
        h2 = _recur(self.language_lstm, torch.cat([q, h1], dim=-1))  # Eq. 7
        return CaptionOutput(self.head(self.dropout(h2)), logits)  # Eq. 8

    def _look(self, memory: Memory, h1: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Attention logits of every stream (Eq. 2), and q (Eq. 6)."""
        logits = tuple(a(k, h1) for a, k in zip(self.attentions, memory.keys, strict=True))
        attended = [e.float().softmax(-1).to(v.dtype) @ v for e, v in zip(logits, memory.values, strict=True)]
        return logits, torch.stack(attended).sum(0)

    def begin(self, memory: Memory) -> State:
        """State before the first word: zeros for h_1, c_1, h_2 and c_2."""
        return tuple(memory.mean.new_zeros(len(memory.mean), self.options.dim) for _ in range(4))

    def step(self, memory: Memory, word: Tensor, state: State) -> tuple[Tensor, State]:
        """One word for each of R = V x beams rows; beams of a segment share its memory.

        Args:
            memory: of V segments.
            word: ``(R,)`` the word before.
            state: h_1, c_1, h_2, c_2, ``(R, dim)`` each.

        Returns:
            Logits ``(R, vocabulary)`` and the next state.
        """
        beams = len(word) // len(memory.mean)
        h1, c1, h2, c2 = state
        mean = memory.mean.repeat_interleave(beams, 0)
        given = torch.cat([mean, self._embed(word)], dim=-1)
        h1, c1 = torch.lstm_cell(given, (h1, c1), *self.attention_lstm.all_weights[0])
        _, q = self._look(memory, h1.unflatten(0, (-1, beams)))
        given = torch.cat([q.flatten(0, 1), h1], dim=-1)
        h2, c2 = torch.lstm_cell(given, (h2, c2), *self.language_lstm.all_weights[0])
        logits: Tensor = self.head(self.dropout(h2))
        return logits, (h1, c1, h2, c2)


def _recur(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """States of all steps; on a CPU in float32, where torch 2.13 (oneDNN) gives wrong gradients in bfloat16."""
    with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not x.is_cpu):
        states: Tensor = lstm(x.to(next(lstm.parameters()).dtype) if x.is_cpu else x)[0]
    return states


# ---- the task -------------------------------------------------------------------------------------------


class CVG(OwnWords, CaptionTask):
    """Comprehensive visual grounding for video description.

    Args:
        video_encoder: gives V, a grid for every frame; the paper's is Video Swin.
        motion_encoder: gives M; the paper's is Text4Vis. None: one stream.
        frames: F, in the middle of F equal parts of a segment; 10 for ActivityNet-Entities, 32 for MSR-VTT.
        max_cells: grids larger than this in a direction are averaged down to it.
        network: widths.
        grounding: what attention is supervised with.
        caption_loss: mean over the words of the batch, or Eq. 10 as printed: sum over words, mean over captions.
        min_count: words rarer than this in the training captions are unknown.
        max_length: most words of a caption.
        stages: training schedule; None is the paper's.
    """

    def __init__(
        self,
        video_encoder: VideoEncoder,
        motion_encoder: VideoEncoder | None = None,
        frames: int = 10,
        max_cells: int = 7,
        network: NetworkOptions | None = None,
        grounding: GroundingOptions | None = None,
        caption_loss: Literal["token_mean", "sentence_sum"] = "token_mean",
        min_count: int = 4,
        max_length: int = 20,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        self.grounding = grounding or GroundingOptions()
        stages = PAPER_STAGES if stages is None else stages
        if not self.grounding.any:
            stages = [dataclasses.replace(s, losses=("caption",)) for s in stages]
        super().__init__(video_encoder, motion_encoder, frames, max_cells, max_length, stages)
        self.caption_loss, self.min_count = caption_loss, min_count
        dims = [encoder.grid[2] for encoder in self.streams if encoder.grid is not None]
        self.network: CVGNetwork = CVGNetwork(dims, 2, network)

    # ---- training ---------------------------------------------------------------------------------------

    def step(self, batch: CaptionBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Losses of the given captions; in evaluation also sentences of the model's own, and where it looked."""
        memory = self.network.remember(self.grids(batch))
        own = memory.rows(batch.segment_index)
        limit = self.max_length if stage == "train" else max(self.max_length, EVAL_LENGTH)
        targets, mask = self._targets(batch.captions, limit)
        forced = self.network(own, F.pad(targets, (1, 0))[:, :-1])
        losses: dict[str, Tensor] = {}
        if stage != "predict":
            losses = {"caption": self._caption_loss(forced.logits, targets, mask)}
            if self.grounding.any and (stage == "train" or batch.labels is not None):
                losses["grounding"] = self.grounding.weight * self._grounding_loss(forced.attention, batch)
            elif self.grounding.any:  # a trained captioner is tested without boxes, too
                losses["grounding"] = torch.zeros_like(losses["caption"])
        if stage == "train":
            return Step(losses, None)
        looked = stage != "val"
        return Step(losses, self._answers(memory, batch.visual.shape, self.decode(memory), looked, forced, batch))

    def _targets(self, captions: Sequence[Sequence[str]], limit: int) -> tuple[Tensor, Tensor]:
        """Word ids ``(B, N)`` with one end per caption, 0 behind it, and which of them count."""
        assert self.words is not None, "no vocabulary: fit, or load a checkpoint"
        ids = [self.words.encode(caption, limit) for caption in captions]
        longest = max(len(row) for row in ids)
        table = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=self.device)
        mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in ids])
        return table, mask.to(self.device)

    def _caption_loss(self, logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Eq. 10."""
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        total = (losses * mask.flatten()).sum()
        return total / self.normaliser(mask.sum() if self.caption_loss == "token_mean" else mask[:, 0].sum())

    def _grounding_loss(self, attention: Sequence[Tensor], batch: CaptionBatch) -> Tensor:
        """Eq. 5, mean over all grounded words."""
        labels, o = batch.labels, self.grounding
        if labels is None:
            raise ValueError(
                "grounding needs boxes: make them with `groundzoo annotate propagate` and set "
                "data.init_args.labels, or switch model.init_args.grounding.entity_grounding and "
                "action_grounding off"
            )
        scores = kept_scores(labels, o.propagate_labels, o.score_threshold)
        verbs = actions(labels, scores, o.missing)
        total = attention[0].new_zeros((), dtype=torch.float32)
        words = []
        sides = [(g.shape[2], g.shape[3]) for g in self.grids(batch)]
        for logits, side in zip(attention, sides, strict=True):
            groups = []
            if o.entity_grounding:
                groups.append(entity_maps(labels, scores, side, o.cells))
            if o.action_grounding:
                groups.append(
                    verbs._replace(scores=rasterise(verbs.boxes, verbs.scores, side, o.cells).flatten(1))
                )
            caption, word = (torch.cat([g[k] for g in groups]) for k in (0, 1))
            maps = torch.cat([g.scores for g in groups])
            maps = maps if o.soft_scores else (maps > 0).to(maps.dtype)
            reached = word < logits.shape[1]
            caption, word, maps = caption[reached], word[reached], maps[reached]
            loss, there = soft_grounding_loss(logits[caption, word], maps)
            total = total + loss.sum()
            words.append(there)
        count = torch.stack(words).any(0).sum()
        return total / self.normaliser(count)

    # ---- sentences --------------------------------------------------------------------------------------

    def decode(
        self, memory: Memory, beam_size: int = 1, length_penalty: float = 0.0, temperature: float | None = None
    ) -> Sentences:
        """Sentences of the model's own for V segments; with a temperature, words are drawn at random (Eq. 8)."""
        begin = self.network.begin(memory)

        def step(word: Tensor, state: State) -> tuple[Tensor, State]:
            return self.network.step(memory, word, state)

        def keep(segments: Tensor) -> None:
            nonlocal memory
            memory = memory.rows(segments)

        if temperature is not None:
            return generate(step, begin, self.max_length, sample=True, temperature=temperature)
        if beam_size == 1:
            return generate(step, begin, self.max_length)
        return beam_search(step, begin, self.max_length, beam_size, length_penalty, keep=keep)

    def describe(
        self,
        grids: Sequence[Tensor],
        beam_size: int = 1,
        length_penalty: float = 0.0,
        temperature: float | None = None,
    ) -> Answers:
        """See `CaptionTask.describe`."""
        memory = self.network.remember(grids)
        return self._answers(memory, grids[0].shape, self.decode(memory, beam_size, length_penalty, temperature))

    def _answers(
        self,
        memory: Memory,
        shape: Sequence[int],
        said: Sentences,
        looked: bool = True,
        forced: CaptionOutput | None = None,
        batch: CaptionBatch | None = None,
    ) -> Answers:
        """Sentences; and, if asked for, where the visual stream looked at their words and at the given ones."""
        assert self.words is not None
        sentences = [self.words.decode(row) for row in said.words.tolist()]
        places = given = None
        if looked:  # one more pass over finished sentences: simpler than keeping maps of all beams
            again = self.network(memory, F.pad(said.words, (1, 0))[:, :-1])
            places = places_of(again.attention[0], shape[1:4], said.lengths.tolist())
            if forced is not None and batch is not None:
                steps = forced.logits.shape[1]
                lengths = [min(len(caption), steps) for caption in batch.captions]
                given = places_of(forced.attention[0], shape[1:4], lengths)
        return Answers(sentences, scores_of(said), places, given)
