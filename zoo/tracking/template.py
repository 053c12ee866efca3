"""A tracker without weights, for plainly coloured things: by colour, extent and appearance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Tracker, Tracks

DIRECTIONS = 128  # colours are told apart by their direction from the frame's median colour, 18 degrees each
CELLS = 64  # per channel, of the table from colour differences to directions
FAINT = 24.0  # grey levels: differences below are noise
AROUND = 0.6  # width of the surroundings, in sides of the box
LEAST_SHARE = 0.3  # of the thing's colour that a row or column needs to belong to its box
USUAL_FILL = 0.5  # share of a box that a thing covers, until it has been seen well
TINY = 1e-6
SCALES = (0.8, 1.0, 1.25)
PATCH, RIM = 12, 0.2  # side of the appearance template, and how far it reaches beyond the box, in sides
LOST = 0.5  # a score below: position, size and template stay as they were
SURE = 0.9  # a score above: the template is renewed


@dataclass
class _State:
    """What is known of J tracks; two tracks per thing, one for each direction of time."""

    boxes: Tensor  # (J, 4) float, where the thing was last seen
    posterior: Tensor  # (J, DIRECTIONS) in [0, 1], how certainly a colour direction is the thing's
    strength: Tensor  # (J,) length of the thing's colour difference, grey levels
    mass: Tensor  # (J,) pixels' worth of the thing's colour when it was last seen
    templates: Tensor  # (J, 2, PATCH, PATCH) of the first frame and of the last sure one
    quality: Tensor  # (J,) in [0, 1], how much the template can be trusted
    others: Tensor  # (J, H, W), the thing's colour elsewhere when it was last seen
    lost: Tensor  # (J,) frames since it was last seen


class TemplateTracker(Tracker):
    """Follows plainly coloured things on a plain background, as in ToyWorld; no weights, no gradients.

    A colour is described by its difference from the frame's median colour: blur, fading and antialiasing
    shorten that difference but keep its direction. The directions that are in a thing's box rather than around it
    are the thing's; those that the rest of the video lacks are not (they belong to what covers it). In each
    further frame the box is sought that holds most of this colour and least else, near the last one, farther away
    the longer the thing has been lost. Its edges move independently, so things may grow, shrink and turn.

    The score is the product of how much of the thing is to be seen (its colour's mass relative to when it was
    last seen), how well the box fits, and the normalised cross-correlation with its template, which is renewed
    only above 0.9.

    Args:
        resolution: longer side in pixels at which it works; larger frames are scaled down.
    """

    def __init__(self, resolution: int = 96) -> None:
        super().__init__()
        self.resolution = resolution
        self.register_buffer("directions", _sphere(DIRECTIONS), persistent=False)
        self.register_buffer("table", _table(_sphere(DIRECTIONS)), persistent=False)
        self.directions: Tensor
        self.table: Tensor
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def track(self, frames: Tensor, boxes: Tensor, starts: Tensor) -> Tracks:
        """See `Tracker.track`."""
        num_frames, _, height, width = frames.shape
        things = len(boxes)
        if not things:
            return Tracks(torch.zeros(0, num_frames, 4), torch.zeros(0, num_frames))
        device = self.table.device
        scale = min(1.0, self.resolution / max(height, width))
        size = (round(height * scale), round(width * scale))
        parts = (part.to(device).float() for part in frames.split(32))
        pixels = torch.cat([F.interpolate(p, size, mode="bilinear", antialias=True) for p in parts])
        rate = torch.tensor([pixels.shape[3] / width, pixels.shape[2] / height], device=device).repeat(2)
        starts = starts.to(device)
        colours, strengths = self._describe(pixels)
        state = self._begin(colours, strengths, boxes.to(device).float() * rate, starts)
        found = boxes.to(device).float()[:, None].repeat(1, num_frames, 1)
        scores = torch.zeros(things, num_frames, device=device)
        scores[torch.arange(things, device=device), starts] = 1
        sign = torch.tensor([1, -1], device=device).repeat_interleave(things)
        thing = torch.arange(things, device=device).repeat(2)
        for step in range(1, num_frames):
            times = starts.repeat(2) + sign * step
            active = ((times >= 0) & (times < num_frames)).nonzero().flatten()
            if not len(active):
                break
            times = times[active]
            now, certain = self._step(colours[times], strengths[times], state, active)
            found[thing[active], times] = now / rate
            scores[thing[active], times] = certain
        return Tracks(found.cpu(), scores.cpu())

    def _describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Direction (index) and length of each pixel's difference from its frame's median, (T, H, W) each."""
        median = pixels.flatten(2).median(dim=2).values
        difference = pixels - median[:, :, None, None]
        cell = ((difference + 256) * (CELLS / 512)).long().clamp(0, CELLS - 1)
        index = (cell[:, 0] * CELLS + cell[:, 1]) * CELLS + cell[:, 2]
        return self.table[index], difference.norm(dim=1)

    def _begin(self, colours: Tensor, strengths: Tensor, boxes: Tensor, starts: Tensor) -> _State:
        """Learn what each thing looks like in its first frame."""
        height, width = colours.shape[1:]
        inside = _mask(boxes, height, width)
        outside = _mask(_widened(boxes, AROUND), height, width) - inside
        area = inside.sum((1, 2)).clamp(min=1)
        colour, strength = colours[starts], strengths[starts]
        weights = (strengths - FAINT).clamp(min=0) / 255  # not 0 or 1: blur then leaves their sum as it is
        near = (80 * (self.directions @ self.directions.T - 1)).exp()  # neighbouring directions share
        own = _histogram(colour, weights[starts] * inside) @ near
        around = _histogram(colour, weights[starts] * outside) @ near
        whole = _histogram(colours, weights) @ near
        # what a patch in front of the thing adds to this frame is in no other
        lasting = (whole.quantile(0.6, dim=0) - (whole[starts] - own)) / own.clamp(min=TINY)
        support = own * lasting.clamp(0, 1)
        support = support / support.amax(1, keepdim=True).clamp(min=TINY)
        density = own / area[:, None]
        background = around / outside.sum((1, 2)).clamp(min=1)[:, None]
        posterior = density / (density + 2 * background + 1e-3) * (2 * support).clamp(max=1)
        posterior = posterior / posterior.amax(1, keepdim=True).clamp(min=TINY)
        likely = posterior.gather(1, colour.flatten(1)) * (weights[starts] * inside).flatten(1)
        length = _weighted_quantile(strength.flatten(1), likely, 0.85).clamp(min=2 * FAINT)
        share = _share(colour, strength, posterior, length)
        state = _State(
            boxes=boxes,
            posterior=posterior,
            strength=length,
            mass=USUAL_FILL * area,
            templates=_patches(share, boxes)[:, None].repeat(1, 2, 1, 1),
            quality=(2 * (share * inside).sum((1, 2)) / area / USUAL_FILL - 1).clamp(0, 1),
            others=_elsewhere(share, boxes),
            lost=torch.zeros_like(area),
        )
        return _State(*(torch.cat([value, value]) for value in vars(state).values()))

    def _step(self, colour: Tensor, strength: Tensor, state: _State, active: Tensor) -> tuple[Tensor, Tensor]:
        """Find the active tracks' things in one frame each, and learn from it."""
        last = state.boxes[active]
        share = _share(colour, strength, state.posterior[active], state.strength[active])
        own = share * (1 - state.others[active])
        sums = F.pad((own - LEAST_SHARE).cumsum(1).cumsum(2), (1, 0, 1, 0))
        box = _extend(own, _refine(sums, _search(sums, last, state.lost[active])))
        held = own * _mask(box, *own.shape[1:])
        mass = held.sum((1, 2))
        presence = (mass / state.mass[active]).clamp(max=1)
        area, before = _area(box).clamp(min=1), _area(last).clamp(min=1)
        fill = mass / area / (state.mass[active] / before)
        fit = (2 * before / area).clamp(max=1) * (1.25 * fill).clamp(max=1)
        patch = _patches(own, box)
        likeness = _correlation(patch[:, None], state.templates[active]).amax(1).clamp(min=0)
        score = presence * fit * (1 - 0.6 * state.quality[active] * (1 - likeness))

        seen, sure = active[score > LOST], active[score > SURE]
        state.lost[active] += 1
        state.lost[seen] = 0
        state.boxes[seen] = box[score > LOST]
        state.mass[seen] = 0.5 * (state.mass[seen] + mass[score > LOST])
        state.others[seen] = _elsewhere(share, box)[score > LOST]
        state.templates[sure, 1] = patch[score > SURE]
        state.quality[sure] = 1
        length = (held * strength).sum((1, 2)) / mass.clamp(min=TINY)  # larger than in a blurred first frame
        state.strength[sure] = torch.maximum(state.strength[sure], length[score > SURE])
        return state.boxes[active], score


