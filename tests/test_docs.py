"""The documentation holds: it builds, its links resolve, its commands parse, its tutorials run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from lightning import LightningDataModule

from groundzoo.zoo.video.published import PUBLISHED, Published
from groundzoo.zoo.video.spec import FrameSpec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = ["extend/paper.md", "extend/encoder.md", "extend/dataset.md"]
TRAINING = ("fit", "validate", "test", "predict")
BUILT_LATER = (*TRAINING, "extract", "annotate")  # verbs whose parser is made when they run
EXAMPLES = ["annotate.md", "concepts.md", "metrics.md"]  # their titled Python blocks print what they say
TINY = ["--config", "logger/csv.yaml", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
        "--data.init_args.num_workers", "0"]  # fmt: skip


class Block(NamedTuple):
    """A fenced block: its language, title (a file name) or None, text, and where it stands."""

    language: str
    title: str | None
    text: str
    where: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found = re.finditer(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.M | re.S)
    result = []
    for match in found:
        title = re.search(r'title="([^"]+)"', match[3])
        line = match.string[: match.start()].count("\n") + 1
        text = re.sub(rf"^{match[1]}", "", match[4], flags=re.M)
        result.append(Block(match[2], title and title[1], text, f"{page.relative_to(ROOT)}:{line}"))
    return result


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """All command lines of the bash blocks of a page, as (where, words)."""
    return [
        (block.where, shlex.split(line, comments=True))
        for block in blocks(page)
        if block.language == "bash"
        for line in block.text.replace("\\\n", " ").splitlines()
        if shlex.split(line, comments=True)
    ]


def write_files(page: Path, folder: Path) -> None:
    """Write the titled blocks of a page as files."""
    for block in blocks(page):
        if block.title is not None:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def everything() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def sources(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))


# ---- the site ---------------------------------------------------------------------------------------------


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install 'groundzoo[dev]')")
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install 'groundzoo[dev]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for html in (tmp_path / "site").rglob("*.html"):  # nothing is fetched while a page is read
        fetched = re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="?(https?:)?//', html.read_text("utf-8"))
        assert not fetched, f"{html.name} loads from the network"


def test_the_navigation_lists_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [p.relative_to(DOCS).as_posix() for p in PAGES if p.relative_to(DOCS).as_posix() not in text]
    assert not missing


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, by the rule of Python-Markdown's table of contents."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


# ---- complete ---------------------------------------------------------------------------------------------


def test_every_packaged_configuration_is_described() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        name = path.relative_to(ROOT / "configs").as_posix()
        comment = path.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ")
        assert f"| `{name}` | {comment} |" in text, f"configuration.md lacks: | `{name}` | {comment} |"


def test_no_configuration_is_named_that_does_not_exist() -> None:
    folders = "|".join(path.name for path in (ROOT / "configs").iterdir() if path.is_dir())
    for page in PAGES:
        local = {block.title for block in blocks(page)}
        text = page.read_text(encoding="utf-8")
        for name in re.findall(rf"\b((?:{folders})/\w+\.yaml)\b", text):
            known = name in local or (ROOT / "configs" / name).is_file() or f"configs/{name}" in text
            assert known, f"{page.name}: {name}"


def test_every_public_class_is_mentioned() -> None:
    text = everything()
    for path in sources("tasks", "zoo", "datamodules"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert re.search(rf"`[\w.]*\b{node.name}\b", text), f"{path.relative_to(ROOT)}: {node.name}"


def test_the_map_of_classes_is_right() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (`.*?) \|", text, re.M)
    rows += [(names, module) for names, module in re.findall(r"((?:`\w+`,?\s+)+)\((`[\w.]+`)\)", text)]
    assert len(rows) > 100
    for names, places in rows:
        modules = []
        for place in re.findall(r"`([\w.]+)`", places):
            place = f"datamodules.{place}" if place.startswith("toyworld.") else place
            modules.append(importlib.import_module(f"groundzoo.{place}"))
        for name in re.findall(r"`([\w.]+)`", names):
            assert any(hasattr(module, name.split(".")[-1]) for module in modules), f"api.md: {name}, {places}"


def test_quoted_messages_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sources("tasks", "zoo", "datamodules"))
    code = re.sub(r'"\s*\n\s*f?"', "", code + (ROOT / "cli.py").read_text(encoding="utf-8"))
    quoted = re.findall(r"^#+ `([^`]+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert quoted
    for message in quoted:
        for part in message.split(" ... "):
            assert part in code, f"no message of the code holds: {part!r}"


# ---- true -------------------------------------------------------------------------------------------------


def test_own_verbs_parse() -> None:
    from groundzoo.tasks.verbs import make_parser

    parser = make_parser("")
    parser.exit_on_error = False
    seen = set()
    for page in PAGES:
        for where, words in commands(page):
            if words[0] == "groundzoo" and words[1] not in BUILT_LATER:
                assert parser.parse_args(words[1:]).subcommand == words[1], where
                seen.add(words[1])
    verbs = next(a for a in parser._actions if a.dest == "subcommand").choices
    assert seen == verbs.keys() - set(BUILT_LATER), "every verb is shown in use"


def test_every_verb_is_in_the_list_of_commands() -> None:
    from groundzoo.tasks.verbs import make_parser

    verbs = next(a for a in make_parser("")._actions if a.dest == "subcommand").choices
    listed = re.findall(r"^\| (`groundzoo .*?) \|", (DOCS / "index.md").read_text(encoding="utf-8"), re.M)
    named = {name.split()[-1] for row in listed for name in re.findall(r"`(?:groundzoo )?(\w+)", row)}
    assert named == set(verbs)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_other_verbs_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.relative_to(DOCS).as_posix() in TUTORIALS:
        pytest.skip("its commands are run by test_tutorial")
    from groundzoo.cli import main

    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["groundzoo"])
    for where, words in commands(page):
        first = next((k for k, w in enumerate(words) if "=" not in w), 0)  # VARIABLE=value in front
        if "PYTHONPATH=." in words[:first]:
            monkeypatch.syspath_prepend(tmp_path)
        words = words[first:]
        if words[:1] == ["groundzoo"] and words[1] in BUILT_LATER:
            printed = io.StringIO()
            words = [w for w in words[1:] if w != "--print_config"] + ["--print_config"]
            redirected = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed)
            with redirected[0], redirected[1], pytest.raises(SystemExit) as left:
                main(words)
            assert left.value.code == 0, f"{where}: {' '.join(words)}\n{printed.getvalue()[-600:]}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:^|`)make (\w+)", everything(), re.M))
    assert named <= targets


def test_named_arguments_exist() -> None:
    from groundzoo.cli import import_everything
    from groundzoo.tasks.base import Task

    import_everything()

    def arguments(base: type[Any]) -> set[str]:
        found = set(inspect.signature(base.__init__).parameters)
        for child in base.__subclasses__():
            found |= arguments(child)
        return found

    for prefix, base in (("model", Task), ("data", LightningDataModule)):
        for name in re.findall(rf"\b{prefix}\.init_args\.(\w+)", everything()):
            assert name in arguments(base), f"{prefix}.init_args.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_blocks_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            tree = ast.parse(block.text, block.where)
            for node in ast.walk(tree):  # what is imported from us exists
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("groundzoo"):
                    imports = ast.Module([node], type_ignores=[])
                    exec(compile(imports, block.where, "exec"), {})
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_print_what_they_say(page: str) -> None:
    examples = [block for block in blocks(DOCS / page) if block.language == "python" and block.title]
    assert examples
    for block in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, block.where, "exec"), {"__name__": "example"})
        said = [line.partition("# ")[2] for line in block.text.splitlines() if line.startswith("print(")]
        assert printed.getvalue().splitlines() == said, block.where


# ---- encoders ---------------------------------------------------------------------------------------------

FAMILY_PAGES = {
    "R2Plus1D": "r2plus1d",
    "S3DG": "s3dg",
    "C3D": "c3d",
    "I3D": "i3d",
    "VGG16": "vgg16",
    "VideoSwin": "video_swin",
    "ImageModel": "image_models",
    "VideoModel": "video_models",
    "VGGish": "vggish",
    "DAVEnet": "davenet",
}
WEIGHTLESS = ("PixelGrid", "AppearanceGrid", "MotionGrid")
ADAPTED = {"AdaptedCLIP": "adapted_clip", "AdaptedSAM": "adapted_sam"}  # any weights of a type, so no table


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rate(spec: FrameSpec) -> str:
    return "the file's" if spec.fps is None else f"{spec.fps:g}"


def weight_row(name: str, entry: Published) -> str:
    """A set of weights in the table of all of them."""
    grid = "x".join(map(str, entry.grid)) if entry.grid else "-"
    spec = entry.spec
    page = f"[{entry.encoder}]({FAMILY_PAGES[entry.encoder]}.md)"
    facts = (str(entry.dim), grid, rate(spec), f"{spec.window} / {spec.stride}", f"{entry.parameters:,}")
    return table_row(f"`{name}`", page, *facts, entry.licence, entry.source)


def fed_row(name: str, entry: Published) -> str:
    """The same set on its family's page: what the network sees, and what it gives."""
    spec = entry.spec
    if spec.sound:
        seen, values = "mono, 16 kHz", "[-1, 1]"
    else:
        crop = "{} x {}".format(*spec.size or ())
        resized = {int: "shorter side {}, ", tuple: "{} x {}, "}.get(type(spec.resize), "")
        resize = spec.resize if isinstance(spec.resize, tuple) else (spec.resize,)
        seen = resized.format(*resize) + ("crop " if resized else "") + crop
        largest = 255 if spec.std[0] < 0.01 else 1
        mean, std = (" ".join(f"{largest * v:.5g}" for v in triple) for triple in (spec.mean, spec.std))
        values = f"{'BGR' if spec.bgr else 'RGB'} in [0, {largest}]"
        values += f", less {mean}" * any(spec.mean) + f", divided by {std}" * (spec.std[0] != 1 / largest)
    facts = (rate(spec), f"{spec.window} / {spec.stride}", str(entry.dim), f"{entry.parameters:,}")
    return table_row(f"`{name}`", seen, values, *facts)


