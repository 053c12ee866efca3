"""The words of the command line: verbs, their arguments, and what is said of them. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, get_args

from jsonargparse import ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

TRAINING_VERBS = {
    "fit": "Train a task; the run's folder gets checkpoints, metrics and logs.",
    "validate": "Evaluate on the validation split.",
    "test": "Evaluate on the test split and write predictions.",
    "predict": "Write predictions.",
}
EXTRACT = "Turn videos into a feature store: any encoders, any number of devices, resumable."
LIST = "List tasks, encoders, trackers, detectors, data modules and packaged configurations."
PRESETS = (
    "default, w1, captions, clips, narrations, narrations_enter, narrations_two, described, described_one, "
    "grounded or grounded_hidden"
)
FORMATS = (
    "whose annotation format is written; howto100m for narrations, activitynet for described events, "
    "iground (with VidSTG) for grounded clips"
)
CONCEPTS = "Choose the most frequent content words of captions: what clips are labelled with."
TAGGER = "textblob's lexicon, or our own rules, which need no other package"
STOP = "words to leave out: separated by commas, a text file, or none; unless given: be,have,do,not,n't"
DESCRIBE = "Tell the events of videos: when each of them happens, and a sentence about it."
OF_SEVERAL = "of several models: how their sentences are chosen;"
PROPAGATE = "Turn sparse boxes into boxes with scores in every frame: tracked, on any devices, resumable."
ANNOTATE_CAPTIONS = "Videos get sentences whose phrases have boxes: by models alone, on any devices, resumable."


def make_parser(version: str) -> ArgumentParser:
    """All verbs; those that Lightning or a parser of their own serves are listed only."""
    parser = ArgumentParser(
        prog="groundzoo",
        description="Find what, when and where in video from language.",
        version=version,
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
    captions = ArgumentParser(description=ANNOTATE_CAPTIONS)
    kinds.add_subcommand("grounded-captions", captions, help=ANNOTATE_CAPTIONS)

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

    caption = ArgumentParser(description="Describe videos in a sentence whose phrases point at what they mean.")
    caption.add_argument("videos", nargs="+", type=str, help="video files")
    caption.add_argument(
        "--beam_size",
        type=PositiveInt | None,
        default=None,
        help="sentences kept while searching; None: the task's",
    )
    caption.add_argument("--start", type=NonNegativeFloat | None, default=None, help="describe from here, s")
    caption.add_argument("--end", type=NonNegativeFloat | None, default=None, help="describe until here, s")
    help_threshold = "least probability of being seen for a box; None: the task's own"
    caption.add_argument("--threshold", type=ClosedUnitInterval | None, default=None, help=help_threshold)
    _add_answering(caption, "captioned", "boxes and phrases lit")
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

    describe = ArgumentParser(description=DESCRIBE)
    describe.add_argument("videos", nargs="+", type=str, help="video files")
    describe.add_argument(
        "--proposals", type=str | None, default=None, help="JSON of events; None: the model's own"
    )
    describe.add_argument("--max_proposals", type=PositiveInt, default=100, help="events of it told per video")
    help_encoder = "checkpoints or YAML files of the encoders that made the precomputed features of the model"
    describe.add_argument("--encoder", nargs="+", type=str, default=None, help=help_encoder)
    describe.add_argument("--concepts", type=str | None, default=None, help=f"{OF_SEVERAL} JSON of concepts")
    describe.add_argument(
        "--captions", type=str | None, default=None, help=f"{OF_SEVERAL} JSON of training captions"
    )
    _add_answering(describe, "described", "subtitles", nargs="+")
    verbs.add_subcommand("describe", describe, help=DESCRIBE)
    return parser


def _add_answering(parser: ArgumentParser, out: str, marks: str, **several: Any) -> None:
    """Options of all verbs that let a trained task answer."""
    parser.add_argument(
        "--ckpt", type=str, required=True, help="checkpoint of a run; it knows all else", **several
    )
    parser.add_argument("--out", type=str, default=out, help="folder for JSON, pictures and marked videos")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--mark", type=bool, default=True, help=f"also write an mp4 with {marks}")
