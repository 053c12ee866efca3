"""One sentence per event from the sentences of several captioners (SA-TSP, arXiv 2204.07449, section 1.3).

As a command it joins the ``predictions.jsonl`` of runs that told the same events, writes the sentences chosen and
beside them a submission in ActivityNet's format, and scores them where references are given::

    python -m groundzoo.tasks.ensemble RUN_A/predictions.jsonl RUN_B/predictions.jsonl --concepts concepts.json
        --captions train.json --out ensemble.jsonl --references val_1.json val_2.json
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .metrics.caption_scorers import Score
from .metrics.dense_captions import DenseCaptionScores, submission
from .metrics.ptb import simple_tokens
from .metrics.records import Record
from .run_folder import write_atomically

Event = tuple[str, float, float | None]


class EnsembleRule:
    """Prefers the sentence with the most distinct concepts, then the one with the rarest word, then the first.

    The report names the two criteria, not their order; this order is ours. Both favour long sentences.

    Args:
        concepts: words, as sentences hold them; or, where several forms are one concept, the concept of each form.
        documents: sentences of the training split. The IDF of a word is ln(documents / documents with the word); a
            word that no document holds does not count.
        by_concepts: use the first criterion.
        by_idf: use the second.

    Raises:
        ValueError: no criterion, or one that is used lacks its words or documents.
    """

    def __init__(
        self,
        concepts: Iterable[str] | Mapping[str, str],
        documents: Iterable[str],
        by_concepts: bool = True,
        by_idf: bool = True,
    ) -> None:
        self.by_concepts, self.by_idf = by_concepts, by_idf
        concept_of = concepts if isinstance(concepts, Mapping) else {word: word for word in concepts}
        self.concept_of = {form.lower(): concept.lower() for form, concept in concept_of.items()}
        words = [set(simple_tokens(text).split()) for text in documents]
        self.idf = {word: math.log(len(words) / n) for word, n in Counter(w for d in words for w in d).items()}
        if not by_concepts and not by_idf:
            raise ValueError("by_concepts and by_idf are both off: a rule needs one of them")
        if by_concepts and not self.concept_of:
            raise ValueError("the list of concepts is empty")
        if by_idf and not self.idf:
            raise ValueError("the documents hold no words")

    def scores(self, candidate: str) -> tuple[int, float]:
        """Number of distinct concepts in a sentence, and the greatest IDF of its words; 0 of none."""
        words = set(simple_tokens(candidate).split())
        concepts = {self.concept_of[word] for word in words if word in self.concept_of}
        return len(concepts), max((self.idf[word] for word in words if word in self.idf), default=0.0)

    def choose(self, candidates: Sequence[str]) -> int:
        """Position of the sentence to keep.

        Raises:
            ValueError: there is none.
        """
        if not candidates:
            raise ValueError("there is no sentence to choose from")
        scores = [self.scores(candidate) for candidate in candidates]
        keys = [(self.by_concepts * concepts, self.by_idf * idf) for concepts, idf in scores]
        return keys.index(max(keys))


def combine(predictions: Sequence[Sequence[Record]], rule: EnsembleRule) -> list[Record]:
    """Choose one sentence for every event.

    Args:
        predictions: per run its records, of which "video", "start_s", "end_s" and "caption" are read. Every run
            tells the same events, in any order; where several have the same times, the first of one run belongs
            to the first of the others.
        rule: chooses.

    Returns:
        The records chosen, in the order of the first run, each with "run", its run counted from 0.

    Raises:
        ValueError: no run, or runs that tell different events; names run, video and times.
    """
    if not predictions:
        raise ValueError("there are no predictions to combine")
    runs = [_by_event(records) for records in predictions]
    for number, run in enumerate(runs[1:], start=1):
        for event in [*runs[0], *run]:
            here, there = len(runs[0].get(event, ())), len(run.get(event, ()))
            if here != there:
                video, start, end = event
                raise ValueError(
                    f"{video}, {start} to {end} s: run 0 tells this event {here} times, run {number} "
                    f"{there} times; an ensemble needs runs that told the same events"
                )
    chosen, told = [], Counter[Event]()
    for record in predictions[0]:
        event = _event(record)
        candidates = [run[event][told[event]] for run in runs]
        told[event] += 1
        best = rule.choose([str(candidate["caption"]) for candidate in candidates])
        chosen.append(candidates[best] | {"run": best})
    return chosen


def _event(record: Record) -> Event:
    return record["video"], record["start_s"], record["end_s"]


def _by_event(records: Sequence[Record]) -> dict[Event, list[Record]]:
    found: dict[Event, list[Record]] = defaultdict(list)
    for record in records:
        found[_event(record)].append(record)
    return dict(found)


# ---- the command ----------------------------------------------------------------------------------------


def read_predictions(path: Path) -> list[Record]:
    """Records of a ``predictions.jsonl``.

    Raises:
        ValueError: a line is no record of a told event; names file and line.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            _event(record), record["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}, line {number}: needs "video", "start_s", "end_s" and "caption" ({error!r})'
            ) from error
        records.append(record)
    return records


