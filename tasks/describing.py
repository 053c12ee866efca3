"""What the events of a video file are and what one or several models say of them (`groundzoo describe`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .dense_captioning import DenseCaptioning
from .ensemble import EnsembleRule, combine
from .real_encoders import stored_features
from .told_events import DescribedEvent


class ToldEvent(NamedTuple):
    """One event of a video and the sentence that is kept of it.

    Attributes:
        start_s: seconds.
        end_s: seconds.
        sentence: what happens.
        score: of the proposal, in [0, 1]; 1 for events that were given.
        log_prob: mean log-probability per word.
        checkpoint: of the model whose sentence this is.
        candidates: what each model says, in the order of the models.
    """

    start_s: float
    end_s: float
    sentence: str
    score: float
    log_prob: float
    checkpoint: str
    candidates: list[str]


class Describer:
    """One model, or an ensemble of several that tell the same events.

    Args:
        models: checkpoint -> model. The first proposes the events that are not given.
        rule: chooses among their sentences; a single model needs none.
        proposes: whether the first model has to propose events.

    Raises:
        ValueError: a model reads precomputed features and no video, the first one is to propose events and cannot,
            or several models come without a rule.
    """

    def __init__(self, models: Mapping[str, DenseCaptioning], rule: EnsembleRule | None, proposes: bool) -> None:
        if len(models) > 1 and rule is None:
            raise ValueError("several models, and no rule that chooses among their sentences")
        for checkpoint, model in models.items():
            if features := stored_features(model):
                kinds = ", ".join(
                    _named(f.name, f.dim, f.spec.window, f.spec.stride, f.spec.fps) for f in features
                )
                raise ValueError(
                    f"{checkpoint} was trained on precomputed features ({kinds}) and cannot see a new video by "
                    "itself: give --encoder the checkpoint of the run whose encoder made them (or its YAML file "
                    "with weights, as for `groundzoo extract`), one per kind and in this order"
                )
        first, model = next(iter(models.items()))
        if proposes and model.network.proposer is None:
            raise ValueError(
                f"{first} cannot propose events, it was trained without model.proposals: give --proposals a JSON "
                'file, {"results": {video: [{"segment": [start, end], "score": x}]}}, in seconds'
            )
        self.models, self.rule = dict(models), rule

    def describe(self, video: str | Path, events_s: Sequence[Sequence[float]] | None = None) -> list[ToldEvent]:
        """Tell the events of a video file, by their start and end.

        Args:
            video: a file of any length.
            events_s: start and end of the events in seconds; None lets the first model propose them.

        Raises:
            VideoError: the file cannot be read.
            ValueError: see `DenseCaptioning.describe`.
        """
        first, *others = self.models.values()
        told = [sorted(first.describe(video, events_s), key=_times)]
        events = [_times(event) for event in told[0]]
        told += [model.describe(video, events) if events else [] for model in others]
        chosen = [0] * len(events)
        if self.rule is not None:
            runs = [[_record(e, *times) for e, times in zip(run, events, strict=True)] for run in told]
            chosen = [record["run"] for record in combine(runs, self.rule)]
        checkpoints = list(self.models)
        return [
            ToldEvent(
                *event[:2],
                own[run].sentence,
                event.score,
                own[run].log_prob,
                checkpoints[run],
                [said.sentence for said in own],
            )
            for event, own, run in zip(told[0], zip(*told, strict=True), chosen, strict=True)
        ]


def _times(event: DescribedEvent) -> tuple[float, float]:
    return event.start_s, event.end_s


def _record(event: DescribedEvent, start_s: float, end_s: float) -> dict[str, Any]:
    """What is said of the event; its times are those of the first model, whatever rounding has done."""
    return {"video": "", "start_s": start_s, "end_s": end_s, "caption": event.sentence}


def _named(name: str, dim: int, window: int, stride: int, fps: float | None) -> str:
    rate = "the video's own rate" if fps is None else f"{fps:g} per second"
    return f"{name}: {dim} wide, windows of {window} frames every {stride} at {rate}"
