"""The ``groundzoo`` command. Heavy packages are imported inside the verbs that need them."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from . import __version__
from .tasks.verbs import ANNOTATE_CAPTIONS, EXTRACT, PROPAGATE, TRAINING_VERBS, make_parser

if TYPE_CHECKING:
    from .datamodules.proposal_files import Proposals
    from .tasks.base import Task
    from .tasks.describing import Describer

SUBMISSION = "submission"  # of `describe`; no video's answer is called so


def main(argv: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: words after ``groundzoo``; those of this process unless given.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words:
        make_parser(__version__).print_help()
        return
    try:
        if words[0] in TRAINING_VERBS:
            _train(argv)
        elif words[0] == "extract":
            _extract(words[1:])
        elif words[:2] == ["annotate", "propagate"]:
            _propagate(words[2:])
        elif words[:2] == ["annotate", "grounded-captions"]:
            _annotate_captions(words[2:])
        else:
            config = make_parser(__version__).parse_args(words)
            verbs = {"list": _list, "toyworld": _toyworld, "ground": _ground, "caption": _caption}
            verbs |= {"localize": _localize, "describe": _describe, "concepts": _concepts}
            verbs[config.subcommand](config[config.subcommand])
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if os.environ.get("GROUNDZOO_DEBUG"):
            raise
        sys.exit(f"groundzoo {words[0]}: {_cause(error)}\n(GROUNDZOO_DEBUG=1 shows where this comes from)")


def _cause(error: Exception) -> str:
    """What a class said that could not be built, without the list of types that were tried."""
    text = str(error)
    if "any of the Union subtypes" not in text:
        return text
    tried = text.rpartition("Errors:\n")[2].partition("\nGiven value type:")[0].split("\n  - ")
    reasons = [t.strip(" -") for t in tried if "Expected a <class" not in t]
    return "; ".join(reasons) or text


def _train(argv: list[str] | None) -> None:
    _log_plainly()
    import_everything()
    from .tasks.launch import GroundZooCLI

    GroundZooCLI(argv)


def _log_plainly() -> None:
    """Our own messages, as plain lines on stderr; Lightning has its own handler."""
    own = logging.getLogger(__package__)
    if not own.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        own.addHandler(handler)
    own.setLevel(logging.INFO)
    own.propagate = False


# ---- what there is --------------------------------------------------------------------------------------


def import_everything() -> None:
    """Import all tasks, encoders, data modules and plug-ins, so that their short names are known."""
    root = Path(__file__).parent
    for folder in ("tasks", "zoo", "datamodules"):
        for path in sorted((root / folder).rglob("*.py")):
            # of ToyWorld only the stand-ins for models are named in configurations
            if path.name != "__init__.py" and ("toyworld" not in path.parts or path.stem == "annotators"):
                import_module("." + ".".join(path.relative_to(root).with_suffix("").parts), __package__)
    for plugin in entry_points(group="groundzoo.plugins"):
        try:
            plugin.load()
        except Exception as error:  # somebody else's code: anything may happen, and the rest must work on
            logging.getLogger(__name__).warning(
                "plug-in '%s' (%s) does not load and is left out: %s: %s",
                plugin.name,
                plugin.value,
                type(error).__name__,
                error,
            )


def _list(config: Namespace) -> None:
    from .tasks.listing import inventory

    sections = inventory()
    chosen = {t: rows for t, rows in sections.items() if config.what == "all" or config.what in t}
    if not chosen:
        raise ValueError(f"nothing is called '{config.what}'; choose from {', '.join(sections)}")
    width = max((len(name) for rows in chosen.values() for name, _ in rows), default=0)
    for title, rows in chosen.items():
        print(title)
        for name, text in rows or [("(none)", "")]:
            print(f"  {name:<{width}}  {text}")


def _toyworld(config: Namespace) -> None:
    from .datamodules.toyworld.generate import generate

    options = {k: v for k, v in config.items() if k not in ("out", "world")}
    print(generate(config.out, overrides=dict(config.world), **options))


def _concepts(config: Namespace) -> None:
    from .datamodules.concepts import account, count_concepts

    print(f"{account(count_concepts(**config.as_dict()))}\n{config.out}")


# ---- features -------------------------------------------------------------------------------------------


def _extract(words: list[str]) -> None:
    _log_plainly()
    import_everything()
    from .tasks.launch import HelpfulParser
    from .tasks.predicting import EncoderConfig, add_devices, predictor
    from .zoo.video.base import VideoEncoder

    parser = HelpfulParser(prog="groundzoo extract", description=EXTRACT, allow_abbrev=False)
    parser.add_argument(
        "-c", "--config", action=EncoderConfig, help="YAML file, here or in the package; its video encoder counts."
    )
    parser.add_subclass_arguments(VideoEncoder, "video_encoder", required=False)
    parser.add_argument("--videos", type=str | None, default=None, help="folder, list of paths, or csv (path, id)")
    parser.add_argument(
        "--out", type=str | None, default=None, help="the store: a folder; one below it per encoder"
    )
    parser.add_argument("--check", type=str | None, default=None, help="only look whether this store is sound")
    parser.add_argument("--grid", type=bool, default=False, help="store the cells of every unit, too")
    parser.add_argument("--dtype", type=Literal["float16", "float32"], default="float16", help="precision on disk")
    parser.add_argument("--batch_size", type=int, default=16, help="passes of the network per batch")
    parser.add_argument("--num_workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="decoders")
    parser.add_argument("--retry", type=bool, default=False, help="try videos in quarantine again")
    add_devices(parser)
    config = parser.parse_args(words)
    if config.check is not None:
        from .datamodules.store_check import report_problems

        return report_problems(Path(config.check), config.videos)
    for name in ("video_encoder", "videos", "out"):
        if config[name] is None:
            raise ValueError(f"give --{name if name != 'video_encoder' else 'config with a video encoder'}")
    from .datamodules.extraction import Extraction
    from .datamodules.store_check import report_stores
    from .datamodules.video_files import find_videos

    videos = find_videos(config.videos)
    if not videos:
        raise ValueError(f"there are no videos in {config.videos}")
    encoder = parser.instantiate_classes(config).video_encoder
    parts = list(encoder.parts)
    out = Path(config.out)
    stores = [out] if len(parts) == 1 else [out / f"{k}-{type(part).__name__}" for k, part in enumerate(parts)]
    options = {k: config[k] for k in ("batch_size", "num_workers", "dtype", "retry")}
    options |= {"grids": config.grid, "precision": str(config.trainer.precision)}
    extraction = Extraction(parts, stores, videos, **options)
    engine = predictor(config.trainer)
    engine.predict(extraction, return_predictions=False)
    if engine.is_global_zero:
        report_stores(stores, len(videos))


def _propagate(words: list[str]) -> None:
    _log_plainly()
    import_everything()
    from .datamodules.annotate import propagate
    from .tasks.launch import HelpfulParser
    from .tasks.predicting import LabelConfig, add_devices, predictor

    parser = HelpfulParser(prog="groundzoo annotate propagate", description=PROPAGATE, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=LabelConfig, help="YAML file, here or in the package.")
    parser.add_function_arguments(propagate, skip={"engine", "recipe"})
    add_devices(parser)
    config = parser.parse_args(words)
    given = json.loads(parser.dump(config, skip_none=False, format="json"))
    made = {k: v for k, v in vars(parser.instantiate_classes(config)).items() if k not in ("config", "trainer")}
    recipe = {name: given[name] for name in ("tracker", "detector", "linker")}
    recipe["precision"] = str(config.trainer.precision)
    propagate(predictor(config.trainer), recipe, **made)


def _annotate_captions(words: list[str]) -> None:
    _log_plainly()
    import_everything()
    from .datamodules.annotate_captions import annotate_captions
    from .tasks.launch import HelpfulParser
    from .tasks.predicting import LabelConfig, add_devices, predictor

    name = "groundzoo annotate grounded-captions"
    parser = HelpfulParser(prog=name, description=ANNOTATE_CAPTIONS, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=LabelConfig, help="YAML file, here or in the package.")
    parser.add_function_arguments(annotate_captions, skip={"engine", "recipe"})
    add_devices(parser)
    config = parser.parse_args(words)
    given = json.loads(parser.dump(config, skip_none=False, format="json"))
    made = {k: v for k, v in vars(parser.instantiate_classes(config)).items() if k not in ("config", "trainer")}
    recipe = {"captioner": given["captioner"], "chat": given["chat"], "precision": str(config.trainer.precision)}
    annotate_captions(predictor(config.trainer), recipe, **made)


# ---- from a user's own video ----------------------------------------------------------------------------


def load_task(
    checkpoint: str | Path, device: str = "cpu", encoder: str | Path | Sequence[str | Path] | None = None
) -> Task:
    """See `groundzoo.load`."""
    import_everything()
    from .datamodules.collecting import encode_video
    from .datamodules.samples import iter_moments, read_samples
    from .datamodules.windows import read_windows
    from .tasks.launch import rebuild
    from .tasks.real_encoders import replace_stored

    task = rebuild(Path(checkpoint), device)
    if encoder is not None:
        try:
            replace_stored(task, [encoder] if isinstance(encoder, str | Path) else encoder)
        except ValueError as error:
            raise ValueError(f"{checkpoint}: {error}") from error
    task.video_reader, task.window_reader, task.sample_reader = encode_video, read_windows, read_samples
    task.moment_reader = iter_moments
    return task


def split_inputs(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Tell video files from sentences: files come first, and a sentence has a blank.

    Raises:
        ValueError: no video, no sentence, or a file that does not exist.
    """
    videos: list[Path] = []
    while inputs and (Path(inputs[0]).exists() or (" " not in inputs[0].strip() and Path(inputs[0]).suffix)):
        videos.append(Path(inputs[0]))
        inputs = inputs[1:]
    if not videos:
        raise ValueError("give at least one video file before the sentences")
    if not inputs:
        raise ValueError("give at least one sentence behind the video files")
    return videos, inputs


