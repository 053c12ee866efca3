"""`groundzoo annotate grounded-captions`, killed with SIGKILL in every stage and started again.

    python tests/benchmarks/kill_annotation.py --videos 200

Prints for every attempt how far it came, and in the end whether all files have the bytes of a run left in peace.
Exits with 1 if not.
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
from collections.abc import Sequence
from pathlib import Path

from groundzoo.datamodules.annotate_captions import STORES
from groundzoo.datamodules.annotation_store import AnnotationStore

# the command itself, which takes some time for each record, so that kills fall into every stage
CHILD = """
import os, sys, time
from groundzoo.cli import main
from groundzoo.datamodules.annotation_store import AnnotationStore
add = AnnotationStore.add
def slow(store, *rest):
    time.sleep(float(os.environ["PAUSE_S"]))
    add(store, *rest)
    time.sleep(float(os.environ["PAUSE_S"]))
AnnotationStore.add = slow
main(sys.argv[1:])
"""


def start(words: Sequence[str | Path], pause_s: float, errors: Path) -> subprocess.Popen[bytes]:
    """The command as the leader of a group of its own, which its workers belong to."""
    environment = os.environ | {"PAUSE_S": str(pause_s), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, "annotate", "grounded-captions", *map(str, words)]
    with errors.open("ab") as file:
        return subprocess.Popen(command, start_new_session=True, env=environment, stdout=file, stderr=file)


def progress(out: Path, shards: int, names: Sequence[str] = STORES) -> dict[str, int]:
    """Records of some steps; all files must be whole."""
    return {name: sum(len(AnnotationStore(out / name).read(k)) for k in range(shards)) for name in names}


def contents(out: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def main() -> None:
    """Run everything and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--kills", type=int, default=2, help="in each of the four steps")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pause_s", type=float, default=0.05, help="before and after each writing")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        world = ["toyworld", str(home / "world"), "--videos", str(args.videos), "--workers", "2"]
        world += ["--preset", "grounded", "--format", "iground"]
        subprocess.run([sys.executable, "-m", "groundzoo", *world], check=True, stdout=subprocess.DEVNULL)
        (home / "world" / "videos" / "broken.mp4").write_bytes(b"no video")
        errors = home / "errors"
        common: list[str | Path] = ["-c", "annotate/grounded_toyworld.yaml", "--captioner.world", home / "world"]
        common += ["--videos", home / "world" / "videos", "--num_workers", str(args.workers)]
        common += ["--clips_per_shard", "25", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--out"]
        shards = -(-(args.videos + 1) // 25)
        began = time.monotonic()
        code = start([*common, home / "undisturbed"], 0, errors).wait()
        print(f"undisturbed: {progress(home / 'undisturbed', shards)} in {time.monotonic() - began:.1f} s")
        killed, out = 0, home / "killed"
        for name in STORES:
            for k in range(args.kills):
                wanted = random.uniform(k, k + 1) / args.kills * 0.9 * args.videos
                process = start([*common, out], args.pause_s, errors)
                while process.poll() is None and progress(out, shards, [name])[name] < wanted:
                    time.sleep(0.01)
                if process.poll():
                    sys.exit(f"exit status {process.returncode}\n{errors.read_text()}")
                if process.returncode == 0:
                    break
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
                left = [path for path in out.rglob(".*") if path.is_file()]
                print(f"kill {killed} in {name}: {progress(out, shards)}, {len(left)} files half written")
        code = code or start([*common, out], 0, errors).wait()
        if code != 0:
            sys.exit(f"exit status {code}\n{errors.read_text()}")
        one, other = contents(home / "undisturbed"), contents(out)
        one = {name: text for name, text in one.items() if not Path(name).name.startswith(".")}
        other = {name: text for name, text in other.items() if not Path(name).name.startswith(".")}
        wrong = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        print(f"after {killed} kills: {len(other)} files, {len(wrong)} differ {wrong[:5]}")
    sys.exit(bool(wrong) or killed < args.kills * len(STORES))


if __name__ == "__main__":
    main()
