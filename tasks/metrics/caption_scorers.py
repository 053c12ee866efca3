"""Scores of generated captions: BLEU, METEOR, ROUGE-L, CIDEr and SPICE, as pycocoevalcap computes them.

Everything here takes tokenised texts (see `ptb`), one candidate and one list of references per caption, in the
same order, and returns raw values (papers print them times 100), for the corpus and for every caption.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.rouge.rouge import Rouge

from .ptb import JavaError, carried, java, one_line, run_java

Score = Literal["BLEU", "METEOR", "ROUGE_L", "CIDEr", "SPICE"]
Texts = Sequence[str]
References = Sequence[Sequence[str]]
NGram = tuple[str, ...]

METEOR_WORDS = 500
"""METEOR's time grows with the product of the two lengths (1500 words: ten seconds); it sees no more words."""
METEOR_REMEMBERED = 50_000
"""Pairs of a caption and its references whose alignment a process keeps; then it begins anew."""


def _check(candidates: Texts, references: References) -> None:
    if not candidates:
        raise ValueError("there are no captions to score")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions but references for {len(references)}")
    bare = [i for i, refs in enumerate(references) if isinstance(refs, str) or not refs]
    if bare:
        raise ValueError(f"caption {bare[0]} has no list of references ({len(bare)} such captions)")


def bleu(candidates: Texts, references: References) -> tuple[list[float], list[list[float]]]:
    """BLEU-1 to BLEU-4 with the closest reference length.

    Returns:
        The four of the corpus, and four for every caption; 0 to 1.
    """
    _check(candidates, references)
    scorer = BleuScorer(n=4)
    for candidate, refs in zip(candidates, references, strict=True):
        scorer += (candidate, list(refs))
    corpus, columns = scorer.compute_score(option="closest", verbose=0)
    return corpus, [list(row) for row in zip(*columns, strict=True)]


def rouge_l(candidates: Texts, references: References) -> tuple[float, list[float]]:
    """ROUGE-L (beta 1.2), 0 to 1: mean, and one for every caption."""
    _check(candidates, references)
    scorer, known = Rouge(), {}
    values = []
    for pair in zip(candidates, map(tuple, references), strict=True):
        if pair not in known:
            known[pair] = float(scorer.calc_score([pair[0]], pair[1]))
        values.append(known[pair])
    return _mean(values), values


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# ---- CIDEr ----------------------------------------------------------------------------------------------


class DocumentFrequencies(NamedTuple):
    """In how many documents (a document = all references of one caption) every n-gram occurs."""

    counts: Mapping[NGram, int]
    documents: int


def _ngrams(text: str) -> list[Counter[NGram]]:
    words = text.split()
    return [Counter(zip(*(words[k:] for k in range(n)), strict=False)) for n in range(1, 5)]


def _frequencies(documents: Sequence[Sequence[list[Counter[NGram]]]]) -> DocumentFrequencies:
    counts: Counter[NGram] = Counter()
    for document in documents:
        counts.update(set().union(*(counter for grams in document for counter in grams)))
    return DocumentFrequencies(counts, len(documents))


def document_frequencies(references: References) -> DocumentFrequencies:
    """Frequencies of a corpus, to score other captions against (rewards use those of the training split)."""
    return _frequencies([[_ngrams(text) for text in refs] for refs in references])


