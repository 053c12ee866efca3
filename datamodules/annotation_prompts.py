"""What language models are asked when frame captions become a clip's annotation, and how their answers are read.

Two questions (Kazakos et al., ICCV 2025, section 3.1 and appendices): one sentence about a clip from what is said
of its frames, and which phrase of that sentence a phrase of a frame means. Each is a system's turn with the forms
of input and answer, worked examples, and the new input, all as Python dictionaries.

Differs from the paper: the structure is that of the paper, the words and examples are our own.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..zoo.chat import Chat, Message
from ..zoo.text.grammar import noun_heads
from ..zoo.text.grounded_text import GroundedText
from ..zoo.text.lemmas import lemma
from ..zoo.text.tagged_text import read_tagged
from ..zoo.text.triples import Triple, third_person
from ..zoo.text.verb_lexicon import DETERMINERS, PRONOUNS

NONE = "None"
FRAMES, CAPTION, PHRASE, CATEGORIES, CATEGORY = "FRAMES", "CAPTION", "PHRASE", "CATEGORIES", "CATEGORY"
MOST_WORDS = 60  # of a caption: longer answers are talk

_SUMMARY = """You turn notes about single frames of a short video into one sentence about the whole video.

Input: a dictionary {'FRAMES': [...]} with one entry per frame, in the order of time. %s
Answer: a dictionary {'CAPTION': '...'} and nothing else.

Rules:
- Write a single sentence in the present tense that tells the main actions. Leave out what only a few frames \
mention: the notes contain mistakes, and name the same thing by different words.
- Notes describe still pictures. Where they differ from frame to frame, tell the movement or change that explains \
it.
- Put <p> and </p> around the words for the person and for the thing that is mentioned most often. If there is no \
person, put them around the two things that are mentioned most often.
- Tag each person or thing once."""

_OF_TRIPLES = (
    "A frame is a list of (subject, verb, object, [(preposition, thing), ...]); parts may be empty strings."
)
_OF_TEXTS = "A frame is a sentence."

_SUMMARY_EXAMPLES: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (
        (
            [("gardener", "hold", "watering can", [("in", "hand")])],
            [("woman", "pour", "water", [("on", "tomato plant")])],
            [("woman", "water", "tomato plant", [("with", "can")]), ("hose", "be", "", [("on", "grass")])],
        ),
        (
            "a gardener holds a watering can in her hand",
            "a woman pours water on a tomato plant",
            "a woman waters a tomato plant with a can and a hose is on the grass",
        ),
        "<p>A woman</p> waters a tomato plant with <p>a watering can</p>.",
    ),
    (
        (
            [("sander", "be", "", [("on", "board")])],
            [("electric sander", "touch", "wooden board", [])],
            [("sander", "be", "", [("on", "plank"), ("next to", "ruler")])],
        ),
        (
            "a sander on a board",
            "an electric sander touches a wooden board",
            "a sander on a plank next to a ruler",
        ),
        "<p>An electric sander</p> moves over <p>a wooden board</p>.",
    ),
)

_CLASSIFY = """You decide which of some phrases means the same thing in a video as a given phrase.

Input: a dictionary {'PHRASE': '...', 'CATEGORIES': ['...', ...]}: a phrase from the description of one frame, \
and the phrases of the description of the whole video.
Answer: a dictionary {'CATEGORY': '...'} with one of the categories, word for word, or 'None' if no category \
means that thing. Nothing else.

