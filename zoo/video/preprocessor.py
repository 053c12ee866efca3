"""How a Transformers model wants its frames, from the files of its image or video processor. Imports no torch.

The processors themselves are not run. Differs from them: every resize is bicubic with antialiasing, while some
of them are bilinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .published import HALF
from .spec import FrameSpec, Triple

FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


def frame_spec(
    values: Mapping[str, Any] | None,
    size: tuple[int, int],
    mean: Triple,
    std: Triple,
    crop: bool,
    fps: float,
    window: int = 1,
    stride: int = 1,
    context: int = 1,
) -> FrameSpec:
    """Read a processor's settings.

    Args:
        values: contents of ``preprocessor_config.json`` or ``processor_config.json``; None has nothing to say.
        size: height and width where `values` does not say.
        mean: likewise, of RGB in [0, 1].
        std: likewise.
        crop: where `values` does not say, the shorter side is resized and the middle cut out; or else all is
            squeezed into the size.
        fps: frames per second.
        window: frames per unit.
        stride: frames from unit to unit.
        context: units per pass.

    Raises:
        ValueError: a size is given in a way that is not known.
    """
    values = dict(values or {})
    for inner in ("image_processor", "video_processor"):  # in `processor_config.json`
        values = dict(values.get(inner, values))
    scale = round(255 * values.get("rescale_factor", 1 / 255), 6) if values.get("do_rescale", True) else 255.0
    if values.get("offset"):  # ViViT: values come to [-1, 1], and must not be centred a second time
        mean, std, scale = HALF, HALF, 1.0
    elif not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean, std = (_triple(values.get(k, v)) for k, v in (("image_mean", mean), ("image_std", std)))
    mean, std = (tuple(v / scale for v in triple) for triple in (mean, std))  # type: ignore[assignment]

    if crop and not {"size", "crop_size"} & values.keys():
        values |= {"size": {"shortest_edge": min(size)}, "crop_size": size, "do_center_crop": True}
    cropped = bool(values.get("do_center_crop", "crop_size" in values))
    middle = _pair(values["crop_size"]) if cropped and values.get("crop_size") else None
    wanted = values.get("size") if values.get("do_resize", True) else None
    resize: int | tuple[int, int] | None = None
    if isinstance(wanted, Mapping) and "shortest_edge" in wanted:
        resize = int(wanted["shortest_edge"])
    elif isinstance(wanted, int) and cropped:  # older files
        resize = wanted
    elif wanted is not None:
        resize = _pair(wanted)
    if middle is None:
        middle = (resize, resize) if isinstance(resize, int) else resize or size
    resize = None if resize == middle else resize
    return FrameSpec(fps, window, stride, middle, resize, context, mean, std)


def _triple(values: Any) -> Triple:
    one, two, three = (values,) * 3 if isinstance(values, int | float) else values
    return float(one), float(two), float(three)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        if not {"height", "width"} <= value.keys():
            raise ValueError(
                f"the preprocessor's size {dict(value)} is neither height and width nor shortest_edge"
            )
        return int(value["height"]), int(value["width"])
    return (int(value),) * 2 if isinstance(value, int) else (int(value[0]), int(value[1]))
