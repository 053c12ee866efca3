"""The ``groundzoo`` command. Heavy packages are imported inside the verbs that need them."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from . import __version__

if TYPE_CHECKING:
    from .tasks.base import Task

TRAINING_VERBS = {
    "fit": "Train a task; the run's folder gets checkpoints, metrics and logs.",
    "validate": "Evaluate on the validation split.",
    "test": "Evaluate on the test split and write predictions.",
    "predict": "Write predictions.",
}
EXTRACT = "Turn videos into a feature store: any encoders, any number of devices, resumable."
LIST = "List tasks, encoders, trackers, detectors, data modules and packaged configurations."
PRESETS = "default, w1, captions, clips, narrations, narrations_enter, narrations_two, described or described_one"
FORMATS = "whose annotation format is written; howto100m for narrations, activitynet for described events"
CONCEPTS = "Choose the most frequent content words of captions: what clips are labelled with."
TAGGER = "textblob's lexicon, or our own rules, which need no other package"
STOP = "words to leave out: separated by commas, a text file, or none; unless given: be,have,do,not,n't"
PROPAGATE = "Turn sparse boxes into boxes with scores in every frame: tracked, on any devices, resumable."


def main(argv: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: words after ``groundzoo``; those of this process unless given.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words:
        _parser().print_help()
        return
    try:
        if words[0] in TRAINING_VERBS:
            _train(argv)
        elif words[0] == "extract":
            _extract(words[1:])
        elif words[:2] == ["annotate", "propagate"]:
            _propagate(words[2:])
        else:
            config = _parser().parse_args(words)
            verbs = {"list": _list, "toyworld": _toyworld, "ground": _ground, "caption": _caption}
            verbs |= {"localize": _localize, "concepts": _concepts}
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


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="groundzoo",
        description="Find what, when and where in video from language.",
        version=__version__,
        epilog="`groundzoo fit --help` and the like list the arguments of a verb.",
    )
    verbs = parser.add_subcommands(required=True, dest="subcommand", metavar="VERB")
    for verb, text in TRAINING_VERBS.items():  # listed here, run by Lightning's command line
        verbs.add_subcommand(verb, ArgumentParser(description=text), help=text)

    verbs.add_subcommand("extract", ArgumentParser(description=EXTRACT), help=EXTRACT)

    ways = ArgumentParser(description="Make annotations that training needs, once and ahead of it.")
    verbs.add_subcommand("annotate", ways, help="Make annotations that training needs, once and ahead of it.")
    kinds = ways.add_subcommands(required=True, dest="way", metavar="WAY")
    kinds.add_subcommand("propagate", ArgumentParser(description=PROPAGATE), help=PROPAGATE)

    listing = ArgumentParser(description=LIST)
    listing.add_argument("what", nargs="?", default="all", type=str, help="a part of a section's name, e.g. tasks")
    verbs.add_subcommand("list", listing, help=LIST)

    toyworld = ArgumentParser(description="Make a procedural world of acting shapes: videos and annotations.")
    toyworld.add_argument("out", type=str, help="folder to make")
    toyworld.add_argument("--videos", type=int, default=1300, help="how many")
    toyworld.add_argument("--seed", type=int, default=0, help="another seed, another world")
    toyworld.add_argument("--preset", type=str, default="default", help=PRESETS)
    toyworld.add_argument("--format", type=str, default="charades_sta", help=FORMATS)
    toyworld.add_argument("--test_fraction", type=float, default=0.15, help="share of videos held out")
    toyworld.add_argument("--workers", type=int | None, default=None, help="processes; all cores unless given")
    toyworld.add_argument("--world", type=dict[str, Any], default={}, help="settings of the world that differ")
    verbs.add_subcommand("toyworld", toyworld, help="Make a procedural world of acting shapes.")

    concepts = ArgumentParser(description=CONCEPTS)
    concepts.add_argument("captions", nargs="+", type=str, help="JSON files as those of ActivityNet Captions")
    concepts.add_argument("--out", type=str, default="concepts.json", help="JSON file to write")
    concepts.add_argument("--size", type=PositiveInt, default=1000, help="how many words")
    concepts.add_argument("--tagger", type=Literal["pattern", "rules"], default="pattern", help=TAGGER)
    concepts.add_argument("--stop", type=str | None, default=None, help=STOP)
    kind = Literal["noun", "verb", "adjective", "adverb"]
    concepts.add_argument("--kinds", nargs="+", type=kind, default=list(get_args(kind)), help="word classes")
    concepts.add_argument("--lemmas", type=bool, default=False, help="take the forms of a word as one")
    verbs.add_subcommand("concepts", concepts, help=CONCEPTS)

    ground = ArgumentParser(description="Find the moments of videos that sentences describe.")
    ground.add_argument("inputs", nargs="+", type=str, help="video files, then sentences")
    ground.add_argument("--top_k", type=int, default=5, help="answers per sentence")
    _add_answering(ground, "grounded", "the moments marked")
    verbs.add_subcommand("ground", ground, help="Find the moments of videos that sentences describe.")

    caption = ArgumentParser(description="Describe videos in a sentence whose words point at what they mean.")
    caption.add_argument("videos", nargs="+", type=str, help="video files")
    caption.add_argument("--beam_size", type=PositiveInt, default=1, help="sentences kept while searching")
    caption.add_argument("--start", type=NonNegativeFloat | None, default=None, help="describe from here, s")
    caption.add_argument("--end", type=NonNegativeFloat | None, default=None, help="describe until here, s")
    _add_answering(caption, "captioned", "boxes and words lit")
    verbs.add_subcommand("caption", caption, help="Describe videos in a sentence that points at what it means.")

    localize = ArgumentParser(description="Find when and where actions happen in videos.")
    localize.add_argument("videos", nargs="+", type=str, help="video files")
    localize.add_argument("--actions", nargs="+", type=str, required=True, help="what to look for, each in quotes")
    localize.add_argument(
        "--threshold", type=float | None, default=None, help="least cosine; None: the task's own"
    )
    localize.add_argument("--fps", type=PositiveFloat, default=1.0, help="moments per second that are looked at")
    _add_answering(localize, "localized", "heat maps and actions")
    verbs.add_subcommand("localize", localize, help="Find when and where actions happen in videos.")
    return parser


def _add_answering(parser: ArgumentParser, out: str, marks: str) -> None:
    """Options of all verbs that let a trained task answer."""
    parser.add_argument("--ckpt", type=str, required=True, help="checkpoint of a run; it knows all else")
    parser.add_argument("--out", type=str, default=out, help="folder for JSON, pictures and marked videos")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--mark", type=bool, default=True, help=f"also write an mp4 with {marks}")


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
            if path.name != "__init__.py" and "toyworld" not in path.parts:
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


# ---- from a user's own video ----------------------------------------------------------------------------


def load_task(checkpoint: str | Path, device: str = "cpu") -> Task:
    """See `groundzoo.load`."""
    import_everything()
    from .datamodules.collecting import encode_video
    from .datamodules.samples import iter_moments, read_samples
    from .datamodules.windows import read_windows
    from .tasks.launch import rebuild

    task = rebuild(Path(checkpoint), device)
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
    videos = [Path(video) for video in config.videos]
    _ask("caption", "does not describe videos with sentences", videos, config, _caption_one)


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


def _ask(
    verb: str, lacks: str, videos: list[Path], config: Namespace, one: Callable[..., None], kinds: str = "json,png"
) -> None:
    """Let the task of a checkpoint answer on each video.

    `lacks` says what a task without the verb does not do; `one` writes files of these `kinds`, and an mp4.
    """
    done = verb.removesuffix("e") + "ed"
    warnings.formatwarning = lambda message, *_: f"{message}\n"  # what users see is the sentence alone
    task: Any = load_task(config.ckpt, config.device)
    if not hasattr(task, verb):
        raise ValueError(f"{type(task).__name__} ({config.ckpt}) {lacks}")
    failed = 0
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
    seen: dict[str, int] = {}
    targets = []
    for video in videos:
        seen[video.stem] = number = seen.get(video.stem, 0) + 1
        targets.append(out / (video.stem if number == 1 else f"{video.stem}-{number}"))
    return targets


def _ground_one(task: Any, video: Path, target: Path, config: Namespace, queries: list[str]) -> None:
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
    save(timeline(info.duration_s, rows, thumbnails(video, 10)), target.with_name(target.name + ".png"))
    if config.mark:
        best = [
            (m[0].start_s, m[0].end_s, f"{m[0].score:.2f} {q}") for q, m in zip(queries, answers, strict=True) if m
        ]
        mark_moments(video, target.with_name(target.name + ".mp4"), best)


def _write_json(target: Path, record: dict[str, Any]) -> None:
    from .tasks.run_folder import write_atomically

    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(target.with_name(target.name + ".json"), text)


def _caption_one(task: Any, video: Path, target: Path, config: Namespace) -> None:
    from rich.console import Console

    from .datamodules.marking import mark_words
    from .datamodules.video import VideoError, probe, read_frames
    from .tasks.caption_pictures import CELL, LitWords, save_picture, shown_frames, strip, word_colours
    from .tasks.tables import caption_table
    from .zoo.text.grammar import tag

    info = probe(video)
    if config.start is not None and config.start >= info.duration_s:
        raise VideoError(f"It lasts {info.duration_s:.2f} s; --start {config.start:g} is not before its end.")
    end_s = None if config.end is None else min(config.end, info.duration_s)
    answer = task.caption(video, beam_size=config.beam_size, start_s=config.start, end_s=end_s)
    Console().print(caption_table(str(video), answer))
    kinds = tag([word.text for word in answer.words])
    words = [{**word._asdict(), "kind": kind} for word, kind in zip(answer.words, kinds, strict=True)]
    record = {"video": str(video), "duration_s": info.duration_s, "checkpoint": config.ckpt}
    record |= {"caption": answer.text, "score": answer.score, "size": answer.size}
    _write_json(target, record | {"times_s": answer.times_s, "words": words})
    colours = word_colours(kinds)
    times_s = [answer.times_s[number] for number in shown_frames(len(answer.times_s))]
    frames = read_frames(video, times_s, (CELL, max(1, round(CELL * info.width / info.height))))
    picture = strip(answer, colours, frames.permute(0, 2, 3, 1).numpy())
    save_picture(picture, target.with_name(target.name + ".png"))
    if config.mark:
        painter = partial(LitWords, answer, colours)
        mark_words(video, target.with_name(target.name + ".mp4"), painter, config.start or 0.0, end_s)


def _localize_one(task: Any, video: Path, target: Path, config: Namespace, actions: list[str]) -> None:
    from rich.console import Console

    from .datamodules.marking import mark_words, thumbnails
    from .tasks.localize_pictures import HeatOverlay, action_timeline
    from .tasks.localize_records import save_maps, summary
    from .tasks.pictures import save
    from .tasks.tables import tubes_table

    found = task.localize(video, actions, threshold=config.threshold, fps=config.fps)
    Console().print(tubes_table(str(video), found))
    record = {"video": str(video), "duration_s": found.duration_s, "checkpoint": config.ckpt}
    save_maps(found, target.with_name(target.name + ".npz"))
    _write_json(target, record | summary(found))
    save(action_timeline(found, thumbnails(video, 10)), target.with_name(target.name + ".png"))
    if config.mark:
        mark_words(video, target.with_name(target.name + ".mp4"), partial(HeatOverlay, found))
