"""Caption metrics: odd captions, missing or failing Java, repeated samples, several processes, tokens."""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pycocoevalcap.cider.cider import Cider as TheirCider

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import shared

from groundzoo.tasks.metrics import caption_scorers, captions, ptb
from groundzoo.tasks.metrics.caption_scorers import (
    Cider,
    Meteor,
    bleu,
    cider,
    document_frequencies,
    rouge_l,
    spice,
)
from groundzoo.tasks.metrics.captions import CaptionScores
from groundzoo.tasks.metrics.dense_captions import DenseCaptionScores, read_submission, submission
from groundzoo.tasks.metrics.ptb import JavaError, ptb_tokens, simple_tokens

EVERY = ("BLEU", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
WORDS = (
    "a",
    "man",
    "dog",
    "ball",
    "runs",
    "throws",
    "the",
    "red",
    "large",
    "grass",
    "on",
    "through",
    "and",
    "woman",
    "kicks",
    "sits",
)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))


def made(n: int, seed: int = 0, refs: int = 2) -> list[dict[str, Any]]:
    """Records whose captions resemble their references a little."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        references = [sentence(rng) for _ in range(refs)]
        rows.append(
            {"id": f"v{i}", "caption": f"{references[0][:20].strip()} {sentence(rng)}", "references": references}
        )
    return rows


def values(metric: Any) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.fixture(scope="module")
def process() -> Iterator[Meteor]:
    with Meteor() as meteor:
        yield meteor


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `java` of our own first on the PATH."""

    def write(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "java"
        path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return path

    return write


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


# ---- values ---------------------------------------------------------------------------------------------


def test_order_and_batches_do_not_matter_and_a_repeated_sample_counts_once() -> None:
    rows = made(20)
    one, other = (CaptionScores(("CIDEr", "BLEU", "ROUGE_L")) for _ in range(2))
    one.update(range(20), rows)
    order = random.Random(1).sample(range(20), 20)
    for i in [*order, *order[:5]]:
        other.update([i], [rows[i]])
    expected = values(one)
    assert expected.keys() == {"CIDEr", "BLEU1", "BLEU2", "BLEU3", "BLEU4", "ROUGE_L"}
    assert values(other) == pytest.approx(expected, rel=1e-9)
    assert 1 < expected["BLEU1"] < 100
    one.reset()
    one.update(range(19), rows[:19])
    assert values(one)["CIDEr"] != pytest.approx(expected["CIDEr"], rel=1e-4)


def test_values_are_the_raw_ones_times_100() -> None:
    rows = made(5)
    found = CaptionScores(("CIDEr", "BLEU", "ROUGE_L")).evaluate(rows)
    texts = [row["caption"] for row in rows], [row["references"] for row in rows]
    expected = {"CIDEr": cider(*texts)[0], "ROUGE_L": rouge_l(*texts)[0]}
    expected |= {f"BLEU{n}": v for n, v in enumerate(bleu(*texts)[0], 1)}
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})


@pytest.mark.parametrize("refs", [1, 5])
def test_cider_equals_pycocoevalcap(refs: int) -> None:
    rows = made(60, seed=3, refs=refs)
    rows[7]["caption"], rows[9]["references"][0], rows[11]["caption"] = "", "", "unknown zebra"
    candidates, references = [row["caption"] for row in rows], [row["references"] for row in rows]
    theirs, each = TheirCider().compute_score(
        dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)}
    )
    ours, ours_each = cider(candidates, references)
    assert ours == pytest.approx(theirs, abs=1e-9)
    np.testing.assert_allclose(ours_each, each, atol=1e-9)
    scorer = Cider(references)
    assert scorer.score([candidates[4], candidates[1], candidates[4]], [4, 1, 4]) == [
        ours_each[i] for i in (4, 1, 4)
    ]


def test_cider_with_given_frequencies() -> None:
    rows = made(30)
    candidates, references = [row["caption"] for row in rows], [row["references"] for row in rows]
    frequencies = document_frequencies(references)
    part = cider(candidates[:3], references[:3], frequencies)[1]
    assert part == pytest.approx(cider(candidates, references)[1][:3])
    assert part != pytest.approx(cider(candidates[:3], references[:3])[1], rel=1e-3)
    with pytest.raises(ValueError, match="of 2 documents"):
        Cider(references, frequencies._replace(documents=2))