def _ground(config: Namespace) -> None:
    videos, queries = split_inputs(config.inputs)
    _ask("ground", "does not answer sentences with moments", videos, config, partial(_ground_one, queries=queries))


def _caption(config: Namespace) -> None:
    if config.end is not None and config.end <= (config.start or 0):
        raise ValueError(f"--end must be later than --start, got {config.start or 0:g} to {config.end:g} s")
    task = _opened("caption", "does not describe videos with sentences", config.ckpt, config.device)
    names = {"beam_size": "beam_size", "start": "start_s", "end": "end_s", "threshold": "threshold"}
    for option, name in names.items():  # captioners differ in what they take
        if config[option] is not None and name not in signature(task.caption).parameters:
            raise ValueError(f"{type(task).__name__} ({config.ckpt}) has no use for --{option}: leave it out")
    options = {name: config[option] for option, name in names.items() if config[option] is not None}
    videos = [Path(video) for video in config.videos]
    _answer("caption", task, videos, config, partial(_caption_one, options=options), "json,png")


def _localize(config: Namespace) -> None:
    actions = [" ".join(action.split()) for action in config.actions]
    if not all(actions):
        raise ValueError("an action behind --actions is empty: say in words what to look for")
    if twice := {a for a in actions if [b.casefold() for b in actions].count(a.casefold()) > 1}:
        raise ValueError(f"--actions must all be different; more than once: {', '.join(sorted(twice))}")
    if config.threshold is not None and not -1 <= config.threshold <= 1:
        raise ValueError(f"--threshold is a cosine, from -1 to 1, not {config.threshold:g}")
    videos = [Path(video) for video in config.videos]
    one = partial(_localize_one, actions=actions)
    _ask("localize", "does not find actions in videos", videos, config, one, "json,npz,png")


