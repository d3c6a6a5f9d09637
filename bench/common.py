"""What every benchmark needs: where results go, and beside which machine and settings they stand."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


def shared() -> Path:
    """The shared data; the benchmark stops with the cure where it is absent."""
    root = Path(os.environ.get("TAGLENS_SHARED", REPOSITORY.parent / "shared"))
    if not root.is_dir():
        raise SystemExit(f"no shared data at {root}; set TAGLENS_SHARED to the folder that holds data/")
    return root


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions: a figure means nothing without them."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checkout's commit, with + when files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def record(name: str, settings: dict[str, Any], figures: dict[str, Any]) -> None:
    """Append one line to bench/results/NAME.jsonl and print it."""
    row = {
        "benchmark": name,
        "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        "settings": settings,
        "figures": figures,
    }
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    print(line)


def newest(name: str) -> Row:
    """The last line of a benchmark."""
    lines = (HERE / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    row: Row = json.loads(lines[-1])
    return row


def origin(row: Row) -> str:
    """The command, day, machine and commit of a line, to stand under its table."""
    m = row["machine"]
    return (
        f"`python bench/{row['benchmark']}.py`, {row['when'][:10]}, {m['processor']}, {m['cores']} cores, "
        f"Python {m['python']}, commit {row['commit']}."
    )


def holding(name: str, part: str) -> Row:
    """The newest line whose figures hold a part; a benchmark may be run part by part."""
    lines = (HERE / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row for row in map(json.loads, reversed(lines)) if part in row["figures"])
