"""What is said of an event, so that the words must be read: 44 words in queries, temporal ones among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...zoo.text.grounded_text import GroundedText
from .scene import Actor, Event, Kind, Query, WorldConfig

PHRASES: dict[str, tuple[str, str]] = {
    "left": ("moves to the left", "goes left"),
    "right": ("moves to the right", "goes right"),
    "up": ("moves up", "rises"),
    "down": ("moves down", "sinks"),
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
    "spin": ("spins", "rotates"),
    "blink": ("blinks", "flashes"),
    "jump": ("jumps", "hops"),
    "shake": ("shakes", "trembles"),
}

SHORT = {action: phrases[0].replace("to the ", "") for action, phrases in PHRASES.items()} | {"rest": "rests"}
"""The verb phrases of grounded captions."""

# How a repeated event is told from its twin. Only the first way is always possible, so over a world the three
# come out as about 11 : 9 : 5.
WAYS = {"ordinal": 0.43, "relation": 0.35, "half": 0.22}

SIZED = 0.6  # share of descriptions with a size word
COUNTED = 0.5  # share of descriptions that say how many others are there
NUMBERS = ("no", "one", "two", "three", "four", "five")


def twin_of(events: Sequence[Event], k: int) -> int | None:
    """Index of the other event with event ``k``'s actor and action, None if there is none."""
    pair = (events[k].actor, events[k].action)
    return next((i for i, e in enumerate(events) if i != k and (e.actor, e.action) == pair), None)


def relation(a: Event, b: Event) -> str | None:
    """``a`` happens "before", "after" or "while" ``b``, or None if they overlap in half of ``a`` or less."""
    if a.end <= b.start:
        return "before"
    if a.start >= b.end:
        return "after"
    together = min(a.end, b.end) - max(a.start, b.start)
    return "while" if 2 * together > a.end - a.start else None


def ask(
    config: WorldConfig,
    actors: Sequence[Actor],
    events: Sequence[Event],
    num_frames: int,
    rng: np.random.Generator,
) -> list[Query]:
    """One query per event, in the order of the events.

    Args:
        config: the world.
        actors: of the video.
        events: sorted by start; an (actor, action) pair occurs at most twice.
        num_frames: of the video.
        rng: source of the phrasing.

    Returns:
        The queries, each true of exactly one moment.
    """
    twins = [twin_of(events, k) for k in range(len(events))]
    queries = []
    for k, event in enumerate(events):
        last = k
        kind: Kind = "plain"
        text = _clause(config, actors, event, rng)
        related = _related(events, k, twins)
        twin = twins[k]
        follower = k + 1 if k + 1 < len(events) and events[k + 1].start >= event.end else None
        if twin is not None:
            kind = "needed"
            text = _tell_apart(config, actors, events, k, twin, related, num_frames, text, rng)
        elif related and rng.random() < config.redundant:
            kind = "redundant"
            text = _relate(config, actors, events, k, related, text, rng)
        elif follower is not None and twins[follower] is None and rng.random() < config.then:
            kind, last = "span", follower
            text = f"{text} then {_clause(config, actors, events[follower], rng)}"
        queries.append(Query(f"{text}.", event.start_s, events[last].end_s, event.actor, event.action, k, kind))
    return queries


def tell(actors: Sequence[Actor], events: Sequence[Event], wording: int = 0) -> str:
    """One sentence about simultaneous events, "The red circle spins while the blue square moves up" and the like.

    Args:
        actors: of the video.
        events: in the order in which the sentence names them.
        wording: which of the two verb phrases, 0 or 1.

    Returns:
        The sentence, with a capital letter and a full stop.
    """
    clauses = [
        f"the {actors[event.actor].colour} {actors[event.actor].shape} {PHRASES[event.action][wording]}"
        for event in events
    ]
    text = " while ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def depict(actors: Sequence[Actor], event: Event, rng: np.random.Generator) -> str:
    """A sentence about an event that says what an action class does not: "A big red circle spins alone.".

    Args:
        actors: of the video, three at most are counted in words.
        event: of one of them.
        rng: source of the style: article, size word, verb phrase, and whether the others are mentioned.

    Returns:
        The sentence, with a capital letter and a full stop.
    """
    who = actors[event.actor]
    size = f"{who.size} " if rng.random() < SIZED else ""
    verb = PHRASES[event.action][int(rng.integers(2))]
    article = ("the", "a")[int(rng.integers(2))]
    tail = f" {_company(actors, event.actor)}" if rng.random() < COUNTED else ""
    text = f"{article} {size}{who.colour} {who.shape} {verb}{tail}."
    return f"{text[0].upper()}{text[1:]}"


