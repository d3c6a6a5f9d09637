"""Tags to rows: what is asked, resumed, paid and given up, and that the same replies give the same bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import ChatError, UsageError, VocabularyError
from taglens.language.chat import Ask, Reply, Usage
from taglens.language.chat_kept import KeptChat, ReplayChat, Replies
from taglens.language.describe import (
    Plan,
    choose,
    describe_by_templates,
    describe_tags,
    project,
)
from taglens.language.description_prompts import INTENTS
from taglens.language.description_rows import Described, merge, read_lines, write_rows
from taglens.language.descriptions import read_descriptions
from taglens.language.ledger import CountedChat, Ledger, Prices
from taglens.language.vocabulary_files import with_description_file
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", synonyms=("hound",)),
        Entry("train", "object", descriptions=("long and heavy",)),
        Entry("train", "action"),
        Entry("café", "scene"),
    ],
    name="words",
)
ALL = choose(WORDS)


def name_in(ask: Ask) -> str:
    line = ask.text.split("\n")[0]
    name: str = json.loads(line.removeprefix("The label is ").partition(". It stands")[0])
    return name


def good(ask: Ask) -> str:
    """As many descriptions as are asked for, all different."""
    lines = int(first) if (first := ask.text.split("Answer with ")[1].split()[0]).isdigit() else 1
    intent = len(ask.text) % 89
    return "\n".join(f"A {name_in(ask)} of shape {intent}, {ask.seed}, {line}" for line in range(lines))


def test_five_intents_are_asked_in_turn_until_there_are_enough() -> None:
    asked = list(Plan().questions())
    assert len(asked) == 50
    assert [each.intent for each in asked[:5]] == list(INTENTS)
    assert {(each.intent, each.sample) for each in asked} == {(i, s) for i in INTENTS for s in range(10)}
    assert [(q.intent, q.lines) for q in Plan(12, 10).questions()] == [("look", 10), ("identify", 2)]
    assert [(q.intent, q.lines) for q in Plan(specific=True).questions()] == [("specific", 50)]
    assert [q.sample for q in Plan(5, 2, specific=True).questions()] == [0, 1, 2]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 200), st.none() | st.integers(1, 300), st.booleans())
def test_any_count_is_asked_for_exactly(count: int, per_query: int | None, specific: bool) -> None:
    plan = Plan(count, per_query, specific)
    assert sum(each.lines for each in plan.questions()) == count
    keys = {plan.ask(ALL[0], each).key("m") for each in plan.questions()}
    assert len(keys) == len(list(plan.questions())), "two questions would share one kept answer"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Plan(0), "1 to 1,000"),
        (lambda: Plan(1001), "1 to 1,000"),
        (lambda: Plan(5, 0), "1 description or more"),
        (lambda: Plan(6, temperature=0), "at most 5"),
        (lambda: Plan(60, 10, temperature=0), "at most 50"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(make: Callable[[], Plan], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()
    assert Plan(5, temperature=0).count == 5


def test_rows_come_in_order_with_what_they_answer() -> None:
    rows = list(describe_tags(ALL, ReplayChat(good, model="parrot"), Plan(7)))
    assert [row.id for row in rows] == WORDS.ids
    for row in rows:
        assert (row.source, row.model, row.asked, row.error) == ("llm", "parrot", 7, None)
        assert row.intents == (*INTENTS, *INTENTS[:2])
        assert len(row.descriptions) == 7


def test_what_cannot_be_used_is_counted_on_its_row() -> None:
    def say(ask: Ask) -> str | Reply:
        if name_in(ask) == "café":
            return Reply("", "m", refused=True)
        return "It has four legs." if name_in(ask) == "dog" else good(ask)

    dog, _, _, cafe = describe_tags(ALL, ReplayChat(say), Plan(5))
    assert (dog.descriptions, dog.dropped) == ((), {"unnamed": 5})
    assert dog.error == {"type": "unusable", "message": "none of 5 answers could be used"}
    assert cafe.dropped == {"refusal": 5}
    assert dog.is_short


def test_templates_stand_in_where_a_model_gives_nothing_and_say_so() -> None:
    rows = list(describe_tags(ALL, ReplayChat(lambda _: "I cannot do that."), Plan(5), templates=True))
    assert {row.source for row in rows} == {"template"}
    assert not any(row.is_short for row in rows)
    assert rows[0].dropped == {"refusal": 5}
    plain = list(describe_by_templates(ALL, count=5))
    assert [row.descriptions for row in plain] == [row.descriptions for row in rows]
    assert "model" not in plain[0].to_dict()


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.sampled_from(["A dog runs", "two trains", "a café", "no", "", "1. a dog, big\n2. a train, red"])
    )
)
def test_the_number_of_threads_changes_no_byte(answers: list[str]) -> None:
    def say(ask: Ask) -> str:
        return answers[int(ask.key("m"), 16) % len(answers)] if answers else good(ask)

    one, many = (
        [row.to_dict() for row in describe_tags(ALL, ReplayChat(say), Plan(6), at_once=n)] for n in (1, 7)
    )
    assert json.dumps(one) == json.dumps(many)


def test_a_stopped_run_goes_on_and_ends_byte_for_byte_as_if_it_had_not(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    write_rows(describe_tags(ALL, ReplayChat(good), Plan(6)), whole)
    asked: list[str] = []

    def until_killed(ask: Ask) -> str:
        if len(asked) == 9:
            raise RuntimeError("killed")
        asked.append(ask.key("replay"))
        return good(ask)

    kept = tmp_path / "replies.jsonl"
    with KeptChat(ReplayChat(until_killed), kept) as chat, pytest.raises(RuntimeError):
        write_rows(describe_tags(ALL, chat, Plan(6), at_once=1), parts)
    assert not parts.exists()
    # The kill came in the middle of a line.
    with kept.open("ab") as file:
        file.write(b'["half a')
    again: list[str] = []

    def rest(ask: Ask) -> str:
        again.append(ask.key("replay"))
        return good(ask)

    with KeptChat(ReplayChat(rest), kept) as chat:
        write_rows(describe_tags(ALL, chat, Plan(6), at_once=3), parts)
    assert parts.read_bytes() == whole.read_bytes()
    assert set(asked).isdisjoint(again)
    assert len(asked) + len(again) == 24
    # Without anybody to ask, the kept replies are enough.
    with KeptChat(ReplayChat({}), kept) as chat:
        write_rows(describe_tags(ALL, chat, Plan(6)), parts)
    assert parts.read_bytes() == whole.read_bytes()


def test_a_question_without_an_answer_costs_one_description() -> None:
    def say(ask: Ask) -> str:
        if name_in(ask) == "dog" and ask.seed == 1:
            raise ChatError("busy", status=500)
        return good(ask)

    dog, *others = describe_tags(ALL, ReplayChat(say), Plan(6))
    assert len(dog.descriptions) == 5
    assert dog.error is not None
    assert dog.error["type"] == "unanswered"
    assert "busy" in dog.error["message"]
    assert not any(row.error for row in others)


@pytest.mark.parametrize(
    ("status", "most"), [(None, 10), (500, 10), (429, 10), (401, 1), (404, 1), (400, 150)]
)
def test_a_server_that_never_answers_is_given_up(status: int | None, most: int) -> None:
    heard: list[Reply | ChatError] = []

    def fail(_: Ask) -> str:
        raise ChatError("no", status=status)

    with pytest.raises(ChatError, match="have no answer, so no more"):
        list(describe_tags(ALL, ReplayChat(fail), Plan(), told=heard.append))
    assert len(heard) == most


def test_a_tag_whose_name_is_refused_gives_up_nothing_else() -> None:
    def say(ask: Ask) -> str:
        if name_in(ask) == "train":
            raise ChatError("not this word", status=400)
        return good(ask)

    rows = list(describe_tags(ALL, ReplayChat(say), Plan()))
    assert [len(row.descriptions) for row in rows] == [50, 0, 0, 50]


def test_when_the_money_ends_what_was_paid_for_is_kept() -> None:
    def say(ask: Ask) -> Reply:
        return Reply(good(ask), "m", usage=Usage(100, 10))

    ledger = Ledger(Prices(request=1), max_cost=13)
    rows = list(describe_tags(ALL, CountedChat(ReplayChat(say), ledger), Plan(5), at_once=1))
    assert [len(row.descriptions) for row in rows] == [5, 5, 3, 0]
    assert [row.asked for row in rows] == [5, 5, 3, 0]
    assert [(row.error or {}).get("type") for row in rows] == [None, None, "budget", "budget"]
    assert ledger.totals.queries == 13


def test_kept_answers_count_after_the_money_has_ended(tmp_path: Path) -> None:
    with KeptChat(ReplayChat(good), tmp_path / "r") as chat:
        list(describe_tags(ALL[2:], chat, Plan(5)))
    ledger = Ledger(Prices(request=1), max_cost=7)
    with KeptChat(CountedChat(ReplayChat(good), ledger), tmp_path / "r") as chat:
        rows = list(describe_tags(ALL, chat, Plan(5), at_once=1))
    assert [len(row.descriptions) for row in rows] == [5, 2, 5, 5]
    assert [(row.error or {}).get("type") for row in rows] == [None, "budget", None, None]


def test_answers_are_told_of_in_the_callers_thread() -> None:
    threads = set()

    def told(_: Reply | ChatError) -> None:
        threads.add(threading.get_ident())

    list(describe_tags(ALL, ReplayChat(good), Plan(5), told=told))
    assert threads == {threading.get_ident()}


def test_names_choose_all_senses_and_ids_one() -> None:
    assert [s.entry.id for s in choose(WORDS, ["train"])] == ["object:train", "action:train"]
    assert [s.entry.id for s in choose(WORDS, ["action:train", "Hound"])] == ["object:dog", "action:train"]
    with pytest.raises(UsageError, match="no tag 'zebra'"):
        choose(WORDS, ["dog", "zebra"])


def test_a_projection_counts_what_is_asked(tmp_path: Path) -> None:
    nothing = project(ALL, Plan(6), kept=lambda _: None)
    assert (nothing.tags, nothing.queries, nothing.kept) == (4, 24, 0)
    seen: list[Ask] = []

    def say(ask: Ask) -> Reply:
        seen.append(ask)
        return Reply(good(ask), "m", usage=Usage(100, 10))

    with KeptChat(ReplayChat(say), tmp_path / "r") as chat:
        list(describe_tags(ALL[:1], chat, Plan(6)))
    with Replies(tmp_path / "r") as replies:
        rest = project(ALL, Plan(6), kept=lambda ask: replies.get(ask.key("replay")))
    assert (rest.queries, rest.kept, rest.spent) == (18, 6, Usage(600, 60))
    assert rest.usual.prompt_tokens < rest.most.prompt_tokens < nothing.most.prompt_tokens
    assert rest.most.completion_tokens == 18 * seen[0].max_tokens > rest.usual.completion_tokens


def test_rows_are_read_where_descriptions_are(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = list(describe_tags(ALL, ReplayChat(good), Plan(2)))
    write_rows(rows, path)
    assert read_descriptions([path]) == {row.id: row.descriptions for row in rows}
    read = with_description_file(WORDS, path)
    assert [entry.descriptions for entry in read.vocabulary] == [row.descriptions for row in rows]


def test_some_tags_again_leave_the_other_lines_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    write_rows(describe_by_templates([ALL[0], ALL[3]], count=3), path)
    before = path.read_text().splitlines()
    again = list(describe_tags(choose(WORDS, ["train"]), ReplayChat(good), Plan(1)))
    write_rows(again, path, others=read_lines(path), order=WORDS.ids)
    after = path.read_text().splitlines()
    assert [json.loads(line)["id"] for line in after] == WORDS.ids
    assert [after[0], after[3]] == before


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": "object:dog"}', '{"taglens_vocabulary": 1}', '{"id": [], "descriptions": []}']
)
def test_a_file_of_something_else_is_not_written_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(line)
    with pytest.raises(VocabularyError, match="line 1: expected a row of descriptions"):
        read_lines(path)


def test_merging_replaces_by_a_model_and_fills_by_templates() -> None:
    def row(id: str, source: str, *texts: str) -> Described:
        return Described(id, "x", texts, "llm" if source == "llm" else "template")

    vocabulary, own = merge(
        WORDS,
        [row("object:dog", "template", "t"), row("object:train", "template", "t"), row("scene:café", "llm")],
    )
    assert [entry.descriptions for entry in vocabulary] == [("t",), ("long and heavy",), (), ()]
    assert own == ("object:train",)
    assert vocabulary.fingerprint == WORDS.fingerprint
    assert merge(WORDS, [row("object:train", "llm", "new")])[0][1].descriptions == ("new",)
