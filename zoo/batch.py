"""The batches that data modules make and tasks consume: the contract between the two."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .text.grounded_text import GroundedText


@dataclass
class GroundingBatch:
    """Queries on videos, for temporal grounding. V videos, B >= V queries, T clips per video.

    Queries of one video share its row in `clips`. Nothing is padded: every video has T clips, and texts are
    strings (the text encoder pads and masks). Samples keep the order in which the loader drew them.

    Attributes:
        clips: ``(V, T, D)`` float, features of every clip. For an encoder that is trained with the task
            ``(V, T, L, 3, H, W)`` uint8, the frames of one pass per clip; `MomentTask` encodes them before `step`.
        bounds: ``(V, T, 2)`` float, start and end of every clip as share of the video, [0, 1].
        durations_s: ``(V,)`` float, seconds.
        video_index: ``(B,)`` int64, row of `clips` that each query asks about.
        queries: B texts.
        moments: ``(B, 2)`` float, true start and end as share of the duration; NaN where unknown.
        query_ids: B identifiers ``<video id>#<k>``, k-th query of that video in its annotation file.
        video_ids: V identifiers.
        index: ``(B,)`` int64, position in the split; tells a repeated sample from a new one.
        subsets: named groups of queries to report on their own, ``(B,)`` bool each.
    """

    clips: Tensor
    bounds: Tensor
    durations_s: Tensor
    video_index: Tensor
    queries: list[str]
    moments: Tensor
    query_ids: list[str]
    video_ids: list[str]
    index: Tensor
    subsets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)


@dataclass
class WordLabels:
    """Where words of B captions are to be seen in the F sampled frames of their segments.

    N rows, one per (box track, word): a track may belong to several words, a word may have several tracks. A link
    (A rows) says that an entity word is subject, object or context of a verb.

    Attributes:
        caption: ``(N,)`` int64, caption of the word.
        word: ``(N,)`` int64, index of the word in its caption.
        boxes: ``(N, F, 4)`` float, x1, y1, x2, y2 as shares of width and height, in [0, 1].
        scores: ``(N, F)`` float in [0, 1], confidence of the tracker; 0 = not there.
        annotated: ``(N, F)`` bool, True = the box was drawn by an annotator.
        link_caption: ``(A,)`` int64, caption of the verb.
        link_verb: ``(A,)`` int64, index of the verb.
        link_entity: ``(A,)`` int64, index of an entity word in the same caption.
    """

    caption: Tensor
    word: Tensor
    boxes: Tensor
    scores: Tensor
    annotated: Tensor
    link_caption: Tensor
    link_verb: Tensor
    link_entity: Tensor


@dataclass
class CaptionBatch:
    """Segments of video and sentences about them. V segments, B >= V captions, F sampled frames per segment.

    Captions of one segment share its row in `visual` and `motion`. Captions are lists of words: a vocabulary is
    the task's. Samples keep the order in which the loader drew them.

    Attributes:
        visual: ``(V, F, h, w, C)`` float, the grid of every frame; for encoders that are trained with the task
            ``(V, P, L, 3, H, W)`` uint8, frames of the P passes that give them.
        motion: the same of a second encoder, with cells and width of its own, or None.
        segment_index: ``(B,)`` int64, row of the segment that each caption is about.
        captions: B lists of words.
        references: V lists of the published sentences about each segment, for evaluation.
        entities: B lists of the words ``(index, class)`` that the data set calls visible, whether or not their
            boxes are known.
        labels: boxes of words, or None where there are none.
        segment_ids: V identifiers ``<video>#<segment>``.
        video_ids: V identifiers.
        spans_s: ``(V, 2)`` float, start and end in seconds.
        sizes: ``(V, 2)`` float, width and height of the original video in pixels; NaN where unknown.
        index: ``(V,)`` int64, position in the split; tells a repeated sample from a new one.
    """

    visual: Tensor
    motion: Tensor | None
    segment_index: Tensor
    captions: list[list[str]]
    references: list[list[str]]
    entities: list[list[tuple[int, str]]]
    labels: WordLabels | None
    segment_ids: list[str]
    video_ids: list[str]
    spans_s: Tensor
    sizes: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.captions)


@dataclass
class MomentFeatures:
    """What encoders see at N moments: features, or the frames that they are to be made of.

    Leading dimensions `...` are those of the batch; with several encoders side by side (`Combined`) their vectors
    and cells are next to each other on the channels.

    Attributes:
        vectors: ``(..., N, D)`` float, one vector per moment, in the precision of its store; None where frames are
            given.
        grid: ``(..., N, h, w, C)`` float, its cells; None where frames are given.
        passes: per encoder ``(..., P, L, 3, H, W)`` uint8, frames of the P passes that give N units; empty where
            features are given.
    """

    vectors: Tensor | None
    grid: Tensor | None
    passes: list[Tensor] = field(default_factory=list)

    @property
    def encoded(self) -> tuple[Tensor, Tensor]:
        """Vectors and grid.

        Raises:
            ValueError: there are frames only, or no cells.
        """
        if self.vectors is None or self.grid is None:
            what = "frames, not features" if self.passes else "no cells: extract them with --grid true"
            raise ValueError(f"these moments have {what}")
        return self.vectors, self.grid


@dataclass
class NarrationBatch:
    """Stretches of narrated video with one narration each. B videos, all different; U candidate moments each.

    Attributes:
        features: of the candidates, leading dimension B.
        mask: ``(B, U)`` bool, True = the moment lies within the video; padding is at the end.
        inside: ``(B, U)`` bool, True = the moment lies between start and end of the narration as annotated.
        times_s: ``(B, U)`` float, ascending; of padding, too.
        texts: B narrations.
        spans_s: ``(B, 2)`` float, start and end of the narrations in seconds.
        sound: ``(B, S)`` int16, the sound of the stretch at the rate of the task's audio encoder, or None.
        video_ids: B identifiers.
        index: ``(B,)`` int64, position of the video in the split.
    """

    features: MomentFeatures
    mask: Tensor
    inside: Tensor
    times_s: Tensor
    texts: list[str]
    spans_s: Tensor
    sound: Tensor | None
    video_ids: list[str]
    index: Tensor

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class ActionBatch:
    """One stretch of video and the actions that may occur in it; n moments, A actions.

    Attributes:
        features: of the moments, no leading dimension: ``(n, D)``, ``(n, h, w, C)``, ``(P, L, 3, H, W)``.
        protocol: what is asked: `untrimmed` (which action is when and where), `spatial` (where is the one given
            action; all moments show it), `temporal` (when are the actions, in a known order).
        times_s: ``(n,)`` float, ascending, seconds of the video.
        actions: A texts, all different.
        labels: ``(n,)`` int64, index of the true action; -1 = none of them.
        boxes: ``(n, 4)`` float, x1, y1, x2, y2 of the true action in pixels of `size`; NaN = no box is known.
        size: (width, height) of the picture that boxes are given in.
        order: actions in the order in which they occur, -1 = background; for `temporal`, else empty.
        sample_id: identifier of the stretch, ``<video>`` or ``<video>#<k>``.
        video_id: name of the video.
        index: position in the split; tells a repeated sample from a new one.
    """

    features: MomentFeatures
    protocol: str
    times_s: Tensor
    actions: list[str]
    labels: Tensor
    boxes: Tensor
    size: tuple[int, int]
    order: list[int]
    sample_id: str
    video_id: str
    index: int

    def __len__(self) -> int:
        return 1


@dataclass
class ClipBatch:
    """Single clips of untrimmed video and what they show. B clips; N concepts.

    Attributes:
        clips: ``(B, L, 3, H, W)`` uint8, what the encoder sees in one pass, cropped; or, prepared, their features
            ``(B, D)`` float.
        context: ``(B, G)`` float, features of the whole videos, given once and for all (TSP's GVF).
        actions: ``(B,)`` int64, class of the action; -1 in the background.
        regions: ``(B,)`` int64, 0 = the clip lies in an action, 1 = in none.
        concepts: ``(B, N)`` bool, concepts in the sentences about the clip.
        described: ``(B,)`` bool, True = the video has sentences, so that absent concepts are known to be absent.
        starts_s: ``(B,)`` float, start of the clips in seconds.
        clip_ids: B identifiers ``<video>#<segment>/<k>``.
        video_ids: B identifiers.
        index: ``(B,)`` int64, position in the split; tells a repeated sample from a new one.
    """

    clips: Tensor
    context: Tensor
    actions: Tensor
    regions: Tensor
    concepts: Tensor
    described: Tensor
    starts_s: Tensor
    clip_ids: list[str]
    video_ids: list[str]
    index: Tensor

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass
class EventBatch:
    """Whole videos and the events in them, in the order of their starts.

    V videos of at most T clips, E events to tell and G annotated ones. Padding is at the end and zero.

    Attributes:
        clips: ``(V, T, D)`` float, features of clips that cut a video into equal parts.
        clip_mask: ``(V, T)`` bool, True = there is such a clip.
        durations_s: ``(V,)`` float, seconds.
        events_s: ``(V, E, 2)`` float, seconds, start and end of the events to tell: annotated ones or proposals.
        event_mask: ``(V, E)`` bool.
        sentences: per video one list of words for every event; empty lists where they are unknown.
        truth_s: ``(V, G, 2)`` float, start and end of all annotated events, for learning to propose them.
        truth_mask: ``(V, G)`` bool.
        video_ids: V identifiers.
        index: ``(V,)`` int64, position in the split; tells a repeated sample from a new one.
    """

    clips: Tensor
    clip_mask: Tensor
    durations_s: Tensor
    events_s: Tensor
    event_mask: Tensor
    sentences: list[list[list[str]]]
    truth_s: Tensor
    truth_mask: Tensor
    video_ids: list[str]
    index: Tensor

    def __len__(self) -> int:
        return len(self.video_ids)


@dataclass
class GroundedClipBatch:
    """Clips with a sentence whose phrases have boxes. B clips, F frames each, N phrases of all clips together.

    In training F is the task's number of frames. In evaluation these are all frames of the clip at the data set's
    rate; shorter clips repeat their last frame, with `mask` False. The n-th phrase is the next one of its clip in
    the order of the sentence; phrases of a clip are next to each other, clips in order.

    Attributes:
        frames: per encoder of the task (`streams`) ``(B, F, 3, H, W)`` uint8, as that encoder wants them.
        mask: ``(B, F)`` bool, True = a frame of its own.
        captions: B sentences with their phrases; without phrases where nothing is known.
        references: B lists of published sentences about each clip.
        given: the sentence is given also in evaluation, and only its boxes are asked for (VidSTG).
        clip: ``(N,)`` int64, ascending, clip of every phrase.
        boxes: ``(N, F, 4)`` float, cx, cy, w, h as shares of width and height of the frame; 0 where not visible.
        visible: ``(N, F)`` bool, True = there is a box.
        truths: per clip and frame of its own all annotated boxes ``(phrase, [x1, y1, x2, y2])`` in pixels, of
            which there may be several per phrase; empty where nothing is annotated.
        times_s: ``(B, F)`` float, seconds from the beginning of the file.
        sizes: ``(B, 2)`` float, width and height of the original video in pixels.
        clip_ids: B identifiers.
        video_ids: B identifiers.
        index: ``(B,)`` int64, position in the split; tells a repeated sample from a new one.
        subsets: named groups of clips to report on their own, ``(B,)`` bool each.
    """

    frames: list[Tensor]
    mask: Tensor
    captions: list[GroundedText]
    references: list[list[str]]
    given: bool
    clip: Tensor
    boxes: Tensor
    visible: Tensor
    truths: list[list[list[tuple[str, list[float]]]]]
    times_s: Tensor
    sizes: Tensor
    clip_ids: list[str]
    video_ids: list[str]
    index: Tensor
    subsets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.captions)
