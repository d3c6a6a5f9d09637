"""Who imports whom: downward only, without circles, and nothing heavy before it is used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = "taglens"

# A package imports from those of smaller number; its own files may import each other, without circles.
STOREYS = {
    **dict.fromkeys(("errors", "results", "vocabulary", "containers", "images", "quiet", "staging"), 0),
    **dict.fromkeys(("models", "language", "hub"), 1),
    **dict.fromkeys(("data", "inference"), 2),
    "collection": 3,
    **dict.fromkeys(("training", "evaluation", "server"), 4),
    "cli": 5,
    "": 6,  # taglens/__init__.py: the public names
}

# Arrows between packages of one storey, each with its reason.
BESIDE = {
    ("training", "evaluation.metrics"): "a run reports the figure that a benchmark would",
    (
        "training",
        "evaluation.thresholds",
    ): "calibration stores the thresholds that evaluation would find best",
}

# Downward, and yet only inside functions or for the type checker: what stands above works without torch.
ONLY_WHEN_USED = {("inference", "models")}

# Packages that take long to load -> who may load them on import.
HEAVY = {
    "torch": {"models", "training"},
    "safetensors": {"models", "training"},
    "onnx": set[str](),
    "onnxruntime": set[str](),
    "rich": set[str](),
    "sklearn": set[str](),
    "skimage": set[str](),
    "matplotlib": set[str](),
    "wordcloud": set[str](),
    "huggingface_hub": set[str](),
    "fsspec": set[str](),
    "pyarrow": set[str](),
    "ray": set[str](),
    "openai": set[str](),
    "transformers": set[str](),
    "tokenizers": set[str](),
    "peft": set[str](),
    "accelerate": set[str](),
}


@dataclass(frozen=True)
class Import:
    """One import of one file: ``module`` as written, resolved to a module of ours where it is one."""

    importer: str
    module: str
    line: int
    relative: bool
    when_used: bool  # inside a function
    for_types: bool  # under TYPE_CHECKING

    @property
    def on_import(self) -> bool:
        return not self.when_used and not self.for_types

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: Path) -> list[Import]:
    known = modules(source)
    return [found for name, path in known.items() for found in _imports_of(name, path, known)]


def _imports_of(importer: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    def visit(node: ast.AST, *, when_used: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(importer, alias.name, child.lineno, False, when_used, for_types)
            elif isinstance(child, ast.ImportFrom):
                home = child.module or ""
                for alias in child.names:
                    # `from taglens import images` is an import of taglens.images; of `Tagger`, it is not.
                    inner = f"{home}.{alias.name}"
                    module = inner if inner in known else home
                    yield Import(importer, module, child.lineno, child.level > 0, when_used, for_types)
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for part in child.body:
                    yield from visit(ast.Module([part], []), when_used=when_used, for_types=True)
                for part in child.orelse:
                    yield from visit(ast.Module([part], []), when_used=when_used, for_types=for_types)
            else:
                inside = when_used or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, when_used=inside, for_types=for_types)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), when_used=False, for_types=False)


def part(module: str) -> str:
    """``taglens.data.shards`` -> ``data``."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(PACKAGE + ".")


def unknown_parts(source: Path) -> list[str]:
    return sorted({part(name) for name in modules(source)} - STOREYS.keys())


def wrong_arrows(found: list[Import]) -> list[str]:
    wrong = []
    for one in found:
        if one.relative:
            wrong.append(f"{one}: relative")
        # Importing the package itself, for its version, loads nothing.
        elif is_ours(one.module) and one.module != PACKAGE:
            ours, theirs = part(one.importer), part(one.module)
            beside = (ours, one.module.removeprefix(PACKAGE + ".")) in BESIDE
            ground_floor = STOREYS[ours] == STOREYS[theirs] == 0
            if ours != theirs and STOREYS[theirs] >= STOREYS[ours] and not beside and not ground_floor:
                wrong.append(f"{one}: {'beside' if STOREYS[theirs] == STOREYS[ours] else 'upward'}")
            if (ours, theirs) in ONLY_WHEN_USED and one.on_import:
                wrong.append(f"{one}: only inside functions")
    return wrong


def heavy(found: list[Import]) -> list[str]:
    return [
        f"{one}: heavy"
        for one in found
        if one.on_import
        and (top := one.module.partition(".")[0]) in HEAVY
        and part(one.importer) not in HEAVY[top]
    ]


def circle(found: list[Import]) -> list[str]:
    """Modules that import each other round, as they are loaded; empty when there are none."""
    arrows: dict[str, set[str]] = {}
    for one in found:
        if one.on_import and is_ours(one.module) and one.module != PACKAGE:
            arrows.setdefault(one.importer, set()).add(one.module)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(arrows.get(module, ())):
                if around := walk(target, [*path, module]):
                    return around
            done.add(module)
        return []

    for module in sorted(arrows):
        if around := walk(module, []):
            return around
    return []


# -- this package ------------------------------------------------------------------------------------


def test_every_part_has_a_storey() -> None:
    assert unknown_parts(SOURCE) == [], "add it to STOREYS, at the height that LAYOUT says"


@pytest.fixture(scope="module")
def ours() -> list[Import]:
    return imports(SOURCE)


def test_arrows_point_downward(ours: list[Import]) -> None:
    assert wrong_arrows(ours) == []


def test_nothing_imports_itself_round(ours: list[Import]) -> None:
    assert circle(ours) == []


