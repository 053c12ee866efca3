"""Beam search of CVG: all videos at once, against one video after the other, with the same captions.

    python tests/benchmarks/bench_beam_search.py --videos 32 --beam_size 5 --threads 1

Random weights at the paper's sizes and at ToyWorld's; captions end at different words. The clock runs during the
search, not while cells are projected, which is the same for all. Three ways, interleaved in one process, that must
say the same words with the same scores:

- batched: `beam_search` over all videos;
- one by one: the same function, called for every video;
- hypotheses: a beam as a list of sentences, one video at a time, as captioners are commonly written: every
  sentence is a row with its own copy of what the decoder looks at, candidates are sorted in Python.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groundzoo.tasks.cvg import CVGNetwork, Memory, NetworkOptions
from groundzoo.zoo.decoding import Sentences, State, beam_search
from groundzoo.zoo.video.appearance_grid import AppearanceGrid
from groundzoo.zoo.video.motion_grid import MotionGrid

Said = tuple[list[list[int]], Tensor]  # words of every video, and log-probabilities
# per size: widths, grids (F, h, w, C) of both streams, words, longest sentence
SIZES = {
    "paper": (NetworkOptions(), [(10, 7, 7, 768), (10, 7, 7, 1024)], 4900, 20),
    "toyworld": (
        NetworkOptions(dim=96, word_dim=48, attention_dim=24),
        [(10, *(e.grid or ())) for e in (AppearanceGrid(), MotionGrid())],
        60,
        16,
    ),
}


def make_network(size: str, videos: int, device: str) -> tuple[CVGNetwork, list[Tensor]]:
    """A captioner with random weights, and grids of random videos, each with a look of its own."""
    options, shapes, vocabulary, _ = SIZES[size]
    network = CVGNetwork([shape[-1] for shape in shapes], vocabulary, options).eval()
    looks = [torch.randn(videos, 1, 1, 1, shape[-1]) for shape in shapes]
    grids = [2 * look + torch.randn(videos, *shape) for look, shape in zip(looks, shapes, strict=True)]
    for lstm in (network.attention_lstm, network.language_lstm):
        for weight in lstm.parameters():
            weight.mul_(4)  # else all states look alike
    network.head.weight.mul_(12 / network.head.weight.std() / options.dim**0.5)
    return network.to(device), [grid.to(device) for grid in grids]


# ---- three ways -----------------------------------------------------------------------------------------


def with_end(logits: Tensor, left: Tensor) -> Tensor:
    """Random weights never learnt to stop: the end comes into reach as the words `left` become few."""
    logits[:, 0] = logits[:, 1:].amax(1) - 2 * left
    return logits


def search(network: CVGNetwork, memory: Memory, lengths: Tensor, max_length: int, beam_size: int) -> Sentences:
    """`beam_search` over all segments of a memory."""

    def step(word: Tensor, state: State) -> tuple[Tensor, State]:
        logits, now = network.step(memory, word, state[:4])
        return with_end(logits, state[4]), (*now, state[4] - 1)

    def keep(segments: Tensor) -> None:
        nonlocal memory
        memory = memory.rows(segments)

    return beam_search(step, (*network.begin(memory), lengths), max_length, beam_size, keep=keep)


def plain(said: Sequence[Sentences]) -> Said:
    """Without what stands behind the ends."""
    rows = [row[:n] for s in said for row, n in zip(s.words.tolist(), s.lengths.tolist(), strict=True)]
    return rows, torch.cat([s.log_prob for s in said]).cpu()


def by_hypotheses(
    network: CVGNetwork, memory: Memory, length: Tensor, max_length: int, beam_size: int
) -> tuple[list[int], float]:
    """Beam search for one segment: unfinished sentences are rows, with copies of the segment's cells."""
    values, keys = ([x.repeat(beam_size, 1, 1) for x in part] for part in (memory.values, memory.keys))
    mean = memory.mean.repeat(beam_size, 1)
    # words, log-probability, whether finished, state
    beam: list[tuple[list[int], float, bool, State]] = [([], 0.0, False, network.begin(memory))]
    for place in range(max_length):
        live = [one for one in beam if not one[2]]
        n = len(live)
        word = torch.tensor([words[-1] if words else 0 for words, *_ in live], device=mean.device)
        h1, c1, h2, c2 = (torch.cat([one[3][k] for one in live]) for k in range(4))
        x = torch.cat([mean[:n], network.embedding(word).relu()], dim=1)
        h1, c1 = torch.lstm_cell(x, (h1, c1), *network.attention_lstm.all_weights[0])
        q = torch.zeros_like(h1)
        for attention, v, k in zip(network.attentions, values, keys, strict=True):
            e = attention.score(torch.tanh(k[:n] + attention.query(h1)[:, None])).squeeze(2)
            q = q + torch.bmm(e.softmax(1)[:, None], v[:n]).squeeze(1)
        h2, c2 = torch.lstm_cell(torch.cat([q, h1], dim=1), (h2, c2), *network.language_lstm.all_weights[0])
        best, ids = with_end(network.head(h2), length - place).log_softmax(1).topk(beam_size)
        candidates = [one for one in beam if one[2]]
        for row, (words, total, _, _) in enumerate(live):
            state = tuple(s[row : row + 1] for s in (h1, c1, h2, c2))
            for gain, token in zip(best[row].tolist(), ids[row].tolist(), strict=True):
                candidates.append(([*words, token], total + gain, token == 0, state))
        beam = sorted(candidates, key=lambda one: one[1], reverse=True)[:beam_size]
        if all(done for _, _, done, _ in beam):
            break
    words, total, done, _ = beam[0]
    return words[:-1] if done else words, total


