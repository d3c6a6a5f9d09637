"""A collection into a store: nothing lost, nothing twice, the same bytes whatever happened on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import colours
from hostile import write_hostile, write_hostile_places
from taglens.collection.inputs import open_inputs
from taglens.collection.items import Item
from taglens.collection.retagging import stored_items
from taglens.collection.run_options import RunOptions
from taglens.collection.runs import Progress, TooManyFailuresError, run
from taglens.collection.store import Store, open_store
from taglens.errors import DataError, MismatchError, UsageError
from taglens.inference.tagger import Tagger

OPTIONS = RunOptions(shard_size=7, batch_size=4)


@dataclass
class Desk:
    """A folder with a collection and stores."""

    root: Path
    pictures: list[Path]

    @property
    def source(self) -> str:
        return str(self.root / "pictures")

    def items(self) -> list[Item]:
        return list(open_inputs([self.source]))

    def run(
        self, store: str = "store", *, tagger: Tagger | None = None, **changes: Any
    ) -> tuple[Progress, colours.Colours]:
        """Run into a store of this name; what happened, and the engine that looked."""
        engine = colours.Colours()
        options = replace(OPTIONS, **changes)
        progress = run(
            tagger or colours.tagger(engine),
            open_inputs([self.source]),
            Store(self.root / store),
            options,
            sources=[self.source],
        )
        return progress, engine

    def rows(self, store: str = "store") -> list[dict[str, Any]]:
        return list(open_store(self.root / store).rows())

    def content(self, store: str = "store") -> dict[str, bytes]:
        return content(self.root / store)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, colours.write_pictures(tmp_path / "pictures", 30))


def as_tagged(desk: Desk) -> list[dict[str, Any]]:
    """What the tagger itself says of the pictures, without a store."""
    return [row.to_dict() for row in colours.tagger()(sorted(map(str, desk.pictures)))]


# -- what a store holds ------------------------------------------------------------------------------


def test_rows_are_the_taggers_own_in_the_order_of_the_names(desk: Desk) -> None:
    progress, engine = desk.run()
    rows = desk.rows()
    plain = [{k: v for k, v in row.items() if k not in ("sha256", "signature", "status")} for row in rows]
    assert plain == as_tagged(desk)
    assert {row["status"] for row in rows} == {"done"} and all(len(row["sha256"]) == 64 for row in rows)
    assert (progress.pictures, progress.made, progress.failed, progress.shards) == (30, 30, 0, 5)
    run_json = json.loads((desk.root / "store" / "run.json").read_text())
    assert run_json["totals"] == {"shards": 5, "pictures": 30, "failed": 0, "skipped": {}}
    assert set(engine.batches) == {4}, "whole batches always, so that bits do not depend on company"


def test_a_second_run_looks_at_nothing_and_changes_nothing(desk: Desk) -> None:
    desk.run()
    before, times = desk.content(), {p: p.stat().st_mtime_ns for p in (desk.root / "store").rglob("*")}
    progress, engine = desk.run()
    assert (engine.looked, progress.kept, progress.made) == (0, 5, 0)
    assert desk.content() == before
    assert {p: p.stat().st_mtime_ns for p in (desk.root / "store").rglob("*")} == times


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_processes_write_the_same(desk: Desk, workers: int) -> None:
    desk.run("one")
    desk.run("other", workers=workers)
    assert desk.content("one") == desk.content("other")


def test_parts_together_are_the_whole(desk: Desk) -> None:
    desk.run("whole")
    for k in (2, 0, 1):
        desk.run("parts", part=(k, 3))
        complete = json.loads((desk.root / "parts" / "run.json").read_text())["totals"] is not None
        assert complete == (k == 1)
    assert desk.content("parts") == desk.content("whole")


# -- changes -----------------------------------------------------------------------------------------


def touched(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def test_only_the_changed_picture_is_looked_at(desk: Desk) -> None:
    desk.run()
    Image.new("RGB", (5, 5), (255, 0, 0)).save(desk.pictures[12])
    touched(desk.pictures[12])
    progress, engine = desk.run()
    assert (progress.made, progress.kept, progress.reused, engine.batches) == (1, 4, 6, [4])
    assert desk.rows()[12]["tags"][0]["name"] == "red"
    desk.run("fresh")
    assert desk.content() == desk.content("fresh")


def test_another_time_of_the_same_content_is_no_change(desk: Desk) -> None:
    desk.run()
    touched(desk.pictures[3])
    progress, engine = desk.run()
    assert (engine.looked, progress.made, progress.reused) == (0, 0, 7)
    desk.run("fresh")
    assert desk.content() == desk.content("fresh")


@pytest.mark.parametrize("features", [False, True])
def test_a_picture_more_at_the_front_moves_the_others_without_reading_them(
    desk: Desk, features: bool
) -> None:
    desk.run(features=features)
    first = desk.root / "pictures" / "0" / "0.png"
    Image.new("RGB", (4, 4), (0, 255, 0)).save(first)
    progress, engine = desk.run(features=features)
    assert (progress.made, progress.reused, engine.batches) == (1, 30, [4])
    desk.run("fresh", features=features)
    assert desk.content() == desk.content("fresh")
    first.unlink()
    progress, engine = desk.run(features=features)
    assert (progress.pictures, progress.reused, engine.looked) == (30, 30, 0)
    assert desk.content().keys() == {
        "run.json",
        *(f"shards/{n:06d}.{end}" for n in range(5) for end in ("jsonl", "receipt.json")),
        *(f"shards/{n:06d}.features.npz" for n in range(5) if features),
    }


def test_a_smaller_collection_leaves_no_old_shard_behind(desk: Desk) -> None:
    desk.run(features=True)
    for path in desk.pictures[8:]:
        path.unlink()
    desk.run(features=True)
    desk.run("fresh", features=True)
    assert desk.content() == desk.content("fresh") and len(desk.rows()) == 8


def test_a_collection_that_is_gone_does_not_empty_the_store(desk: Desk) -> None:
    desk.run()
    before = desk.content()
    shutil.move(desk.source, desk.root / "elsewhere")
    with pytest.raises(UsageError, match=r"holds 30 of its pictures; it is left as it is.*--forget"):
        desk.run()
    (desk.root / "pictures").mkdir()
    with pytest.raises(UsageError, match=r"holds 30 of its pictures"):
        desk.run()
    with pytest.raises(UsageError, match=r"nothing to tag.*are the pictures' disks there"):
        desk.run(forget=True)
    assert desk.content() == before


def test_one_source_of_two_that_is_gone_is_not_dropped_unasked(desk: Desk) -> None:
    sources = [str(desk.root / "pictures" / name) for name in ("0", "1")]

    def go(**changes: Any) -> Progress:
        store = Store(desk.root / "store")
        return run(
            colours.tagger(), open_inputs(sources), store, replace(OPTIONS, **changes), sources=sources
        )

    go()
    shutil.move(sources[1], desk.root / "elsewhere")
    for _ in range(2):
        with pytest.raises(UsageError, match="holds 10 of its pictures"):
            go()
        Path(sources[1]).mkdir(exist_ok=True)
    assert len(desk.rows()) == 20
    assert go(forget=True).pictures == 10 and len(desk.rows()) == 10


def test_other_peoples_half_files_are_left_alone(desk: Desk) -> None:
    (desk.root / "store").mkdir()
    theirs = desk.root / "store" / "film.mkv.part"
    theirs.write_text("precious")
    ours = desk.root / "store" / "shards" / "000000.jsonl.77-0a1b2c3d.part"
    ours.parent.mkdir()
    ours.write_text("half")
    desk.run()
    assert theirs.read_text() == "precious" and not ours.exists()


def test_parts_of_a_changed_collection_agree_on_the_whole(desk: Desk) -> None:
    desk.run("parts", part=(0, 2))
    desk.run("parts", part=(1, 2))
    for path in desk.pictures[:9]:
        path.unlink()
    desk.run("parts", part=(0, 2))
    run_json = desk.root / "parts" / "run.json"
    assert json.loads(run_json.read_text())["totals"] is None
    desk.run("parts", part=(1, 2))
    desk.run("fresh")
    assert desk.content("parts") == desk.content("fresh")


def test_a_picture_that_stands_twice_is_known_twice(desk: Desk) -> None:
    source = str(desk.root / "list.txt")
    names = [str(desk.pictures[n]) for n in (0, 1, 0, 2)]
    Path(source).write_text("\n".join(names))
    store, options = Store(desk.root / "store"), replace(OPTIONS, features=True, shard_size=2)
    run(colours.tagger(), open_inputs([source]), store, options, sources=[source])
    engine = colours.Colours()
    stored = stored_items(store, colours.tagger(engine))
    again = replace(options, threshold=0.9, retag=True, trust=True)
    progress = run(colours.tagger(engine), stored.items(), store, again, sources=stored.sources)
    assert (progress.failed, progress.reused, engine.looked) == (0, 4, 0)
    assert [row["source"] for row in desk.rows()] == names


class StopError(Exception):
    """Ends a run as a kill would, after a number of pictures."""


def stopped(after: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.pictures >= after and progress.finished is not None:
            raise StopError

    return watch


@pytest.mark.parametrize("change", ["front", "retag", "front and retag", "smaller"])
@pytest.mark.parametrize("after", [7, 14, 21])
def test_a_changed_run_that_was_stopped_ends_in_the_same_bytes(desk: Desk, change: str, after: int) -> None:
    """What is written over stays known until the end: rows are moved, or asked from features, as without the stop."""
    options = replace(OPTIONS, features=True)
    for name in ("straight", "stopped"):
        desk.run(name, features=True)
    if "front" in change:
        Image.new("RGB", (4, 4), (9, 200, 30)).save(desk.root / "pictures" / "0" / "0.png")
    if change == "smaller":
        for path in desk.pictures[:4]:
            path.unlink()
    if "retag" in change:
        options = replace(options, threshold=0.35, retag=True)
    engines = [colours.Colours(), colours.Colours()]

    def go(name: str, engine: colours.Colours, watch: Callable[[Progress], None] = lambda _: None) -> None:
        items = open_inputs([desk.source])
        run(
            colours.tagger(engine),
            items,
            Store(desk.root / name),
            options,
            sources=[desk.source],
            watch=watch,
        )

    go("straight", engines[0])
    with pytest.raises(StopError):
        go("stopped", engines[1], stopped(after))
    assert (desk.root / "stopped" / "before").is_dir()
    go("stopped", engines[1])
    assert desk.content("stopped") == desk.content("straight")
    assert engines[0].looked == engines[1].looked == (4 if "front" in change else 0)


def test_a_stopped_retag_goes_on_with_the_same_call(desk: Desk) -> None:
    desk.run(features=True)
    before = desk.rows()
    shutil.rmtree(desk.source)
    store = Store(desk.root / "store")

    def again(watch: Callable[[Progress], None] = lambda _: None) -> None:
        stored = stored_items(store, colours.tagger())
        options = replace(OPTIONS, features=True, threshold=0.8, retag=True, trust=True)
        run(colours.tagger(), stored.items(), store, options, sources=stored.sources, watch=watch)

    with pytest.raises(StopError):
        again(stopped(10))
    again()
    rows = desk.rows()
    assert [row["source"] for row in rows] == [row["source"] for row in before]
    assert not any(row["error"] for row in rows) and rows != before
    assert not (desk.root / "store" / "before").exists()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_lost_features_are_told_and_cost_no_row(desk: Desk, damage: str) -> None:
    desk.run(features=True)
    before = desk.rows()
    store = Store(desk.root / "store")
    path = store.features_path(2)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-9])

    def again() -> None:
        stored = stored_items(store, colours.tagger())
        options = replace(OPTIONS, features=True, threshold=0.8, retag=True, trust=True)
        run(colours.tagger(), stored.items(), store, options, sources=stored.sources)

    with pytest.raises(DataError, match="--features --retag"):
        again()
    assert [row["tags"] for row in store.known_rows()] == [row["tags"] for row in before]
    # With the pictures at hand, the shard is made anew.
    touched(desk.pictures[15])
    desk.run(features=True, retag=True)
    desk.run("fresh", features=True)
    assert desk.content() == desk.content("fresh")


def test_a_source_whose_name_is_no_utf8_keeps_its_store(desk: Desk) -> None:
    source = os.fsdecode(os.fsencode(desk.source) + b"\xff")
    shutil.move(desk.source, source)
    for kept in (0, 5):
        store = Store(desk.root / "store")
        progress = run(colours.tagger(), open_inputs([source]), store, OPTIONS, sources=[source])
        assert progress.kept == kept


# -- configuration -----------------------------------------------------------------------------------


def test_another_configuration_is_refused_by_name_until_retag(desk: Desk) -> None:
    desk.run()
    before = desk.content()
    with pytest.raises(MismatchError, match=r"threshold None -> 0.2.*--retag"):
        desk.run(threshold=0.2)
    assert desk.content() == before
    progress, engine = desk.run(threshold=0.2, retag=True)
    assert progress.made == 30 and engine.looked > 0, "without features, pictures are looked at again"
    desk.run("fresh", threshold=0.2)
    assert desk.content() == desk.content("fresh")


def test_another_model_is_refused(desk: Desk) -> None:
    desk.run()
    other = colours.tagger(ref="colours@ffffffffffff")
    with pytest.raises(MismatchError, match="colours@000000000000 -> colours@ffffffffffff"):
        desk.run(tagger=other)


def test_other_sources_are_refused(desk: Desk) -> None:
    desk.run()
    source = str(desk.root / "pictures" / "0")
    with pytest.raises(UsageError, match="name another folder"):
        run(
            colours.tagger(),
            open_inputs([source]),
            Store(desk.root / "store"),
            OPTIONS,
            sources=[source],
        )


def test_the_batch_size_is_no_part_of_the_configuration(desk: Desk) -> None:
    desk.run()
    assert desk.run(batch_size=9)[0].kept == 5


# -- features ----------------------------------------------------------------------------------------


def scores(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    return [{tag["id"]: tag["score"] for tag in row["tags"]} for row in rows]


@pytest.mark.parametrize("names", [("blue", "dark"), ("much red", "green", "some blue")])
def test_asked_again_from_features_a_store_is_what_a_fresh_run_writes(
    desk: Desk, names: tuple[str, ...]
) -> None:
    from taglens.vocabulary import Entry, Vocabulary

    wanted = Vocabulary([Entry(n, "typed" if " " in n else "attribute") for n in names], name="own")
    desk.run(features=True)
    engine = colours.Colours()
    tagger = colours.tagger(engine).with_vocabulary(wanted)
    old = open_store(desk.root / "store")
    stored = stored_items(old, tagger)
    options = replace(OPTIONS, features=True, threshold=0.0, retag=True, trust=True)
    shutil.rmtree(desk.source)
    run(tagger, stored.items(), Store(desk.root / "again"), options, sources=stored.sources, known=old)
    assert engine.looked == 0 and not Path(desk.source).exists()

    desk.pictures = colours.write_pictures(desk.root / "pictures", 30)
    fresh = colours.tagger().with_vocabulary(wanted)
    desk.run("fresh", tagger=fresh, features=True, threshold=0.0)
    again, anew = scores(desk.rows("again")), scores(desk.rows("fresh"))
    assert [one.keys() for one in again] == [one.keys() for one in anew]
    worst = max(abs(one[key] - other[key]) for one, other in zip(again, anew, strict=True) for key in one)
    assert worst < 1e-4
    # The original store is untouched, and the new one is whole.
    assert [row["source"] for row in desk.rows("again")] == [row["source"] for row in desk.rows()]
    assert json.loads((desk.root / "again" / "run.json").read_text())["totals"]["pictures"] == 30


def test_a_store_without_features_cannot_be_asked_again(desk: Desk) -> None:
    desk.run()
    with pytest.raises(DataError, match=r"no features.*--features --retag"):
        stored_items(open_store(desk.root / "store"), colours.tagger())
    desk.run("kept", features=True)
    with pytest.raises(MismatchError, match="own model"):
        stored_items(open_store(desk.root / "kept"), colours.tagger(ref="colours@ffffffffffff"))
    next((desk.root / "kept" / "shards").glob("*.receipt.json")).unlink()
    with pytest.raises(DataError, match="not complete"):
        stored_items(open_store(desk.root / "kept"), colours.tagger())


# -- failures ----------------------------------------------------------------------------------------


def test_every_hostile_file_is_accounted_for(desk: Desk) -> None:
    bad = desk.root / "pictures" / "bad"
    bad.mkdir()
    write_hostile(bad)
    progress, _ = desk.run(features=True)
    rows = desk.rows()
    items = desk.items()
    assert [row["source"] for row in rows] == [item.source for item in items if item.skipped is None]
    assert progress.pictures == len(rows) and sum(progress.skipped.values()) == sum(
        item.skipped is not None for item in items
    )
    for row in rows:
        assert (row["error"] is None) == (row["status"] == "done") == (row["tags"] is not None)
    assert progress.failed == sum(row["status"] == "failed" for row in rows) > 3
    # The good ones among them are what they are alone.
    good = [row for row in rows if "/bad/" not in row["source"]]
    assert [row["tags"] for row in good] == [row["tags"] for row in as_tagged(desk)]
    again, engine = desk.run(features=True)
    assert engine.looked == 0 and again.failed == progress.failed


def test_names_links_and_special_files_are_accounted_for(desk: Desk) -> None:
    places = desk.root / "pictures" / "places"
    places.mkdir()
    given, _ = write_hostile_places(places)
    progress, _ = desk.run()
    rows = [row for row in desk.rows() if "/places/" in row["source"]]
    assert len(rows) == given and progress.pictures == 30 + given
    # By name again: nothing is taken for another picture because its name cannot be written in UTF-8.
    assert desk.run()[0].kept == progress.shards
    named = {(row["source"], row.get("source_bytes")) for row in rows}
    assert len(named) == given and any(raw for _, raw in named)
    assert not any(line.count(b"\n") != 1 for line in desk.content()["shards/000004.jsonl"].splitlines(True))


def test_pictures_that_vanish_after_they_were_listed_are_rows(desk: Desk) -> None:
    items = desk.items()
    for path in desk.pictures[10:13]:
        path.unlink()
    progress = run(colours.tagger(), items, Store(desk.root / "store"), OPTIONS, sources=[desk.source])
    assert progress.failed == 3
    errors = [row["error"]["type"] for row in desk.rows() if row["error"]]
    assert errors == ["not_found"] * 3


def test_failures_are_tried_again_only_on_request(desk: Desk) -> None:
    bad = desk.pictures[5]
    whole, stat = bad.read_bytes(), bad.stat()

    def put(content: bytes) -> None:
        """Without a trace in size or time, as a flaky disk would."""
        bad.write_bytes(content)
        os.utime(bad, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    put(whole[:-10] + bytes(10))
    assert desk.run()[0].failed == 1
    assert [row["error"]["type"] for row in desk.rows() if row["error"]] == ["truncated"]
    put(whole)
    assert desk.run()[0].failed == 1
    progress, engine = desk.run(retry_failed=True)
    assert (progress.failed, progress.made, engine.batches) == (0, 1, [4])
    desk.run("fresh")
    assert desk.content() == desk.content("fresh")


def test_too_many_failures_stop_the_run_and_keep_what_is_done(desk: Desk) -> None:
    for path in desk.pictures[15:18]:
        path.write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(TooManyFailuresError, match=r"2 pictures failed, 1 were allowed"):
        desk.run(max_failures=1)
    assert len(open_store(desk.root / "store").receipts()) == 2
    assert desk.run(max_failures=3)[0].kept == 2
    with pytest.raises(TooManyFailuresError):
        desk.run(max_failures=2)


def test_a_process_that_a_picture_kills_costs_that_picture_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        replace(item, where=Deadly()) if number in (9, 20) else item
        for number, item in enumerate(desk.items())
    ]
    progress = run(
        colours.tagger(),
        items,
        Store(desk.root / "store"),
        replace(OPTIONS, workers=2),
        sources=[desk.source],
    )
    rows = desk.rows()
    assert [n for n, row in enumerate(rows) if row["error"]] == [9, 20] and progress.failed == 2
    assert "ended the process" in rows[9]["error"]["message"]
    assert [row["tags"] for n, row in enumerate(rows) if n not in (9, 20)] == [
        row["tags"] for n, row in enumerate(as_tagged(desk)) if n not in (9, 20)
    ]


class Deadly:
    """A picture whose decoder takes the process with it."""

    def read(self, max_bytes: int) -> bytes:
        os._exit(9)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taglens.collection import store as module

    real, written = module.os.fsync, 0

    def full(handle: int) -> None:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        desk.run()
    assert not list((desk.root / "store").rglob("*.part"))
    monkeypatch.setattr(module.os, "fsync", real)
    assert desk.run()[0].kept > 0
    desk.run("fresh")
    assert desk.content() == desk.content("fresh")


def test_two_runs_do_not_write_one_store(desk: Desk) -> None:
    store = Store(desk.root / "store")
    with store.locked(), pytest.raises(UsageError, match=r"another run.*--part"):
        desk.run()


@pytest.mark.parametrize("damage", ["cut", "edited", "receipt"])
def test_a_damaged_shard_is_told_and_mended(desk: Desk, damage: str) -> None:
    desk.run("fresh")
    desk.run()
    rows = desk.root / "store" / "shards" / "000002.jsonl"
    if damage == "receipt":
        rows.with_name("000002.receipt.json").write_text("{")
        assert len(desk.rows()) == 23
    else:
        rows.write_bytes(rows.read_bytes()[:-5] if damage == "cut" else rows.read_bytes() + b"\n")
        with pytest.raises(DataError, match=r"000002\.jsonl is not what its receipt says"):
            desk.rows()
        rows.with_name("000002.receipt.json").unlink()
    desk.run()
    assert desk.content() == desk.content("fresh")


# -- kills -------------------------------------------------------------------------------------------


def test_killed_twenty_times_the_store_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    colours.write_pictures(pictures, 120)
    (pictures / "bad").mkdir()
    write_hostile(pictures / "bad")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(store: Path) -> subprocess.Popen[str]:
        command = [sys.executable, colours.__file__, str(store), str(pictures)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    straight = tmp_path / "straight"
    with start(straight) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        begun = time.monotonic()
        assert process.wait(60) == 0
    lasts = time.monotonic() - begun
    chance, kills, store, finished = random.Random(0), 0, tmp_path / "store", 0
    while kills < 20:
        with start(store) as process:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            try:
                process.wait(chance.uniform(0, lasts / 2))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
        # Done before its time: compare, and begin anew.
        finished += 1
        assert process.returncode == 0 and content(store) == content(straight)
        shutil.rmtree(store)
    with start(store) as process:
        assert process.wait(60) == 0
    assert content(store) == content(straight)


# -- features on disk --------------------------------------------------------------------------------


def test_features_come_back_within_their_steps() -> None:
    from taglens.collection.features import Features, joined

    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((5, 3, 4)).astype(np.float32) * 10
    tokens[2] = 0
    features = Features(np.array([0, 2, 3, 7, 9]), rng.random((5, 6), np.float32), tokens)
    again = Features.from_bytes(features.to_bytes(), "here")
    assert np.array_equal(again.places, features.places)
    assert np.abs(again.scores - features.scores).max() <= 0.5 / 65535 + 1e-7
    assert again.tokens is not None and np.abs(again.tokens - tokens).max() <= np.abs(tokens).max() / 65000
    assert features.to_bytes() == features.to_bytes()
    assert again.to_bytes() == Features.from_bytes(again.to_bytes(), "here").to_bytes(), "stable once rounded"
    halves = [features.at(np.array([3, 4])), features.at(np.array([0, 1, 2]))]
    whole = joined(halves)
    assert whole is not None and np.array_equal(whole.places, features.places)
    with pytest.raises(DataError, match="here is damaged"):
        Features.from_bytes(features.to_bytes()[:-40], "here")