def test_the_table_of_weights_is_the_packages() -> None:
    rows = re.findall(r"^\| `.*$", (DOCS / "encoders" / "index.md").read_text(encoding="utf-8"), re.M)
    rows = [row for row in rows if "](" in row and row.count("|") == 10]
    assert rows == [weight_row(name, entry) for name, entry in PUBLISHED.items()]


@pytest.mark.parametrize("encoder", FAMILY_PAGES)
def test_the_page_of_a_family_has_its_weights(encoder: str) -> None:
    text = (DOCS / "encoders" / f"{FAMILY_PAGES[encoder]}.md").read_text(encoding="utf-8")
    rows = [row for row in re.findall(r"^\| `.*$", text, re.M) if row.count("|") == 8]
    assert rows == [fed_row(name, entry) for name, entry in PUBLISHED.items() if entry.encoder == encoder]


def test_every_encoder_and_its_overlays_have_a_page() -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "encoders").glob("*.md")}
    others = {*ADAPTED.values(), "weightless", "combined", "text", "index"}
    assert {*FAMILY_PAGES.values(), *others} == pages.keys()
    assert {entry.encoder for entry in PUBLISHED.values()} == FAMILY_PAGES.keys()
    for path in sorted((ROOT / "configs" / "encoders").glob("*.yaml")):
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]
        kind = model["video_encoder"]["class_path"]
        names = {**FAMILY_PAGES, **ADAPTED, "Combined": "combined", **dict.fromkeys(WEIGHTLESS, "weightless")}
        page = names[kind]
        assert f"encoders/{path.name}" in pages[page], f"docs/encoders/{page}.md lacks encoders/{path.name}"
    for path in sorted((ROOT / "configs" / "text").glob("*.yaml")):
        assert f"text/{path.name}" in pages["text"], f"docs/encoders/text.md lacks text/{path.name}"