class Cider:
    """CIDEr (Vedantam et al., CVPR 2015) of repeated candidates against fixed references.

    The clipped form with a Gaussian length penalty (sigma 6) that pycocoevalcap computes; both lengths are numbers
    of bigrams there, and here. n-grams of the references and their norms are computed once.

    Args:
        references: one list per caption.
        frequencies: document frequencies; None takes those of `references`. With the references of one caption
            alone every score is 0, because every n-gram is in every document.

    Raises:
        ValueError: no references, or frequencies that exceed the number of documents.
    """

    def __init__(self, references: References, frequencies: DocumentFrequencies | None = None) -> None:
        _check([""] * len(references), references)
        documents = [[_ngrams(text) for text in refs] for refs in references]
        counts, size = frequencies or _frequencies(documents)
        if size < max(counts.values(), default=1):
            raise ValueError(f"an n-gram occurs in {max(counts.values())} of {size} documents")
        total = math.log(size)
        self._unseen = total**2
        squares = {count: (total - math.log(max(1, count))) ** 2 for count in set(counts.values())}
        self._idf2 = {gram: squares[count] for gram, count in counts.items()}
        self._documents = [
            [(grams, [self._norm(counter) for counter in grams], grams[1].total()) for grams in document]
            for document in documents
        ]

    def _norm(self, counter: Counter[NGram]) -> float:
        known, unseen = self._idf2.get, self._unseen
        return math.sqrt(sum([n * n * known(gram, unseen) for gram, n in counter.items()]))

    def score(self, candidates: Texts, items: Sequence[int] | None = None) -> list[float]:
        """Scores of candidates, 0 to 10.

        Args:
            candidates: tokenised texts.
            items: the position, in the references given at construction, of every candidate's references; None =
                one candidate for each, in order.
        """
        items = range(len(self._documents)) if items is None else items
        pairs = zip(candidates, items, strict=True)
        return [self._one(_ngrams(text), self._documents[item]) for text, item in pairs]

    def _one(
        self, grams: list[Counter[NGram]], document: list[tuple[list[Counter[NGram]], list[float], int]]
    ) -> float:
        idf2, unseen = self._idf2, self._unseen
        weights = [[(gram, n, idf2.get(gram, unseen)) for gram, n in counter.items()] for counter in grams]
        norms = [math.sqrt(sum(n * n * w for _, n, w in column)) for column in weights]
        length = grams[1].total()
        score = 0.0
        for theirs, their_norms, their_length in document:
            cosines = 0.0
            for column, norm, counter, their_norm in zip(weights, norms, theirs, their_norms, strict=True):
                if norm and their_norm:
                    product = 0.0
                    for gram, n, w in column:
                        if gram in counter:
                            m = counter[gram]
                            product += (n if n < m else m) * m * w
                    cosines += product / (norm * their_norm)
            score += cosines * math.exp(-((length - their_length) ** 2) / 72)
        return score / len(document) * 10 / 4


def cider(
    candidates: Texts, references: References, frequencies: DocumentFrequencies | None = None
) -> tuple[float, list[float]]:
    """CIDEr, 0 to 10: mean, and one for every caption (see `Cider`)."""
    _check(candidates, references)
    values = Cider(references, frequencies).score(candidates)
    return _mean(values), values


# ---- METEOR and SPICE: Java programs --------------------------------------------------------------------


class Meteor:
    """A METEOR 1.5 process, to be used in a ``with`` block, which ends it; equal pairs are aligned once.

    Args:
        timeout_s: for one answer; the first one loads METEOR's tables (5 s).

    Raises:
        JavaError: no Java, or the process failed, or an answer took longer; from the constructor or `score`.
    """

    def __init__(self, timeout_s: float = 120) -> None:
        jar = carried("meteor", "meteor-1.5.jar")
        command = [
            java(),
            "-Dfile.encoding=UTF-8",
            "-Xmx2G",
            "-jar",
            str(jar),
            "-",
            "-",
            "-stdio",
            "-l",
            "en",
            "-norm",
        ]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, cwd=jar.parent, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise JavaError(f"METEOR did not start: {error}") from error
        self._timeout_s = timeout_s
        self._deadline = math.inf
        self._late = False
        self._said = b""
        self._statistics: dict[str, str] = {}
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._watch, self._listen)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was not yet sent
                continue

    def _watch(self) -> None:
        """Kill the process when an answer is late, so that reading and writing end."""
        while self._process.poll() is None:
            if time.monotonic() > self._deadline:
                self._late = True
                self._process.kill()
            time.sleep(0.05)

    def _listen(self) -> None:
        """Keep the error stream empty, and remember its end."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = line or self._said

    def _ask(self, line: str, answers: int) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._deadline = time.monotonic() + self._timeout_s
        found: list[str] = []
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            while len(found) < answers:
                answer = self._process.stdout.readline().decode(errors="replace").strip()
                if not re.fullmatch(r"[-+.\d NaEe]+", answer):
                    break
                found.append(answer)
        except OSError:
            answer = ""
        self._deadline = math.inf
        if self._late:
            raise JavaError(f"METEOR did not answer within {self._timeout_s:g} s")
        if answer and len(found) < answers:
            raise JavaError(f"METEOR answered {answer!r} instead of a number")
        if len(found) < answers:
            status = self._process.wait()
            self._threads[1].join(self._timeout_s)  # until all that was said is read
            said = self._said.decode(errors="replace").strip()
            raise JavaError(f"METEOR's process ended with exit status {status}: {said}")
        return found

    def score(self, candidates: Texts, references: References) -> tuple[float, list[float]]:
        """METEOR, 0 to 1: of the corpus (from summed statistics, not the mean), and one for every caption."""
        _check(candidates, references)
        statistics = []
        for candidate, refs in zip(candidates, references, strict=True):
            line = " ||| ".join(["SCORE", *map(_safe, refs), _safe(candidate)])
            if line not in self._statistics:
                if len(self._statistics) >= METEOR_REMEMBERED:
                    self._statistics.clear()
                self._statistics[line] = self._ask(line, 1)[0]
            statistics.append(self._statistics[line])
        *values, corpus = map(float, self._ask(" ||| ".join(["EVAL", *statistics]), len(candidates) + 1))
        return corpus, values


def _safe(text: str) -> str:
    """The text as one field of METEOR's protocol, which knows lines and ``|||``."""
    return " ".join(re.sub(r"\|\|+", " ", one_line(text)).split()[:METEOR_WORDS])