def test_scorers_refuse_what_cannot_be_scored() -> None:
    for scorer in (bleu, rouge_l, cider):
        with pytest.raises(ValueError, match="no captions"):
            scorer([], [])
        with pytest.raises(ValueError, match="references for 1"):
            scorer(["a", "b"], [["a"]])
        with pytest.raises(ValueError, match="caption 1 has no list of references"):
            scorer(["a", "b"], [["a"], []])
        with pytest.raises(ValueError, match="caption 0"):
            scorer(["a"], ["a"])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="choose from BLEU"):
        CaptionScores(("Bleu",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose from ptb, simple"):
        CaptionScores(tokenizer="PTB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="v3: needs a list"):
        CaptionScores().evaluate([*made(3), {"id": "v3", "caption": "a", "references": []}])


def test_nothing_to_score() -> None:
    metric = CaptionScores()
    assert metric.compute() == {}
    assert "no caption" in metric.absent["captions"]


# ---- odd captions ---------------------------------------------------------------------------------------

NASTY = [
    "",
    None,
    "two\nlines",
    "two\r\nlines\u2028and\u2029more\x85",
    "\t\t\x0b\x0c",
    "|||",
    "a ||| b |||| c",
    "SCORE ||| a man ||| a man",
    "EVAL ||| 1.0",
    "\x00 null",
    "\ud800 half",
    "\U0001f600 smile \U0001f44d\U0001f3fd",
    "日本語 текст",
    "...",
    "a man " * 2000,
    "x" * 100_000,
    "(" * 3000,
    "the triple A.",
    "<a b",
    "c> d <!-- e",
    "f --> g http://",
    "&amp;lt;",
]


@needs_java
@pytest.mark.parametrize("place", ["caption", "reference"])
def test_an_odd_caption_changes_no_other(place: str, process: Meteor) -> None:
    rows = made(5)
    plain = [row["caption"] for row in rows], [row["references"] for row in rows]
    expected = process.score(*plain)[1], bleu(*plain)[1], rouge_l(*plain)[1]
    assert min(expected[0]) > 0
    odd = [text or "" for text in NASTY]
    mixed: list[str] = []
    for k, text in enumerate(odd):
        mixed += [plain[0][k % 5], text]
    tokens = ptb_tokens(mixed)
    assert tokens[::2] == [plain[0][k % 5] for k in range(len(odd))]
    if place == "caption":
        candidates, references = tokens, [plain[1][k // 2 % 5] for k in range(len(mixed))]
    else:
        candidates = [plain[0][k // 2 % 5] for k in range(len(mixed))]
        references = [plain[1][k // 2 % 5] if k % 2 == 0 else [tokens[k]] for k in range(len(mixed))]
    short = [k for k in range(len(mixed)) if len(tokens[k].split()) < 400]
    candidates, references = [candidates[k] for k in short], [references[k] for k in short]
    kept = [n for n, k in enumerate(short) if k % 2 == 0]
    found = (
        process.score(candidates, references)[1],
        bleu(candidates, references)[1],
        rouge_l(candidates, references)[1],
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert all(not np.isnan(v).any() for v in ours)
        for n in kept:
            assert ours[n] == pytest.approx(theirs[short[n] // 2 % 5], abs=1e-12)


@needs_java
def test_raw_protocol_signs_reach_meteor_as_text(process: Meteor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tokenizer before it."""
    texts = [text or "" for text in NASTY if len(text or "") < 100]
    each = process.score([*texts, "a man runs"], [["a man runs"]] * (len(texts) + 1))[1]
    assert each[-1] == 1.0
    assert len(each) == len(texts) + 1
    assert process.score(["a man ||| runs"], [["a man runs"]])[0] == 1.0
    monkeypatch.setattr(caption_scorers, "METEOR_WORDS", 50)
    assert process.score(["man runs " * 3000], [["man jumps " * 3000]])[0] < 1, "cut, or it takes minutes"


@needs_java
def test_meteor_remembers_so_many_pairs_and_no_more(process: Meteor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that rewards sentences sees new ones all the time."""
    texts = [f"a man {verb}s the {noun}" for verb in ("see", "eat", "kick") for noun in ("ball", "dog")]
    references = [["a man eats the ball"]] * len(texts)
    asked: list[str] = []
    ask = process._ask
    monkeypatch.setattr(process, "_ask", lambda line, answers: asked.append(line) or ask(line, answers))
    monkeypatch.setattr(process, "_statistics", {})
    first = process.score(texts, references)
    assert process.score(texts, references) == first
    assert len(asked) == len(texts) + 2, "pairs are aligned again"
    assert len(set(first[1])) > 2
    monkeypatch.setattr(caption_scorers, "METEOR_REMEMBERED", 4)
    monkeypatch.setattr(process, "_statistics", {})
    for _ in range(3):
        assert process.score(texts, references) == first
        assert 0 < len(process._statistics) <= 4


def test_the_simple_tokenizer_survives_odd_texts_in_time() -> None:
    start = time.monotonic()
    for text in [*NASTY, *(sign * 100_000 for sign in ".-@'a1/:<&_![ ")]:
        tokens = simple_tokens(text)
        assert "\n" not in tokens
        assert not ptb.REMOVED & set(tokens.split(" "))
    assert time.monotonic() - start < 20


def test_odd_captions_score_without_java() -> None:
    rows = [*made(3), *({"id": f"n{i}", "caption": text, "references": ["a man"]} for i, text in enumerate(NASTY))]
    metric = CaptionScores(("CIDEr", "BLEU"))
    metric.update(range(len(rows)), rows)
    assert all(math.isfinite(value) for value in values(metric).values())


# ---- tokens ---------------------------------------------------------------------------------------------


@needs_java
def test_simple_tokens_are_those_of_the_jar_on_real_captions() -> None:
    anet = json.loads(shared("data", "anet_captions", "val_1.json").read_text())
    with gzip.open(shared("data", "msrvtt", "test_videodatainfo.json.gz")) as file:
        msrvtt = json.load(file)["sentences"]
    known = {
        "ActivityNet val_1": ([text for entry in anet.values() for text in entry["sentences"]], 17_505, 1),
        "MSR-VTT test": ([row["caption"] for row in msrvtt], 59_800, 2),
    }
    for name, (texts, number, wrong) in known.items():
        assert len(texts) == number
        differ = [(a, b) for a, b in zip(ptb_tokens(texts), map(simple_tokens, texts), strict=True) if a != b]
        assert len(differ) <= wrong, (name, len(differ), differ[:5])


@needs_java
def test_simple_tokens_with_punctuation_strewn_in() -> None:
    rng = random.Random(0)
    signs = [
        ",",
        ".",
        " - ",
        "!",
        "?",
        ";",
        ":",
        " (",
        ")",
        " 2 ",
        " 3.5 ",
        " Mr. ",
        " U.S. ",
        " 4 p.m. ",
        "!!",
        "'s",
    ]
    texts = []
    for _ in range(400):
        words = rng.choices(WORDS, k=8)
        for _ in range(2):
            words[rng.randrange(8)] += rng.choice(signs)
        texts.append(" ".join(words).capitalize())
    differ = [
        (t, a, b) for t, a, b in zip(texts, ptb_tokens(texts), map(simple_tokens, texts), strict=True) if a != b
    ]
    assert len(differ) <= 4, differ[:5]


@needs_java
def test_java_needs_no_temporary_folder_and_leaves_the_packages_alone(
    monkeypatch: pytest.MonkeyPatch, process: Meteor
) -> None:
    root = ptb.carried("tokenizer").parent
    before = sorted(path for path in root.rglob("*") if "__pycache__" not in path.parts)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setattr(caption_scorers, "Meteor", lambda: nullcontext(process))
    metric = CaptionScores(("METEOR", "BLEU"), tokenizer="ptb")
    assert metric.evaluate(made(3)).keys() == {"METEOR", "BLEU1", "BLEU2", "BLEU3", "BLEU4"}
    assert sorted(path for path in root.rglob("*") if "__pycache__" not in path.parts) == before


# ---- what is not there ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_java")
def test_without_java(caplog: pytest.LogCaptureFixture) -> None:
    metric = CaptionScores(EVERY, tokenizer="ptb")
    rows = made(6)
    metric.update(range(6), rows)
    with caplog.at_level(logging.WARNING):
        found = values(metric)
        metric._computed = None
        assert values(metric) == found
    assert set(metric.absent) == {"METEOR", "SPICE", "PTB tokenizer"}
    assert all("Java is not installed" in reason for reason in metric.absent.values())
    assert found.keys() == {f"{name}_simple" for name in ("BLEU1", "BLEU2", "BLEU3", "BLEU4", "ROUGE_L", "CIDEr")}
    simple = CaptionScores(("BLEU", "ROUGE_L", "CIDEr")).evaluate(rows)
    assert found == pytest.approx({f"{name}_simple": value for name, value in simple.items()})
    assert len([r for r in caplog.records if r.name == captions.__name__]) == 3, "each absence is told once"


def test_absences_are_those_of_the_last_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    metric = CaptionScores(("BLEU",), tokenizer="ptb")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert "BLEU1_simple" in metric.evaluate(made(2))
    monkeypatch.setattr(captions, "ptb_tokens", lambda texts: list(texts))
    assert "BLEU1" in metric.evaluate(made(2))
    assert metric.absent == {}


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("body", ["time.sleep(300)", "sys.stdin.readline(); time.sleep(300)"])
def test_a_hanging_java_is_ended(
    body: str, fake_java: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(body)
    start = time.monotonic()
    with Meteor(timeout_s=1) as meteor:
        pid = meteor._process.pid
        with pytest.raises(JavaError, match="did not answer within 1 s"):
            meteor.score(["a man " * 200_000], [["a man " * 200_000]])
    assert ended(pid)
    with pytest.raises(JavaError, match="did not finish within 1 s"):
        ptb_tokens(["a man"], timeout_s=1)
    monkeypatch.setattr(Meteor.__init__, "__defaults__", (1.0,))
    monkeypatch.setattr(ptb_tokens, "__defaults__", (1.0,))
    metric = CaptionScores(("METEOR", "BLEU"), tokenizer="ptb")
    assert metric.evaluate(made(2)).keys() == {f"BLEU{n}_simple" for n in range(1, 5)}
    assert "did not answer" in metric.absent["METEOR"]
    assert "did not finish" in metric.absent["PTB tokenizer"]
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('No heap', file=sys.stderr); sys.exit(3)", "exit status 3: No heap"),
        ("for line in sys.stdin: print('Error: bad', flush=True)", "answered 'Error: bad' instead of a number"),
        ("for line in sys.stdin: sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush()", "instead of a number"),
    ],
)
def test_a_failing_meteor_is_absent(body: str, reason: str, fake_java: Callable[[str], Path]) -> None:
    fake_java(body)
    metric = CaptionScores(("METEOR", "BLEU"))
    assert metric.evaluate(made(2)).keys() == {f"BLEU{n}" for n in range(1, 5)}
    assert reason in metric.absent["METEOR"]


def test_a_tokenizer_that_loses_lines_is_not_believed(fake_java: Callable[[str], Path]) -> None:
    fake_java("sys.stdin.read(); print('a man')")
    with pytest.raises(JavaError, match="lines for 2 texts"):
        ptb_tokens(["a man", "a dog"])


@needs_java
def test_the_process_ends_with_the_evaluation_and_after_errors() -> None:
    with pytest.raises(ZeroDivisionError), Meteor() as meteor:  # noqa: PT012
        pid = meteor._process.pid
        assert not ended(pid)
        raise ZeroDivisionError
    assert ended(pid)


@needs_java
def test_spice_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_scorers, "carried", lambda *parts: tmp_path / "spice-1.0.jar")
    monkeypatch.setattr(caption_scorers, "run_java", lambda *_, **__: pytest.fail("started"))
    metric = CaptionScores(("SPICE", "BLEU"))
    assert "SPICE" not in metric.evaluate(made(2))
    assert "stanford-corenlp-3.6.0-models.jar" in metric.absent["SPICE"]
    assert str(tmp_path / "lib") in metric.absent["SPICE"]


SPICE = """
import json
words = sys.argv
given, out = words[words.index('-jar') + 2], words[words.index('-out') + 1]
rows = json.load(open(given))
f = lambda row: None if not row['test'] else len(row['test'].split()) / 100
json.dump([{'image_id': r['image_id'], 'scores': {'All': {'f': f(r)}}} for r in rows[::-1]], open(out, 'w'))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPICE's folder, with its models."""
    (tmp_path / "lib").mkdir()
    for part in ("", "-models"):
        (tmp_path / "lib" / f"stanford-corenlp-3.6.0{part}.jar").touch()
    monkeypatch.setattr(caption_scorers, "carried", lambda *parts: tmp_path / "spice-1.0.jar")


@pytest.mark.usefixtures("models")
def test_spice_where_its_models_are(fake_java: Callable[[str], Path]) -> None:
    """The program itself is replaced by one that counts words: its models cannot be distributed."""
    fake_java(SPICE)
    assert spice(["a b c", "a"], [["x"], ["y", "z"]]) == (pytest.approx(0.02), [0.03, 0.01])
    assert math.isnan(spice(["", "a"], [["x"], ["y"]])[0])
    rows = made(4)
    mean = sum(len(row["caption"].split()) for row in rows) / 4
    assert CaptionScores(("SPICE",)).evaluate(rows) == {"SPICE": pytest.approx(mean)}
    dense = DenseCaptionScores([REFERENCE], (0.5,), ("SPICE",)).evaluate(
        predicted((0, 10, "a b"), (0, 10, "a b c d"))
    )
    assert dense["dense@0.5/SPICE"] == pytest.approx(3 / 2)  # of two videos one has none


@pytest.mark.usefixtures("models")
def test_spice_without_result(fake_java: Callable[[str], Path]) -> None:
    fake_java("pass")
    metric = CaptionScores(("SPICE",))
    assert metric.evaluate(made(2)) == {}
    assert "no readable result" in metric.absent["SPICE"]


# ---- dense captions -------------------------------------------------------------------------------------

REFERENCE = {
    "a": {"timestamps": [[0, 10], [20, 30]], "sentences": ["a man runs on grass", "the dog sits"]},
    "b": {"timestamps": [[0, 5]], "sentences": ["a woman throws"]},
}


def predicted(*rows: tuple[float, float, str | None], video: str = "a") -> list[dict[str, Any]]:
    return [{"video": video, "start_s": s, "end_s": e, "caption": c} for s, e, c in rows]


def test_segments_precision_and_recall() -> None:
    metric = DenseCaptionScores([REFERENCE], (0.0, 0.5), ("BLEU",))
    rows = predicted((0, 9, "a man runs on grass"), (50, 60, "x"), (1, 10, "a man"))
    found = metric.evaluate(rows)
    assert found["dense@0.5/precision"] == pytest.approx(100 * (2 / 3) / 2)
    assert found["dense@0.5/recall"] == pytest.approx(100 * (1 / 2) / 2)
    assert found["dense@0/precision"] == pytest.approx(100 * (2 / 3) / 2), "more than the overlap"
    pairs = ["a man runs on grass", "x", "a man"], [["a man runs on grass"], ["other"], ["a man runs on grass"]]
    assert found["dense@0.5/BLEU1"] == pytest.approx(100 * bleu(*pairs)[0][0] / 2)
    both = [REFERENCE["a"]["sentences"]] * 3
    every = [c for c in pairs[0] for _ in range(2)], [[r] for refs in both for r in refs]
    assert found["dense@0/BLEU1"] == pytest.approx(100 * bleu(*every)[0][0] / 2), "a caption matches from 0 on"
    assert found["dense/BLEU1"] == pytest.approx((found["dense@0/BLEU1"] + found["dense@0.5/BLEU1"]) / 2)


def test_a_single_pair_has_no_cider_and_two_files_pair_separately() -> None:
    row = predicted((0, 10, "a man runs on grass"))
    single = DenseCaptionScores([REFERENCE], (0.5,), ("CIDEr",)).evaluate(row)
    assert single["dense@0.5/CIDEr"] == 0.0
    other = {"a": {"timestamps": [[0, 10]], "sentences": ["the man is running"]}}
    two = DenseCaptionScores([REFERENCE, other], (0.5,), ("CIDEr",)).evaluate(row)
    pairs = ["a man runs on grass"] * 2, [["a man runs on grass"], ["the man is running"]]
    assert two["dense@0.5/CIDEr"] == pytest.approx(100 * cider(*pairs)[0] / 2)
    assert two["dense@0.5/CIDEr"] > 0
    assert two["dense/recall"] == pytest.approx(50.0), "the better file counts"


def test_no_captions_unknown_videos_and_odd_captions(caplog: pytest.LogCaptureFixture) -> None:
    metric = DenseCaptionScores([REFERENCE], scores=("CIDEr", "BLEU", "ROUGE_L"))
    nothing = metric.evaluate([])
    assert len(nothing) == 8 * 5
    assert set(nothing.values()) == {0.0}
    rows = predicted((0, 10, "a man\nruns"), (20, 30, None), (0, 5, "日本"), (0, math.nan, "a"), (7, 7, ""))
    found = metric.evaluate(rows)
    assert all(math.isfinite(value) for value in found.values())
    assert metric.evaluate(rows + predicted((0, 1, "a"), video="v_b")) == found
    assert "1 of 2 videos with captions are not annotated" in caplog.text
    assert "v_b" in caplog.text


def test_only_the_first_1000_proposals_count() -> None:
    metric = DenseCaptionScores([REFERENCE], (0.5,), ("BLEU",))
    wrong = predicted(*[(50, 60, "x")] * 1000)
    assert metric.evaluate(wrong + predicted((0, 10, "a man"))) == metric.evaluate(wrong)
    assert metric.evaluate(wrong[1:] + predicted((0, 10, "a man")))["dense/recall"] == pytest.approx(25.0)


@pytest.mark.usefixtures("no_java")
def test_dense_names_without_java() -> None:
    metric = DenseCaptionScores([REFERENCE], (0.5,), ("METEOR", "BLEU"), tokenizer="ptb")
    found = metric.evaluate(predicted((0, 10, "a man runs")))
    assert {name for name in found if "@" in name} == {
        *(f"dense@0.5/BLEU{n}_simple" for n in range(1, 5)),
        "dense@0.5/precision",
        "dense@0.5/recall",
    }
    assert metric.absent.keys() == {"METEOR", "PTB tokenizer"}


def test_dense_mistakes_are_named() -> None:
    broken = {"v7": {"timestamps": [[0, 1], [1, 2]], "sentences": ["a"]}}
    with pytest.raises(ValueError, match="file 2, v7: 2 segments, 1 sentences"):
        DenseCaptionScores([REFERENCE, broken])
    with pytest.raises(ValueError, match="at least one annotated video"):
        DenseCaptionScores([])


def test_submission_files(tmp_path: Path) -> None:
    rows = predicted((0, 1.5, "a man"), (2, 3, "a dog")) + predicted((4, 5, "x"), video="b")
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(submission(rows)))
    assert read_submission(path) == rows
    assert json.loads(path.read_text())["results"]["b"] == [{"sentence": "x", "timestamp": [4, 5]}]
    path.write_text('{"results": {"v1": [{"sentence": "x", "timestamp": [1]}]}}')
    with pytest.raises(ValueError, match="v1: each entry needs"):
        read_submission(path)
    for text in ("[]", "{}", "{", '{"results": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a submission"):
            read_submission(path)


# ---- two processes --------------------------------------------------------------------------------------


def rank_values(rank: int, rows: list[dict[str, Any]], share: list[int], java: bool) -> dict[str, Any]:
    """Values of one process, and how many Java processes it started."""
    started: list[Any] = []
    original = subprocess.Popen.__init__

    def counted(self: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        started.append(command)
        original(self, command, *args, **kwargs)

    subprocess.Popen.__init__ = counted  # type: ignore[method-assign]
    metric = CaptionScores(("BLEU", "CIDEr"), tokenizer="ptb" if java else "simple")
    metric.update(share, [rows[i] for i in share])
    bad = CaptionScores(("BLEU",))
    bad.update([rank], [{"id": "bare", "caption": "a", "references": []}])
    found = {"values": values(metric), "absent": metric.absent, "started": len(started), "error": ""}
    try:
        bad.compute()
    except ValueError as error:
        found["error"] = str(error)
    return found


def run_rank(rank: int, port: str, out: str, java: bool) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    share = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 0]][rank]
    Path(out, f"{rank}.json").write_text(json.dumps(rank_values(rank, made(9), share, java)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    java = shutil.which("java") is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, port, str(tmp_path), str(int(java))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{k}.json").read_text()) for k in range(2)]
    expected = CaptionScores(("BLEU", "CIDEr")).evaluate(made(9))
    for rank in ranks:
        assert rank["values"] == pytest.approx(expected, rel=1e-9)
        assert rank["absent"] == {}
        assert "bare: needs a list" in rank["error"]
    assert ranks[0]["started"] == int(java)
    assert ranks[1]["started"] == 0


if __name__ == "__main__":
    mp.spawn(run_rank, (sys.argv[1], sys.argv[2], sys.argv[3] == "1"), nprocs=2)
