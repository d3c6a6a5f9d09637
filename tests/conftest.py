"""What every test may ask for: the shared data (skipped visibly where absent), and the closing count of skips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, so that a run says something about the code alone; TAGLENS_EXPLORE=1 draws others.
settings.register_profile("steady", derandomize=True)
settings.register_profile("explore")
settings.load_profile("explore" if os.environ.get("TAGLENS_EXPLORE") else "steady")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("data/photos")``: a path in the shared data.

    No shared folder at all: the test is skipped and counted at the end of the run. A shared folder without that
    path: the test fails, because half a data set is a fault and not a choice.
    """
    root = Path(os.environ.get("TAGLENS_SHARED", REPOSITORY.parent / "shared"))

    def find(relative: str) -> Path:
        if not root.is_dir():
            pytest.skip(f"no shared data at {root} (set TAGLENS_SHARED)")
        path = root / relative
        if not path.exists():
            pytest.fail(f"shared data at {root} is incomplete: {relative} is missing")
        return path

    return find


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close every run with how much was skipped, and why."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        longrepr = report.longrepr
        reasons[longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)] += 1
    terminalreporter.section("skipped", sep="-")
    if not reasons:
        terminalreporter.write_line("nothing was skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} x {reason.removeprefix('Skipped: ')}")