# ---- tutorials --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from groundzoo.datamodules.toyworld.generate import generate

    return generate(tmp_path_factory.mktemp("world") / "toyworld", videos=8, test_fraction=0.25, workers=1)


def install(project: Path) -> None:
    """What pip leaves of a plug-in in an environment: metadata with its entry points, beside the code."""
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    name, version = described["project"]["name"], described["project"]["version"]
    for package in described["tool"]["setuptools"]["packages"]:
        assert (project / package / "__init__.py").is_file()
    info = project / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in described["project"]["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def run_commands(lines: list[list[str]], folder: Path, path: list[Path]) -> str:
    """Run command lines in one fresh process, as a user would one after another; returns what they print."""
    program = (
        "import json, runpy, sys\n"
        "from groundzoo.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    print('$', *words, flush=True)\n"
        "    runpy.run_path(words[1]) if words[0] == 'python' else main(words[1:])\n"
    )
    if importlib.util.find_spec("groundzoo").origin == str(ROOT / "__init__.py"):  # type: ignore[union-attr]
        alias = folder / ".package"  # a plain checkout has no package of that name on its path
        alias.mkdir()
        (alias / "groundzoo").symlink_to(ROOT, target_is_directory=True)
        path = [*path, alias]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def shortened(words: list[str]) -> list[str]:
    """A command line of a tutorial, on a world of eight videos."""
    if words[0] == "groundzoo" and words[1] in TRAINING:
        tables = {"tables.yaml", "sentences.yaml"} & set(words)  # have a validation split of their own
        hold_out = [] if tables else ["--data.init_args.val_fraction", "0.4"]
        return [*words, *TINY, *hold_out]
    return words


def prepared(page: Path, world: Path, folder: Path) -> list[list[str]]:
    """Write a tutorial's files and a world into a folder; returns its commands."""
    write_files(page, folder)
    shutil.copytree(world, folder / "data" / "toyworld")
    subsets = folder / "data" / "toyworld" / "subsets.json"
    assert subsets.is_file()
    return [shortened(words) for _, words in commands(page) if words[0] in ("groundzoo", "python")]


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial(name: str, world: Path, tmp_path: Path) -> None:
    lines = prepared(DOCS / name, world, tmp_path)
    install(tmp_path)
    said = run_commands(lines, tmp_path, [tmp_path])
    assert "does not load" not in said
    runs = {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in tmp_path.glob("runs/*/metrics.json")}
    captions = runs.pop("sentences", None)
    assert runs
    assert all("test/R1@0.5" in metrics for metrics in runs.values())
    if name == "extend/dataset.md":
        assert captions is not None
        assert {"test/CIDEr", "test/CIDEr_simple"} & captions.keys()


@pytest.mark.slow
def test_features_of_toyworld(tmp_path: Path) -> None:
    """What docs/features.md does with ToyWorld, it does."""
    page = DOCS / "features.md"
    write_files(page, tmp_path)
    lines = [words for _, words in commands(page) if re.search(r"toyworld|read_store", " ".join(words))]
    said = run_commands([shortened(words) for words in lines], tmp_path, [])
    assert re.search(r"pixel_grid: 12 videos, nothing wrong", said)
    assert "1296) float16" in said
    assert (tmp_path / "runs" / "stored" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_a_paper_inside_the_repository(world: Path, tmp_path: Path) -> None:
    """The same file, its imports made relative as the page says, in a copy of the package."""
    lines = prepared(DOCS / "extend" / "paper.md", world, tmp_path)
    package = tmp_path / "checkout" / "groundzoo"
    for room in ("tasks", "zoo", "datamodules", "configs"):
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("__init__.py", "__main__.py", "cli.py"):
        shutil.copy(ROOT / file, package / file)
    text = (tmp_path / "clipmatch" / "clip_match.py").read_text(encoding="utf-8")
    text = text.replace("groundzoo.tasks.", ".").replace("groundzoo.zoo.", "..zoo.")
    shutil.rmtree(tmp_path / "clipmatch")
    (package / "tasks" / "clip_match.py").write_text(text, encoding="utf-8")
    (tmp_path / "clip_match_toyworld.yaml").rename(package / "configs" / "tasks" / "clip_match_toyworld.yaml")
    first = [word.replace("clip_match_toyworld", "tasks/clip_match_toyworld") for word in lines[0]]
    said = run_commands([["groundzoo", "list"], first], tmp_path, [tmp_path / "checkout"])
    assert re.search(r"ClipMatch +Clip matching: ", said)
    assert "tasks/clip_match_toyworld.yaml" in said
    assert (tmp_path / "runs" / "clip_match" / "checkpoints" / "best.ckpt").is_file()
