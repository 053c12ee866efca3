"""Stand-ins without weights for the models of automatic annotation: they know ToyWorld, and make mistakes.

`NoisyOracle` captions frames from the world's truth, `RuleChat` answers the questions of
`groundzoo.datamodules.annotation_prompts`. All of it is decided by seed, video and frame, or by the question, so
that runs are alike however they are cut. Generating a world needs none of this.
"""

from __future__ import annotations

import ast
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...zoo.chat import Chat, ChatModel
from ...zoo.frame_captioning import FrameCaption, FrameCaptioner, ground
from ...zoo.text.triples import triples
from ..annotation_prompts import CAPTION, CATEGORIES, CATEGORY, FRAMES, NONE, PHRASE
from .language import PHRASES, SHORT
from .scene import COLOURS

SYNONYMS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "cone"),
    "cross": ("cross", "star", "mark"),
}
"""What a frame's caption may call a shape; no word stands for two."""

MOST = 2  # things that a sentence tells of
LEAST = 0.3  # share of the frames that have to tell of it


class NoisyOracle(FrameCaptioner):
    """Captions frames of a ToyWorld from its truth, with the mistakes of an image model.

    Args:
        world: the folder that holds ``truth``.
        synonyms: share of shapes that are called by another word.
        colours: share of phrases with a wrong colour.
        missed: share of things that are mentioned, but have no box.
        jitter: standard deviation of a box's centre and size, as a share of its size.
        alarms: share of frames that also tell of something that is not there.
        seed: of the mistakes.
    """

    def __init__(
        self,
        world: str | Path,
        synonyms: float = 0.4,
        colours: float = 0.1,
        missed: float = 0.25,
        jitter: float = 0.12,
        alarms: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.world = Path(world)
        self.synonyms, self.colours, self.missed = synonyms, colours, missed
        self.jitter, self.alarms, self.seed = jitter, alarms, seed

    def describe(self, frames: Tensor, video_id: str, times_s: Sequence[float]) -> list[FrameCaption]:
        """See `FrameCaptioner.describe`."""
        truth = _truth(self.world / "truth" / f"{video_id}.json")
        scale = np.array([frames.shape[3] / truth["width"], frames.shape[2] / truth["height"]] * 2)
        return [self._look(truth, round(time_s * truth["fps"]), scale) for time_s in times_s]

    def _look(self, truth: Mapping[str, Any], number: int, scale: Any) -> FrameCaption:
        rng = np.random.default_rng([self.seed, zlib.crc32(truth["id"].encode()), number])
        size = np.array([truth["width"], truth["height"]])
        text, found = "", []
        for event in truth["events"]:
            actor = truth["actors"][event["actor"]]
            box = actor["boxes"][number]
            if not event["start"] <= number < event["end"] or box is None:
                continue
            phrase = self._name(actor["colour"], actor["shape"], rng)
            verbs = (*PHRASES.get(event["action"], ()), SHORT[event["action"]])
            text += f"{' while ' if text else ''}{phrase} {verbs[int(rng.integers(len(verbs)))]}"
            if rng.random() >= self.missed:
                found.append((phrase, [self._jittered(box, rng) * scale]))
        if rng.random() < self.alarms:
            phrase = self._name(str(rng.choice(list(COLOURS))), str(rng.choice(list(SYNONYMS))), rng)
            text = f"{text} near {phrase}" if text else phrase
            corner, side = rng.uniform(0, 0.8, 2) * size, rng.uniform(0.1, 0.2) * size.min()
            found.append((phrase, [np.array([*corner, *(corner + side)]) * scale]))
        width, height = (size * scale[:2]).tolist()
        return ground(text, found, (round(width), round(height)))

    def _name(self, colour: str, shape: str, rng: np.random.Generator) -> str:
        if rng.random() < self.colours:
            colour = str(rng.choice([other for other in COLOURS if other != colour]))
        word = SYNONYMS[shape][int(rng.integers(1, 3))] if rng.random() < self.synonyms else shape
        return f"a {colour} {word}"

    def _jittered(self, box: Sequence[float], rng: np.random.Generator) -> Any:
        x1, y1, x2, y2 = box
        sides = np.array([x2 - x1, y2 - y1])
        centre = np.array([x1 + x2, y1 + y2]) / 2 + rng.normal(0, self.jitter, 2) * sides
        half = sides * np.maximum(0.2, 1 + rng.normal(0, self.jitter, 2)) / 2
        return np.concatenate([centre - half, centre + half])


@lru_cache(maxsize=64)
def _truth(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: `world` is the folder that `groundzoo toyworld` made")
    return json.loads(path.read_text(encoding="utf-8"))


class RuleChat(ChatModel):
    """Answers the questions about ToyWorld by rules; some first answers are hidden in talk or useless.

    Args:
        talk: share of answers with other words around them, which can be read nevertheless.
        useless: share of first answers that cannot be read; one of four of them stays useless.
    """

    def __init__(self, talk: float = 0.2, useless: float = 0.1) -> None:
        super().__init__()
        self.talk, self.useless = talk, useless
        self._shapes = {word: shape for shape, words in SYNONYMS.items() for word in words}
        phrases = [(action, text) for action, texts in PHRASES.items() for text in texts] + list(SHORT.items())
        self._actions = {triples(f"a red circle {text}")[0][1:]: action for action, text in phrases}

    def answer(self, chats: Sequence[Chat]) -> list[str]:
        """See `ChatModel.answer`."""
        return [self._answer(chat) for chat in chats]

    def _answer(self, chat: Chat) -> str:
        turns = [turn.text for turn in chat if turn.role == "user"]
        question = next(text for text in reversed(turns) if text.startswith("{"))  # behind it a reminder may come
        asked = ast.literal_eval(question)
        draw = zlib.crc32(question.encode()) / 2**32
        if draw < self.useless and (turns[-1] == question or draw < self.useless / 4):
            return "I am sorry, I cannot see the video."
        if FRAMES in asked:
            answer = repr({CAPTION: self._sentence(asked[FRAMES])})
        else:
            answer = repr({CATEGORY: self._category(asked[PHRASE], asked[CATEGORIES])})
        return f"Sure! Here it is:\n\n{answer}\n\nTell me if you need more." if draw > 1 - self.talk else answer

    def _sentence(self, frames: Sequence[Any]) -> str:
        """The things that most frames tell of, each with what it does in most of them."""
        counts: Counter[tuple[str, str]] = Counter()
        doing: dict[tuple[str, str], Counter[str]] = {}
        for frame in frames:
            facts = triples(frame) if isinstance(frame, str) else frame
            seen = {}
            for subject, verb, thing, places in facts:
                action = self._actions.get((verb, thing, tuple(places)))
                if (who := self._who(subject)) is not None and action is not None:
                    seen[who] = action
            counts.update(seen.keys())
            for who, action in seen.items():
                doing.setdefault(who, Counter())[action] += 1
        least = LEAST * len(frames)
        told = [who for who, count in counts.most_common(MOST) if count >= least] or list(counts)[:1]
        clauses = [f"<p>a {' '.join(who)}</p> {SHORT[doing[who].most_common(1)[0][0]]}" for who in told]
        return " while ".join(clauses)

    def _category(self, phrase: str, categories: Sequence[str]) -> str:
        who = self._who(phrase)
        return next((c for c in categories if who is not None and self._who(c) == who), NONE)

    def _who(self, phrase: str) -> tuple[str, str] | None:
        """Colour and shape of a phrase."""
        words = phrase.lower().split()
        if len(words) < 2 or words[-2] not in COLOURS or words[-1] not in self._shapes:
            return None
        return words[-2], self._shapes[words[-1]]
