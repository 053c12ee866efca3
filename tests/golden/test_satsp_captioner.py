"""The event encoder and the event captioner against the authors' program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import uniform
from golden_files import golden_cases
from torch import Tensor, nn

from groundzoo.zoo.event_captioner import CaptionerOptions, EventCaptioner
from groundzoo.zoo.event_encoder import EventEncoder, EventMemory, clips_of_events

pytestmark = pytest.mark.golden
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

files = pytest.mark.parametrize("path", golden_cases("satsp", "captioner_*.json"), ids=lambda p: p.stem)

# their parameters and ours; None: cancelled by a softmax, we have none
ENCODER = {
    "pre_map.0.weight": "project.0.weight",
    "pre_map.0.bias": "project.0.bias",
    "key_map.weight": "key.weight",
    "key_map.bias": None,
    "query_map.weight": "query.weight",
    "query_map.bias": "query.bias",
    "value_map.weight": "value.weight",
    "value_map.bias": "value.bias",
    "pair_pos_fc1.weight": "position.0.weight",
    "pair_pos_fc1.bias": "position.0.bias",
    "pair_pos_fc2.weight": "position.2.weight",
    "pair_pos_fc2.bias": None,
}
DECODER = {
    "embed.weight": "embedding.weight",
    "sent_rnn.weight_ih_l0": "sentence_lstm.weight_ih",
    "sent_rnn.weight_hh_l0": "sentence_lstm.weight_hh",
    "gate_layer.0.weight": "gate.weight",
    "gate_layer.0.bias": "gate.bias",
    "global_proj.0.weight": "said.weight",
    "global_proj.0.bias": "said.bias",
    "local_proj.0.weight": "seen.weight",
    "local_proj.0.bias": "seen.bias",
    "para_transfer_layer.weight": "begin.weight",
    "para_transfer_layer.bias": "begin.bias",
    "logit.weight": "head.weight",
    "logit.bias": "head.bias",
    "core.rnn.weight_ih_l0": "word_lstm.weight_ih",
    "core.rnn.weight_hh_l0": "word_lstm.weight_hh",
    "core.ctx2att.weight": "key.weight",
    "core.ctx2att.bias": "key.bias",
    "core.h2att.weight": "query.weight",
    "core.h2att.bias": "query.bias",
    "core.alpha_net.weight": "score.weight",
    "core.alpha_net.bias": None,
}


class Case:
    """One video told by the released program, and our parts with the same weights."""

    def __init__(self, path: Path) -> None:
        record = json.loads(path.read_text())
        self.case: dict[str, Any] = record["case"]
        opt, name = self.case["opt"], self.case["name"]
        self.arrays = np.load(path.with_suffix(".npz"))
        self.encoder = EventEncoder(opt["feature_dim"], opt["hidden_dim"], opt["group_num"]).eval()
        options = CaptionerOptions(
            dim=opt["rnn_size"],
            word_dim=opt["input_encoding_size"],
            attention_dim=opt["att_hid_size"],
            dropout=opt["drop_prob"],
            event_input={"C": False, "C+E": True}[opt["wordRNN_input_feats_type"]],
            begin_from="cell",
            carry_decoded=False,
        )
        widths = self.encoder.clip_dim, self.encoder.event_dim
        assert widths == (opt["clip_context_dim"], opt["event_context_dim"])
        self.captioner = EventCaptioner(*widths, opt["vocab_size"] + 1, options).eval()
        self.shapes = record.get("state_dict_shapes")
        load(self.encoder, ENCODER, "enc")
        load(self.captioner, DECODER, "dec")
        clips, width = self.case["T"], opt["feature_dim"]
        feats = torch.from_numpy(2 * uniform(f"{name}:feats", clips * width) - 1).view(1, clips, width)
        events = torch.tensor([self.case["timestamps"]], dtype=torch.float64)
        self.video = (feats, torch.ones(1, clips, dtype=torch.bool), torch.tensor([self.case["duration"]]), events)
        ids = self.case["captions_ids"]
        longest = max(len(row) for row in ids)
        self.ids = torch.tensor([[row + [0] * (longest - len(row)) for row in ids]])
        lengths = torch.tensor([[len(row) for row in ids]])
        self.real = torch.arange(1, longest) < lengths[..., None]

    def array(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"{self.case['name']}/{key}"])

    def encoded(self) -> EventMemory:
        memory = self.encoder(*self.video, torch.ones(self.video[3].shape[:2], dtype=torch.bool))
        assert isinstance(memory, EventMemory)
        return memory


def load(module: nn.Module, table: dict[str, str | None], prefix: str) -> None:
    """Fill every parameter with the numbers of the released one."""
    own = module.state_dict()
    assert sorted(own) == sorted(key for key in table.values() if key)
    filled = {}
    for theirs, ours in table.items():
        if ours is None:
            continue
        shape = own[ours].shape
        u = uniform(f"{prefix}:{theirs}", own[ours].numel()).astype(np.float64)
        scale = (3 / shape[1]) ** 0.5 if len(shape) > 1 else 0.1
        filled[ours] = torch.from_numpy((scale * (2 * u - 1)).astype(np.float32)).view(shape)
    module.load_state_dict(filled)


@files
def test_parameters(path: Path) -> None:
    case = Case(path)
    if case.shapes is None:
        pytest.skip(f"{path.name} has no shapes")
    for module, table, part in ((case.encoder, ENCODER, "encoder"), (case.captioner, DECODER, "decoder")):
        own = module.state_dict()
        assert set(table) == set(case.shapes[part])
        for theirs, ours in table.items():
            if ours is not None:
                assert list(own[ours].shape) == case.shapes[part][theirs], theirs


@files
def test_clips_of_events(path: Path) -> None:
    case = Case(path)
    _, mask, duration, events = case.video
    inside = clips_of_events(events, duration, mask)[0]
    spans = [[row.nonzero().min().item(), row.nonzero().max().item()] for row in inside]
    assert spans == case.case["featstamps_inclusive"]
    assert inside.sum(1).tolist() == [b - a + 1 for a, b in spans]


@files
def test_events(path: Path) -> None:
    case = Case(path)
    torch.testing.assert_close(case.video[0][0], case.array("feats")[0], **CLOSE)
    events = case.encoded().events[0]
    torch.testing.assert_close(events, case.array("event_ctx"), **CLOSE)
    bins = [row[-100:].nonzero().squeeze(1) for row in events]
    assert [[b.min().item(), b.max().item()] for b in bins] == case.case["event_pos100_nonzero"]


@files
def test_given_sentences(path: Path) -> None:
    case = Case(path)
    memory, before, targets = case.encoded(), case.ids[..., :-1], case.ids[..., 1:]
    expected = case.array("logprobs")
    found = case.captioner(*memory, before).log_softmax(-1)
    torch.testing.assert_close(found[case.real], expected[case.real], **CLOSE)
    spoken = case.captioner.log_probs(*memory, targets)
    loss = -spoken.sum() / case.real.sum()
    assert loss.item() == pytest.approx(case.case["xe_loss"], rel=1e-4)


@files
def test_greedy_sentences(path: Path) -> None:
    case = Case(path)
    said = case.captioner.generate(*case.encoded(), case.case["opt"]["max_caption_len"])
    assert said.words.tolist() == case.case["greedy_ids"]
    torch.testing.assert_close(said.log_prob, torch.tensor(case.case["greedy_logprob"]), **CLOSE)