def read_concepts(path: Path) -> dict[str, str]:
    """Concept of each form, from a JSON file: a list of words, or what `groundzoo concepts` writes.

    That is ``{"words": [{"word": "man", "forms": ["man", "men"], ...}, ...]}``; without forms, the word alone.

    Raises:
        ValueError: neither of the two; names the file.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(given, list):
            return {str(word): str(word) for word in given}
        return {form: entry["word"] for entry in given["words"] for form in entry.get("forms", [entry["word"]])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: not concepts, a list of words or {{"words": [...]}} ({error!r})') from error


def _read_captions(path: Path) -> dict[str, dict[str, Any]]:
    """Annotations in ActivityNet Captions' format."""
    try:
        annotations: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for video, entry in annotations.items():
            if not isinstance(entry["sentences"], list) or not isinstance(entry["timestamps"], list):
                raise TypeError(f"{video}: sentences and timestamps are lists")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: not ActivityNet Captions, video: {{"timestamps": [...], "sentences": [...]}} ({error!r})'
        ) from error
    return annotations


def read_rule(concepts: Path, captions: Path, by_concepts: bool = True, by_idf: bool = True) -> EnsembleRule:
    """The rule of a file of concepts (`read_concepts`) and one in ActivityNet Captions' format, for the IDF."""
    documents = [text for entry in _read_captions(captions).values() for text in entry["sentences"]]
    return EnsembleRule(read_concepts(concepts), documents, by_concepts, by_idf)


def ensemble(
    runs: Sequence[Path],
    concepts: Path,
    captions: Path,
    out: Path,
    references: Sequence[Path] = (),
    scores: Sequence[Score] = ("METEOR", "CIDEr", "BLEU"),
    by_concepts: bool = True,
    by_idf: bool = True,
) -> Table:
    """Combine runs, write the result, and compare it with each of them.

    Args:
        runs: files of predictions.
        concepts: see `read_concepts`.
        captions: annotations of the training split in ActivityNet Captions' format, for the IDF.
        out: gets the records; ``<out>_submission.json`` beside it the submission.
        references: annotations to score against, one file per annotator; none scores nothing.
        scores: see `DenseCaptionScores`.
        by_concepts: see `EnsembleRule`.
        by_idf: see `EnsembleRule`.

    Returns:
        A column per run and one of the ensemble: events whose sentence is this run's, words per sentence, scores.
    """
    rule = read_rule(concepts, captions, by_concepts, by_idf)
    annotators = [_read_captions(path) for path in references]
    metric = DenseCaptionScores(annotators, scores=scores, tokenizer="ptb") if annotators else None
    predictions = [read_predictions(path) for path in runs]
    chosen = combine(predictions, rule)
    write_atomically(out, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen))
    beside = out.with_name(f"{out.stem}_submission.json")
    write_atomically(beside, json.dumps(submission(chosen), ensure_ascii=False) + "\n")
    shares = Counter(record["run"] for record in chosen)
    systems = [*predictions, chosen]
    rows = {"chosen": [*(str(shares[i]) for i in range(len(runs))), ""], "words": list(map(_words, systems))}
    scored = [metric.evaluate(list(records)) if metric else {} for records in systems]
    for name in dict.fromkeys(name for values in scored for name in values if name.startswith("dense/")):
        rows[name] = [f"{values[name]:.2f}" if name in values else "" for values in scored]
    legend = Text("\n".join(f"run {i}: {path}" for i, path in enumerate(runs)))
    table = Table("", *(f"run {i}" for i in range(len(runs))), "ensemble", caption=legend, caption_justify="left")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _words(records: Sequence[Record]) -> str:
    """Mean number of words."""
    total = sum(len(simple_tokens(record["caption"]).split()) for record in records)
    return f"{total / max(1, len(records)):.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m groundzoo.tasks.ensemble", description="Join captioners of one split.")
    parser.add_argument("runs", nargs="+", type=Path, help="predictions.jsonl of each run")
    parser.add_argument("--concepts", type=Path, required=True, help="JSON of concepts, or a list of words")
    parser.add_argument("--captions", type=Path, required=True, help="training sentences (ActivityNet Captions)")
    parser.add_argument("--out", type=Path, required=True, help="file for the sentences chosen, .jsonl")
    parser.add_argument("--references", nargs="+", type=Path, default=[], help="annotations to score against")
    parser.add_argument("--scores", nargs="+", type=Score, default=["METEOR", "CIDEr", "BLEU"], help="which")
    parser.add_argument("--by_concepts", type=bool, default=True, help="use the number of distinct concepts")
    parser.add_argument("--by_idf", type=bool, default=True, help="use the rarest word")
    try:
        table = ensemble(**parser.parse_args(arguments).as_dict())
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    Console().print(table)


if __name__ == "__main__":
    main()
