"""Caption scores against pycocoevalcap, its tokenizer, and the evaluation of dense captions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from golden_files import golden_cases, golden_folder

from groundzoo.tasks.metrics import caption_scorers
from groundzoo.tasks.metrics.caption_scorers import Meteor, bleu, cider, rouge_l
from groundzoo.tasks.metrics.captions import CaptionScores
from groundzoo.tasks.metrics.dense_captions import DenseCaptionScores, read_submission
from groundzoo.tasks.metrics.ptb import ptb_tokens, simple_tokens

pytestmark = pytest.mark.golden
TOLERANCE = 1e-6
THEIRS = {f"Bleu_{n}": f"BLEU{n}" for n in range(1, 5)} | {name: name for name in ("METEOR", "ROUGE_L", "CIDEr")}
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "path", golden_cases("captioning", pattern), ids=lambda p: f"{p.parent.name}-{p.stem}"
    )


@pytest.fixture(scope="module")
def meteor() -> Iterator[Meteor | None]:
    """One process for all tests: it takes seconds to start. None without Java."""
    if shutil.which("java") is None:
        yield None
        return
    with Meteor() as process:
        yield process


@pytest.fixture
def shared_meteor(meteor: Meteor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_scorers, "Meteor", lambda: nullcontext(meteor))


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def records(folder: Path) -> list[dict[str, Any]]:
    gts, res = load(folder / "gts.json"), load(folder / "res.json")
    return [
        {"id": key, "caption": res[key][0]["caption"], "references": [row["caption"] for row in gts[key]]}
        for key in load(folder / "expected.json")["order"]
    ]


def tokenised(folder: Path) -> tuple[list[str], list[str], list[list[str]]]:
    order, tokens = load(folder / "expected.json")["order"], load(folder / "tokenized.json")
    return order, [tokens["res"][key][0] for key in order], [tokens["gts"][key] for key in order]


@cases("coco_*/expected.json")
def test_scores_of_tokenised_texts(path: Path, meteor: Meteor | None) -> None:
    order, candidates, references = tokenised(path.parent)
    expected = load(path)
    four, each_four = bleu(candidates, references)
    found = {f"BLEU{n + 1}": (four[n], [row[n] for row in each_four]) for n in range(4)}
    found |= {"ROUGE_L": rouge_l(candidates, references), "CIDEr": cider(candidates, references)}
    if meteor:
        found["METEOR"] = meteor.score(candidates, references)
    for theirs, ours in THEIRS.items():
        if ours in found and theirs in expected["corpus"]:
            corpus, each = found[ours]
            assert corpus == pytest.approx(expected["corpus"][theirs], abs=TOLERANCE), ours
            theirs_each = [expected["per_caption"][key][theirs] for key in order]
            assert each == pytest.approx(theirs_each, abs=TOLERANCE), ours


@needs_java
@pytest.mark.usefixtures("shared_meteor")
@cases("coco_*/expected.json")
def test_metric_from_raw_texts(path: Path) -> None:
    rows = records(path.parent)
    metric = CaptionScores(("BLEU", "METEOR", "ROUGE_L", "CIDEr"), tokenizer="ptb")
    metric.update(range(len(rows)), rows)
    expected = {THEIRS[name]: 100 * value for name, value in load(path)["corpus"].items() if name in THEIRS}
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(expected, abs=100 * TOLERANCE)
    assert metric.absent == {}


@cases("coco_*/expected.json")
def test_metric_from_raw_texts_without_java(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    rows = records(path.parent)
    values = CaptionScores(("BLEU", "METEOR", "ROUGE_L", "CIDEr"), tokenizer="ptb").evaluate(rows)
    expected = {
        f"{THEIRS[name]}_simple": 100 * value
        for name, value in load(path)["corpus"].items()
        if name in THEIRS and name != "METEOR"
    }
    assert values == pytest.approx(expected, abs=100 * TOLERANCE)


@cases("coco_*/tokenized.json")
def test_tokens_of_captions(path: Path) -> None:
    pairs = []
    for part, name in (("gts", "gts.json"), ("res", "res.json")):
        raw = load(path.parent / name)
        for key, tokens in load(path)[part].items():
            pairs += list(zip((row["caption"] for row in raw[key]), tokens, strict=True))
    assert len(pairs) > 100
    wrong = [(text, tokens, simple_tokens(text)) for text, tokens in pairs if simple_tokens(text) != tokens]
    assert len(wrong) <= len(pairs) // 1000, wrong[:5]  # none in the known files
    if shutil.which("java"):
        assert ptb_tokens(text for text, _ in pairs) == [tokens for _, tokens in pairs]


@cases("ptb_tokenizer_edge*.json")
def test_tokens_of_odd_texts(path: Path) -> None:
    case = load(path)
    texts = [row["caption"] for rows in case["raw"].values() for row in rows]
    tokens = [text for rows in case["tokenized"].values() for text in rows]
    assert [simple_tokens(text) for text in texts] == tokens
    if shutil.which("java"):
        assert ptb_tokens(texts) == tokens


@cases("coco_edge_cases*.json")
def test_edge_cases(path: Path, meteor: Meteor | None) -> None:
    """The file names its hypotheses only: the references, "" and "a dog", and two unknown words each."""
    case = load(path)
    references = list(case["gts"].values())
    hypotheses = {
        "identical": [refs[0] for refs in references],
        "empty_hyp": ["", "a dog"],
        "disjoint": ["zebra piano", "quiet river"],
    }
    assert case["cases"]
    for name, expected in case["cases"].items():
        candidates = hypotheses[name]
        found: dict[str, Any] = {
            "BLEU": bleu(candidates, references)[0],
            "ROUGE_L": rouge_l(candidates, references)[0],
            "CIDEr": cider(candidates, references)[0],
        }
        if meteor:
            found["METEOR"] = meteor.score(candidates, references)[0]
        for score, value in found.items():
            assert value == pytest.approx(expected[score], abs=TOLERANCE), (name, score)


@pytest.mark.usefixtures("shared_meteor")
@cases("densevid_*/expected.json")
def test_dense_captions(path: Path) -> None:
    expected = load(path)
    java = shutil.which("java") is not None
    scores = ("BLEU", "METEOR", "ROUGE_L", "CIDEr") if java else ("BLEU", "ROUGE_L", "CIDEr")
    references = [load(path.parent / name) for name in expected["references"]]
    metric = DenseCaptionScores(references, expected["tious"], scores, tokenizer="ptb" if java else "simple")
    rows = read_submission(path.parent / "submission.json")
    metric.update(range(len(rows)), rows)
    found = {name: value.item() / 100 for name, value in metric.compute().items()}
    checked = 0
    for theirs, ours in (THEIRS | {"Recall": "recall", "Precision": "precision"}).items():
        if ours != "METEOR" or java:
            mean = expected["mean_over_tious"][theirs]
            assert found[f"dense/{ours}"] == pytest.approx(mean, abs=TOLERANCE), ours
            for tiou, value in zip(expected["tious"], expected["per_tiou"][theirs], strict=True):
                assert found[f"dense@{tiou:g}/{ours}"] == pytest.approx(value, abs=TOLERANCE), (ours, tiou)
                checked += 1
    assert checked == len(expected["tious"]) * (9 if java else 8)


def test_the_folder_is_read() -> None:
    folder = golden_folder("captioning")
    if not folder.exists():
        pytest.skip(f"no {folder} (set GROUNDZOO_GOLDEN or GROUNDZOO_SHARED)")
    assert list(folder.glob("coco_*/expected.json"))
    assert list(folder.glob("densevid_*/expected.json"))
