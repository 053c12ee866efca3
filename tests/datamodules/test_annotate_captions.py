"""Automatic annotation: lists of clips, prompts and answers, records, shards, and the steps without a trainer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from torch import Tensor
from tqdm import tqdm

from groundzoo.datamodules.annotation_clips import (
    Clip,
    ClipFacts,
    FrameDataset,
    FrameJob,
    FramePiece,
    clip_facts,
    frame_numbers,
    read_clips,
)
from groundzoo.datamodules.annotation_prompts import (
    CAPTION,
    CATEGORY,
    NONE,
    caption_again,
    caption_chat,
    caption_from,
    category_again,
    category_chat,
    category_from,
    read_caption,
    read_category,
)
from groundzoo.datamodules.annotation_steps import CaptionFrames
from groundzoo.datamodules.annotation_store import AnnotationStore
from groundzoo.datamodules.annotation_text_steps import CaptionClips, annotation, ask
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.grounded_records import parse_record
from groundzoo.datamodules.toyworld.annotators import NoisyOracle, RuleChat
from groundzoo.datamodules.toyworld.generate import generate
from groundzoo.datamodules.video import FrameReader, read_frames
from groundzoo.zoo.chat import Chat, ChatModel, Message
from groundzoo.zoo.frame_captioning import FrameCaption, FrameCaptioner
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.text.triples import triples

# ---- clips ----------------------------------------------------------------------------------------------


def test_lists_of_clips(tmp_path: Path) -> None:
    files = {"a": Path("a.mp4"), "b": Path("b.mkv")}
    assert read_clips(None, files) == [Clip("a", "0"), Clip("b", "0")]
    (tmp_path / "clips.csv").write_text("video,start_s,end_s\na.mp4,0,1.5\nb,2,3\na,4,5\n")
    expected = [Clip("a", "0", 0, 1.5), Clip("b", "0", 2, 3), Clip("a", "1", 4, 5)]
    assert read_clips(tmp_path / "clips.csv", files) == expected
    rows = [
        {"video": c.video_id, "start_s": c.start_s, "end_s": c.end_s, "clip_id": f"x{k}"}
        for k, c in enumerate(expected)
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [c.key for c in read_clips(tmp_path / "clips.jsonl", files)] == ["a_x0", "b_x1", "a_x2"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.csv", "video,start_s,end_s\na,1,2\na,3,2\n", ":3: no clip: 'a' from 3 to 2 s"),
        ("c.csv", "video,start_s\na,1\n", ":2: give `video`, `start_s` and `end_s`"),
        ("c.csv", "video,start_s,end_s\na,1,nan\n", ":2: no clip"),
        ("c.jsonl", '{"video": "a", "start_s": 0, "end_s": 1}\n{', ":2: no JSON"),
        ("c.jsonl", "[1]", ":1: an object is expected"),
        ("c.csv", "video,start_s,end_s,clip_id\na,1,2,7\na,3,4,7\n", ":3: a second clip 'a_7'"),
    ],
)
def test_mistakes_in_lists_say_where(name: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_clips(tmp_path / name, {})


def test_frames_of_a_clip_are_those_of_the_published_rule(tmp_path: Path) -> None:
    path = videos.coded_video(tmp_path / "v.mp4", 60, size=(48, 96), options={"preset": "ultrafast"})
    with FrameReader(path) as reader:
        facts = clip_facts(reader, Clip("v", "0", 0.4, 1.6))
        whole = clip_facts(reader, Clip("v", "0"))
    assert (facts.fps, facts.clip_start_frame, facts.clip_end_frame) == (25.0, 10, 40)
    assert list(frame_numbers(facts)) == list(range(10, 41, 5))
    assert (whole.clip_start_frame, whole.clip_end_frame, whole.width, whole.height) == (0, 59, 96, 48)
    jobs = [FrameJob(Clip("v", "0", 0.4, 1.6), path), FrameJob(Clip("v", "1", 9, 10), path)]
    one, two, late = FrameDataset(list(enumerate(jobs)), piece=4, max_side=48)
    assert [p.first for p in (one, two)] == [0, 4]
    assert (one.last, two.last) == (False, True)
    assert one.frames.shape == (4, 3, 24, 48)
    assert np.allclose([*one.times_s, *two.times_s], np.arange(10, 41, 5) / 25)
    assert (two.frames == read_frames(path, two.times_s, (24, 48))).all()
    assert "lasts 2.40 s, and the clip begins at 9 s" in (late.problem or "")


# ---- questions and answers -------------------------------------------------------------------------------


def test_questions_have_system_examples_and_input() -> None:
    chat = caption_chat([triples("a man stirs rice in a pot"), []])
    assert [turn.role for turn in chat] == ["system", *["user", "assistant"] * 2, "user"]
    assert chat[-1].text == "{'FRAMES': [[('man', 'stir', 'rice', [('in', 'pot')])], []]}"
    assert all(read_caption(turn.text) for turn in chat if turn.role == "assistant"), "examples obey the rules"
    sentences = caption_chat(["a man stirs rice"])
    assert sentences[-1].text == "{'FRAMES': ['a man stirs rice']}"
    assert "A frame is a sentence" in sentences[0].text
    chat = category_chat("a lady", ["a woman", "a can"])
    assert [turn.role for turn in chat] == ["system", *["user", "assistant"] * 5, "user"]
    assert chat[-1].text == "{'PHRASE': 'a lady', 'CATEGORIES': ['a woman', 'a can']}"
    for again, key in ((caption_again, CAPTION), (category_again, CATEGORY)):
        more = again(chat, "no")
        assert more[: len(chat)] == chat
        assert [turn.role for turn in more[len(chat) :]] == ["assistant", "user"]
        assert key in more[-1].text


@pytest.mark.parametrize(
    "answer",
    [
        "{'CAPTION': '<p>A man</p> stirs <p>the rice</p>.'}",
        '{"CAPTION": "<p>A man</p> stirs <p>the rice</p>."}',
        "Sure!\n```python\n{'CAPTION': '<p>A man</p>  stirs\t<p>the rice</p>.'}\n```\nIs that right?",
        "{'caption': '<p>A man</p> stirs <p>the rice</p>.', 'NOTE': None}",
        "CAPTION: <p>A man</p> stirs <p>the rice</p>.",
        "{CAPTION: '<p>A man</p> stirs <p>the rice</p>.'}",
        "Here you are:\n<p>A man</p> stirs <p>the rice</p>.",
    ],
)
def test_captions_are_read_from_all_kinds_of_answers(answer: str) -> None:
    caption = read_caption(answer)
    assert caption is not None
    assert caption.text == "a man stirs the rice."
    assert caption.phrases == ["a man", "the rice"]


@pytest.mark.parametrize(
    "answer", ["", "I cannot.", "{'CAPTION': 'a man stirs'}", "{'CAPTION': ''}", "{'CAPTION'", "{" * 5000,
               "{'CAPTION': '<p>a man</p> " + "very " * 80 + "'}"],
)  # fmt: skip
def test_useless_captions(answer: str) -> None:
    assert read_caption(answer) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("{'CATEGORY': 'a wooden spoon'}", "a wooden spoon"),
        ('{"category": "The Wooden Spoon."}', "a wooden spoon"),
        ("{'CATEGORY': 'None'}", NONE),
        ("{'CATEGORY': None}", NONE),
        ("{'CATEGORY': 'a man'} because {he} stirs", "a man"),
        ("wooden spoon", "a wooden spoon"),
        ("It is a wooden spoon", "a wooden spoon"),
        ("none", NONE),
        ("{'CATEGORY': 'a dog'}", None),
        ("a man or a wooden spoon", None),
        ("", None),
    ],
)
def test_categories_are_read_from_all_kinds_of_answers(answer: str, expected: str | None) -> None:
    assert read_category(answer, ["a man", "a wooden spoon", "spoon"]) == expected


def test_sentences_and_categories_by_rule() -> None:
    frames = [
        triples("the lady cuts the cake"),
        triples("a man stirs rice in a pot"),
        triples("A man stirs rice in the pot"),
    ]
    caption = caption_from(frames)
    assert caption is not None
    assert caption.text == "the man stirs the rice in the pot."
    assert caption.phrases == ["the man", "the rice"]
    still = caption_from([triples("a bowl on a table")])
    assert still is not None
    assert (still.text, still.phrases) == ("the bowl is on the table.", ["the bowl", "the table"])
    assert caption_from([[], []]) is None
    assert category_from("the two wooden spoons", ["a man", "a spoon"]) == "a spoon"
    assert category_from("a spoon", ["a big spoon", "a small spoon"]) == NONE
    assert category_from("a dog", ["a man"]) == NONE


class Scripted(ChatModel):
    """Answers in turn; keeps what it was asked."""

    def __init__(self, *rounds: list[str]) -> None:
        super().__init__()
        self.rounds, self.asked = list(rounds), list[Sequence[Chat]]()

    def answer(self, chats: Sequence[Chat]) -> list[str]:
        self.asked.append(chats)
        return self.rounds.pop(0)


def test_answers_that_cannot_be_read_are_asked_for_once_more() -> None:
    model = Scripted(["1", "x", "y"], ["2", "z"])
    chats = [[Message("user", str(k))] for k in range(3)]

    def read(text: str) -> int | None:
        return int(text) if text.isdigit() else None

    found = ask(model, chats, [read] * 3, caption_again)
    assert found == [(1, "first"), (2, "second"), (None, "fallback")]
    assert [chat[1].text for chat in model.asked[1]] == ["x", "y"]
    assert ask(Scripted(), [], [], caption_again) == []


def test_what_the_model_gets_to_know_of_a_clip(tmp_path: Path) -> None:
    texts = ["", *(f"a man lifts {k} boxes" for k in range(10, 20))]
    frames = {"v_0": {"frames": [{"caption": text} for text in texts]}, "w_0": {"frames": [{"caption": ""}]}}
    clips = [Clip("v", "0"), Clip("w", "0")]
    model = Scripted(["{'CAPTION': '<p>a man</p> works'}"])
    options: dict[str, Any] = {"clips": clips, "out": AnnotationStore(tmp_path), "clips_per_shard": 2}
    options |= {"clips_at_once": 2, "num_workers": 0, "retry": False, "inputs": []}
    step = CaptionClips(model, "captions", 4, **options)
    records, failed = step.make(clips, frames)
    assert model.asked[0][0][-1].text == repr({"FRAMES": [f"a man lifts {k} boxes" for k in (10, 13, 16, 19)]})
    assert records == [
        {"video_id": "v", "clip_id": "0", "caption": "a man works", "spans": [[0, 5]], "source": "first"}
    ]
    assert failed == {"w_0": "nothing is said of its frames"}


# ---- records --------------------------------------------------------------------------------------------


def frame(text: str, *found: tuple[str, list[list[float]]]) -> dict[str, Any]:
    spans = [[text.index(phrase), text.index(phrase) + len(phrase)] for phrase, _ in found]
    return {"caption": text, "spans": spans, "boxes": [boxes for _, boxes in found]}


FACTS = {"video_id": "v", "clip_id": "3", "video_fname": "v.mp4", "fps": 25.0, "clip_start_frame": 0,
         "clip_end_frame": 10, "width": 80, "height": 40}  # fmt: skip


def test_boxes_of_a_class_become_one_per_frame() -> None:
    frames = [
        frame("A Cook and a pan and the skillet", ("A Cook", [[1, 2, 3, 4]]), ("a pan", [[10, 5, 20, 9]]),
              ("skillet", [[30, 1, 40, 8], [12, 2, 14, 6]])),
        frame("nothing"),
        frame("a pan, a hat", ("a pan", [[0, 0, 9, 9]]), ("a hat", [[1, 1, 2, 2]])),
    ]  # fmt: skip
    caption = {"caption": "a man lifts a pan from a stove", "spans": [[0, 5], [12, 17], [23, 30]]}
    classes = {"a cook": "a man", "a pan": "a pan", "skillet": "a pan", "a hat": None}
    record = annotation({**FACTS, "frames": frames}, caption, {"classes": classes})
    assert record is not None
    assert list(record) == [*FACTS, "caption", "tagged_caption", "phrases", "bboxes", "labels"]
    assert record["tagged_caption"] == "<p>a man</p> lifts <p>a pan</p> from a stove", "no frame shows the stove"
    assert record["phrases"] == ["a man", "a pan"]
    assert record["labels"] == [["a man", "a pan"], [], ["a pan"]]
    assert record["bboxes"] == [[[1, 2, 3, 4], [10, 1, 40, 9]], [], [[0, 0, 9, 9]]]
    clip = parse_record(record, "here")
    assert list(clip.frames) == [0, 5, 10]
    assert clip.boxes[0] == [(0, [1, 2, 3, 4]), (1, [10, 1, 40, 9])]
    nothing = dict.fromkeys(classes)
    assert annotation({**FACTS, "frames": frames}, caption, {"classes": nothing}) is None


# ---- files ----------------------------------------------------------------------------------------------


def record(key: int) -> dict[str, Any]:
    return {"video_id": "v", "clip_id": str(key), "text": "ü"}


def test_shards_are_put_together_in_the_order_of_the_list(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "s")
    store.claim({})
    store.fail("v_1", "broken")
    store.add(4, [record(2)])
    store.add(4, [record(0)])
    store.add(5, [record(9)])
    assert store.read(4).keys() == {"v_0", "v_2"}
    store.finish(4, ["v_0", "v_1", "v_2"])
    lines = store.shard(4).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["clip_id"] for line in lines] == ["0", "2"]
    assert not list((tmp_path / "s" / "loose").glob("00004*"))
    assert store.failed() == {"v_1": "broken"}
    store.add(4, [record(1)])
    store.finish(4, ["v_0", "v_1", "v_2"])
    assert list(store.read(4)) == ["v_0", "v_1", "v_2"]
    assert store.failed() == {}
    store.shard(4).write_text('{"video_id": "v"')
    assert store.read(4) == {}, "what is broken is made anew"
    store.finish(5, ["v_9"])
    store.tidy()
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "manifest.json",
        "shard-00004.jsonl",
        "shard-00005.jsonl",
    ]
    store.add(6, [record(3)])


def test_folders_that_were_made_otherwise_are_refused(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "s")
    with pytest.raises(AnnotationError, match=r"no manifest .*: run the stage that makes s"):
        _ = store.manifest
    store.claim({"fps": 5, "chat": {"class_path": "a.B", "init_args": {"talk": 1}}, "groundzoo": "1"})
    store.claim({"fps": 5, "chat": {"class_path": "a.B", "init_args": {"talk": 1}}, "groundzoo": "2"})
    with pytest.raises(AnnotationError, match=r"s was made otherwise: chat.init_args.talk is 1, not 2. Choose"):
        store.claim({"chat": {"class_path": "a.B", "init_args": {"talk": 2}}})
    with pytest.raises(AnnotationError, match=r"chat is B, not C"):
        store.claim({"chat": {"class_path": "a.C"}})


# ---- stand-ins for ToyWorld -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    return generate(root / "toy", videos=8, preset="grounded", format="iground", workers=1)


def test_the_oracle_errs_as_often_as_it_is_told(world: Path) -> None:
    exact = NoisyOracle(world, synonyms=0, colours=0, missed=0, jitter=0, alarms=0)
    noisy = NoisyOracle(world, jitter=0.12, alarms=0)
    missed = words = total = 0
    shifts: list[float] = []
    for path in sorted((world / "truth").glob("*.json")):
        truth = json.loads(path.read_text())
        times = [k / truth["fps"] for k in range(truth["num_frames"])]
        frames = np.zeros((len(times), 3, truth["height"] * 2, truth["width"] * 2), dtype=np.uint8)
        pictures = torch.from_numpy(frames)
        right, wrong = exact.describe(pictures, truth["id"], times), noisy.describe(pictures, truth["id"], times)
        assert noisy.describe(pictures[3:5], truth["id"], times[3:5]) == wrong[3:5], "however frames are cut"
        for number, (a, b) in enumerate(zip(right, wrong, strict=True)):
            for phrase, own in zip(a.caption.phrases, a.boxes, strict=True):
                actor = next(x for x in truth["actors"] if f"a {x['colour']} {x['shape']}" == phrase)
                assert np.allclose(own[0], np.array(actor["boxes"][number]) * 2), "in pixels of the frame given"
            missed += len(a.boxes) - len(b.boxes)
            total += len(a.boxes)
            words += sum(x != y for x, y in zip(a.caption.text.split(), b.caption.text.split(), strict=False))
            if len(a.boxes) == len(b.boxes) == 1:
                (x, y) = np.array([a.boxes[0][0], b.boxes[0][0]])
                if x.min() > 5 and x.max() < truth["width"] * 2 - 5:
                    shifts.append(((y[0] + y[2]) - (x[0] + x[2])) / 2 / (x[2] - x[0]))
    assert total > 100
    assert 0.15 < missed / total < 0.35
    assert words > 0.3 * total
    assert 0.08 < np.std(shifts) < 0.16
    with pytest.raises(ValueError, match="`world` is the folder"):
        noisy.describe(pictures[:1], "nobody", [0.0])


def test_the_rule_based_chat_answers_both_questions() -> None:
    notes = [
        "a red circle moves left",
        "a red ball goes left while a blue box spins",
        "a green disc moves left",
    ] * 3
    plain = RuleChat(talk=0, useless=0)
    for given in (notes, [triples(note) for note in notes]):
        (answer,) = plain.answer([caption_chat(given)])
        caption = read_caption(answer)
        assert caption is not None
        assert caption.text == "a red circle moves left while a blue square spins"
    for phrase, expected in (("a red disc", "a red circle"), ("a green disc", NONE), ("the man", NONE)):
        (answer,) = plain.answer([category_chat(phrase, ["a red circle", "a blue square"])])
        assert read_category(answer, ["a red circle", "a blue square"]) == expected
    chats = [category_chat(f"{k} red disc", ["a red circle"]) for k in range(400)]
    sloppy = RuleChat(talk=0.2, useless=0.1)
    answers = sloppy.answer(chats)
    assert 20 < sum(read_category(a, ["a red circle"]) is None for a in answers) < 60
    again = sloppy.answer([category_again(chat, answer) for chat, answer in zip(chats, answers, strict=True)])
    assert 2 < sum(read_category(a, ["a red circle"]) is None for a in again) < 25


# ---- frames ---------------------------------------------------------------------------------------------


class Counting(FrameCaptioner):
    """Says the time of each frame; frames of one clip need too much memory."""

    def describe(self, frames: Tensor, video_id: str, times_s: Sequence[float]) -> list[FrameCaption]:
        if video_id == "large":
            raise torch.OutOfMemoryError
        return [FrameCaption(GroundedText(f"at {time_s:g}", ((0, 2),)), (((1, 2, 3, 4),),)) for time_s in times_s]


def test_pieces_of_clips_are_put_together(tmp_path: Path) -> None:
    """Also where a clip is read again from its beginning, after its decoder's neighbour has crashed."""
    clips = [Clip("v", "0"), Clip("large", "0"), Clip("absent", "0")]
    store = AnnotationStore(tmp_path / "frames")
    store.claim({})
    options: dict[str, Any] = {
        "clips": clips,
        "out": store,
        "clips_per_shard": 9,
        "num_workers": 0,
        "retry": False,
    }
    files = {"v": Path("v.mp4"), "large": Path("large.mp4")}
    step = CaptionFrames(files, Counting(), frames_at_once=2, max_side=20, **options)
    step._bar = tqdm(disable=True)
    step.loader(list(step.work()))
    assert store.failed() == {"absent_0": "there is no video file called absent"}
    facts = ClipFacts("v.mp4", 5.0, 0, 2, 40, 20)
    pictures = torch.zeros(2, 3, 10, 20, dtype=torch.uint8)
    begin = FramePiece(0, 0, pictures, (0.0, 0.2), facts, last=False)
    end = FramePiece(0, 2, pictures[:1], (0.4,), facts, last=True)
    for number, piece in enumerate((begin, begin, FramePiece(1, 0, pictures, (0.0, 0.2), facts), end, end)):
        step.predict_step(piece, number)
    assert "out of memory; give a smaller --frames_at_once" in store.failed()["large_0"]
    (line,) = store.shard(0).read_text().splitlines()
    record = json.loads(line)
    assert [frame["caption"] for frame in record["frames"]] == ["at 0", "at 0.2", "at 0.4"]
    assert record["frames"][0]["boxes"] == [[[2, 4, 6, 8]]], "in pixels of the file"
    assert {key: record[key] for key in facts._asdict()} == facts._asdict()