def ground(actors: Sequence[Actor], events: Sequence[Event]) -> GroundedText:
    """One sentence about simultaneous events, "a red circle moves left while a blue cross rests" and the like.

    Args:
        actors: of the video.
        events: in the order in which the sentence names them.

    Returns:
        The sentence, in lower case without a full stop, and where in it each event's actor is named.
    """
    text, spans = "", []
    for event in events:
        text += " while " if text else ""
        who = f"a {actors[event.actor].colour} {actors[event.actor].shape}"
        spans.append((len(text), len(text) + len(who)))
        text += f"{who} {SHORT[event.action]}"
    return GroundedText(text, tuple(spans))


def name_step(colour: str, shape: str, action: str) -> str:
    """The one phrase that stands for a step, as an action class does: "red circle moves to the left"."""
    return f"{colour} {shape} {PHRASES[action][0]}"


def step_phrase(actors: Sequence[Actor], event: Event) -> str:
    """The phrase that stands for a step of a video with these actors."""
    actor = actors[event.actor]
    return name_step(actor.colour, actor.shape, event.action)


def describe(config: WorldConfig, actors: Sequence[Actor], actor: int, rng: np.random.Generator) -> str:
    """Noun phrase of an actor; the size word may only be missing if the colour alone would do."""
    who = actors[actor]
    unique = sum(other.colour == who.colour for other in actors) == 1
    size = "" if unique and rng.random() < config.drop_size else f"{who.size} "
    return f"the {size}{who.colour} {who.shape}"


def _company(actors: Sequence[Actor], actor: int) -> str:
    """Who else is there, with the number of the others in words."""
    others = [other for i, other in enumerate(actors) if i != actor]
    if not others:
        return "alone"
    if len(others) == 1:
        return f"beside one {others[0].colour} {others[0].shape}"
    return f"beside {NUMBERS[len(others)]} other shapes"


def _clause(config: WorldConfig, actors: Sequence[Actor], event: Event, rng: np.random.Generator) -> str:
    phrases = PHRASES[event.action]
    return f"{describe(config, actors, event.actor, rng)} {phrases[int(rng.integers(len(phrases)))]}"


def _relate(
    config: WorldConfig,
    actors: Sequence[Actor],
    events: Sequence[Event],
    k: int,
    related: Sequence[int],
    text: str,
    rng: np.random.Generator,
) -> str:
    """Add how event ``k`` stands to one of the related events; the rare simultaneous ones come first."""
    simultaneous = [i for i in related if relation(events[k], events[i]) == "while"]
    choice = simultaneous or related
    other = events[choice[int(rng.integers(len(choice)))]]
    return f"{text} {relation(events[k], other)} {_clause(config, actors, other, rng)}"


def _related(events: Sequence[Event], k: int, twins: Sequence[int | None]) -> list[int]:
    """Events that occur once, stand in a relation to event ``k``, and not in the same one to its twin."""
    twin = twins[k]
    return [
        i
        for i, other in enumerate(events)
        if i != k
        and twins[i] is None
        and (how := relation(events[k], other)) is not None
        and (twin is None or relation(events[twin], other) != how)
    ]


def _tell_apart(
    config: WorldConfig,
    actors: Sequence[Actor],
    events: Sequence[Event],
    k: int,
    twin: int,
    related: Sequence[int],
    num_frames: int,
    text: str,
    rng: np.random.Generator,
) -> str:
    """Add the words without which event ``k`` and its twin could not be told apart."""
    early, late = sorted((events[k].start + events[k].end, events[twin].start + events[twin].end))
    halves = early < num_frames < late  # sums of start and end: twice the centres
    possible = [
        way for way in WAYS if way == "ordinal" or (way == "relation" and related) or (way == "half" and halves)
    ]
    weights = np.array([WAYS[way] for way in possible])
    way = possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
    if way == "relation":
        return _relate(config, actors, events, k, related, text, rng)
    first = events[k].start < events[twin].start
    if way == "half":
        return f"{text} {'early' if first else 'late'} in the video"
    return f"{text} {'for the first time' if first else 'again'}"