# ---- measuring ------------------------------------------------------------------------------------------


def compare(name: str, wanted: Said, found: Said) -> None:
    """Refuse other words, and scores that differ by more than 1e-4 per word."""
    lengths = torch.tensor([len(row) + 1 for row in wanted[0]])
    apart = ((wanted[1] - found[1]).abs() / lengths).max().item()
    others = sum(a != b for a, b in zip(wanted[0], found[0], strict=True))
    if others or apart > 1e-4:
        raise SystemExit(f"{name}: {others} of {len(lengths)} captions differ, scores by {apart:.1e}")


def measure(size: str, args: argparse.Namespace) -> None:
    """Print a table: median seconds per video, and the ratio to the batched way."""
    network, grids = make_network(size, args.videos, args.device)
    limit, cuda = SIZES[size][-1], args.device.startswith("cuda")
    memory = network.remember(grids)
    lengths = (0.65 * limit + 0.2 * limit * torch.randn(args.videos, device=args.device)).clamp(2, limit)
    rows = torch.arange(args.videos, device=args.device)[:, None]
    each = [(memory.rows(v), lengths[v]) for v in rows]

    def one_hypothesis_a_row() -> Said:
        found = [by_hypotheses(network, *one, limit, args.beam_size) for one in each]
        return [words for words, _ in found], torch.tensor([total for _, total in found])

    ways: dict[str, Callable[[], Said]] = {
        "batched": lambda: plain([search(network, memory, lengths, limit, args.beam_size)]),
        "one by one": lambda: plain([search(network, *one, limit, args.beam_size) for one in each]),
        "hypotheses": one_hypothesis_a_row,
    }
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    wanted = ways["batched"]()
    for _ in range(args.rounds):
        for way, run in ways.items():
            began = clock()
            found = run()
            if cuda:
                torch.cuda.synchronize()
            seconds[way].append(clock() - began)
            compare(f"{size}, {way}", wanted, found)
    found_lengths = Counter(len(row) for row in wanted[0])
    different = len(set(map(tuple, wanted[0])))
    print(f"\n{size}: captions by length {dict(sorted(found_lengths.items()))}, {different} different")
    print(f"{'':12} ms / video   range         time / batched")
    first = statistics.median(seconds["batched"])
    for way, times in seconds.items():
        median, low, high = (1000 * t / args.videos for t in (statistics.median(times), min(times), max(times)))
        print(f"{way:12} {median:10.2f}   {low:.2f}-{high:.2f}   {median * args.videos / 1000 / first:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 32), ("beam_size", 5), ("threads", 1), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of this process"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        for size in args.sizes:
            measure(size, args)


if __name__ == "__main__":
    main()
