"""The text side of MIL-NCE: words to rows, padding in the maximum, what it loads and what a checkpoint keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_checks as checks
import numpy as np
import pytest
import torch

from groundzoo.zoo.text.mil_nce import MILNCEText, read_dictionary

WORDS = ["open", "the", "door", "don't", "Stir", "it", "2", "café"]
TEXTS = ["Open the door", "don't stir-it, 2 times", "zzz", "", "THE CAFÉ " * 20]


def dictionary(folder: Path, words: list[str] = WORDS) -> Path:
    np.save(folder / "dict.npy", np.array(words))
    return folder / "dict.npy"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Makes encoders of 5, 6 and 4 channels."""
    path = dictionary(tmp_path)

    def make(weights: Any = "random", words: Any = path, **options: Any) -> MILNCEText:
        return MILNCEText(weights, words, **{"word_dim": 5, "layer_dim": 6, "dim": 4, **options})

    return make


def released(encoder: MILNCEText, rows: int) -> dict[str, torch.Tensor]:
    """A file that holds other numbers, a table of `rows`, and a video side."""
    own = checks.varied(encoder.network.state_dict())
    own["word_embd.weight"] = torch.randn(rows, 5, generator=torch.Generator().manual_seed(2))
    text = {f"text_module.{k}": v for k, v in own.items()}
    return {"conv1.conv1.weight": torch.zeros(2, 3), "fc.weight": torch.zeros(4, 4), **text}


def test_ids(make: Any) -> None:
    ids = make().encode_ids([*TEXTS, "open_door open-door 'open"])
    assert ids.dtype == torch.int64
    expected = [[1, 2, 3], [4, 6, 7], [], [], [2, 8] * 8, [1, 3]]
    assert ids.tolist() == [row + [0] * (16 - len(row)) for row in expected]
    assert make(max_words=2).encode_ids(["zzz the open door"]).tolist() == [[2, 1]], "unknown words take no place"
    assert make(lower_case=False).encode_ids(["Stir Open it"])[0, :3].tolist() == [5, 6, 0]


def test_features_against_a_loop(make: Any) -> None:
    encoder = make()
    net, out = encoder.network, encoder(TEXTS)
    ids = encoder.encode_ids(TEXTS)
    assert out.words.shape == (5, 16, 4)
    assert out.sentence.shape == (5, 4)
    assert out.mask.sum(1).tolist() == [3, 3, 1, 1, 16]
    for row in range(5):
        hidden = torch.stack(
            [(net.word_embd.weight[i] @ net.fc1.weight.T + net.fc1.bias).relu() for i in ids[row]]
        )
        sentence = net.fc2(hidden.max(0).values)
        torch.testing.assert_close(out.sentence[row], sentence)
        for place in range(16):
            known = place < max(1, int((ids[row] > 0).sum()))
            assert bool(out.mask[row, place]) is known
            expected = net.fc2(hidden[place]) if known else torch.zeros(4)
            torch.testing.assert_close(out.words[row, place], expected)


def test_padding_takes_part_in_the_maximum(make: Any) -> None:
    encoder = make(max_words=3)
    with torch.no_grad():
        encoder.network.word_embd.weight.zero_()
        encoder.network.fc1.bias.fill_(-1)
        before = encoder(["open the door", "open the"]).sentence
        encoder.network.fc1.weight.fill_(1)
        encoder.network.word_embd.weight[0] = 3
    after = encoder(["open the door", "open the"]).sentence
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_each_text_is_encoded_as_if_alone(make: Any) -> None:
    encoder = make()
    out = encoder(TEXTS)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [0], [2, 3]):
        again = encoder([TEXTS[i] for i in order])
        n = again.words.shape[1]
        torch.testing.assert_close(again.sentence, out.sentence[order])
        torch.testing.assert_close(again.words, out.words[order, :n])
        assert torch.equal(again.mask, out.mask[order, :n])
        assert not out.mask[order, n:].any()
        assert again.mask.any(1).all()


@pytest.mark.parametrize("extra_rows", [0, 4])
@pytest.mark.parametrize("wrap", [*checks.WRAPS, "training", "text only"])
def test_weights(wrap: str, extra_rows: int, make: Any, tmp_path: Path) -> None:
    """Whatever stands around the text side; rows that no word points to are left out."""
    state = released(make(), len(WORDS) + 1 + extra_rows)
    content = state
    if wrap == "training":
        content = {f"module.{k}": v for k, v in state.items()}
    elif wrap == "text only":
        content = {f"module.{k[12:]}": v for k, v in state.items() if k.startswith("text_module.")}
    how = {"training": "state_dict", "text only": "bare"}.get(wrap, wrap)
    encoder = make(checks.write(content, how, tmp_path))
    loaded = encoder.network.state_dict()
    assert len(loaded) == 5
    for name, value in loaded.items():
        assert torch.equal(value, state[f"text_module.{name}"][: len(value)])
    assert loaded["word_embd.weight"].shape == (len(WORDS) + 1, 5)


