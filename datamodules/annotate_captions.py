"""The verb ``groundzoo annotate grounded-captions``: videos without any annotation get sentences with boxes.

The automatic annotation of Kazakos et al. (Large-scale Pre-training for Grounded Video Caption Generation, ICCV
2025, section 3.1), in three stages with files of their own.

Differs from the paper, which tells no details of the last stage: boxes of one phrase in a frame are joined, as in
the processed annotations that were published; a phrase of the sentence that no frame shows loses its tags. What
else differs is told in `groundzoo.zoo.frame_captioning`, `groundzoo.zoo.text.triples` and
`groundzoo.datamodules.annotation_prompts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning import Trainer

from .. import __version__
from ..zoo.chat import ChatModel
from ..zoo.frame_captioning import FrameCaptioner
from .annotation_clips import read_clips
from .annotation_report import account, make_report
from .annotation_steps import CaptionFrames, Step
from .annotation_store import AnnotationStore, clips_fingerprint
from .annotation_text_steps import CaptionClips, ClassifyPhrases, JoinTracks
from .annotations import AnnotationError
from .grounded_records import RATE
from .label_manifest import described
from .shards import write_json
from .video_files import find_videos

STORES = ("frames", "captions", "phrases", "annotations")
Stage = Literal["frames", "captions", "tracks"]


def annotate_captions(
    engine: Trainer,
    recipe: Mapping[str, Any],
    videos: str | None = None,
    out: str | None = None,
    clips: str | None = None,
    captioner: FrameCaptioner | None = None,
    chat: ChatModel | None = None,
    stages: list[Stage] = ["frames", "captions", "tracks"],  # noqa: B006 (read only)
    notes: Literal["triples", "captions"] = "triples",
    frames_told: int = 48,
    frames_at_once: int = 16,
    clips_at_once: int = 8,
    max_side: int = 1024,
    clips_per_shard: int = 100,
    num_workers: int = 2,
    retry: bool = False,
) -> None:
    """Annotate clips with sentences whose phrases have boxes, and print an account of it.

    Args:
        engine: runs it on its devices.
        recipe: the configuration of captioner and language model, for the manifests.
        videos: folder, list of paths, or csv (path, id).
        out: folder of the annotations to make, or to go on with.
        clips: csv or JSON lines of `video`, `start_s`, `end_s` and optionally `clip_id`; null for whole videos.
        captioner: describes single frames; needed for the stage `frames`.
        chat: the language model; needed for the stages `captions` and `tracks`.
        stages: which ones; later ones read the files of earlier ones.
        notes: what the language model gets to know of each frame: triples of its caption, or all of it.
        frames_told: most frames of a clip that the language model gets to know of, evenly spread.
        frames_at_once: frames per pass of the captioner.
        clips_at_once: clips whose questions the language model gets together.
        max_side: longer side of the pictures that the captioner sees, pixels.
        clips_per_shard: clips per file.
        num_workers: decoding processes per device.
        retry: try clips in quarantine again.

    Raises:
        ValueError: something that a stage needs is missing.
        AnnotationError: the folder's files were made otherwise, or not one clip could be annotated.
    """
    if videos is None or out is None:
        raise ValueError("give --videos, and --out, the folder of annotations to make")
    if "frames" in stages and captioner is None:
        raise ValueError("give --config with a captioner, or --stages without `frames`")
    if {"captions", "tracks"} & set(stages) and chat is None:
        raise ValueError("give --config with a language model (`chat`), or --stages [frames]")
    if min(frames_told, frames_at_once, clips_at_once, max_side, clips_per_shard) < 1:
        raise ValueError("numbers of frames, clips and pixels are at least 1")
    files = find_videos(videos)
    wanted = read_clips(clips, files)
    if not wanted:
        raise ValueError(f"there are no clips in {clips or videos}")
    stores = {name: AnnotationStore(Path(out) / name) for name in STORES}
    common: dict[str, Any] = {"clips": wanted, "clips_per_shard": clips_per_shard}
    common |= {"num_workers": num_workers, "retry": retry}
    listed = {"clips": clips_fingerprint(wanted), "clips_per_shard": clips_per_shard, "fps": RATE}
    precision = {"precision": recipe.get("precision")}

    def run(name: str, made: Mapping[str, Any], before: str | None, step: type[Step], **options: Any) -> None:
        source = {} if before is None else {before: stores[before].manifest}
        stores[name].claim({"groundzoo": __version__, **listed, **made, **source})
        engine.predict(step(out=stores[name], **common, **options), return_predictions=False)

    told = {"chat": described(chat, recipe.get("chat")), **precision} if chat is not None else {}
    if captioner is not None and "frames" in stages:
        made = {"captioner": described(captioner, recipe.get("captioner")), "max_side": max_side, **precision}
        options = {"videos": files, "frames_at_once": frames_at_once, "max_side": max_side}
        run("frames", made, None, CaptionFrames, captioner=captioner, **options)
    common["clips_at_once"] = clips_at_once
    if chat is not None and "captions" in stages:
        made, options = {"notes": notes, "frames_told": frames_told}, {"inputs": [stores["frames"]]}
        run("captions", told | made, "frames", CaptionClips, chat=chat, **made, **options)
    if chat is not None and "tracks" in stages:
        inputs = [stores["frames"], stores["captions"]]
        run("phrases", told, "captions", ClassifyPhrases, chat=chat, inputs=inputs)
        run("annotations", {}, "phrases", JoinTracks, inputs=[*inputs, stores["phrases"]])
    if "tracks" in stages and engine.is_global_zero:
        report = make_report(stores, math.ceil(len(wanted) / clips_per_shard), len(wanted))
        write_json(Path(out) / "report.json", report)
        print(f"{out}: {account(report)}")
        if not report["annotated"]["clips"]:
            raise AnnotationError(f"{out}: not one of {len(wanted)} clips could be annotated (see above)")