def _describe(config: Namespace) -> None:
    from .datamodules.proposal_files import read_proposals
    from .tasks.describing import Describer
    from .tasks.ensemble import read_rule
    from .tasks.metrics.dense_captions import submission

    if len(config.ckpt) > 1 and not (config.concepts and config.captions):
        raise ValueError("several models need --concepts and --captions, by which a sentence is chosen per event")
    rule = read_rule(Path(config.concepts), Path(config.captions)) if len(config.ckpt) > 1 else None
    given = None if config.proposals is None else read_proposals(config.proposals)
    lacks, options = "does not describe the events of videos", (config.device, config.encoder)
    models = {checkpoint: _opened("describe", lacks, checkpoint, *options) for checkpoint in config.ckpt}
    describer, records = Describer(models, rule, given is None), list[dict[str, Any]]()
    one = partial(_describe_one, given=given, records=records)
    try:
        _answer("describe", describer, [Path(v) for v in config.videos], config, one, "json,png,srt,vtt")
    finally:  # also of what came before a failure
        if records:
            _write_json(Path(config.out) / SUBMISSION, submission(records))
            print(Path(config.out) / f"{SUBMISSION}.json")


def _ask(
    verb: str, lacks: str, videos: list[Path], config: Namespace, one: Callable[..., None], kinds: str = "json,png"
) -> None:
    """Let the task of a checkpoint answer on each video.

    `lacks` says what a task without the verb does not do; `one` writes files of these `kinds`, and an mp4.
    """
    _answer(verb, _opened(verb, lacks, config.ckpt, config.device), videos, config, one, kinds)


