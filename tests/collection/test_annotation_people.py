"""What an annotation costs beside people is one division, and every number of it is in the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from taglens.collection.annotation_people import People, Took, beside_people
from taglens.errors import DataError, UsageError
from taglens.language.chat import Usage
from taglens.language.ledger import Prices

TOOK = Took(100, 250, 800, Usage(90_000, 4_000, 10_000), 70.0, 0.0, "USD", "a model")


def write(folder: Path, *, pictures: int = 101) -> Path:
    folder.mkdir()
    row = {
        "pictures": pictures, "failed": 1, "labels": 250, "queries": 800, "prompt_tokens": 90_000,
        "completion_tokens": 4_000, "cached_tokens": 10_000, "cost": 3.0, "currency": "EUR",
        "this_start": {"busy_seconds": 5.0}, "busy_seconds": 70.0,
    }  # fmt: skip
    (folder / "ledger.json").write_text(json.dumps(row))
    (folder / "annotation.json").write_text(json.dumps({"configuration": {"model": "a model"}}))
    return folder


def test_the_papers_seconds_make_a_thousandth_or_less_by_these_assumptions() -> None:
    """0.70 seconds of a processor a picture (PAPERS 4.8) at 2 an hour, against 220 s of people at 15 an hour."""
    found = beside_people(TOOK, prices=Prices(hour=2.0))
    assert found.machine == pytest.approx(0.70 * 2 / 3600) and found.human == pytest.approx(220 * 15 / 3600)
    assert found.share == pytest.approx(0.70 * 2 / (220 * 15)) and found.share < 1 / 1000
    # One worker who is four times as quick makes the claim wrong: it stands on its assumptions.
    assert beside_people(TOOK, prices=Prices(hour=2.0), people=People(220 / 8 / 4, 15)).share > 1 / 1000
    row = found.to_dict()
    assert row["times_cheaper"] == pytest.approx(1 / found.share)
    assert row["machine_per_label"] == pytest.approx(found.machine * 100 / 250)
    assert row["inputs"]["human_seconds"] == 220.0 and row["inputs"]["prices"]["hour"] == 2.0
    assert row["inputs"]["seconds"] == 70.0 and row["inputs"]["usage"]["prompt_tokens"] == 90_000


def test_all_prices_add_up() -> None:
    prices = Prices(prompt=2.0, cached=1.0, completion=8.0, request=0.01, hour=3.6)
    found = beside_people(TOOK, prices=prices)
    whole = (80_000 * 2 + 10_000 * 1 + 4_000 * 8) / 1e6 + 800 * 0.01 + 70 * 0.001
    assert found.machine == pytest.approx(whole / 100)


def test_a_folder_tells_what_it_took(tmp_path: Path) -> None:
    found = Took.read(write(tmp_path / "out"))
    assert (found.pictures, found.labels, found.seconds, found.cost) == (100, 250, 70.0, 3.0)
    assert beside_people(found).machine == pytest.approx(0.03)
    with pytest.raises(DataError, match="cannot read what it took"):
        Took.read(tmp_path)
    with pytest.raises(DataError, match="no picture"):
        Took.read(write(tmp_path / "none", pictures=1))


def test_what_cannot_be_reckoned() -> None:
    with pytest.raises(UsageError, match="without prices"):
        beside_people(TOOK)
    with pytest.raises(UsageError, match="without prices"):
        beside_people(TOOK, prices=Prices())
    with pytest.raises(UsageError, match="tells no seconds"):
        beside_people(replace(TOOK, seconds=0.0), prices=Prices(hour=1.0))
    with pytest.raises(UsageError, match="above 0"):
        People(seconds=0)


def test_queries_of_which_no_tokens_are_known_are_not_for_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    row = json.loads((folder / "ledger.json").read_text())
    row |= {"unknown_usage": 800, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
    (folder / "ledger.json").write_text(json.dumps(row))
    took = Took.read(folder)
    with pytest.raises(UsageError, match="of 800 queries no tokens"):
        beside_people(took, prices=Prices(prompt=2.0, completion=8.0))
    found = beside_people(took, prices=Prices(prompt=2.0, hour=1.0))
    assert found.machine == pytest.approx(70 / 3600 / 100)
    assert found.to_dict()["inputs"]["unknown_usage"] == 800
