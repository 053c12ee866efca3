"""Semantic concepts: the most frequent content words of captions, and which of them sentences name.

SA-TSP (Wang et al., 2021, section 1.1) takes the nouns, verbs, adjectives and adverbs that are most frequent in
ActivityNet Captions, and learns to see them in clips.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..zoo.text.lemmas import lemma
from ..zoo.text.word_lstm import tokenize
from .annotations import AnnotationError, read_json, read_moments_json
from .shards import write_json

Kind = Literal["noun", "verb", "adjective", "adverb"]
Tagger = Literal["pattern", "rules"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PENN: dict[str, Kind] = {"NN": "noun", "VB": "verb", "JJ": "adjective", "RB": "adverb"}  # first letters of the tag
RULES: dict[str, Kind] = {"NOUN": "noun", "VERB": "verb", "ADJ": "adjective", "ADV": "adverb"}
STOP = ("be", "have", "do", "not", "n't")  # frequent in all sentences, and nothing that a clip shows
FORMAT = 1


@dataclass(frozen=True)
class Concept:
    """A word, or the lemma of several, and what is known of it.

    Attributes:
        word: lower case.
        count: how often it or its forms occur in the sentences; 0 = not counted.
        kind: its most frequent word class; None = unknown.
        forms: the words that stand for it.
    """

    word: str
    count: int
    kind: Kind | None
    forms: tuple[str, ...]


class ConceptVocabulary:
    """The concepts that clips are labelled with, in the order of their frequency.

    Args:
        concepts: no word, and no form, belongs to two of them.
        sentences: how many they were counted in.
        provenance: how they were made, JSON-ready.

    Raises:
        ValueError: no concept, one that no sentence can name (blanks, capitals), or one form of two concepts.
    """

    def __init__(
        self, concepts: Sequence[Concept], sentences: int = 0, provenance: Mapping[str, Any] | None = None
    ) -> None:
        if not concepts:
            raise ValueError("there is not one concept")
        self.concepts = list(concepts)
        self.sentences = sentences
        self.provenance = dict(provenance or {})
        self._index: dict[str, int] = {}
        for number, concept in enumerate(self.concepts):
            for form in concept.forms:
                if form.split() != [form.lower()]:
                    raise ValueError(f"{form!r} names no concept: one word in lower case is expected")
                if form in self._index:
                    other = self.concepts[self._index[form]].word
                    raise ValueError(f"{form!r} names two concepts, {other!r} and {concept.word!r}")
                self._index[form] = number

    @property
    def words(self) -> list[str]:
        """The N concepts; the place of each is its place in `labels`."""
        return [concept.word for concept in self.concepts]

    @classmethod
    def fitted(
        cls,
        sentences: Iterable[str],
        size: int = 1000,
        tagger: Tagger = "pattern",
        stop: Collection[str] = STOP,
        kinds: Sequence[Kind] = KINDS,
        lemmas: bool = False,
    ) -> ConceptVocabulary:
        """The most frequent content words; of equally frequent ones, those that appear first.

        A word has one kind, that of its most frequent tag, and all its occurrences count.

        Args:
            sentences: captions; empty ones do not count.
            size: most concepts, N.
            tagger: `pattern` is textblob's lexicon, `rules` our own.
            stop: words that are no concepts, in any form: `have` stands for has, had, having, too.
            kinds: word classes to take.
            lemmas: forms of a noun or verb are one concept.

        Raises:
            ValueError: `size` is not positive, the tagger is not installed, or no word is left.
        """
        if size < 1:
            raise ValueError(f"the number of concepts must be positive, not {size}")
        tag, made_by = _tagger(tagger)
        tags: defaultdict[str, Counter[Kind | None]] = defaultdict(Counter)
        count = 0
        for tokens in filter(None, map(tokenize, sentences)):
            count += 1
            for word, kind in zip(tokens, tag(tokens), strict=True):
                tags[word][kind] += 1
        stopped = frozenset(stop)
        found: defaultdict[str, Counter[tuple[str, Kind]]] = defaultdict(Counter)
        for word, by_kind in tags.items():
            kind = by_kind.most_common(1)[0][0]
            if kind is None or kind not in kinds or not any(map(str.isalpha, word)):
                continue
            base = lemma(word, verb=kind == "verb") if kind in ("noun", "verb") else word
            if not stopped & {word, base}:
                found[base if lemmas else word][word, kind] += by_kind.total()
        ranked = sorted(found.items(), key=lambda item: -item[1].total())  # stable: first come, first served
        if not ranked:
            raise ValueError(f"{count} sentences have no {', '.join(kinds)} that is not stopped: nothing to learn")
        settings = {"stop": sorted(stopped), "kinds": list(kinds), "lemmas": lemmas, "size": size}
        concepts = [
            Concept(word, forms.total(), _kind(forms), tuple(form for form, _ in forms))
            for word, forms in ranked[:size]
        ]
        return cls(concepts, count, {"groundzoo": __version__, "tagger": tagger, **made_by, **settings})

    @classmethod
    def read(cls, path: str | Path) -> ConceptVocabulary:
        """Read a file of `write`, or a bare JSON list of words.

        Raises:
            AnnotationError: the file is missing or holds something else; names it.
        """
        path = Path(path)
        if not path.is_file():
            raise AnnotationError(f"{path} does not exist; `groundzoo concepts` makes such a file from captions")
        stored = read_json(path)
        try:
            if not isinstance(stored, list | dict):
                raise TypeError(f"it holds a {type(stored).__name__}")
            if isinstance(stored, list):
                return cls([_concept({"word": word}) for word in stored])
            if stored["version"] != FORMAT:
                raise ValueError(f"version {stored['version']}, this program reads {FORMAT}: make it anew")
            concepts = [_concept(entry) for entry in stored["words"]]
            return cls(concepts, stored["sentences"], stored["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise AnnotationError(f"{path} is no vocabulary of concepts: {reason}") from error

    def write(self, path: str | Path) -> None:
        """Write a JSON file that `read` reads; readers see the old one or the whole new one."""
        path = Path(path)
        words = []
        for concept in self.concepts:
            forms = {} if concept.forms == (concept.word,) else {"forms": list(concept.forms)}
            words.append({"word": concept.word, "count": concept.count, "kind": concept.kind, **forms})
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {"sentences": self.sentences, "provenance": self.provenance}
        write_json(path, {"version": FORMAT, "words": words, **made})

    def labels(self, sentences: Iterable[str]) -> NDArray[np.bool_]:
        """Which concepts are named in any of the sentences ``(N,)``; no tagger is needed."""
        named = np.zeros(len(self.concepts), dtype=np.bool_)
        for sentence in sentences:
            for word in tokenize(sentence):
                if (number := self._index.get(word)) is not None:
                    named[number] = True
        return named


def count_concepts(
    captions: Sequence[str | Path], out: str | Path, stop: str | None = None, **settings: Any
) -> ConceptVocabulary:
    """Make a vocabulary of concepts from files of ActivityNet Captions, and write it.

    Args:
        captions: JSON files ``{video: {duration, timestamps, sentences}}``.
        out: the JSON file to write.
        stop: words separated by commas, a text file of words, or `none`; None = `STOP`.
        settings: others of `ConceptVocabulary.fitted`.

    Raises:
        AnnotationError: a file is missing or holds no captions; names file and video.
        ValueError: see `ConceptVocabulary.fitted`; `out` is a folder; `stop` is neither words nor a file.
    """
    if Path(out).is_dir():
        raise ValueError(f"{out} is a folder; name the JSON file to write")
    paths = [Path(path) for path in captions]
    sentences = [query.text for path in paths for query in read_moments_json(path)]
    if not any(sentences):
        raise AnnotationError(f"there are no sentences in {', '.join(map(str, paths))}")
    vocabulary = ConceptVocabulary.fitted(sentences, stop=_stop_words(stop), **settings)
    vocabulary.provenance = {"files": {str(path): _sha256(path) for path in paths}} | vocabulary.provenance
    vocabulary.write(out)
    return vocabulary


def account(vocabulary: ConceptVocabulary, first: int = 20) -> str:
    """Numbers of a vocabulary in one line, and its first words in another."""
    kinds = Counter(concept.kind for concept in vocabulary.concepts)
    mix = ", ".join(f"{kinds[kind]} {kind}s" for kind in KINDS if kinds[kind])
    rarest = vocabulary.concepts[-1]
    return (
        f"{len(vocabulary.concepts)} concepts from {vocabulary.sentences} sentences: {mix}; the rarest, "
        f"'{rarest.word}', occurs {rarest.count} times\n{' '.join(vocabulary.words[:first])}"
    )


def _tagger(name: Tagger) -> tuple[Callable[[Sequence[str]], list[Kind | None]], dict[str, str]]:
    """What gives the tokens of a sentence their kinds, None = no content word; and the version of its package."""
    if name == "rules":
        from ..zoo.text.grammar import tag as tag_by_rules

        return lambda tokens: [RULES.get(tag) for tag in tag_by_rules(tokens)], {}
    try:
        from textblob.en.taggers import PatternTagger  # others of textblob need data of nltk
    except ImportError as error:
        raise ValueError(
            "the tagger 'pattern' is part of textblob, which is not installed: `pip install textblob`, or take "
            "the tagger 'rules', which needs nothing"
        ) from error
    pattern = PatternTagger()

    def tag(tokens: Sequence[str]) -> list[Kind | None]:
        return [PENN.get(tag[:2]) for _, tag in pattern.tag(" ".join(tokens), tokenize=False)]

    return tag, {"textblob": version("textblob")}


def _kind(forms: Counter[tuple[str, Kind]]) -> Kind:
    """The kind that most occurrences of a concept's forms have."""
    kinds: Counter[Kind] = Counter()
    for (_, kind), count in forms.items():
        kinds[kind] += count
    return kinds.most_common(1)[0][0]


def _concept(entry: Mapping[str, Any]) -> Concept:
    word, forms = entry["word"], entry.get("forms", [entry["word"]])
    if not all(isinstance(text, str) for text in (word, *forms)):
        raise TypeError(f"{entry!r} is no word")
    return Concept(word, int(entry.get("count", 0)), entry.get("kind"), tuple(forms))


def _stop_words(stop: str | None) -> Collection[str]:
    """Words of the option `stop`, lower case."""
    if stop is None or stop == "none":
        return STOP if stop is None else ()
    if Path(stop).is_file():
        return Path(stop).read_text(encoding="utf-8").lower().split()
    words = [word.strip().lower() for word in stop.split(",")]
    if not all(words) or any(character in word for word in words for character in "/\\. "):
        raise ValueError(f"the stop list {stop!r} is neither words separated by commas, nor a file, nor 'none'")
    return words


def _sha256(path: Path) -> str:
    """Of the file that `read_json` reads."""
    return hashlib.sha256((path if path.exists() else path.with_name(f"{path.name}.gz")).read_bytes()).hexdigest()