def _opened(verb: str, lacks: str, checkpoint: str, *options: Any) -> Any:
    """The task of a checkpoint, which has the verb."""
    warnings.formatwarning = lambda message, *_: f"{message}\n"  # what users see is the sentence alone
    task = load_task(checkpoint, *options)
    if not hasattr(task, verb):
        raise ValueError(f"{type(task).__name__} ({checkpoint}) {lacks}")
    return task


def _answer(
    verb: str, task: Any, videos: list[Path], config: Namespace, one: Callable[..., None], kinds: str
) -> None:
    done, failed = verb.removesuffix("e") + "ed", 0
    for video, target in zip(videos, _targets(videos, Path(config.out)), strict=True):
        try:
            one(task, video, target, config)
            print(f"{target}.{{{kinds}{',mp4' * config.mark}}}")
        except (RuntimeError, OSError) as error:  # one bad video does not end the others
            failed += 1
            print(f"{video}: not {done}. {error}", file=sys.stderr)
    if failed:
        sys.exit(f"groundzoo {verb}: {failed} of {len(videos)} videos could not be {done} (see above)")


def _targets(videos: list[Path], out: Path) -> list[Path]:
    """Where the answers on each video go, without suffix; equal names are numbered."""
    targets: list[Path] = []
    for video in videos:
        names = chain([video.stem], (f"{video.stem}-{number}" for number in count(2)))
        free = (name for name in names if out / name not in targets and name != SUBMISSION)
        targets.append(out / next(free))
    return targets


# ---- what is printed and written of the answers on one video: `target` is a path without suffix -----------


def _write_json(target: Path, record: Mapping[str, Any]) -> None:
    """Write the JSON file of a target, atomically; its folder is made where absent."""
    from .tasks.run_folder import write_atomically

    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(_beside(target, ".json"), text)


def _beside(target: Path, suffix: str) -> Path:
    """The target with a suffix; names may have dots."""
    return target.with_name(target.name + suffix)


def _ground_one(task: Any, video: Path, target: Path, config: Namespace, queries: list[str]) -> None:
    """Moments of each sentence."""
    from rich.console import Console

    from .datamodules.marking import mark_moments, thumbnails
    from .datamodules.video import probe
    from .tasks.pictures import save, timeline
    from .tasks.tables import moments_table

    answers = task.ground(video, queries, top_k=config.top_k)
    info = probe(video)
    Console().print(moments_table(str(video), queries, answers))
    found = [
        {"query": q, "moments": [m._asdict() for m in moments]}
        for q, moments in zip(queries, answers, strict=True)
    ]
    record = {"video": str(video), "duration_s": info.duration_s, "checkpoint": config.ckpt, "answers": found}
    _write_json(target, record)
    rows = [(q, [tuple(m) for m in moments], None) for q, moments in zip(queries, answers, strict=True)]
    save(timeline(info.duration_s, rows, thumbnails(video, 10)), _beside(target, ".png"))
    if config.mark:
        best = [
            (m[0].start_s, m[0].end_s, f"{m[0].score:.2f} {q}") for q, m in zip(queries, answers, strict=True) if m
        ]
        mark_moments(video, _beside(target, ".mp4"), best)


