"""Words to ids to vectors: vocabulary, word vectors from a file, and padding that leaves no trace."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from golden_files import golden_folder

from groundzoo.zoo.text.word_lstm import WordLSTM, read_embeddings, tokenize

TEXTS = ["a person opens the door.", "sits", "the person then sits down on a chair", "opens."]


@pytest.fixture
def encoder() -> WordLSTM:
    torch.manual_seed(0)
    lstm = WordLSTM(5, 4)
    lstm.fit_vocabulary(TEXTS)
    return lstm.eval()


def test_tokens_are_lower_case_treebank_words_without_full_stops() -> None:
    assert tokenize("The man's dog doesn't run.") == ("the", "man", "'s", "dog", "does", "n't", "run")
    assert tokenize("A,B (c) e.g. d") == ("a", ",", "b", "(", "c", ")", "eg", "d")
    assert tokenize("") == ()
    assert tokenize("...") == ()


def test_ids_count_from_one_in_order_of_appearance(encoder: WordLSTM) -> None:
    words = ["a", "person", "opens", "the", "door", "sits", "then", "down", "on", "chair"]
    assert encoder.vocabulary == words
    ids, lengths = encoder.encode_ids(["the door", "a zebra", "", "..."])
    assert ids.tolist() == [[4, 5], [1, 11], [11, 0], [11, 0]]
    assert lengths.tolist() == [2, 2, 1, 1]
    assert encoder.embedding.num_embeddings == len(words) + 2


def test_each_text_is_encoded_as_if_alone(encoder: WordLSTM) -> None:
    """Any order of lengths; padding is zero, the sentence vector holds the last states."""
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 1, 0, 2]):
        texts = [TEXTS[i] for i in order]
        out = encoder(texts)
        for row, text in enumerate(texts):
            alone = encoder([text])
            n = len(tokenize(text))
            assert out.mask[row].tolist() == [k < n for k in range(out.mask.shape[1])]
            torch.testing.assert_close(out.words[row, :n], alone.words[0], rtol=1e-6, atol=1e-7)
            assert (out.words[row, n:] == 0).all()
            torch.testing.assert_close(out.sentence[row], alone.sentence[0], rtol=1e-6, atol=1e-7)
            half = encoder.dim // 2
            expected = torch.cat([out.words[row, n - 1, :half], out.words[row, 0, half:]])
            torch.testing.assert_close(out.sentence[row], expected)


def test_more_padding_changes_nothing(encoder: WordLSTM) -> None:
    ids, lengths = encoder.encode_ids(TEXTS)
    narrow = encoder.forward_ids(ids, lengths)
    wide = encoder.forward_ids(torch.nn.functional.pad(ids, (0, ids.shape[1])), lengths)
    n = ids.shape[1]
    assert wide.words.shape[1] == 2 * n
    assert torch.equal(wide.words[:, :n], narrow.words)
    assert torch.equal(wide.mask[:, :n], narrow.mask)
    assert not wide.mask[:, n:].any()
    assert torch.equal(wide.sentence, narrow.sentence)


def test_very_long_and_odd_texts(encoder: WordLSTM) -> None:
    out = encoder(["door " * 5000, "naïve 🚪 日本 \0", "  "])
    assert out.words.shape == (3, 5000, 8)
    assert torch.isfinite(out.words).all()
    assert out.mask.sum(1).tolist()[0] == 5000
    assert (out.mask.sum(1) >= 1).all()


def test_without_vocabulary() -> None:
    encoder = WordLSTM(5, 4)
    assert encoder.vocabulary is None
    with pytest.raises(RuntimeError, match="no vocabulary yet"):
        encoder(["door"])
    with pytest.raises(ValueError, match="training texts are empty"):
        encoder.fit_vocabulary(["", "."])


def test_vocabulary_travels(encoder: WordLSTM) -> None:
    other = WordLSTM(5, 4).eval()
    assert encoder.vocabulary is not None
    other.set_vocabulary(encoder.vocabulary)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(TEXTS).words, encoder(TEXTS).words)
    table = other.embedding
    other.set_vocabulary([*encoder.vocabulary[1:], "new"])  # as many words: the table stays
    assert other.embedding is table
    with pytest.raises(ValueError, match="twice"):
        other.set_vocabulary(["a", "b", "a"])


# ---- word vectors from a file --------------------------------------------------------------------------


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_vectors_are_taken_over_and_missing_words_are_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "glove.txt", "door 1 2 3", "zebra 9 9 9", "the -1 0.5 1e-2")
    encoder = WordLSTM(3, 4, embeddings=path)
    encoder.fit_vocabulary(["the door opens"])
    expected = torch.tensor([[0, 0, 0], [-1, 0.5, 0.01], [1, 2, 3], [0, 0, 0]])
    assert torch.equal(encoder.embedding.weight[:4], expected)


def test_found_says_which(tmp_path: Path) -> None:
    path = write(tmp_path / "w2v.txt", "2 3", "door 1 2 3", "the 4 5 6")
    vectors, found = read_embeddings(path, ["2", "the", "chair"], 3)
    assert found.tolist() == [False, True, False]
    assert vectors.tolist() == [[0, 0, 0], [4, 5, 6], [0, 0, 0]]


@pytest.mark.parametrize("line", ["door 1 2", "door 1 2 3 4", "door", "door 1 two 3", "door 1 2 3 4 5 6"])
def test_wrong_width_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "glove.txt", "the 1 2 3", line)
    with pytest.raises(ValueError, match=r"glove\.txt:2: .*'door'.* 3 numbers"):
        read_embeddings(path, ["door"], 3)


def test_lines_of_other_words_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "glove.txt", "zebra 1", "at name@domain.com 7 8 9", "at 1 2 3")
    vectors, found = read_embeddings(path, ["at"], 3)
    assert vectors.tolist() == [[1, 2, 3]]
    assert found.all()


def test_of_a_word_twice_the_first_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "glove.txt", "door 1 2 3", "the 4 5 6", "door 7 8 9")
    assert read_embeddings(path, ["door"], 3)[0].tolist() == [[1, 2, 3]]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt do not exist"):
        read_embeddings(tmp_path / "nowhere.txt", ["a"], 3)


def test_words_with_blanks_as_in_glove_840b() -> None:
    folder = golden_folder("zoo")
    if not (folder / "glove_sample.txt").exists():
        pytest.skip(f"no glove_sample.txt in {folder}")
    expected = json.loads((folder / "glove_sample.json").read_text(encoding="utf-8"))
    vectors, found = read_embeddings(folder / "glove_sample.txt", expected["tokens"], expected["dim"])
    assert found.all()
    torch.testing.assert_close(vectors, torch.tensor(expected["vectors"]))


def test_reading_skips_other_words_fast(tmp_path: Path) -> None:
    """A file of 400 000 words takes seconds, not minutes: here a twentieth of it."""
    row = " ".join(["0.12345"] * 300)
    path = write(tmp_path / "big.txt", *(f"w{k} {row}" for k in range(20_000)))
    start = time.perf_counter()
    assert read_embeddings(path, ["w7", "w19999"], 300)[1].all()
    assert time.perf_counter() - start < 5
