"""What was wrong on the command line and what was probably meant: short messages with nearest candidates."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import lightning as L

from ..zoo.box_decoder import BoxDecoder
from ..zoo.chat import ChatModel
from ..zoo.detection import Detector
from ..zoo.frame_captioning import FrameCaptioner
from ..zoo.language import LanguageModel
from ..zoo.text.base import TextEncoder
from ..zoo.text.verb_links import VerbLinker
from ..zoo.tracking.base import Tracker
from ..zoo.video.base import VideoEncoder
from .base import Task

BASES: dict[str, type] = {
    "model": Task,
    "data": L.LightningDataModule,
    "video_encoder": VideoEncoder,
    "motion_encoder": VideoEncoder,
    "grounding_encoder": VideoEncoder,
    "text_encoder": TextEncoder,
    "language_model": LanguageModel,
    "box_decoder": BoxDecoder,
    "tracker": Tracker,
    "detector": Detector,
    "linker": VerbLinker,
    "captioner": FrameCaptioner,
    "chat": ChatModel,
}
NOISE = re.compile(
    r"(Does not validate against any|Subtypes: |Errors:$|Expected a <class 'NoneType'>|Given value type: "
    r"|Given value: (NestedArg\(|[{\[]|$)|Expected a path but )"
)


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """Up to four candidates that look like `word`, best first, ignoring case."""
    lowered = {c.lower(): c for c in candidates}
    return [lowered[c] for c in difflib.get_close_matches(word.lower(), lowered, n=4, cutoff=0.5)]


def subclasses(base: type) -> set[str]:
    """Names of all imported concrete subclasses."""
    found: set[str] = set()
    child: type
    for child in base.__subclasses__():
        abstract = any(getattr(getattr(child, n, None), "__isabstractmethod__", False) for n in dir(child))
        found |= subclasses(child) | (set() if abstract else {child.__name__})
    return found


def arguments(kind: type) -> list[str]:
    """Names of a class's constructor arguments, those behind ``**kwargs`` included."""
    names: list[str] = []
    for parent in kind.__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()  # type: ignore[misc]
            names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return [n for n in dict.fromkeys(names) if n != "self"]


def explain(message: str, configs: Path, options: Iterable[str] = ()) -> str:
    """Cut a parser's error message down to what is wrong, and add what was probably meant.

    Args:
        message: what the parser said, several lines for nested values.
        configs: folder of the packaged configuration files.
        options: what the parser takes, outermost names.
    """
    stack: list[tuple[int, str]] = []  # keys around a line, by its indentation
    kinds: dict[str, str] = {}  # class path of the value of a key
    lines: list[str] = []
    for raw in filter(str.strip, message.splitlines()):
        text = raw.lstrip(" -")
        indent = len(raw) - len(text)
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if found := re.match(r'Parser key "([^"]+)":\s*', text):
            stack.append((indent, found[1]))
            text = text[found.end() :]
        where = ".".join(key for _, key in stack)
        if found := re.match(r"Problem with given class_path '([^']+)':\s*", text):
            kinds[where] = found[1]
            text = text[found.end() :]
        repeated = text.startswith("Given value: ") and text.split(": ", 1)[1] in "".join(lines)
        if text and not repeated and not NOISE.match(text):
            said = _reword(text, where, kinds.get(where), configs, options)
            lines.append(f"{where}: {said}" if where and where != "config" else said)
    return "\n".join(dict.fromkeys(lines)) or message


def _reword(text: str, where: str, kind: str | None, configs: Path, options: Iterable[str]) -> str:
    """One line of a parser's message, in words that help."""
    if found := re.match(r"File does not exist: '?(.+?)'?$", text):
        return _missing_file(found[1], configs)
    if found := re.match(r"Expected a dot import path string: (\S+)", text):
        return f"'{found[1]}' is no class that is known here.{_similar_class(found[1], where)}"
    if found := re.match(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        return f"'{found[1]}.{found[2]}' is no class that is known here.{_similar_class(found[2], where)}"
    if found := re.match(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{found[1]} is no {found[2]} and was not run.{_similar_class(found[1], where)}"
    if found := re.match(r"Option '([\w.]+)' is not accepted", text):
        return _unknown_argument(found[1].split(".")[0], kind, None)
    if found := re.match(r"Group '(\w+)' does not accept option '([\w.]+)'", text):
        return _unknown_argument(found[2].split(".")[0], kind, found[1])
    if found := re.match(
        r"(?:Subcommand '\w+' does not accept option '|unrecognized arguments: -+)([\w.]+)", text
    ):
        return f"there is no option '{found[1]}'.{_similar_option(found[1], options)}"
    if found := re.match(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", text):
        return f"'{found[2]}' is not possible; choose from {found[1]}"
    return re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"`\1`", text)


def _missing_file(path: str, configs: Path) -> str:
    """Packaged configurations whose path or file name resembles that of a missing file."""
    folder = f"{Path.cwd()}/"
    path = path.removeprefix(folder)
    packaged = [p.relative_to(configs).as_posix() for p in sorted(configs.rglob("*.yaml"))]
    full = path if path.endswith((".yaml", ".yml")) else f"{path}.yaml"
    by_name = [p for p in packaged if p.split("/")[-1] == full.split("/")[-1]]
    close = by_name or nearest(full, packaged)
    meant = f" Did you mean {_either(close)}?" if close else ""
    return f"{path} is neither a file here nor a packaged configuration.{meant} (`groundzoo list configs`)"


def _similar_class(path: str, where: str) -> str:
    base = BASES.get(where.split(".")[-1])
    names = sorted(subclasses(base)) if base else sorted(set().union(*(subclasses(b) for b in BASES.values())))
    close = nearest(path.split(".")[-1], names)
    if close:
        return f" Did you mean {_either(close)}?"
    return f" There are {', '.join(names)}." if base else ""


def _unknown_argument(name: str, kind: str | None, group: str | None) -> str:
    owner, names = kind or "this", []
    if kind is not None:
        module, _, owner = kind.rpartition(".")
        try:
            found = getattr(import_module(module), owner)
            if group is not None:
                found = get_type_hints(found.__init__)[group]
            names = arguments(found)
        except Exception:  # a hint only: whatever goes wrong here, the message itself must come out
            names = []
    owner = f"{owner}'s '{group}'" if group else owner
    close = nearest(name, names)
    there = f" Did you mean {_either(close)}?" if close else f" There are {', '.join(names)}." if names else ""
    return f"{owner} has no argument '{name}'.{there}"


def _similar_option(name: str, options: Iterable[str]) -> str:
    first, _, rest = name.partition(".")
    if first == "trainer":
        close = [f"trainer.{n}" for n in nearest(rest, arguments(L.Trainer))]
    else:
        close = [f"{n}.{rest}" if rest else n for n in nearest(first, options)]
    return f" Did you mean {_either(close)}?" if close else ""


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
