"""Encoders that read video, in place of the precomputed features that a task was trained on."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from ..zoo.video.base import VideoEncoder
from ..zoo.video.combined import Combined
from ..zoo.video.precomputed import Precomputed
from .base import Task
from .launch import config_file, rebuild


def stored_features(task: Task) -> list[Precomputed]:
    """The precomputed features that a task reads; empty where its encoder reads video itself."""
    return [part for part in task.video_encoder.parts if isinstance(part, Precomputed)]


def replace_stored(task: Task, sources: Sequence[str | Path]) -> None:
    """Let a task that was trained on precomputed features read video.

    Args:
        task: gets a new `video_encoder`, frozen, on its own device and in evaluation mode.
        sources: checkpoints of groundzoo, or configurations (``.yaml``, as for `groundzoo extract`), whose video
            encoders made the features, in the order of the task's own; several for a `Combined`.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: the task reads video itself, or the encoders are not those of its features; says what differs.
    """
    features = stored_features(task)
    if not features:
        name = type(task.video_encoder).__name__
        raise ValueError(f"the model reads video itself, with {name}: leave out the encoder")
    lent = [(encoder, str(source)) for source in sources for encoder in _parts(Path(source))]
    if len(lent) != len(features):
        raise ValueError(
            f"the model was trained on {len(features)} kinds of precomputed features, and {len(lent)} encoders "
            f"are given to make them: {', '.join(f'{type(e).__name__} ({source})' for e, source in lent)}"
        )
    fitting = [_fitting(e, source, wanted) for (e, source), wanted in zip(lent, features, strict=True)]
    parts = [fitting.pop(0) if isinstance(part, Precomputed) else part for part in task.video_encoder.parts]
    encoder = Combined(parts) if isinstance(task.video_encoder, Combined) else parts[0]
    task.video_encoder = encoder.to(task.device).eval()


def _parts(source: Path) -> Sequence[VideoEncoder]:
    """The encoders of a checkpoint or configuration, frozen."""
    encoder = _configured(source) if source.suffix in (".yaml", ".yml") else rebuild(source, "cpu").video_encoder
    for part in encoder.parts:
        part.trainable = False
        part.freeze_unless_trainable()
    return encoder.parts


def _configured(source: Path) -> VideoEncoder:
    """The encoder of a configuration, which stands alone or in a task."""
    path = config_file(str(source))
    if path is None:
        raise FileNotFoundError(f"{source}: there is no such configuration, neither here nor in the package")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VideoEncoder, "video_encoder")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = given.get("video_encoder") or given["model"]["init_args"]["video_encoder"]
        parsed = parser.parse_object({"video_encoder": recipe})
    except (yaml.YAMLError, ArgumentError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{source}: no configuration with a video encoder ({error})") from error
    encoder: VideoEncoder = parser.instantiate_classes(parsed).video_encoder
    return encoder


def _fitting(encoder: VideoEncoder, source: str, features: Precomputed) -> VideoEncoder:
    """The encoder, with the features' stride, if it could have made them.

    The stride is how densely a store was made and no property of a network that sees one unit at a time.
    """
    name, own, wanted = type(encoder).__name__, encoder.spec, features.spec
    if isinstance(encoder, Precomputed):
        raise ValueError(f"{source}: its video encoder is precomputed features, too; give the one that made them")
    pairs = {
        "dim": (encoder.dim, features.dim),
        "fps": (own.fps, wanted.fps),
        "window": (own.window, wanted.window),
    }
    if own.context > 1:
        pairs["stride"] = (own.stride, wanted.stride)
    if differing := [f"{key} is {has}, not {needs}" for key, (has, needs) in pairs.items() if has != needs]:
        raise ValueError(
            f"{name} ({source}) did not make the model's features '{features.name}': {'; '.join(differing)}"
        )
    encoder.spec = dataclasses.replace(own, stride=wanted.stride)
    return encoder
