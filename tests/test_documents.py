"""What the documents promise: the two commands, the file tree, tables that show the committed results."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results"


def test_continuous_integration_runs_the_second_command_and_nothing_else() -> None:
    blocks = re.findall(r"```sh\n(.*?)\n```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    script = [
        line
        for line in (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert "\n" not in blocks[0] and blocks[0].endswith("taglens demo")
    assert "\n" not in blocks[1]
    assert script[-1] == blocks[1]
    assert [line.split()[0] for line in script[:-1]] == ["set", "cd"]


def test_architecture_names_every_module() -> None:
    told = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")
    package = REPOSITORY / "src" / "taglens"
    missing = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if path.name != "__init__.py"
        and path.name not in told
        and path.stem not in told.partition("console.py")[2].split()
    ]
    assert not missing


def test_tables_show_the_newest_results() -> None:
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench" / "tables.py"), "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path: Path) -> None:
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        assert row["benchmark"] == path.stem
        assert (REPOSITORY / "bench" / f"{row['benchmark']}.py").is_file()
        assert {"processor", "cores", "python"} <= row["machine"].keys()
        assert row["settings"] and row["figures"] and row["commit"]


def test_links_in_documents_lead_somewhere() -> None:
    broken = []
    for document in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text("utf-8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken


def test_version_is_the_same_everywhere() -> None:
    spec = importlib.util.find_spec("taglens")
    assert spec is not None
    import taglens

    assert f"## [{taglens.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    assert f"version: {taglens.__version__}" in (REPOSITORY / "CITATION.cff").read_text("utf-8")
