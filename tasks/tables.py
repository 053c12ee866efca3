"""Tables of answers that the command line prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from .caption_pictures import phrase_colours
from .describing import ToldEvent
from .grounded_caption import GroundedCaption
from .localizing import Localization
from .moments import Moment


def moments_table(video: str, queries: Sequence[str], answers: Sequence[Sequence[Moment]]) -> Table:
    """A row for each moment of each query, best first."""
    table = Table(title=Text(video))
    for column in ("query", "rank", "start", "end", "score"):
        table.add_column(column, justify="left" if column == "query" else "right")
    for query, moments in zip(queries, answers, strict=True):
        for rank, (start, end, score) in enumerate(moments, start=1):
            name = Text(query if rank == 1 else "")
            table.add_row(name, str(rank), f"{start:.2f} s", f"{end:.2f} s", f"{score:.3f}")
    return table


def caption_table(video: str, caption: GroundedCaption) -> Table:
    """The sentence, its phrases in the colours of the pictures, and its score."""
    table = Table("video", "caption", "score")
    sentence = Text(caption.text)
    for number, (red, green, blue) in phrase_colours(caption).items():
        phrase = caption.phrases[number]
        sentence.stylize(f"bold rgb({red},{green},{blue})", phrase.start, phrase.end)
    table.add_row(Text(video, overflow="fold"), sentence, f"{caption.score:.3f}")
    return table


def tubes_table(video: str, found: Localization) -> Table | Text:
    """A row for each tube, in the order of time; a sentence where there is none."""
    if not found.tubes:
        return Text(f"{video}: none of the actions was found")
    table = Table(title=Text(video))
    for column in ("action", "start", "end", "score"):
        table.add_column(column, justify="left" if column == "action" else "right")
    for tube in found.tubes:
        table.add_row(Text(tube.action), f"{tube.start_s:.2f} s", f"{tube.end_s:.2f} s", f"{tube.score:.3f}")
    return table


def events_table(video: str, events: Sequence[ToldEvent]) -> Table | Text:
    """A row for each event, in the order of time, with the model whose sentence it is where there are several."""
    if not events:
        return Text(f"{video}: no events")
    several = len(events[0].candidates) > 1
    table = Table(title=Text(video))
    for column in ("start", "end", "sentence", "score", *(["model"] if several else [])):
        table.add_column(column, justify="left" if column in ("sentence", "model") else "right")
    for event in events:
        times = f"{event.start_s:.2f} s", f"{event.end_s:.2f} s"
        model = [Text(event.checkpoint, overflow="fold")] if several else []
        table.add_row(*times, Text(event.sentence or "(no words)"), f"{event.score:.3f}", *model)
    return table