Rules:
- Different words for one thing belong together.
- Never put a person into the category of a thing, nor a thing into the category of a person. Parts of a body and \
clothes are things."""

_CLASSIFY_EXAMPLES = (
    ("a lady", ("a woman", "a watering can"), "a woman"),
    ("the metal jug", ("a woman", "a watering can"), "a watering can"),
    ("a green sleeve", ("a woman", "a watering can"), NONE),
    ("the tool", ("an electric sander", "a wooden board"), "an electric sander"),
    ("the carpenter's hand", ("an electric sander", "a wooden board"), NONE),
)

REMINDER = (
    "That could not be read. Answer again, with nothing but a dictionary of the form {form}: no explanation, no "
    "other words before or after it.{more}"
)


# ---- questions ------------------------------------------------------------------------------------------


def caption_chat(frames: Sequence[Sequence[Triple]] | Sequence[str]) -> list[Message]:
    """Ask for a sentence about a clip.

    Args:
        frames: what is said of each frame: triples, or sentences.
    """
    texts = bool(frames) and isinstance(frames[0], str)
    turns = [Message("system", _SUMMARY % (_OF_TEXTS if texts else _OF_TRIPLES))]
    for notes, sentences, caption in _SUMMARY_EXAMPLES:
        turns += [
            Message("user", repr({FRAMES: list(sentences if texts else notes)})),
            Message("assistant", repr({CAPTION: caption})),
        ]
    entries = [frame if isinstance(frame, str) else [_plain(t) for t in frame] for frame in frames]
    return [*turns, Message("user", repr({FRAMES: entries}))]


def category_chat(phrase: str, categories: Sequence[str]) -> list[Message]:
    """Ask which phrase of a clip's sentence means the same as a frame's phrase."""
    turns = [Message("system", _CLASSIFY)]
    for given, among, answer in _CLASSIFY_EXAMPLES:
        turns += [
            Message("user", repr({PHRASE: given, CATEGORIES: list(among)})),
            Message("assistant", repr({CATEGORY: answer})),
        ]
    return [*turns, Message("user", repr({PHRASE: phrase, CATEGORIES: list(categories)}))]


def caption_again(chat: Chat, answer: str) -> list[Message]:
    """Ask more strictly, after an answer that could not be read."""
    return _again(chat, answer, CAPTION, " At least one phrase of the sentence has <p> and </p> around it.")


def category_again(chat: Chat, answer: str) -> list[Message]:
    """Ask more strictly, after an answer that could not be read."""
    return _again(
        chat, answer, CATEGORY, f" The value is one of the given categories, word for word, or '{NONE}'."
    )


def _again(chat: Chat, answer: str, key: str, more: str) -> list[Message]:
    reminder = REMINDER.format(form=repr({key: "..."}), more=more)
    return [*chat, Message("assistant", answer or "..."), Message("user", reminder)]


def _plain(triple: Triple) -> tuple[str, str, str, list[tuple[str, str]]]:
    return triple.subject, triple.verb, triple.object, list(triple.places)


# ---- answers --------------------------------------------------------------------------------------------


def read_caption(answer: str) -> GroundedText | None:
    """The sentence of an answer with its tagged phrases, in lower case; None if there is none of use.

    Read are a dictionary as Python or JSON writes it, with talk around it or without quotation marks, and a bare
    sentence.
    """
    value = _value(answer, CAPTION)
    if value is None and "<p>" in answer:  # a bare sentence, in the line that has the tags
        value = next(line for line in answer.splitlines() if "<p>" in line)
    if not isinstance(value, str):
        return None
    caption = read_tagged(" ".join(value.split()))
    return caption if caption.spans and len(caption.text.split()) <= MOST_WORDS else None


def read_category(answer: str, categories: Sequence[str]) -> str | None:
    """The category of an answer, `NONE` for none of them; None if the answer cannot be read."""
    value = _value(answer, CATEGORY)
    value = answer if value is None else value
    known = {_key(category): category for category in categories} | {_key(NONE): NONE}
    if _key(value) in known:
        return known[_key(value)]
    if len(value.split()) > MOST_WORDS:
        return None
    named = [k for k in known if k and re.search(rf"\b{re.escape(k)}\b", value.lower())]
    named = [k for k in named if not any(k != other and k in other for other in named)]  # "cup" of "coffee cup"
    return known[named[0]] if len(named) == 1 else None


def _value(answer: str, key: str) -> str | None:
    """What a dictionary in an answer has for a key; None where there is no such thing."""
    inner = answer[answer.find("{") : answer.rfind("}") + 1]
    for read in (ast.literal_eval, json.loads):
        try:
            value: Any = read(inner)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        found = {str(k).strip().upper(): v for k, v in value.items()} if isinstance(value, dict) else {}
        if key in found:
            return str(found[key])
    match = re.search(rf"{key}['\"]?\s*:\s*['\"]?(.*?)['\"]?\s*(?:}}|$)", answer, re.IGNORECASE | re.MULTILINE)
    return match[1] if match else None


def _key(phrase: str) -> str:
    """A phrase without case, article, quotation marks and full stop."""
    words = re.sub(r"[\"'`{}.]", " ", phrase.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


# ---- without an answer ----------------------------------------------------------------------------------


def caption_from(frames: Sequence[Sequence[Triple]]) -> GroundedText | None:
    """The most frequent triple as a sentence, for clips whose answers cannot be read; None if there is none."""
    counts = Counter(t for frame in frames for t in frame if t.subject or t.object)
    if not counts:
        return None
    subject, verb, thing, places = counts.most_common(1)[0][0]  # of equal ones, the first that is said
    parts = [_tagged(subject) if subject else "someone", third_person(verb)]
    parts += [_tagged(thing)] if thing else []
    for number, (preposition, place) in enumerate(places):
        parts += [preposition, _the(place) if thing or number else _tagged(place)]
    return read_tagged(f"{' '.join(parts)}.")


def category_from(phrase: str, categories: Sequence[str]) -> str:
    """The one category with the phrase's head noun, else `NONE`."""
    alike = [category for category in categories if _head(category) == _head(phrase)]
    return alike[0] if len(alike) == 1 else NONE


def _head(phrase: str) -> str:
    words = phrase.lower().split()
    heads = noun_heads(words)
    return lemma(words[heads[0]]) if heads else phrase.lower()


def _the(phrase: str) -> str:
    first = phrase.split(" ", 1)[0]
    return phrase if first in DETERMINERS | PRONOUNS else f"the {phrase}"


def _tagged(phrase: str) -> str:
    return f"<p>{_the(phrase)}</p>"
