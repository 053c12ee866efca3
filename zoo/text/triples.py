"""What a sentence says, as (subject, verb, object, [(preposition, its object), ...]), by rules.

The form in which frame captions are summed up over a clip (Kazakos et al., Large-scale Pre-training for Grounded
Video Caption Generation, ICCV 2025, section 3.1), read from the clauses of `groundzoo.zoo.text.clauses`.

Differs from the paper: it takes a statistical tagger, and these are the rules of this package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from . import verb_lexicon as lexicon
from .clauses import Node, verb_groups
from .grammar import Tag, tag
from .verb_lexicon import verb_forms

_WORD = re.compile(r"\w+(?:-\w+)*|'\w+|[^\w\s]")
_ANY_NOUN = "thing"
_ARTICLES = ("a", "an", "the")
_PRESENT = {forms["s"]: word for word, forms in lexicon.FORMS.items() if "s" in forms} | {"be": "is"}


class Triple(NamedTuple):
    """One thing that a sentence says.

    Attributes:
        subject: noun phrase in lower case, without its article; empty where nobody is named.
        verb: base form with what belongs to it ("pick up"); "be" where a sentence has no verb of its own.
        object: noun phrase as `subject`; empty without one.
        places: prepositions and the noun phrases that follow them.
    """

    subject: str
    verb: str
    object: str
    places: tuple[tuple[str, str], ...] = ()


def noun_phrases(text: str) -> list[tuple[int, int]]:
    """(start, end) in characters of every noun phrase of a sentence, articles and adjectives included.

    A possessor and what follows "of" are phrases of their own; pronouns are none.
    """
    found = list(_WORD.finditer(text))
    tags = tag(_plain_nouns([match[0].lower() for match in found]))
    return [(found[first].start(), found[end - 1].end()) for first, end in _phrases(tags)]


def triples(text: str) -> list[Triple]:
    """What a sentence says: one triple per verb of action, else one per noun phrase that no preposition governs.

    The agent of a passive verb is its subject. Several subjects or objects are joined by "and".
    """
    words = [match[0].lower() for match in _WORD.finditer(text)]
    parsed = _plain_nouns(words)
    tags, verbs = tag(parsed), verb_groups(parsed)
    return [_of_verb(verb, words, tags) for verb in verbs] if verbs else _of_phrases(words, tags)


def third_person(verb: str) -> str:
    """A verb of a triple in the present tense, "picks up"."""
    first, _, rest = verb.partition(" ")
    return f"{_PRESENT.get(first, first + 's')} {rest}".strip()


def _plain_nouns(words: list[str]) -> list[str]:
    """Words, with nouns for what the tagger takes for verbs behind an adjective: "a white cross moves"."""
    tags = tag(words)
    plain = list(words)
    for i, word in enumerate(words):
        first = i
        while first and words[first - 1] in lexicon.ADJECTIVES:
            first -= 1
        described = first < i and first > 0 and words[first - 1] in lexicon.DETERMINERS
        if tags[i] == "VERB" and described and verb_forms(word).keys() == {"base"}:
            plain[i] = _ANY_NOUN
    return plain


def _of_verb(verb: Node, words: list[str], tags: list[Tag]) -> Triple:
    direct = [_bare(words[n.start : n.end]) for n in verb.objects if not n.governed]
    governed = [
        (_preposition(n.start, words, tags), _bare(words[n.start : n.end])) for n in verb.objects if n.governed
    ]
    subject = " and ".join(_bare(words[n.start : n.end]) for n in verb.subject)
    if verb.passive:
        agents = [thing for preposition, thing in governed if preposition == "by"]
        governed = [pair for pair in governed if pair[0] != "by"]
        return Triple(" and ".join(agents), verb.word, subject, tuple(governed))
    end = verb.end  # "moves up", "goes left", "gets bigger"
    while end < len(words) and (
        tags[end] in ("PARTICLE", "ADV")
        or (tags[end] == "ADJ" and tags[end + 1 : end + 2] not in (["NOUN"], ["ADJ"]))
    ):
        end += 1
    return Triple(subject, " ".join([verb.word, *words[verb.end : end]]), " and ".join(direct), tuple(governed))


def _of_phrases(words: list[str], tags: list[Tag]) -> list[Triple]:
    found: list[Triple] = []
    for first, end in _phrases(tags):
        thing, preposition = _bare(words[first:end]), _preposition(first, words, tags)
        if preposition and found:
            found[-1] = found[-1]._replace(places=(*found[-1].places, (preposition, thing)))
        else:
            found.append(Triple(thing, "be", ""))
    return found


def _phrases(tags: Sequence[Tag]) -> list[tuple[int, int]]:
    """(first, end) of every run of determiners, adjectives and nouns that ends in a noun."""
    found, first = [], 0
    for i, here in enumerate(tags):
        if here not in ("DET", "ADJ", "NOUN") or (here == "DET" and i > first and tags[i - 1] == "NOUN"):
            first = i if here == "DET" else i + 1
        elif here == "NOUN" and tags[i + 1 : i + 2] != ["NOUN"]:
            found.append((first, i + 1))
            first = i + 1
    return found


def _preposition(start: int, words: list[str], tags: list[Tag]) -> str:
    """The words of the preposition before a phrase, "next to"; empty if there is none."""
    first = start
    while first and tags[first - 1] == "PREP":
        first -= 1
    return " ".join(words[first:start])


def _bare(words: list[str]) -> str:
    """A noun phrase without its article."""
    return " ".join(words[1:] if words[0] in _ARTICLES and len(words) > 1 else words)
