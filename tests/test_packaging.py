"""The wheel holds the package and nothing else, and works where nobody has a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("zoo", "tasks", "datamodules", "configs")
SINGLE = ("__init__.py", "__main__.py", "cli.py", "py.typed")


def sources() -> set[str]:
    """Files of the repository, whether committed yet or not; what git ignores is not among them."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout, to know which files belong to the package")
    return {name for name in listed if (ROOT / name).is_file()}


def packaged() -> set[str]:
    """Those of them that the package is made of."""
    return {n for n in sources() if n in SINGLE or (n.split("/")[0] in ROOMS and "/" in n)}


def test_every_folder_of_code_is_listed() -> None:
    """mmaction2 1.2.0 forgot one, and could not be imported."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {Path(n).parent.as_posix() for n in packaged() if n.endswith(".py")}
    expected = {"groundzoo" if f == "." else f"groundzoo.{f.replace('/', '.')}" for f in folders}
    assert set(listed) == expected
    assert len(listed) == len(set(listed))


def test_every_folder_of_code_is_a_package() -> None:
    files = packaged()
    folders = {Path(n).parent for n in files if n.endswith(".py")}
    assert [f for f in folders if (f / "__init__.py").as_posix() not in files] == []


def test_configurations_are_the_only_data() -> None:
    others = {n for n in packaged() if not n.endswith(".py")} - {"py.typed"}
    assert others
    assert {n for n in others if not (n.startswith("configs/") and n.endswith(".yaml"))} == set()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist, the wheel made from the sdist; built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("build")
    for name in sources():
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    done = subprocess.run([*command, str(folder / "checkout")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = ((folder / "dist").glob(pattern) for pattern in ("*.whl", "*.tar.gz"))
    return wheel, sdist


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert len(names) == len(set(names))
    assert set(names) == {f"groundzoo/{n}" for n in packaged()}


@pytest.mark.slow
def test_wheel_describes_itself(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        texts = {Path(n).name: archive.read(n).decode() for n in archive.namelist() if ".dist-info/" in n}
    assert texts["top_level.txt"].split() == ["groundzoo"]
    assert "groundzoo = groundzoo.cli:main" in texts["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    assert "Requires-Dist: torch>=" in texts["METADATA"]
    assert "LICENSE" in texts


@pytest.mark.slow
def test_sdist_can_build_the_wheel(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert packaged() | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.fixture(scope="session")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel and our dependencies, but no trace of the checkout."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout.strip())
    (site / "dependencies").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():  # the editable install's hook and files stay out
        if "groundzoo" not in path.name.lower():
            (site / "dependencies" / path.name).symlink_to(path)
    (site / "dependencies.pth").write_text(f"{site / 'dependencies'}\n")  # its own .pth files are not read
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(built[0])], check=True)
    return python


def in_clean(python: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_clean_environment_sees_no_checkout(clean: Path, tmp_path: Path) -> None:
    code = "import groundzoo; print(groundzoo.__file__)"
    done = in_clean(clean, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(clean.parents[1]) in done.stdout
    assert str(ROOT) not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("module", ["zoo", "tasks", "datamodules", "cli", "configs", "tests"])
def test_nothing_else_is_importable(module: str, clean: Path, tmp_path: Path) -> None:
    done = in_clean(clean, "-c", f"import {module}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"No module named '{module}'" in done.stderr


@pytest.mark.slow
def test_installed_command_works(clean: Path, tmp_path: Path) -> None:
    listed = in_clean(clean, "-m", "groundzoo", "list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for name in sorted(n for n in packaged() if n.startswith("configs/")):
        assert name.removeprefix("configs/") in listed.stdout
    script = clean.parents[1] / "lib"
    assert next(script.rglob("bin/groundzoo")).is_file(), "no `groundzoo` script was installed"
    helped = in_clean(clean, "-m", "groundzoo", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "usage: groundzoo" in helped.stdout


@pytest.mark.slow
def test_installed_modules_can_all_be_imported(clean: Path, tmp_path: Path) -> None:
    names = sorted(n.removesuffix(".py").replace("/", ".") for n in packaged() if n.endswith(".py"))
    modules = [f"groundzoo.{n}".removesuffix(".__init__") for n in names if n != "__main__.py"]
    modules.remove("groundzoo.__main__") if "groundzoo.__main__" in modules else None
    code = f"import importlib\nfor name in {modules}: importlib.import_module(name)\nprint('all', {len(modules)})"
    done = in_clean(clean, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"all {len(modules)}"
    assert len(modules) > 30


@pytest.mark.slow
def test_installed_configurations_parse(clean: Path, tmp_path: Path) -> None:
    words = ["-c", "tasks/drn_charades.yaml", "-c", "encoders/pixel_grid.yaml", "--print_config"]
    done = in_clean(clean, "-m", "groundzoo", "fit", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class_path: groundzoo.zoo.video.pixel_grid.PixelGrid" in done.stdout