def meteor(candidates: Texts, references: References, timeout_s: float = 120) -> tuple[float, list[float]]:
    """METEOR 1.5 of one corpus (see `Meteor`).

    Raises:
        JavaError: no Java, or it failed.
    """
    with Meteor(timeout_s) as process:
        return process.score(candidates, references)


def spice(candidates: Texts, references: References, timeout_s: float = 7200) -> tuple[float, list[float]]:
    """SPICE, 0 to 1: mean, and one for every caption (NaN where neither text names anything).

    Raises:
        JavaError: no Java, not the language models that SPICE needs, or it failed.
    """
    _check(candidates, references)
    java()
    jar = carried("spice", "spice-1.0.jar")
    library = jar.parent / "lib"
    missing = [f"stanford-corenlp-3.6.0{part}.jar" for part in ("", "-models")]
    missing = [name for name in missing if not (library / name).exists()]
    if missing:
        raise JavaError(
            f"SPICE needs {' and '.join(missing)} in {library}: take them from "
            "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
        )
    rows = [
        {"image_id": i, "test": one_line(candidate), "refs": [one_line(text) for text in refs]}
        for i, (candidate, refs) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "in.json"), Path(folder, "out.json")
        given.write_text(json.dumps(rows))
        run_java(
            ("-Xmx8G", "-jar", str(jar), str(given), "-out", str(found), "-silent"), timeout_s, folder=jar.parent
        )
        try:
            scores = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(found.read_text())}
            values = [math.nan if scores[i] is None else float(scores[i]) for i in range(len(rows))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JavaError(f"SPICE left no readable result: {error!r}") from error
    return _mean(values), values


# ---- several corpora at once ----------------------------------------------------------------------------

Group = tuple[Texts, References]


def _meteors(groups: Sequence[Group]) -> list[float]:
    with Meteor() as process:
        return [process.score(*group)[0] for group in groups]


def _spices(groups: Sequence[Group]) -> list[float]:
    pairs = [[(c, tuple(refs)) for c, refs in zip(*group, strict=True)] for group in groups]
    distinct = list(dict.fromkeys(pair for group in pairs for pair in group))
    values = spice([c for c, _ in distinct], [refs for _, refs in distinct])[1]
    known = dict(zip(distinct, values, strict=True))
    return [_mean([known[pair] for pair in group]) for group in pairs]


_SINGLE: dict[Score, Callable[[Sequence[Group]], list[float]]] = {
    "METEOR": _meteors,
    "ROUGE_L": lambda groups: [rouge_l(*group)[0] for group in groups],
    "CIDEr": lambda groups: [cider(*group)[0] for group in groups],
    "SPICE": _spices,
}


def corpus_scores(
    groups: Sequence[Group], scores: Sequence[Score]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Scores of several corpora, each on its own; every Java program is started once for all of them.

    Returns:
        Raw values by name ("BLEU1" ... "BLEU4" for BLEU), one per group; and, for scores that could not be
        computed here, the reason.
    """
    values: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for score in scores:
        if score == "BLEU":
            rows = [bleu(*group)[0] for group in groups]
            values |= {f"BLEU{n + 1}": [row[n] for row in rows] for n in range(4)}
            continue
        try:
            values[score] = _SINGLE[score](groups)
        except JavaError as error:
            absent[score] = str(error)
    return values, absent