def _sphere(count: int) -> Tensor:
    """`count` directions spread evenly (Fibonacci's spiral), (count, 3)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle = math.pi * (1 + math.sqrt(5)) * i
    r = (1 - z * z).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], dim=1).float()


def _table(directions: Tensor) -> Tensor:
    """The nearest direction of every cell of colour differences, (CELLS ** 3,)."""
    levels = (torch.arange(CELLS) + 0.5) * (512 / CELLS) - 256
    cells = torch.cartesian_prod(levels, levels, levels)
    return torch.cat([(part @ directions.T).argmax(1) for part in cells.split(1 << 15)])


def _mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """1 in the pixels whose centres are in the boxes, (J, H, W)."""
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns = (x >= boxes[:, None, 0]) & (x < boxes[:, None, 2])
    rows = (y >= boxes[:, None, 1]) & (y < boxes[:, None, 3])
    return (rows[:, :, None] & columns[:, None, :]).float()


def _histogram(colour: Tensor, weight: Tensor) -> Tensor:
    """Weight of each direction, (J, DIRECTIONS)."""
    out = torch.zeros(len(colour), DIRECTIONS, device=colour.device)
    return out.scatter_add_(1, colour.flatten(1), weight.flatten(1))


def _weighted_quantile(values: Tensor, weights: Tensor, q: float) -> Tensor:
    """Of each row."""
    order = values.argsort(1)
    reached = weights.gather(1, order).cumsum(1)
    place = (reached < q * reached[:, -1:]).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return values.gather(1, order).gather(1, place)[:, 0]


def _share(colour: Tensor, strength: Tensor, posterior: Tensor, length: Tensor) -> Tensor:
    """How much of the thing's colour each pixel holds, (J, H, W) in [0, 1]."""
    likely = posterior.gather(1, colour.flatten(1)).view_as(strength)
    return likely * (2.5 * strength / length[:, None, None] - 1).clamp(0, 1)


