"""The row that users receive: field for field what the contract says."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.errors import ImageError
from taglens.results import Caption, Captioned, Failure, Prediction, Tag, significant, to_line

DOG = Tag("object:dog", "dog", "object", 0.123456789)
GOOD = Prediction("a.jpg", 640, 480, (DOG,), "starter@1", "words@2", caption="a dog", notes=("turned",))
CAPTIONED = Captioned(
    "a.jpg",
    640,
    480,
    (
        Caption("a dog runs", -0.123456789, ("dog", "run"), ("cat",)),
        Caption("a cat", -1.5, ("cat",), ()),
    ),
    ("cat", "dog", "run"),
    "t2t@1",
    notes=("turned",),
)

# A busy machine is no failure: how long a drawn case takes is not what these tests are about.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_a_row_has_the_contracts_fields_and_no_others() -> None:
    assert GOOD.to_dict() == {
        "source": "a.jpg",
        "width": 640,
        "height": 480,
        "tags": [{"id": "object:dog", "name": "dog", "kind": "object", "score": 0.1234568}],
        "caption": "a dog",
        "model": "starter@1",
        "vocabulary": "words@2",
        "notes": ["turned"],
        "error": None,
    }


def test_an_error_row_has_null_where_there_is_no_answer() -> None:
    failure = Failure.of(ImageError("truncated", "cut off after 12 bytes", source="a.jpg"))
    row = Prediction("a.jpg", None, None, None, "m@1", "v@2", error=failure).to_dict()
    assert row["error"] == {"type": "truncated", "message": "cut off after 12 bytes"}
    assert row["tags"] is None
    assert row["width"] is None
    assert row["caption"] is None
    assert row["notes"] == []


def test_no_tags_and_no_answer_are_two_things() -> None:
    none_passed = Prediction("a.jpg", 1, 1, (), "m@1", "v@2")
    assert none_passed.to_dict()["tags"] == []
    assert none_passed.names == []
    assert Prediction("a.jpg", None, None, None, "m@1", "v@2").names == []
    assert GOOD.names == ["dog"]


def test_a_name_in_other_bytes_stands_beside_the_source() -> None:
    plain = GOOD.to_dict()
    assert "source_bytes" not in plain
    row = Prediction("a\ufffd.jpg", 1, 1, (), "m@1", "v@2", source_bytes="Yf8uanBn").to_dict()
    assert list(row)[:2] == ["source", "source_bytes"]
    assert row["source_bytes"] == "Yf8uanBn"


def test_a_line_is_one_line_and_keeps_letters() -> None:
    row = Prediction("größe\n\u2028.jpg", 1, 1, (), "m@1", "v@2", caption="日本").to_dict()
    line = to_line(row)
    assert "\n" not in line
    assert "größe" in line
    assert "日本" in line
    assert json.loads(line) == row


def test_to_json_is_the_row_as_a_line() -> None:
    assert json.loads(GOOD.to_json()) == GOOD.to_dict()


def test_a_score_that_is_no_number_never_reaches_a_file() -> None:
    with pytest.raises(ValueError):
        to_line({"score": math.nan})
    with pytest.raises(ValueError):
        to_line({"score": math.inf})


@UNTIMED
@given(st.floats(min_value=0.0, max_value=1.0, width=32))
def test_rounding_keeps_at_least_six_digits(score: float) -> None:
    kept = significant(score)
    assert math.isclose(kept, score, rel_tol=5e-7, abs_tol=0.0)
    assert significant(kept) == kept


@UNTIMED
@given(st.floats(min_value=0.0, max_value=1.0), st.floats(min_value=0.0, max_value=1.0))
def test_rounding_never_turns_an_order_round(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert significant(low) <= significant(high)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DOG.score = 1.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        GOOD.source = "b.jpg"  # type: ignore[misc]


# -- captions ----------------------------------------------------------------------------------------


def test_a_row_of_captions_has_the_contracts_fields_and_no_others() -> None:
    assert CAPTIONED.caption == "a dog runs"
    assert CAPTIONED.to_dict() == {
        "source": "a.jpg",
        "width": 640,
        "height": 480,
        "caption": "a dog runs",
        "captions": [
            {"text": "a dog runs", "score": -0.1234568, "mentioned": ["dog", "run"], "unmet": ["cat"]},
            {"text": "a cat", "score": -1.5, "mentioned": ["cat"], "unmet": []},
        ],
        "guide_tags": ["cat", "dog", "run"],
        "unmet": ["cat"],
        "model": "t2t@1",
        "notes": ["turned"],
        "error": None,
    }
    assert json.loads(CAPTIONED.to_json()) == CAPTIONED.to_dict()
    assert "\n" not in CAPTIONED.to_json()


def test_a_failed_row_of_captions_has_null_where_there_is_no_answer() -> None:
    failure = Failure.of(ImageError("empty", "no content", source="a.jpg"))
    failed = Captioned("a.jpg", None, None, None, None, "t2t@1", error=failure)
    row = failed.to_dict()
    assert list(row) == list(CAPTIONED.to_dict())
    none = ("width", "height", "caption", "captions", "guide_tags", "unmet")
    assert [row[key] for key in none] == [None] * 6
    assert row["error"] == {"type": "empty", "message": "no content"} and row["notes"] == []
    assert failed.caption is None


def test_an_empty_caption_is_an_answer() -> None:
    row = Captioned("a.jpg", 1, 1, (Caption("", -0.9),), (), "t2t@1").to_dict()
    assert (row["caption"], row["guide_tags"], row["unmet"]) == ("", [], [])


def test_other_bytes_stand_beside_the_source_of_captions_too() -> None:
    row = Captioned("a\ufffd.jpg", 1, 1, (), (), "m@1", source_bytes="Yf8uanBn").to_dict()
    assert list(row)[:2] == ["source", "source_bytes"] and "source_bytes" not in CAPTIONED.to_dict()
