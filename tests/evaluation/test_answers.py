"""Accuracy of answers: the published formula as a slow twin, votes fewer than ten, types, baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.data.questions import Question
from taglens.errors import DataError, UsageError
from taglens.evaluation.answers import accuracy, evaluate_answers

ANSWER = st.sampled_from(["red", "blue", "Red", "two", "2", "the red", "yes"])


def twin(answer: str, votes: Sequence[str]) -> float:
    """Each person is left out once; three of the others who say the same make the answer right."""
    from taglens.evaluation.answer_words import normalised

    found = []
    for out in range(len(votes)):
        others = [vote for at, vote in enumerate(votes) if at != out]
        same = sum(normalised(vote) == normalised(answer) for vote in others)
        found.append(min(same / 3, 1.0))
    return sum(found) / len(found)


@given(answer=ANSWER, votes=st.lists(ANSWER, min_size=10, max_size=10))
def test_ten_votes_are_counted_as_published(answer: str, votes: list[str]) -> None:
    assert accuracy(answer, votes) == pytest.approx(twin(answer, votes))


@pytest.mark.parametrize(
    ("same", "votes", "found"),
    [
        *[(0, 10, 0.0), (1, 10, 0.3), (2, 10, 0.6), (3, 10, 0.9), (4, 10, 1.0), (10, 10, 1.0)],
        *[(1, 1, 1.0), (1, 2, 1.0), (1, 3, 1.0), (1, 4, 0.75), (1, 5, 0.6), (2, 5, 1.0), (0, 1, 0.0)],
    ],
)
def test_known_counts(same: int, votes: int, found: float) -> None:
    assert accuracy("red", ["red"] * same + ["blue"] * (votes - same)) == pytest.approx(found)


@given(answer=ANSWER, votes=st.lists(ANSWER, min_size=1, max_size=9), times=st.integers(2, 4))
def test_the_same_people_again_change_nothing(answer: str, votes: list[str], times: int) -> None:
    assert accuracy(answer, votes * times) == pytest.approx(accuracy(answer, votes))


@given(votes=st.lists(ANSWER, min_size=1, max_size=12))
def test_more_of_a_kind_is_never_worse(votes: list[str]) -> None:
    assert accuracy("red", [*votes, "red"]) >= accuracy("red", votes) - 1e-12
    assert 0.0 <= accuracy("red", votes) <= 1.0


def test_without_a_vote_there_is_no_accuracy() -> None:
    with pytest.raises(UsageError, match="without a vote"):
        accuracy("red", [])


def ask(
    image: str, question: str, *answers: str, type: str | None = "colour", opening: str | None = None
) -> Question:
    return Question(image, Path(image), question, answers, type=type, opening=opening)


ROWS = [
    ask("a", "what colour is the dog?", "red", "red", "blue"),
    ask("a", "is there a dog?", "yes", type="exists"),
    ask("b", "what colour is the dog?", "green"),
    ask("b", "is there a cat?", "no", type="exists"),
    ask("c", "is there a man?", "yes", type="exists"),
]


def test_figures_by_type() -> None:
    report = evaluate_answers(ROWS, ["Red.", "yes", "blue", "yes", None])
    found = report.to_dict()
    assert (found["images"], found["questions"], found["failed"]) == (3, 5, 1)
    assert report.failed == (("c", "is there a man?"),)
    assert found["accuracy"] == 0.5
    assert found["per_type"] == {
        "colour": {"questions": 2, "accuracy": 0.5},
        "exists": {"questions": 2, "accuracy": 0.5},
    }
    assert found["distinct_answers"] == 3


def test_baselines_are_scored_on_the_same_rows() -> None:
    others = [
        ask("x", "is there a bird?", "yes", type="exists"),
        ask("x", "is there a cat?", "no", type="exists"),
        ask("y", "Is there a cat", "no", type="exists"),
        ask("y", "is there a dog?", "yes", type="exists"),
        ask("z", "is there a dog?", "yes", type="exists"),
        ask("z", "what colour is the cat?", "green"),
    ]
    found = evaluate_answers(ROWS, ["red", "yes", "blue", "yes", None], others=others).to_dict()["baselines"]
    assert (found["chosen_from"], found["most_common_answer"]) == ("train", "yes")
    assert found["most_common"]["accuracy"] == 1 / 4, "one yes among the four rows that have an answer"
    # green, yes, green, yes
    assert found["most_common_per_type"]["per_type"] == {
        "colour": {"questions": 2, "accuracy": 0.5},
        "exists": {"questions": 2, "accuracy": 0.5},
    }
    # The cat's question is answered no; one that was never met falls back to its type.
    assert found["most_common_per_question"]["per_type"]["exists"]["accuracy"] == 1.0
    assert found["most_common_per_question"]["per_type"]["colour"]["accuracy"] == 0.5


def test_without_other_rows_baselines_are_counted_on_these() -> None:
    found = evaluate_answers(ROWS, ["red"] * 5).to_dict()["baselines"]
    assert (found["chosen_from"], found["most_common_answer"]) == ("evaluated", "yes")
    assert found["most_common"]["accuracy"] == 2 / 5


def test_vqav2_is_told_apart_by_answers_and_guessed_by_openings() -> None:
    rows = [
        ask("a", "is it?", "yes", type="yes/no", opening="is it"),
        ask("a", "is this?", "no", type="yes/no", opening="is this"),
        ask("a", "is this so?", "no", type="yes/no", opening="is this"),
    ]
    found = evaluate_answers(rows, ["yes"] * 3).to_dict()
    assert found["per_type"].keys() == {"yes/no"}
    # By answer type alone it would be 2 of 3: the type of an answer is not known before it.
    assert found["baselines"]["most_common_per_type"]["accuracy"] == 1.0


@given(st.permutations(ROWS))
def test_the_order_of_rows_changes_nothing(rows: list[Question]) -> None:
    known = {id(row): text for row, text in zip(ROWS, ["red", "no", "green", "no", "yes"], strict=True)}
    found = evaluate_answers(rows, [known[id(row)] for row in rows])
    assert found.to_dict() == evaluate_answers(ROWS, [known[id(row)] for row in ROWS]).to_dict()


def test_a_row_without_a_type_is_counted_too() -> None:
    (row,) = [ask("a", "Why so?", "because", type=None)]
    assert evaluate_answers([row], ["Because"]).to_dict()["per_type"] == {
        "untyped": {"questions": 1, "accuracy": 1.0}
    }


def test_what_cannot_be_scored() -> None:
    with pytest.raises(UsageError, match="2 answers for 5 questions"):
        evaluate_answers(ROWS, ["a", "b"])
    with pytest.raises(UsageError, match="0 answers for 0"):
        evaluate_answers([], [])
    with pytest.raises(DataError, match="none of the 5 questions has an answer"):
        evaluate_answers(ROWS, [None] * 5)
    with pytest.raises(UsageError, match="no answers to score by"):
        evaluate_answers([Question("a", Path("a"), "what?", None)], ["x"])