def _caption_one(task: Any, video: Path, target: Path, config: Namespace, options: Mapping[str, Any]) -> None:
    """A sentence whose phrases point at the video."""
    from rich.console import Console

    from .datamodules.marking import mark_words
    from .datamodules.video import VideoError, probe, read_frames
    from .tasks.caption_pictures import CELL, LitPhrases, phrase_colours, save_picture, shown_frames, strip
    from .tasks.grounded_caption import caption_record
    from .tasks.tables import caption_table

    info = probe(video)
    if config.start is not None and config.start >= info.duration_s:
        raise VideoError(f"It lasts {info.duration_s:.2f} s; --start {config.start:g} is not before its end.")
    if config.end is not None:
        options = {**options, "end_s": min(config.end, info.duration_s)}
    answer = task.caption(video, **options)
    Console().print(caption_table(str(video), answer))
    record = {"video": str(video), "duration_s": info.duration_s, "checkpoint": config.ckpt}
    _write_json(target, record | caption_record(answer))
    colours = phrase_colours(answer)
    times_s = [answer.times_s[number] for number in shown_frames(len(answer.times_s))]
    frames = read_frames(video, times_s, (CELL, max(1, round(CELL * info.width / info.height))))
    picture = strip(answer, colours, frames.permute(0, 2, 3, 1).numpy())
    save_picture(picture, _beside(target, ".png"))
    if config.mark:
        painter = partial(LitPhrases, answer, colours)
        mark_words(video, _beside(target, ".mp4"), painter, config.start or 0.0, options.get("end_s"))


def _localize_one(task: Any, video: Path, target: Path, config: Namespace, actions: list[str]) -> None:
    """When and where actions happen."""
    from rich.console import Console

    from .datamodules.marking import mark_words, thumbnails
    from .tasks.localize_pictures import HeatOverlay, action_timeline
    from .tasks.localize_records import save_maps, summary
    from .tasks.pictures import save
    from .tasks.tables import tubes_table

    found = task.localize(video, actions, threshold=config.threshold, fps=config.fps)
    Console().print(tubes_table(str(video), found))
    record = {"video": str(video), "duration_s": found.duration_s, "checkpoint": config.ckpt}
    save_maps(found, _beside(target, ".npz"))
    _write_json(target, record | summary(found))
    save(action_timeline(found, thumbnails(video, 10)), _beside(target, ".png"))
    if config.mark:
        mark_words(video, _beside(target, ".mp4"), partial(HeatOverlay, found))


def _describe_one(
    task: Describer,
    video: Path,
    target: Path,
    config: Namespace,
    given: Mapping[str, Proposals] | None,
    records: list[dict[str, Any]],
) -> None:
    """Events, those proposed in `given` if there are some, and their sentences, which are added to `records`."""
    from rich.console import Console

    from .datamodules.marking import mark_words, thumbnails
    from .datamodules.proposal_files import best_events
    from .datamodules.subtitles import write_srt, write_vtt
    from .datamodules.video import probe
    from .tasks.describe_pictures import Subtitles, event_timeline
    from .tasks.pictures import save
    from .tasks.tables import events_table

    duration_s = probe(video).duration_s
    events_s = None if given is None else best_events(video.stem, given, duration_s, config.max_proposals)
    told = task.describe(video, events_s)
    Console().print(events_table(str(video), told))
    record = {"video": str(video), "duration_s": duration_s, "checkpoints": list(task.models)}
    record |= {"encoders": config.encoder, "proposals": config.proposals}
    _write_json(target, record | {"events": [event._asdict() for event in told]})
    for suffix, write in ((".srt", write_srt), (".vtt", write_vtt)):
        write(_beside(target, suffix), [(e.start_s, e.end_s, e.sentence) for e in told])
    shown = [(e.start_s, e.end_s, e.sentence, e.score) for e in told]
    save(event_timeline(duration_s, shown, thumbnails(video, 10)), _beside(target, ".png"))
    if config.mark:
        mark_words(video, _beside(target, ".mp4"), partial(Subtitles, shown))
    times = [{"video": target.name, "start_s": e.start_s, "end_s": e.end_s} for e in told]
    records += [row | {"caption": e.sentence} for row, e in zip(times, told, strict=True)]
