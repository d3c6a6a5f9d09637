"""What tags mean: from entries, held to the vocabulary when a model says it, overridden by a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import ChatError, DataError
from taglens.language.annotation_prompts import Concept
from taglens.language.chat import Ask, Reply
from taglens.language.chat_kept import ReplayChat
from taglens.language.concepts import (
    MOST_OFFERED,
    from_llm,
    from_vocabulary,
    overridden,
    read_concepts,
    shown_names,
    write_concepts,
)
from taglens.vocabulary import Entry, Vocabulary

TAGS = Vocabulary(
    [
        Entry("racket", "object"),
        Entry("tennis racket", "object", parents=("object:racket",), count=5),
        Entry("badminton racket", "object", parents=("object:racket",), count=1),
        Entry("ball", "object", parents=("object:racket",), count=9, synonyms=("sphere",)),
        Entry("train", "object"),
        Entry("train", "action"),
        Entry("no", "attribute"),
        Entry("bat", "object", parents=("object:racket",), hidden=True),
    ],
    name="small",
)


def test_names_that_repeat_are_shown_with_their_kind() -> None:
    assert shown_names(TAGS)[4:7] == ("train (object)", "train (action)", "no (attribute)")
    assert shown_names(TAGS)[0] == "racket"


def test_entries_speak_for_themselves() -> None:
    found = from_vocabulary(TAGS)
    assert found["object:tennis racket"] == Concept("racket", ("badminton racket", "ball"))
    assert found["object:ball"] == Concept(
        "racket", ("tennis racket", "badminton racket"), ("ball", "sphere")
    )
    assert not found["object:train"] and not found["object:racket"], "what it implies is no look-alike"
    assert all(concept.source == "vocabulary" for concept in found.values())


def answer(**changes: Any) -> str:
    return json.dumps({"super_category": "thing", "look_alikes": [], "phrases": [], **changes})


def asked(*answers: str | Reply | Exception, ids: tuple[str, ...] = ("object:ball",), tries: int = 2) -> Any:
    left, asks = list(answers), []

    def reply(ask: Ask) -> str | Reply:
        asks.append(ask)
        said = left.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    found = list(from_llm(ReplayChat(reply, model="m"), TAGS, ids=ids, tries=tries, at_once=1))
    return found, asks


def test_a_good_answer_is_taken() -> None:
    (found,), (ask,) = asked(
        answer(super_category="toy", look_alikes=["Racket", "train (action)"], phrases=["round ball."])
    )
    assert found.concept == Concept("toy", ("racket", "train (action)"), ("round ball",), "llm")
    assert found.problems == ()
    assert '"ball"' in ask.text and "Other names for it: sphere" in ask.text and "tennis racket" in ask.text
    assert "bat\n" not in ask.text, "hidden tags are not offered"


def test_what_is_off_the_list_is_told_and_left_out() -> None:
    bad = answer(look_alikes=["unicorn", "ball", "racket"], phrases=["x" * 3, "w " * 20])
    (found,), asks = asked(bad, bad)
    assert found.concept == Concept("thing", ("racket",), ("xxx",), "llm")
    assert len(found.problems) == 3 and "'unicorn' is no other name" in asks[1].text
    assert asks[0].key("m") != asks[1].key("m")


@pytest.mark.parametrize(
    "bad",
    [
        "I cannot",
        "[]",
        '{"super_category": "a"}',
        Reply("", "m", refused=True),
        Reply(answer(), "m", cut=True),
        ChatError("gone"),
    ],
)
def test_without_an_answer_the_vocabulary_keeps_its_word(bad: str | Reply | Exception) -> None:
    (found,), asks = asked(bad, bad)
    assert found.concept == from_vocabulary(TAGS)["object:ball"] and found.concept.source == "vocabulary"
    assert found.problems[-1] == "kept what the vocabulary says"
    assert len(asks) == (1 if isinstance(bad, ChatError) else 2), "a server that is gone is not asked again"


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["ball", "racket", "train (action)"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({"super_category": json_values, "look_alikes": json_values, "phrases": json_values})
)
def test_whatever_a_model_says_look_alikes_are_other_tags(row: dict[str, Any]) -> None:
    (found,), _ = asked(json.dumps(row), tries=1)
    assert set(found.concept.look_alikes) <= set(shown_names(TAGS)) - {"ball"}
    assert all(isinstance(text, str) and text.strip() for text in found.concept.phrases)


def test_a_long_vocabulary_is_shortlisted_by_parents_and_words() -> None:
    many = [Entry(f"thing {n}", "object") for n in range(2 * MOST_OFFERED)]
    tags = TAGS.with_entries([*many, *TAGS])
    asks: list[Ask] = []

    def reply(ask: Ask) -> str:
        asks.append(ask)
        return answer()

    list(from_llm(ReplayChat(reply), tags, ids=["object:tennis racket"]))
    offered = asks[0].text.split("Names:\n")[1].split("\n")
    assert len(offered) == MOST_OFFERED and {"badminton racket", "ball", "racket"} <= set(offered)


# -- files ---------------------------------------------------------------------------------------------


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_person_overrides_the_fields_that_are_stated(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", {"name": "ball", "phrases": ["round toy"]})
    found = overridden(from_vocabulary(TAGS), read_concepts(file, TAGS))
    assert found["object:ball"] == Concept(
        "racket", ("tennis racket", "badminton racket"), ("round toy",), "user"
    )
    assert found["object:tennis racket"] == from_vocabulary(TAGS)["object:tennis racket"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    concepts = overridden(
        from_vocabulary(TAGS), {"object:train": {"phrases": ("a train on rails",), "source": "llm"}}
    )
    write_concepts(tmp_path / "new" / "c.jsonl", TAGS, concepts)
    again = overridden({}, read_concepts(tmp_path / "new" / "c.jsonl", TAGS))
    assert again == concepts
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"name": "unicorn"}, "is no tag of small@"),
        ({"name": "train"}, "is no tag of small@"),
        ({"name": "ball", "look_alikes": ["unicorn"]}, "'unicorn' is no other tag"),
        ({"name": "ball", "look_alikes": ["ball"]}, "'ball' is no other tag"),
        ({"name": "ball", "phrases": "round"}, "must be a list"),
        ({"name": "ball", "phrases": [""]}, "must be a list"),
        ({"name": "ball", "super_category": 3}, "super_category must be text"),
        ({"name": "ball", "phrase": []}, "unknown field 'phrase'"),
        ({"name": "ball", "source": "me"}, "source must be one of"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = write(tmp_path / "mine.jsonl", {"id": "object:racket"}, row)
    with pytest.raises(DataError, match=said) as error:
        read_concepts(file, TAGS)
    assert "mine.jsonl, line 2" in str(error.value)


def test_a_tag_has_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", {"name": "ball"}, {"id": "object:ball"})
    with pytest.raises(DataError, match="twice"):
        read_concepts(file, TAGS)
