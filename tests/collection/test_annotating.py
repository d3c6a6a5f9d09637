"""A collection annotated: rows, restarts after any interruption, refusals, and what it takes."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import colours
from taglens.collection.annotating import Job, Progress, TooManyFailuresError, annotate, encoded, scores_of
from taglens.collection.annotation_costs import LedgerFile, cost_of, outlook
from taglens.collection.annotation_store import AnnotationStore
from taglens.collection.inputs import open_inputs
from taglens.data.sources import read_labels as read_corpus
from taglens.errors import BudgetError, ChatError, DataError, ImageError, UsageError
from taglens.evaluation.datasets import read_labels
from taglens.language.annotate import Everything, FromTagger, Options, Strategy, YesNo
from taglens.language.annotation_prompts import asked
from taglens.language.bands import Band
from taglens.language.chat import Ask, Reply, Usage
from taglens.language.chat_kept import KeptChat, ReplayChat
from taglens.language.grouping import random_groups
from taglens.language.ledger import CountedChat, Ledger, Prices

TAGS = colours.VOCABULARY
NAMES = colours.NAMES
TWO_STAGES = Strategy("grouped", Options(NAMES, random_groups(4, at_most=2)), YesNo(NAMES))


class Annotator:
    """Sees colours; ``asks`` holds what reached it. ``fault`` may raise, told which question it is, from 1."""

    def __init__(self, fault: Callable[[int, Ask], object] = lambda number, ask: None) -> None:
        self.asks: list[Ask] = []
        self.fault = fault
        self._lock = threading.Lock()

    def __call__(self, ask: Ask) -> Reply:
        with self._lock:
            self.asks.append(ask)
            number = len(self.asks)
        said = self.fault(number, ask)
        if isinstance(said, str):
            return Reply(said, "seer", Usage(100, 3), seconds=0.5)
        pixels = np.asarray(Image.open(io.BytesIO(ask.pictures[0].data)), np.float32) / 255
        means = pixels.mean(axis=(0, 1))
        there = {name for name, share in zip(NAMES, [*means, 1 - means.mean()], strict=True) if share > 0.5}
        question = asked(ask.text)
        if question.kind == "several":
            # In lists it always sees something dark as well.
            text = "\n".join(name for name in question.names if name in there | {"dark"}) or "NO"
        else:
            text = "yes" if question.names[0] in there else "no"
        return Reply(text, "seer", Usage(100, 3), seconds=0.5)

    @property
    def chat(self) -> ReplayChat:
        return ReplayChat(self, model="seer")

    @property
    def repeated(self) -> int:
        keys = [ask.key("seer") for ask in self.asks]
        return len(keys) - len(set(keys))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    paths = colours.write_pictures(folder, 7)
    paths[3].write_bytes(paths[3].read_bytes()[:-20])
    (folder / "notes.txt").write_text("no picture")
    return folder


def work(
    annotator: Annotator,
    source: Path,
    out: Path,
    *,
    job: Job | None = None,
    ledger: Ledger | None = None,
) -> Progress:
    job = job or Job(TWO_STAGES, TAGS, {"strategy": "grouped"}, side=32, at_once=1)
    store = AnnotationStore(out)
    counted = CountedChat(annotator.chat, ledger or Ledger())
    with store.opened(job.configuration, parts=job.parts), KeptChat(counted, store.queries) as chat:
        return annotate(job, open_inputs([str(source)]), store, chat)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def test_rows_say_what_is_there_and_why(pictures: Path, tmp_path: Path) -> None:
    annotator = Annotator()
    progress = work(annotator, pictures, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert (progress.pictures, progress.failed, progress.skipped) == (7, 1, {"not_image": 1})
    assert [row["source"] for row in found] == [f"{pictures}/0/{n:03d}.png" for n in range(7)]
    for number, row in enumerate(found):
        if number == 3:
            assert row["labels"] is None and row["error"]["type"] == "truncated"
            continue
        mean = np.asarray(Image.open(row["source"]), np.float32).mean(axis=(0, 1)) / 255
        shares = zip(NAMES, [*mean, 1 - mean.mean()], strict=True)
        assert row["labels"] == [name for name, share in shares if share > 0.5] and row["error"] is None
        about = row["provenance"]
        assert (about["model"], about["strategy"], about["vocabulary"]) == ("seer", "grouped", TAGS.ref)
        assert about["stages"] == ["yes_no"] * len(row["labels"]) and about["queries"] >= 3
        assert row["kind"] == ["attribute"] * len(row["labels"])
    assert annotator.repeated == 0


def test_rows_are_read_by_everything_that_reads_labels(pictures: Path, tmp_path: Path) -> None:
    job = Job(TWO_STAGES, TAGS, {}, side=32, split="train")
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    for out in (tmp_path / "out", tmp_path / "link" / "out"):
        work(Annotator(), pictures, out, job=job)
        images = read_labels(out / "labels.jsonl")
        assert len(images) == 6 and all(image.path.is_file() and image.split == "train" for image in images)
        corpus = list(read_corpus(out / "labels.jsonl"))
        assert len(corpus) == 7 and [row.labelled for row in corpus].count(False) == 1
        assert all(row.path.is_file() for row in corpus)


def test_the_same_again_asks_nobody_and_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    work(Annotator(), pictures, tmp_path / "out")
    before = (tmp_path / "out" / "labels.jsonl").read_bytes()
    again = Annotator()
    progress = work(again, pictures, tmp_path / "out")
    assert not again.asks and progress.kept == 7 and progress.failed == 1
    assert (tmp_path / "out" / "labels.jsonl").read_bytes() == before


@pytest.mark.parametrize("at_once", [1, 3])
def test_stopped_at_any_question_it_goes_on_there(pictures: Path, tmp_path: Path, at_once: int) -> None:
    job = Job(TWO_STAGES, TAGS, {}, side=32, at_once=at_once)
    whole = Annotator()
    work(whole, pictures, tmp_path / "whole", job=job)
    expected = rows(tmp_path / "whole")

    def stop_at(last: int) -> Callable[[int, Ask], None]:
        def fault(number: int, ask: Ask) -> None:
            if number == last:
                raise KeyboardInterrupt

        return fault

    for last in range(1, len(whole.asks) + 1, 7):
        out = tmp_path / f"out{last}"
        first = Annotator(stop_at(last))
        with pytest.raises(KeyboardInterrupt):
            work(first, pictures, out, job=job)
        second = Annotator()
        work(second, pictures, out, job=job)
        assert rows(out) == expected
        keys = [ask.key("seer") for ask in (*first.asks, *second.asks)]
        assert len(keys) == len(whole.asks) + 1, "the question in flight is asked again, and no other"


def test_half_a_row_and_half_an_answer_are_cut_off(pictures: Path, tmp_path: Path) -> None:
    work(Annotator(), pictures, tmp_path / "whole")
    expected = (tmp_path / "whole" / "labels.jsonl").read_bytes()
    answers = (tmp_path / "whole" / "queries.jsonl").read_bytes()
    for kept in range(0, len(expected), 419):
        out = tmp_path / f"out{kept}"
        shutil.copytree(tmp_path / "whole", out)
        (out / "labels.jsonl").write_bytes(expected[:kept])
        (out / "queries.jsonl").write_bytes(answers[: len(answers) - kept % 50])
        again = Annotator()
        work(again, pictures, out)
        assert (out / "labels.jsonl").read_bytes() == expected and len(again.asks) <= 1


def test_a_changed_picture_is_done_again_in_its_place(pictures: Path, tmp_path: Path) -> None:
    work(Annotator(), pictures, tmp_path / "out")
    before = rows(tmp_path / "out")
    colours.write_pictures(tmp_path / "others", 3, seed=5)
    (tmp_path / "others" / "0" / "002.png").replace(pictures / "0" / "001.png")
    again = Annotator()
    progress = work(again, pictures, tmp_path / "out")
    after = rows(tmp_path / "out")
    assert progress.kept == 6 and 0 < len(again.asks) < 8
    assert [row["source"] for row in after] == [row["source"] for row in before]
    assert [n for n in range(7) if before[n] != after[n]] == [1]


def test_another_configuration_is_refused_with_the_cure(pictures: Path, tmp_path: Path) -> None:
    work(Annotator(), pictures, tmp_path / "out")
    other = Job(TWO_STAGES, TAGS, {"strategy": "binary"}, side=32)
    with pytest.raises(UsageError, match=r'strategy: "grouped" there, "binary" now.*another folder'):
        work(Annotator(), pictures, tmp_path / "out", job=other)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other things than an annotation \(mine.txt\)"):
        work(Annotator(), pictures, strange)
    with pytest.raises(UsageError, match="is a file"):
        work(Annotator(), pictures, strange / "mine.txt")
    (tmp_path / "out" / "annotation.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        work(Annotator(), pictures, tmp_path / "out")


def test_one_run_at_a_time(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "out")
    other = AnnotationStore(tmp_path / "out")
    refused = pytest.raises(UsageError, match="another run is writing")
    with store.opened({}, parts={}), refused, other.opened({}, parts={}):
        pass
    with store.opened({}, parts={}):
        pass


# -- servers and answers that fail ---------------------------------------------------------------------


def test_a_question_without_an_answer_fails_its_picture_until_the_next_start(
    pictures: Path, tmp_path: Path
) -> None:
    def fault(number: int, ask: Ask) -> None:
        if number == 2:
            raise ChatError("the server is away", status=503)

    first = Annotator(fault)
    progress = work(first, pictures, tmp_path / "out")
    assert progress.failed == 2
    assert rows(tmp_path / "out")[0]["error"] == {"type": "no_answer", "message": "the server is away"}
    second = Annotator()
    assert work(second, pictures, tmp_path / "out").failed == 1
    assert 0 < len(second.asks) < 5 and rows(tmp_path / "out")[0]["labels"] is not None
    assert len(rows(tmp_path / "out")) == 7


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_wrong_key_stops_at_once(pictures: Path, tmp_path: Path, at_once: int) -> None:
    def fault(number: int, ask: Ask) -> None:
        raise ChatError("no entry", status=401)

    job = Job(TWO_STAGES, TAGS, {}, side=32, at_once=at_once)
    annotator = Annotator(fault)
    with pytest.raises(ChatError, match="no entry"):
        work(annotator, pictures, tmp_path / "out", job=job)
    assert len(annotator.asks) <= at_once and not rows(tmp_path / "out")


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_money_stops_and_more_money_goes_on(pictures: Path, tmp_path: Path, at_once: int) -> None:
    whole = Annotator()
    work(whole, pictures, tmp_path / "whole")
    job = Job(TWO_STAGES, TAGS, {"strategy": "grouped"}, side=32, at_once=at_once)
    prices = Prices(request=1.0)
    first = Annotator()
    with pytest.raises(BudgetError):
        work(first, pictures, tmp_path / "out", job=job, ledger=Ledger(prices, max_cost=7))
    assert len(first.asks) == 7
    assert cost_of(AnnotationStore(tmp_path / "out").paid(), prices) == 7
    second = Annotator()
    work(second, pictures, tmp_path / "out", job=job)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert len(second.asks) == len(whole.asks) - 7


def test_no_readable_answer_is_a_failure_and_not_an_empty_list(pictures: Path, tmp_path: Path) -> None:
    progress = work(Annotator(lambda number, ask: ""), pictures, tmp_path / "out")
    assert progress.failed == 7 and progress.malformed == 12
    assert {row["error"]["type"] for row in rows(tmp_path / "out")} == {"unusable", "truncated"}


def test_too_many_failures_stop(pictures: Path, tmp_path: Path) -> None:
    job = Job(TWO_STAGES, TAGS, {}, side=32, at_once=1, max_failures=0)
    with pytest.raises(TooManyFailuresError, match="1 pictures failed"):
        work(Annotator(), pictures, tmp_path / "out", job=job)
    assert len(rows(tmp_path / "out")) == 4


def test_damaged_rows_are_named(pictures: Path, tmp_path: Path) -> None:
    work(Annotator(), pictures, tmp_path / "out")
    with (tmp_path / "out" / "labels.jsonl").open("ab") as file:
        file.write(b'{"image": "a"}\n')
    with pytest.raises(DataError, match="line 8 is no row"):
        work(Annotator(), pictures, tmp_path / "out")


# -- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sent"), [((2000, 500), (64, 16)), ((30, 20), (30, 20)), ((5000, 2), (64, 1))]
)
def test_pictures_are_sent_small_and_upright(size: tuple[int, int], sent: tuple[int, int]) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", size, (200, 10, 10)).save(file, "JPEG", exif=exif)
    picture = encoded(file.getvalue(), side=64, max_pixels=10**8, name="a")
    assert picture.media_type == "image/jpeg"
    assert Image.open(io.BytesIO(picture.data)).size == sent[::-1]
    with pytest.raises(ImageError):
        encoded(file.getvalue(), side=64, max_pixels=2, name="a")


def test_a_picture_is_made_ready_once_for_all_its_questions(pictures: Path, tmp_path: Path) -> None:
    annotator = Annotator()
    work(annotator, pictures, tmp_path / "out")
    assert len({id(ask.pictures[0].data) for ask in annotator.asks}) == 6


# -- hybrid --------------------------------------------------------------------------------------------


def hybrid(width: float) -> Job:
    band = Band.around(np.full(4, 0.5, np.float32), below=width, above=width)
    strategy = Strategy("hybrid", FromTagger(NAMES, band), YesNo(NAMES), most_candidates=None)
    return Job(strategy, TAGS, {"width": width}, scores=scores_of(colours.tagger()), side=32)


def test_hybrid_asks_less_and_says_the_same(pictures: Path, tmp_path: Path) -> None:
    binary = Job(Strategy("binary", Everything(4), YesNo(NAMES), most_candidates=None), TAGS, {}, side=32)
    asks: Sequence[int] = []
    for number, job in enumerate((binary, hybrid(0.8), hybrid(0))):
        annotator = Annotator()
        work(annotator, pictures, tmp_path / f"out{number}", job=job)
        asks = [*asks, len(annotator.asks)]
    assert asks[0] == 24 > asks[1] > asks[2] == 0
    said = [[row["labels"] for row in rows(tmp_path / f"out{number}")] for number in range(3)]
    assert said[0] == said[1] == said[2], "this tagger is right as well"
    stages = {stage for row in rows(tmp_path / "out1") for stage in row["provenance"].get("stages", [])}
    assert stages == {"tagger", "yes_no"}
    with pytest.raises(UsageError, match="pass who scores"):
        replace(hybrid(1), scores=None)


# -- what it takes -------------------------------------------------------------------------------------


def test_the_outlook_asks_nobody_and_is_right_about_what_is_fixed(pictures: Path, tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "out")
    prices = Prices(request=0.5, prompt=1)
    binary = Job(Strategy("binary", Everything(4), YesNo(NAMES), most_candidates=None), TAGS, {}, side=32)
    look = outlook(binary, open_inputs([str(pictures)]), store, prices=prices)
    assert (look.pictures, look.done, look.least, look.expected, look.most) == (7, 0, 28, 28, 28)
    assert look.cost == pytest.approx(14 + look.usage.prompt_tokens / 1e6) and not store.folder.exists()
    staged = Job(TWO_STAGES, TAGS, {}, side=32)
    look = outlook(staged, open_inputs([str(pictures)]), store, prices=prices)
    assert (look.least, look.most) == (14, 42) and look.least <= look.expected <= look.most
    band = outlook(hybrid(0.8), open_inputs([str(pictures)]), store, prices=prices)
    assert band.least == 0 < band.expected < 28
    work(Annotator(), pictures, store.folder)
    done = outlook(staged, open_inputs([str(pictures)]), store, prices=prices)
    assert (done.pictures, done.done, done.expected) == (0, 7, 0)


def test_the_ledger_adds_all_starts(pictures: Path, tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "out")
    prices = Prices(prompt=10, completion=20)

    def fault(number: int, ask: Ask) -> None:
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(Annotator(fault), pictures, store.folder, ledger=Ledger(prices))
    earlier = store.paid()
    assert earlier.queries == 4 and earlier.usage == Usage(400, 12)
    ledger = Ledger(prices)
    told = LedgerFile(store, ledger, earlier=earlier)
    progress = work(annotator := Annotator(), pictures, store.folder, ledger=ledger)
    row = told.write(progress, finished=True)
    assert json.loads((store.folder / "ledger.json").read_text()) == row
    queries = 4 + len(annotator.asks)
    assert row["queries"] == queries and row["prompt_tokens"] == 100 * queries
    assert row["cost"] == pytest.approx(queries * (100 * 10 + 3 * 20) / 1e6)
    assert row["cost_per_picture"] == pytest.approx(row["cost"] / 7) and row["finished"] is True
    assert row["cost_per_label"] == pytest.approx(row["cost"] / progress.labels)
    assert row["this_start"]["queries"] == len(annotator.asks) and row["query_seconds"] == queries * 0.5


def test_hours_of_all_starts_are_paid(pictures: Path, tmp_path: Path) -> None:
    """The time in which questions were out adds up over starts, and the outlook knows it from then on."""
    store = AnnotationStore(tmp_path / "out")
    prices = Prices(hour=3600.0)  # one a second
    ticks = iter(range(10_000))

    def fault(number: int, ask: Ask) -> None:
        if number == 5:
            raise KeyboardInterrupt

    first = Ledger(prices, clock=lambda: float(next(ticks)))
    told = LedgerFile(store, first, earlier=store.paid())
    progress = Progress()
    with pytest.raises(KeyboardInterrupt):
        work(Annotator(fault), pictures, store.folder, ledger=first)
    row = told.write(progress, finished=False)
    before, spent = row["busy_seconds"], row["cost"]
    assert before == spent == first.totals.busy_seconds > 0
    second = Ledger(prices, clock=lambda: float(next(ticks)))
    told = LedgerFile(store, second, earlier=store.paid(), spent=spent)
    work(Annotator(), pictures, store.folder, ledger=second)
    row = told.write(progress, finished=True)
    assert row["busy_seconds"] == pytest.approx(before + second.totals.busy_seconds)
    assert row["cost"] == pytest.approx(row["busy_seconds"])
