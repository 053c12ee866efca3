"""Tagged sentences: offsets, answers that are none, tokenizers of several kinds."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from groundzoo.zoo.text.chat import TAGS, ChatTokenizer, Prompt
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.text.tagged_text import read_answer, read_tagged, write_answer
from groundzoo.zoo.text.word_tokenizer import word_tokenizer_files, words_of

CAPTION = GroundedText("a person stirs food in a bowl", ((0, 8), (15, 19), (23, 29)))


# ---- annotations ----------------------------------------------------------------------------------------


def test_phrases_stand_where_they_are_tagged_first() -> None:
    found = read_tagged("<p>A Cup</p> and a cup near <p>a Cup</p>, <p>tea</p>", ["tea", "a cup"])
    assert found == ("a cup and a cup near a cup, tea", ((0, 5), (28, 31)))
    assert read_tagged("a hand near <p>a hand</p>").spans == ((12, 18),), "words without tags are no phrase"


def test_only_phrases_with_boxes() -> None:
    tagged = "<p>A hand</p> stirs <p>food</p>"
    assert read_tagged(tagged, ["FOOD", "a spoon"]).phrases == ["food"]
    assert read_tagged(tagged, []).spans == ()
    assert read_tagged(tagged).phrases == ["a hand", "food"]


@pytest.mark.parametrize(
    ("tagged", "text", "phrases"),
    [
        ("", "", []),
        ("a man", "a man", []),
        ("<p> a man </p> runs", "a man  runs", ["a man"]),
        ("<p>a man <p>a dog</p></p>", "a man a dog", ["a dog"]),
        ("a man</p> runs <p>home", "a man runs home", []),
        ("<p></p><p> </p>x", "x", []),
        ('"<p>"a man"</p>"', "a man", ["a man"]),
        ("<p>İzmir</p> by <p>night</p>", "i̇zmir by night", ["i̇zmir", "night"]),
    ],
)
def test_odd_annotations(tagged: str, text: str, phrases: list[str]) -> None:
    found = read_tagged(tagged)
    assert found.text == text
    assert found.phrases == phrases


# ---- answers --------------------------------------------------------------------------------------------


def test_there_and_back() -> None:
    answer = write_answer(CAPTION)
    assert answer == "<p> a person </p> [DET] stirs <p> food </p> [DET] in <p> a bowl </p> [DET]"
    read = read_answer(answer)
    assert read.text == CAPTION
    assert read.tokens == [0, 1, 2]
    assert write_answer(read.text) == answer
    assert write_answer(GroundedText("A Man Runs")) == "a man runs"
    assert write_answer(GroundedText("")) == ""


def test_tags_within_a_caption_do_not_count() -> None:
    caption = GroundedText("a [DET] sign </p> on <p> a door", ((0, 12),))
    assert read_answer(write_answer(caption)).detections == 1


@pytest.mark.parametrize(
    ("raw", "text", "phrases", "tokens"),
    [
        ("", "", [], []),
        ("  '' ", "", [], []),
        ("[DET] [DET]", "", [], []),
        ("<p> a man </p> [DET] [DET] runs", "a man runs", ["a man"], [0]),
        ("<p> a man </p> [DET] with <p> a dog </p> runs", "a man with a dog runs", ["a man"], [0]),
        ("[DET] <p> a man </p>", "a man", ["a man"], [0]),
        ("<p> a man <p> a dog </p> [DET]", "a man a dog", ["a dog"], [0]),
        ("<p> a man [DET] runs", "a man runs", [], []),
        ("a man </p> [DET] and <p> a dog </p> [DET]", "a man and a dog", ["a dog"], [0]),
        ("<p> </p> [DET] <p> a dog </p> [DET]", "a dog", ["a dog"], [1]),
        ("<p> a  \n man </p> [DET]", "a man", ["a man"], [0]),
        ("'<p> a man's </p> [DET] hat'", "a man's hat", ["a man's"], [0]),
        ("<p>a man</p>[DET]runs</s>", "a manruns", ["a man"], [0]),
        ("'<p> ' </p> [DET] <p> x ' </p> [DET]'", "x", ["x"], [1]),
    ],
)
def test_malformed_answers(raw: str, text: str, phrases: list[str], tokens: list[int]) -> None:
    found = read_answer(raw)
    assert found.text.text == text
    assert found.text.phrases == phrases
    assert found.tokens == tokens


def test_anything_can_be_read() -> None:
    draw = random.Random(0)
    pieces = ["<p>", "</p>", "[DET]", " ", "a", "İ", "'", '"', "\n", "<", ">", "</s>", "[", "DET]", "dog"]
    for _ in range(3000):
        raw = "".join(draw.choices(pieces, k=draw.randrange(12)))
        found = read_answer(raw)
        spans = found.text.spans
        assert len(spans) == len(found.tokens) <= min(found.detections, len(found.closed))
        assert all(0 <= start < end <= len(found.text.text) for start, end in spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        assert all(phrase == phrase.strip() for phrase in found.text.phrases)
        assert found.text.text == " ".join(found.text.text.split()).strip(" \"'")
        assert found.tokens == sorted(set(found.tokens))
        noted = read_tagged(raw)
        assert all(0 <= start < end <= len(noted.text) for start, end in noted.spans)


# ---- tokens ---------------------------------------------------------------------------------------------


def words() -> dict[str, str]:
    return word_tokenizer_files(words_of([*Prompt().texts, CAPTION.text, "a hand's close-up (large)."]))


def bytes_of_text() -> dict[str, str]:
    """Letters as GPT-NeoX and Qwen have them; begins and ends with the same token, and has a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made: Any = Tokenizer(models.BPE({**alphabet, "Ġa": 256}, [("Ġ", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    return files(made, eos_token="<|end|>", chat_template=template)


def pieces_of_words() -> dict[str, str]:
    """Pieces as LLaMA has them: blanks are letters, and each stretch of text begins with one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({*"".join([*Prompt().texts, CAPTION.text]), "▁"})
    made: Any = Tokenizer(models.BPE({c: i for i, c in enumerate(["<unk>", *letters])}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    return files(made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def files(made: Any, **options: Any) -> dict[str, str]:
    import tempfile
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=made, **options).save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}


@pytest.mark.parametrize("kind", [words, bytes_of_text, pieces_of_words])
def test_tokens(kind: Any) -> None:
    tokenizer = ChatTokenizer(kind(), 1000, Prompt())
    ids = [tokenizer._ids(tag) for tag in TAGS]
    assert [len(i) for i in ids] == [1] * 5, "every tag is one token"
    assert len({i[0] for i in ids} | {tokenizer.end}) == 6
    said = tokenizer.answer(CAPTION)
    assert said[-1] == tokenizer.end
    assert said.count(tokenizer.detection) == 3
    assert tokenizer.end not in said[:-1]
    assert tokenizer.read(said[:-1]).text == CAPTION
    assert tokenizer.read(said[:-1]).tokens == [0, 1, 2]
    assert tokenizer.answer(GroundedText("")) == [tokenizer.end]
    assert tokenizer.read([]).text == GroundedText("")
    again = ChatTokenizer(tokenizer.files, len(tokenizer), Prompt())
    assert len(again) == len(tokenizer)
    assert again.answer(CAPTION) == said
    assert again.question(2) == tokenizer.question(2)


@pytest.mark.parametrize("kind", [words, bytes_of_text, pieces_of_words])
def test_questions(kind: Any) -> None:
    prompt = Prompt()
    tokenizer = ChatTokenizer(kind(), 1000, prompt)
    asked = [tokenizer.question(i, given) for given in (False, True) for i in range(6)]
    ids, before = asked[0]
    assert len({tuple(i) for i, _ in asked}) == 12
    assert {tuple(i[:n]) for i, n in asked} == {tuple(ids[:before])}
    assert tokenizer.text(ids[before - 1 : before + 1]).split() in (
        ["<vid_start>", "<vid_end>"],
        ["<vid_start><vid_end>"],
    )
    text = tokenizer.text(ids)
    same = "".join(text.lower().split())
    assert "".join(prompt.questions[0].lower().split()) in same
    if kind is bytes_of_text:
        assert text.startswith("<|user|>")
        assert text.endswith("<|assistant|>")
    else:
        assert text.lower().count("<s>") == 1
        assert text.lower().startswith("<s>")
        assert "".join(prompt.system.lower().split()) in same
        assert same.endswith("assistant:")


def test_words() -> None:
    known = words_of(["A hand's close-up (large).", "a HAND"])
    assert known == ["a", "hand's", "close-up", "(", "large", ")", ".", "hand"]
    tokenizer = ChatTokenizer(word_tokenizer_files(known), 11, Prompt())
    assert tokenizer.answer(GroundedText("a Hand zebra")) == [3, 10, 0, 2]
    for wrong in ([], ["a", "a"], ["<s>"]):
        with pytest.raises(ValueError, match="each once"):
            word_tokenizer_files(wrong)


def test_what_is_told() -> None:
    with pytest.raises(ValueError, match=r"must hold \{video\} once"):
        Prompt(lead="Look.")
    with pytest.raises(ValueError, match="each hold a question"):
        Prompt(questions=())
    with pytest.raises(ValueError, match="do not belong together"):
        ChatTokenizer(words(), 5, Prompt())
    from tokenizers import Tokenizer, models

    endless = files(Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), unk_token="<unk>")
    with pytest.raises(ValueError, match="no end of text"):
        ChatTokenizer(endless, 1, Prompt())