def test_wrong_files(make: Any, tmp_path: Path) -> None:
    state = released(make(), len(WORDS))
    path = checks.write(state, "bare", tmp_path)
    with pytest.raises(
        ValueError, match="8 words, the weights' table has rows for 7: they do not belong together"
    ):
        make(path)
    with pytest.raises(ValueError, match="need their `dictionary`"):
        make(path, words=None)
    video = {k: v for k, v in state.items() if not k.startswith("text_module.")}
    with pytest.raises(ValueError, match=r"5 missing .* 2 unknown"):
        make(checks.write(video, "bare", tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        make(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="max_words=0"):
        make(max_words=0)


def test_wrong_dictionaries(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.npy does not exist"):
        read_dictionary(tmp_path / "no.npy")
    np.save(tmp_path / "objects.npy", np.array(["a", 3], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="nothing in it is executed"):
        read_dictionary(tmp_path / "objects.npy")
    for wrong in (np.zeros(3), np.array([["a"]]), np.array([], dtype="<U3")):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(ValueError, match="not a list of strings"):
            read_dictionary(tmp_path / "wrong.npy")
    (tmp_path / "text.npy").write_text("open\nthe\n")
    with pytest.raises(ValueError, match="cannot be read"):
        read_dictionary(tmp_path / "text.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(ValueError, match="several arrays"):
        read_dictionary(tmp_path / "two.npz")
    assert read_dictionary(dictionary(tmp_path)) == WORDS


def test_a_checkpoint_brings_the_dictionary(make: Any, tmp_path: Path) -> None:
    path = checks.write(released(make(), len(WORDS) + 3), "bare", tmp_path)
    encoder = make(path)
    assert encoder.vocabulary == WORDS
    path.unlink()
    arguments = {**encoder.settings, **encoder.rebuild_arguments()}
    assert arguments["weights"] == "checkpoint"
    again = MILNCEText(**arguments)
    assert again.vocabulary is None
    again.set_vocabulary(encoder.vocabulary)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(TEXTS).sentence, encoder(TEXTS).sentence)
    assert not any(p.requires_grad for p in again.parameters())


def test_vocabulary_of_the_training_texts(make: Any) -> None:
    encoder = make(words=None, trainable=True)
    with pytest.raises(RuntimeError, match="no vocabulary yet"):
        encoder(["door"])
    with pytest.raises(ValueError, match="training texts are empty"):
        encoder.fit_vocabulary(["", " - "])
    encoder.fit_vocabulary(["The door", "the DOOR opens"])
    assert encoder.vocabulary == ["the", "door", "opens"]
    assert encoder.network.word_embd.weight.shape == (4, 5)
    assert encoder.network.word_embd.weight.requires_grad
    fixed = make()
    fixed.fit_vocabulary(["something else"])
    assert fixed.vocabulary == WORDS


def test_frozen_and_trainable(make: Any) -> None:
    frozen = make()
    frozen.train()
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    frozen.requires_grad_(True)  # even if somebody asks for it
    out = frozen(TEXTS)
    assert not out.words.requires_grad
    assert not out.sentence.requires_grad
    trainable = make(trainable=True)
    assert trainable.training
    out = trainable(TEXTS)
    (out.words.sum() + out.sentence.sum()).backward()
    assert [k for k, p in trainable.named_parameters() if p.grad is None or not p.grad.any()] == []
    trainable.eval()
    assert not trainable.training


def test_reproducible_and_in_bfloat16(make: Any) -> None:
    torch.manual_seed(5)
    first = make()
    torch.manual_seed(6)
    second = make()
    assert torch.equal(first(TEXTS).sentence, second(TEXTS).sentence)
    rough = make().bfloat16()(TEXTS)
    assert rough.words.dtype == rough.sentence.dtype == torch.bfloat16
    torch.testing.assert_close(rough.sentence.float(), first(TEXTS).sentence, rtol=0.1, atol=0.05)


def test_the_space_is_that_of_the_video_side() -> None:
    """Same width as published, and the published table fits."""
    from groundzoo.zoo.text.mil_nce import MILNCETextNetwork
    from groundzoo.zoo.video.published import PUBLISHED

    with torch.device("meta"):
        network = MILNCETextNetwork()
    assert network.fc2.out_features == PUBLISHED["s3dg_howto100m"].dim
    assert sum(p.numel() for p in network.parameters()) == 21_540_536
