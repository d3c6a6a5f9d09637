"""Which pictures questions are about."""

from __future__ import annotations

import pytest

from taglens.training.text_reading import _place

KNOWN = {"images/1.jpg": 0, "2.jpg": 1, "other/2.jpg": 2}


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("images/1.jpg", "images/1.jpg"),
        ("../../data/images/1.jpg", "images/1.jpg"),
        ("/absolute/images/1.jpg", "images/1.jpg"),
        # The longer end decides.
        ("a/other/2.jpg", "other/2.jpg"),
        ("a/2.jpg", "2.jpg"),
        # Names that only end alike are other pictures.
        ("images/11.jpg", None),
        ("1.jpg", None),
        ("", None),
    ],
)
def test_a_question_finds_its_picture_by_the_end_of_the_path(image: str, place: str | None) -> None:
    assert _place(image, KNOWN) == place