def test_nothing_heavy_is_loaded_on_import(ours: list[Import]) -> None:
    assert heavy(ours) == []


def test_every_exception_is_needed(ours: list[Import]) -> None:
    """An arrow that nobody draws any more must not stay allowed."""
    drawn = {(part(one.importer), one.module.removeprefix(PACKAGE + ".")) for one in ours}
    between = {(importer, module.partition(".")[0]) for importer, module in drawn}
    assert BESIDE.keys() - drawn == set()
    assert ONLY_WHEN_USED - between == set()


# -- the checks themselves ---------------------------------------------------------------------------

VIOLATIONS = {
    "upward": ("data/a.py", "from taglens.cli.main import app", "data.a:1 imports taglens.cli.main: upward"),
    "upward when used": ("data/a.py", "def f():\n    import taglens.cli.main", "upward"),
    "upward for types": (
        "models/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from taglens.data.b import B",
        "upward",
    ),
    "upward from the package": ("results.py", "from taglens import cli", "upward"),
    "beside": ("data/a.py", "from taglens.inference.b import B", "beside"),
    "beside but not that part": ("training/a.py", "from taglens.evaluation.b import B", "beside"),
    "relative": ("data/a.py", "from . import b", "relative"),
    "relative downward": ("data/a.py", "from ..models import b", "relative"),
    "models on import": ("inference/a.py", "from taglens.models.b import B", "only inside functions"),
    "models in a class": ("inference/a.py", "class A:\n    from taglens.models.b import B", "only inside"),
    "models in a branch": ("inference/a.py", "if 1:\n    import taglens.models.b", "only inside"),
}
FINE = {
    "downward": ("cli/a.py", "from taglens.models.b import B"),
    "own package": ("data/a.py", "from taglens.data.b import B"),
    "ground floor": ("results.py", "from taglens.errors import E"),
    "allowed beside": ("training/a.py", "from taglens.evaluation.metrics import m"),
    "models when used": ("inference/a.py", "def f():\n    from taglens.models.b import B"),
    "models for types": (
        "inference/a.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from taglens.models.b import B",
    ),
    "version": ("cli/a.py", "from taglens import __version__"),
    "others": ("models/a.py", "import numpy as np\nfrom torch import nn"),
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with an empty module ``b`` everywhere."""
    for name, storey in STOREYS.items():
        if storey:
            folder = tmp_path / PACKAGE / name
            folder.mkdir(parents=True, exist_ok=True)
            for module in ("__init__", "b", "main", "metrics") if name else ("__init__",):
                (folder / f"{module}.py").write_text("")
    for name, storey in STOREYS.items():
        if not storey:
            (tmp_path / PACKAGE / f"{name}.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(("file", "content", "named"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_wrong_arrow_is_found(file: str, content: str, named: str, house: Path) -> None:
    (house / PACKAGE / file).write_text(content)
    (wrong,) = wrong_arrows(imports(house))
    assert named in wrong


@pytest.mark.parametrize(("file", "content"), FINE.values(), ids=FINE)
def test_a_right_arrow_is_left_alone(file: str, content: str, house: Path) -> None:
    (house / PACKAGE / file).write_text(content)
    assert wrong_arrows(imports(house)) == [] and heavy(imports(house)) == []
    assert imports(house), "and it was seen"


def test_a_circle_is_found(house: Path) -> None:
    data = house / PACKAGE / "data"
    (data / "a.py").write_text("from taglens.data import b")
    (data / "b.py").write_text("from taglens.data.c import c")
    (data / "c.py").write_text("import taglens.data.a")
    assert circle(imports(house)) == [f"taglens.data.{name}" for name in "abca"]
    (data / "c.py").write_text("def f():\n    import taglens.data.a")
    assert circle(imports(house)) == []


def test_a_heavy_import_is_found(house: Path) -> None:
    (house / PACKAGE / "data" / "a.py").write_text("from torch import nn\ndef f():\n    import onnxruntime")
    (house / PACKAGE / "models" / "a.py").write_text("import torch.nn")
    assert heavy(imports(house)) == ["taglens.data.a:1 imports torch: heavy"]


def test_a_part_without_a_storey_is_found(house: Path) -> None:
    (house / PACKAGE / "helpers.py").write_text("")
    assert "helpers" in unknown_parts(house)


# -- what is loaded, in a process of its own ---------------------------------------------------------

HELP = """
import sys
from taglens.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
PROCESSES = {
    "import taglens": ("import taglens", {"torch", "onnxruntime", "numpy", "PIL", "typer", "rich"}),
    "the command line": ("from taglens.cli import main", {"torch", "onnxruntime", "numpy", "PIL", "typer"}),
    "taglens --help": (HELP, {"torch", "onnxruntime", "numpy", "PIL"}),
    "the tagger": ("import taglens.inference.tagger", {"torch", "onnxruntime", "onnx", "typer"}),
    "the public tagger": ("from taglens import Tagger", {"torch", "onnx"}),
    "exporting": ("import taglens.inference.export", {"torch", "onnxruntime", "onnx"}),
    "batches": ("import taglens.data.batches", {"torch"}),
}


@pytest.mark.parametrize(("code", "unwanted"), PROCESSES.values(), ids=PROCESSES)
def test_a_fresh_process_loads_nothing_heavy(code: str, unwanted: set[str]) -> None:
    """The imports above do not see what a package of others loads in its turn."""
    program = f"{code}\nimport sys\nprint('loaded:', *sorted(sys.modules.keys() & {unwanted!r}))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
