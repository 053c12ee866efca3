"""Runs mypy on the package, whatever the checkout's folder is called and however it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # mypy cannot follow an editable install's import hook
        (Path(folder) / "groundzoo").symlink_to(ROOT)
        rooms = [word for room in ("zoo", "tasks", "datamodules") for word in ("-p", f"groundzoo.{room}")]
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *rooms]
        command += ["-m", "groundzoo.cli"]
        environment = {**os.environ, "MYPYPATH": folder}
        sys.exit(subprocess.run(command, cwd=folder, env=environment, check=False).returncode)
