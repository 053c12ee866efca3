"""The complete truth of a scripted video, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from .language import step_phrase
from .poor import poor_frames
from .scene import ALPHA, ANGLE, CX, CY, Event, R, Segment, Video
from .shapes import Floats, boxes, coverage, inside, offsets, rectangle, window_origins

SEEN = 0.2
"""An actor is to be seen if visibility (unhidden share times opacity) is at least this."""


def truth(video: Video) -> dict[str, Any]:
    """Everything that is true of a video.

    Args:
        video: as scripted.

    Returns:
        A dictionary of JSON types:

        - ``id``, ``width``, ``height``, ``fps``, ``num_frames``, ``duration_s``;
        - ``actors``: per actor, in painter's order, ``colour``, ``shape``, ``size``, ``radius``, and with one
          entry per frame ``cx``, ``cy``, ``r`` (pixels), ``angle`` (radians), ``alpha`` (opacity), ``visibility``
          (share of the shape that is inside the frame and behind nothing, times alpha) and ``boxes`` (xyxy
          pixels of the whole shape, clipped to the frame, or None while visibility is below 0.2);
        - ``events``: the fields of :class:`Event`, and ``centres_xy``, the actor's centre in each of the event's
          frames;
        - ``queries``: the fields of :class:`Query` and ``id`` = ``"{video}#{k}"``;
        - ``scenes`` (first frame of each background) and ``patches`` (``box``, ``start``, ``end``).

        With segments also, per actor, ``poor`` (the frames in which it is covered or blurred) and ``blurred``
        (those of them in which it is blurred), and ``segments``: ``id`` = ``"{video}#{k}"``, ``start``, ``end``,
        ``start_s``, ``end_s``, ``frames`` (the ten sampled ones), ``sentences``, ``tokens`` (words of the first
        sentence) and ``mentions``: per actor of the sentence ``actor``, ``event``, ``words`` (colour, shape) and
        ``verb`` as indices of tokens, and ``sample``, the place in ``frames`` of the annotated frame.

        With narrations the events are steps and have also ``phrase``, the words that stand for them, and there are
        ``narrations``: ``id`` = ``"{video}#{k}"``, ``start_s``, ``end_s``, ``text``, ``steps`` (indices of events)
        and ``off_topic`` (for each of them, whether something else is said in its place), and ``clicks``:
        ``second``, ``step`` (index of an event) and ``points``, the pixels of the frame where annotators clicked.

        With descriptions there is ``described``: ``id`` = ``"{video}#{k}"``, ``start_s``, ``end_s``, ``sentence``
        and ``event`` (index).

        In grounded worlds there is ``caption``: ``text`` and ``phrases``, per phrase ``start`` and ``end``
        (characters), ``text``, ``actor`` and ``event`` (indices).
    """
    facts: dict[str, Any] = {
        "id": video.id,
        "width": video.width,
        "height": video.height,
        "fps": video.fps,
        "num_frames": video.num_frames,
        "duration_s": round(video.duration_s, 4),
        "actors": [_actor(video, i) for i in range(len(video.actors))],
        "events": [_event(video, event) for event in video.events],
        "queries": [
            {
                "id": f"{video.id}#{k}",
                "text": query.text,
                "start_s": round(query.start_s, 4),
                "end_s": round(query.end_s, 4),
                "actor": query.actor,
                "action": query.action,
                "event": query.event,
                "kind": query.kind,
            }
            for k, query in enumerate(video.queries)
        ],
        "scenes": [scene.start for scene in video.scenes],
        "patches": [{"box": list(p.box), "start": p.start, "end": p.end} for p in video.patches],
    }
    if video.segments:  # only there, so that worlds without segments keep their files to the bit
        for i, actor in enumerate(facts["actors"]):
            poor, blurred = poor_frames(video, i)
            actor.update(poor=np.flatnonzero(poor).tolist(), blurred=np.flatnonzero(blurred).tolist())
        facts["segments"] = [_segment(video, k, segment) for k, segment in enumerate(video.segments)]
    if video.narrations:
        for step, event in zip(facts["events"], video.events, strict=True):
            step["phrase"] = step_phrase(video.actors, event)
        facts["narrations"] = [
            {"id": f"{video.id}#{k}", **asdict(narration)} for k, narration in enumerate(video.narrations)
        ]
        facts["clicks"] = [
            {"second": clicks.second, "step": clicks.step, "points": _rounded(np.array(clicks.points), 2)}
            for clicks in video.clicks
        ]
    if video.descriptions:
        facts["described"] = [
            {
                "id": f"{video.id}#{k}",
                "start_s": round(video.events[k].start_s, 4),
                "end_s": round(video.events[k].end_s, 4),
                "sentence": sentence,
                "event": k,
            }
            for k, sentence in enumerate(video.descriptions)
        ]
    if video.caption is not None:
        facts["caption"] = {
            "text": video.caption.text,
            "phrases": [
                {"start": start, "end": end, "text": phrase, "actor": event.actor, "event": k}
                for k, ((start, end), phrase, event) in enumerate(
                    zip(video.caption.spans, video.caption.phrases, video.events, strict=True)
                )
            ],
        }
    return facts


def visibility(video: Video, i: int) -> Floats:
    """Share of actor ``i`` that is inside the frame and hidden by no later actor or patch, times its opacity.

    Args:
        video: as scripted.
        i: index of the actor.

    Returns:
        (T,) float32 in [0, 1].
    """
    track = video.tracks[:, i]
    left, top, side = window_origins(track)
    columns, rows = left[:, None] + np.arange(side), top[:, None] + np.arange(side)
    own = coverage(video.actors[i].shape, track[:, R], *offsets(track, left, top, side))
    free = inside(left, top, side, video.width, video.height).astype(np.float32)
    mine = boxes(video.actors[i].shape, track)
    for j in range(i + 1, len(video.actors)):
        theirs = boxes(video.actors[j].shape, video.tracks[:, j])
        meet = np.flatnonzero((mine[:, :2] < theirs[:, 2:]).all(1) & (theirs[:, :2] < mine[:, 2:]).all(1))
        if len(meet):
            other = video.tracks[meet, j]
            cover = coverage(video.actors[j].shape, other[:, R], *offsets(other, left[meet], top[meet], side))
            free[meet] *= 1 - cover * other[:, ALPHA, None, None]
    for patch in video.patches:
        x0, y0, x1, y1 = patch.box
        now = slice(patch.start, patch.end)
        behind_x = ((columns[now] >= x0) & (columns[now] < x1))[:, None, :]
        behind_y = ((rows[now] >= y0) & (rows[now] < y1))[:, :, None]
        free[now] *= ~(behind_x & behind_y)
    for spell in video.spells:
        if spell.cause == "covered":
            for f, region in enumerate(spell.regions, spell.start):
                free[f] *= 1 - rectangle(region, int(left[f]), int(top[f]), side, side)
    share: Floats = (own * free).sum((1, 2)) / own.sum((1, 2)) * track[:, ALPHA]
    return share


def seen_boxes(video: Video, i: int, shares: Floats) -> list[list[float] | None]:
    """Boxes of actor ``i``, per frame xyxy pixels of the whole shape, clipped to the frame; None while not seen.

    Args:
        video: as scripted.
        i: index of the actor.
        shares: (T,) its :func:`visibility`.

    Returns:
        T entries.
    """
    frame = (video.width, video.height) * 2
    clipped = _rounded(np.clip(boxes(video.actors[i].shape, video.tracks[:, i]), 0, frame), 1)
    return [box if share >= SEEN else None for box, share in zip(clipped, shares.tolist(), strict=True)]


def _actor(video: Video, i: int) -> dict[str, Any]:
    actor, track = video.actors[i], video.tracks[:, i]
    seen = visibility(video, i)
    return {
        "colour": actor.colour,
        "shape": actor.shape,
        "size": actor.size,
        "radius": actor.radius,
        "cx": _rounded(track[:, CX], 1),
        "cy": _rounded(track[:, CY], 1),
        "r": _rounded(track[:, R], 2),
        "angle": _rounded(track[:, ANGLE], 2),
        "alpha": _rounded(track[:, ALPHA], 2),
        "visibility": _rounded(seen, 2),
        "boxes": seen_boxes(video, i, seen),
    }


def _event(video: Video, event: Event) -> dict[str, Any]:
    return {
        "actor": event.actor,
        "action": event.action,
        "start": event.start,
        "end": event.end,
        "start_s": round(event.start_s, 4),
        "end_s": round(event.end_s, 4),
        "from_xy": _rounded(np.array(event.from_xy), 1),
        "to_xy": _rounded(np.array(event.to_xy), 1),
        "dash": event.dash,
        "turn": event.turn,
        "centres_xy": _rounded(video.tracks[event.start : event.end, event.actor, : CY + 1], 1),
    }


def _segment(video: Video, k: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": f"{video.id}#{k}",
        "start": segment.start,
        "end": segment.end,
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "frames": segment.sampled(video.fps),
        "sentences": list(segment.sentences),
        "tokens": segment.tokens,
        "mentions": [
            {
                "actor": video.events[mention.event].actor,
                "event": mention.event,
                "words": list(mention.words),
                "verb": list(mention.verb),
                "sample": mention.sample,
            }
            for mention in segment.mentions
        ],
    }


def _rounded(values: np.ndarray[Any, np.dtype[Any]], digits: int) -> list[Any]:
    """Nested lists of short numbers: float32 would be written with its full binary tail."""
    result: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return result
