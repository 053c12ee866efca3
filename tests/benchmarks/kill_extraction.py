"""`groundzoo extract`, killed with SIGKILL at random moments and started again, against a run left in peace.

    python tests/benchmarks/kill_extraction.py --videos 200

Prints for every attempt how far it came, and in the end whether each video is in the store once, with the bits of
the undisturbed run, and how many videos were written more than once. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groundzoo.datamodules.features import FeatureStore
from groundzoo.datamodules.shards import read_header, shard_files, stored_videos
from groundzoo.datamodules.store_check import check_store
from groundzoo.datamodules.video_files import find_videos

# the command itself, which also notes every video that it has written
CHILD = """
import os, sys
from groundzoo.cli import main
from groundzoo.datamodules.shards import ShardWriter
add = ShardWriter.add
def noted(writer, video_id, *rest):
    add(writer, video_id, *rest)
    with open(os.environ["WRITTEN"], "a") as file:
        file.write(video_id + chr(10))
ShardWriter.add = noted
main(sys.argv[1:])
"""


def start(words: Sequence[str | Path], written: Path, errors: Path) -> subprocess.Popen[bytes]:
    """``groundzoo extract WORDS`` as the leader of a group of its own, which its workers belong to."""
    environment = os.environ | {"WRITTEN": str(written), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, "extract", *map(str, words)]
    with errors.open("ab") as file:
        return subprocess.Popen(command, start_new_session=True, env=environment, stdout=file, stderr=file)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its workers at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def noted(written: Path) -> Counter[str]:
    """How often each video was written."""
    return Counter(written.read_text().splitlines() if written.exists() else [])


def verdict(store: Path, undisturbed: Path, videos: Path, written: Path) -> list[str]:
    """What is wrong with a store that should hold every video once, as the other one does."""
    problems = check_store(store, find_videos(videos))
    copies = Counter(video for path in shard_files(store) for video in read_header(path))
    problems += [f"{video}: {count} times in the store" for video, count in copies.items() if count > 1]
    problems += [f"{video}: written {count} times" for video, count in noted(written).items() if count > 1]
    one, other = FeatureStore(store), FeatureStore(undisturbed)
    if one.ids != other.ids:
        problems.append(f"videos that only one store has: {sorted(one.ids ^ other.ids)}")
    for video in sorted(one.ids & other.ids):
        a, b = one.read(video), other.read(video)
        if a[1:] != b[1:] or a.units.dtype != b.units.dtype or not np.array_equal(a.units, b.units):
            problems.append(f"{video}: other bits than undisturbed")
    return problems


def main() -> None:
    """Run everything and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--config", default="encoders/pixel_grid.yaml", help="of an encoder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        words = ["toyworld", str(home / "world"), "--videos", str(args.videos), "--workers", "2"]
        subprocess.run([sys.executable, "-m", "groundzoo", *words], check=True, stdout=subprocess.DEVNULL)
        videos, errors = home / "world" / "videos", home / "errors"
        common: list[str | Path] = ["-c", args.config, "--videos", videos, "--trainer.accelerator", "cpu"]
        common += ["--trainer.devices", "1", "--num_workers", str(args.workers), "--out"]
        began = time.monotonic()
        code = start([*common, home / "undisturbed"], home / "written_undisturbed", errors).wait()
        whole_s = time.monotonic() - began
        print(
            f"undisturbed: {len(stored_videos(home / 'undisturbed'))} of {args.videos} videos in {whole_s:.1f} s"
        )
        store, written = home / "store", home / "written"
        killed = 0
        while code == 0:
            process = start([*common, store], written, errors)
            if killed < args.kills:
                try:
                    code = process.wait(random.uniform(0.1, 0.6) * whole_s)
                except subprocess.TimeoutExpired:
                    kill(process)
                    killed += 1
                    left = [path for path in store.rglob(".*") if path.is_file()]
                    found = len(stored_videos(store))
                    print(f"kill {killed}: {found} videos in the store, {len(left)} files half written")
                    continue
            code = process.wait()
            break
        if code != 0:
            sys.exit(f"exit status {code}\n{errors.read_text()}")
        problems = verdict(store, home / "undisturbed", videos, written)
        count, shards = len(FeatureStore(store).ids), len(list(shard_files(store)))
        writings = sum(noted(written).values())
        print(f"after {killed} kills: {count} videos in {shards} shard(s), written {writings} times in all")
        print(f"{len(problems)} problems")
        print(*problems, sep="\n", end="")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