def _elsewhere(share: Tensor, boxes: Tensor) -> Tensor:
    """The thing's colour away from the thing: another one's, whose place a search must not take for it."""
    return share * (1 - _mask(_widened(boxes, 0.25), *share.shape[1:]))


def _widened(boxes: Tensor, by: float) -> Tensor:
    """Boxes with a margin on all sides, in shares of their own sides."""
    margin = by * (boxes[:, 2:] - boxes[:, :2])
    return torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _sums(table: Tensor, boxes: Tensor) -> Tensor:
    """Sums over boxes with whole-pixel edges, from a summed-area table; (J, N) from (J, N, 4)."""
    rows, columns = table.shape[1:]
    x0, y0, x1, y1 = boxes.long().unbind(-1)
    x0, x1 = x0.clamp(0, columns - 1), x1.clamp(0, columns - 1)
    y0, y1 = y0.clamp(0, rows - 1), y1.clamp(0, rows - 1)
    flat = table.flatten(1)
    upper = flat.gather(1, y0 * columns + x1) - flat.gather(1, y0 * columns + x0)
    return flat.gather(1, y1 * columns + x1) - flat.gather(1, y1 * columns + x0) - upper


def _search(table: Tensor, last: Tensor, lost: Tensor) -> Tensor:
    """The best of boxes like the last ones at all places, (J, 4) with whole-pixel edges."""
    rows, columns = table.shape[1:]
    device = table.device
    x = torch.arange(1, columns - 1, 2, device=device)
    y = torch.arange(1, rows - 1, 2, device=device)
    places = torch.cartesian_prod(x, y).float()  # centres
    side = last[:, 2:] - last[:, :2]
    centre = (last[:, 2:] + last[:, :2]) / 2
    half = side[:, None] * torch.tensor(SCALES, device=device)[:, None] / 2  # (J, S, 2)
    low = (places[None, None] - half[:, :, None]).round()
    high = (places[None, None] + half[:, :, None]).round()
    boxes = torch.cat([low, high], -1).flatten(1, 2)  # (J, S * places, 4)
    reach = side.mean(1) * (0.75 + 0.5 * lost)
    distance = (places[None] - centre[:, None]).norm(dim=2) / reach[:, None]
    prior = torch.exp(-0.5 * distance.square()).repeat(1, len(SCALES))
    best = (_sums(table, boxes).clamp(min=0) * prior + 1e-3 * prior).argmax(1)
    return boxes[torch.arange(len(last), device=device), best]


