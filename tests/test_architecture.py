"""Who may import whom, and other rules that a reader relies on; read from the sources, nothing is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("zoo", "datamodules", "tasks")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
SOURCES += [ROOT / "cli.py", ROOT / "__init__.py"]
ALLOWED = {"zoo": {"zoo"}, "datamodules": {"datamodules", "zoo"}, "tasks": {"tasks", "zoo"}}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, int, str]]:
    """Line, level (0 = absolute) and module of every import, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for module in modules:
                yield node.lineno, node.level, module


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and place (relative to the root, with slashes) of every relative import."""
    for line, level, module in imports(path):
        if level:
            folder = path.parents[level - 1]
            yield line, (folder / module.replace(".", "/")).relative_to(ROOT).as_posix()


def breaches(path: Path) -> list[str]:
    """Imports of a room's file that reach into a room it must not know."""
    room = name_of(path).split("/")[0]
    targets = ((line, target.split("/")[0]) for line, target in own_imports(path))
    return [
        f"{name_of(path)}:{line} imports {target}"
        for line, target in targets
        if target in {*ROOMS, "cli"} and target not in ALLOWED[room]
    ]


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30
    assert {name_of(p).split("/")[0] for p in SOURCES} == {*ROOMS, "cli.py", "__init__.py"}


def test_rooms_import_only_what_they_may() -> None:
    assert [b for path in SOURCES if path.parent != ROOT for b in breaches(path)] == []


@pytest.mark.parametrize(
    ("room", "line", "found"),
    [
        ("zoo", "from ..tasks.base import Task", 1),
        ("zoo", "from .. import datamodules", 1),
        ("zoo", "def f():\n    from ..datamodules.video import probe", 1),
        ("tasks", "from ..datamodules.grounding import held_out", 1),
        ("datamodules", "if TYPE_CHECKING:\n    from ..tasks.moments import Moment", 1),
        ("tasks", "from ..cli import main", 1),
        ("tasks", "from ..zoo.batch import GroundingBatch", 0),
        ("datamodules", "from .annotations import clean", 0),
    ],
)
def test_the_rule_itself(
    room: str, line: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / room).mkdir()
    (tmp_path / room / "a.py").write_text(line)
    assert len(breaches(tmp_path / room / "a.py")) == found


def test_imports_of_our_own_are_relative() -> None:
    """An absolute ``import tasks`` works by accident in a checkout and makes a second copy of every class."""
    ours = {*ROOMS, "cli", "groundzoo", "tests", "configs"}
    absolute = [
        f"{name_of(path)}:{line} imports {module}"
        for path in SOURCES
        for line, level, module in imports(path)
        if level == 0 and module.split(".")[0] in ours
    ]
    assert absolute == []


def test_networks_know_no_lightning() -> None:
    """`zoo` is plain torch."""
    forbidden = {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "jsonargparse"}
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in SOURCES
        for line, level, module in imports(path)
        if name_of(path).startswith("zoo/") and level == 0 and module.split(".")[0] in forbidden
    ]
    assert found == []


def test_the_package_itself_is_inert() -> None:
    """Nothing but the standard library at the top of ``__init__.py``, ``cli.py`` and the rooms' ``__init__``."""
    light = {*sys.stdlib_module_names, "jsonargparse"}
    for path in [ROOT / "__init__.py", ROOT / "cli.py", *(ROOT / room / "__init__.py" for room in ROOMS)]:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [a.name for n in body if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in body if isinstance(n, ast.ImportFrom) if n.level == 0]
        assert {n.split(".")[0] for n in names} <= light, name_of(path)


def unsafe_loads(source: str) -> list[int]:
    """Lines that unpickle, or may."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        words = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        called = ast.unparse(node.func)
        if called in ("torch.load", "load_from_checkpoint") and words.get("weights_only") is not True:
            found.append(node.lineno)
        if called in ("np.load", "numpy.load") and words.get("allow_pickle") is not False:
            found.append(node.lineno)
        if called in ("pickle.load", "pickle.loads", "joblib.load", "eval", "exec", "os.system", "yaml.load"):
            found.append(node.lineno)
    return found


def test_nothing_unpickles() -> None:
    assert {name_of(p): found for p in SOURCES if (found := unsafe_loads(p.read_text(encoding="utf-8")))} == {}


def test_the_rule_on_unpickling_itself() -> None:
    bad = ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "pickle.loads(b)", "eval('1')"]
    assert [line for line in bad if not unsafe_loads(line)] == []
    assert unsafe_loads("torch.load(p, weights_only=True); np.load(p, allow_pickle=False); self.eval()") == []


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: n for name, n in lengths.items() if n > 500} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 150, "the median file is longer than 150 lines"


def test_every_module_and_public_class_says_what_it_is() -> None:
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name[0] != "_"]
        silent += [f"{name_of(path)}:{n.name}" for n in nodes if not ast.get_docstring(n)]
        silent += [] if ast.get_docstring(tree) else [name_of(path)]
    assert silent == []