def _refine(table: Tensor, box: Tensor) -> Tensor:
    """Move the edges, each on its own, to where most of the colour and least else is inside."""
    steps = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], device=box.device)
    moves = torch.cartesian_prod(steps, steps, steps, steps)
    for _ in range(3):
        boxes = box[:, None] + moves
        boxes = torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 2)], -1)
        best = _sums(table, boxes).argmax(1)
        box = boxes[torch.arange(len(box), device=box.device), best]
    return box


def _extend(share: Tensor, box: Tensor) -> Tensor:
    """Move the edges outwards, over thin ends (a triangle's corner), until a row or column without the colour."""
    height, width = share.shape[1:]
    farthest = _widened(box, 0.4).round()
    rows = (share * _mask(_strip(box, 1, height), height, width)).amax(2) > 0.3
    columns = (share * _mask(_strip(box, 0, width), height, width)).amax(1) > 0.3
    edges = []
    for axis, filled in ((0, columns), (1, rows)):
        place = torch.arange(filled.shape[1], device=box.device)
        low, high = box[:, axis], box[:, axis + 2]
        gap_before = ~filled & (place < low[:, None]) | (place < farthest[:, axis, None])
        gap_after = ~filled & (place >= high[:, None]) | (place >= farthest[:, axis + 2, None])
        first = torch.where(gap_before, place + 1, 0).amax(1)
        end = torch.where(gap_after, place, filled.shape[1]).amin(1)
        edges.append((torch.minimum(first.float(), low), torch.maximum(end.float(), high)))
    return torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], dim=1)


def _strip(box: Tensor, axis: int, length: int) -> Tensor:
    """The boxes from one end of the frame to the other along an axis (0 = x, 1 = y)."""
    strip = box.clone()
    strip[:, axis], strip[:, axis + 2] = 0, length
    return strip


def _patches(share: Tensor, boxes: Tensor) -> Tensor:
    """What the boxes and their rims hold, at a common size, (J, PATCH, PATCH)."""
    height, width = share.shape[1:]
    steps = (1 + 2 * RIM) * (torch.arange(PATCH, device=boxes.device) + 0.5) / PATCH - RIM
    x = boxes[:, 0, None] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    grid = torch.stack([(2 * x / width - 1)[:, None, :].expand(-1, PATCH, -1),
                        (2 * y / height - 1)[:, :, None].expand(-1, -1, PATCH)], dim=-1)  # fmt: skip
    return F.grid_sample(share[:, None], grid, align_corners=False)[:, 0]


def _correlation(one: Tensor, two: Tensor) -> Tensor:
    """Normalised cross-correlation of the last two dimensions."""
    one, two = one.flatten(-2), two.flatten(-2)
    one, two = one - one.mean(-1, keepdim=True), two - two.mean(-1, keepdim=True)
    return F.cosine_similarity(one, two, dim=-1)
