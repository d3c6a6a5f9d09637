"""RAM's data engine: labels that a corpus lacks are generated, labels that are wrong removed, all of it reversible.

Knows the stages and how a killed run goes on: generate and merge (`engine_generate`), look at each tag's best region
(`engine_looks`), judge tag by tag (`engine_cleaning`), write, report (`engine_report`). Refuses to know how any of
them works, and the command line.

The first two take time and go piece by piece, each with its receipt; what follows from them is made anew by
every run. Nothing that was known is lost: the pieces hold every label with its origins, `decisions.jsonl` what
became of it, so that any tag can be taken back to what was merged or to what the corpus said (`undo`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from taglens.collection.runs import TooManyFailuresError
from taglens.collection.store import digest
from taglens.data.labelling import Labeller, caption_rules_version, label_from_captions, label_from_names
from taglens.data.shards import sha256_of
from taglens.errors import DataError, UsageError
from taglens.inference.tagger import Tagger
from taglens.results import to_line
from taglens.training.engine_cleaning import (
    EVERY,
    Cleaning,
    Judgement,
    Stage,
    Verdict,
    decisions,
    judge,
    removed,
    standing,
)
from taglens.training.engine_generate import Entrant, Generator, Known, Label, entrants, identity
from taglens.training.engine_looks import Looks, look
from taglens.training.engine_regions import Regions, SlidingCrops
from taglens.training.engine_report import Tally, page, read_truth
from taglens.training.engine_store import (
    CAPTIONS,
    DECISIONS,
    ERRORS,
    GENERATED,
    LABELS,
    LOOKS,
    PAGE,
    REPORT,
    TRUTH,
    UNDONE,
    VOCABULARY,
    Configuration,
    EngineStore,
)
from taglens.vocabulary import Vocabulary

# (stage, pictures done, pictures in all, failed)
Watch = Callable[[str, int, int, int], object]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a data engine is to do.

    Attributes:
        sources: a captions file, a labels file, or one of each.
        threshold: lowest score of a recognised tag, one for all (choice R3); None: each tag's own, which balance what
            a user is shown and are too lenient for labels.
        captions: whether the model writes one for every picture.
        split: only rows of this split; limit: at most so many pictures.
        piece: pictures between two receipts.
        max_failures: more unreadable pictures stop the run.
    """

    sources: tuple[Path, ...]
    tagger: Tagger
    regions: Regions = field(default_factory=SlidingCrops)
    cleaning: Cleaning = field(default_factory=Cleaning)
    threshold: float | None = 0.5
    captions: bool = True
    split: str | None = None
    limit: int | None = None
    batch_size: int = 16
    piece: int = 64
    max_failures: int | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"threshold is {self.threshold}: expected 0 to 1")
        if self.batch_size < 1 or self.piece < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError(
                f"pictures a step, a piece and in all must be 1 or more; came {self.batch_size}, {self.piece} and "
                f"{self.limit}"
            )
        if self.captions and not self.tagger.writes:
            raise UsageError(
                f"{self.tagger.ref} writes no captions: leave them out (--no-captions), or use a model that does"
            )

    @property
    def configuration(self) -> Configuration:
        words = self.tagger.vocabulary
        naming = [[e.id, e.synonyms, e.parents, e.count, e.threshold, e.hidden] for e in words]
        looking = {
            "sources": [{"name": path.name, "sha256": sha256_of(path)} for path in self.sources],
            "model": self.tagger.ref,
            "vocabulary": words.ref,
            "naming": digest(naming)[:12],
            "rules": caption_rules_version(),
            "threshold": self.threshold,
            "captions": self.captions,
            "split": self.split,
            "limit": self.limit,
            "regions": self.regions.name,
            "piece": self.piece,
        }
        return Configuration(looking, self.cleaning.to_dict())


def labellers(vocabulary: Vocabulary) -> tuple[Labeller, Labeller]:
    """What finds the tags of captions and of label names: the same as when shards are built."""
    from taglens.language.parser import parse
    from taglens.language.word_lists import packaged

    return label_from_captions(vocabulary, parse, lists=packaged()), label_from_names(vocabulary)


def run(
    job: Job,
    folder: Path,
    *,
    truth: Path | None = None,
    clean_again: bool = False,
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """Generate, merge, clean and write; what has a receipt is kept. Returns the report.

    Args:
        truth: a labels file to measure against, which decides nothing.
        clean_again: pictures that were looked at may be cleaned otherwise than before; what was taken back is
            forgotten.
        watch: called after every picture of a stage.

    Raises:
        UsageError: nothing to do, or ``folder`` holds other things.
        DataError: a source or the yardstick breaks its form.
        MismatchError: ``folder`` was made otherwise.
        TooManyFailuresError: more than ``job.max_failures`` pictures cannot be read; what is done is kept.
        OSError: the folder cannot be written.
    """
    pictures = entrants(job.sources, split=job.split, limit=job.limit)
    configuration = job.configuration
    store = EngineStore(folder)
    store.require(configuration, clean_again=clean_again)
    measured = None if truth is None else read_truth(truth, pictures, job.tagger.vocabulary)
    with store.locked():
        before = store.configuration()
        if before is not None and before[0].cleaning != configuration.cleaning:
            (folder / UNDONE).unlink(missing_ok=True)
        store.write_configuration(configuration, None)
        job.tagger.vocabulary.save(folder / VOCABULARY)
        if measured is None:
            (folder / TRUTH).unlink(missing_ok=True)
        else:
            store.write_rows(TRUTH, measured)
        pieces = _Pieces(job, store, pictures, configuration.fingerprint, watch)
        pieces.generate()
        pieces.look()
        return write(store, configuration, job.tagger.vocabulary, cleaning=job.cleaning)


@dataclass(slots=True)
class _Pieces:
    """The stages that need the model, piece by piece."""

    job: Job
    store: EngineStore
    pictures: list[Entrant]
    fingerprint: str
    watch: Watch
    failed: int = 0

    def _spans(self) -> Iterator[tuple[int, list[Entrant]]]:
        for number, start in enumerate(range(0, len(self.pictures), self.job.piece)):
            yield number, self.pictures[start : start + self.job.piece]

    def generate(self) -> None:
        generator: Generator | None = None
        done = 0

        def tick(failed: bool) -> None:
            nonlocal done
            done += 1
            self.failed += failed
            self.watch("generate", done, len(self.pictures), self.failed)
            if self.job.max_failures is not None and self.failed > self.job.max_failures:
                raise TooManyFailuresError(
                    f"{self.failed} pictures cannot be read, more than the {self.job.max_failures} allowed; see what "
                    "they are, or allow more"
                )

        for number, span in self._spans():
            of = identity(span, self.fingerprint)
            content = self.store.finished(GENERATED, number, of)
            if content is not None:
                for known in _read(content):
                    tick(known.error is not None)
                continue
            if generator is None:
                generator = self._generator()
            rows = list(generator(span, first=number * self.job.piece, tick=tick))
            content = b"".join((to_line(row.to_dict()) + "\n").encode() for row in rows)
            failed = sum(row.error is not None for row in rows)
            about = {"pictures": len(rows), "failed": failed}
            self.store.write_piece(GENERATED, number, content, of=of, about=about)
        self._drop_beyond(GENERATED)

    def _generator(self) -> Generator:
        from_captions, from_labels = labellers(self.job.tagger.vocabulary)
        return Generator(
            self.job.tagger,
            from_captions,
            from_labels,
            self.store.folder,
            threshold=self.job.threshold,
            captions=self.job.captions,
            batch_size=self.job.batch_size,
        )

    def look(self) -> None:
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self.watch("look", done, len(self.pictures), self.failed)

        for number, span in self._spans():
            rows = self.store.piece(GENERATED, number).read_bytes()
            of = digest([identity(span, self.fingerprint), rows.decode()])
            if self.store.finished(LOOKS, number, of) is not None:
                for _ in span:
                    tick()
                continue
            known = [(row, picture.path) for row, picture in zip(_read(rows), span, strict=True)]
            looks = look(
                known,
                tagger=self.job.tagger,
                regions=self.job.regions,
                batch_size=self.job.batch_size,
                tick=tick,
            )
            about = {"pictures": len(span), "regions": len(looks)}
            self.store.write_piece(LOOKS, number, looks.to_bytes(), of=of, about=about)
        self._drop_beyond(LOOKS)

    def _drop_beyond(self, stage: str) -> None:
        """Pieces that no picture is left for: the corpus's second file may name fewer."""
        number = -(-len(self.pictures) // self.job.piece)
        while (path := self.store.piece(stage, number)).exists():
            path.unlink()
            path.with_name(f"{number:06d}.receipt.json").unlink(missing_ok=True)
            number += 1


def _read(content: bytes) -> Iterator[Known]:
    import json

    return (Known.of(json.loads(line)) for line in content.splitlines())


def _pieces_of(store: EngineStore, stage: str) -> list[Path]:
    suffix = store.piece(stage, 0).suffix
    return sorted(path for path in (store.folder / stage).glob(f"*{suffix}") if path.stem.isdigit())


def all_known(store: EngineStore) -> Iterator[Known]:
    """What is known of every picture, in order."""
    for path in _pieces_of(store, GENERATED):
        yield from _read(path.read_bytes())


def all_looks(store: EngineStore) -> Iterator[Looks]:
    """Every picture's best regions, piece by piece. Raises DataError: a piece is damaged."""
    for path in _pieces_of(store, LOOKS):
        yield Looks.from_bytes(path.read_bytes(), name=str(path))


def write(
    store: EngineStore, configuration: Configuration, vocabulary: Vocabulary, *, cleaning: Cleaning
) -> dict[str, Any]:
    """Judge what was looked at, and write decisions, labels, captions and the report: from the pieces alone."""
    judgement = judge(lambda: all_looks(store), vocabulary, cleaning=cleaning)
    outcome = _Outcome(store, vocabulary, judgement, cleaning)
    store.write_rows(DECISIONS, outcome.decisions())
    store.write_rows(LABELS, outcome.labels())
    store.write_rows(CAPTIONS, outcome.captions())
    store.write_rows(
        ERRORS,
        ({"row": k.row, "image": k.image, "error": k.error} for k in all_known(store) if k.error is not None),
    )
    looking = configuration.looking
    report = outcome.report(
        {
            "model": looking["model"],
            "vocabulary": looking["vocabulary"],
            "regions": looking["regions"],
            "cleaning": dict(configuration.cleaning),
        }
    )
    store.write_document(REPORT, report)
    store.write_text(PAGE, page(report))
    totals = {
        "pictures": report["pictures"],
        "failed": report["failed"],
        "labels": {stage: row["labels"] for stage, row in report["stages"].items()},
    }
    store.write_configuration(configuration, totals)
    return report


@dataclass(slots=True)
class _Outcome:
    """What is written, picture by picture."""

    store: EngineStore
    vocabulary: Vocabulary
    judgement: Judgement
    cleaning: Cleaning
    undone: dict[str, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.undone = taken_back(self.store)

    def _each(self) -> Iterator[tuple[Known, dict[int, Verdict], tuple[Label, ...]]]:
        for known in all_known(self.store):
            verdicts = self.judgement.verdicts.get(known.row, {})
            going = removed(known, verdicts, self.vocabulary, spare=self.cleaning.spare)
            ids = {self.vocabulary[column].id for column in going}
            yield known, going, standing(known, ids, self.undone)

    def decisions(self) -> Iterator[dict[str, Any]]:
        """What the engine decided, whatever was taken back since."""
        for known, going, _ in self._each():
            yield from decisions(known, going, self.vocabulary)

    def labels(self) -> Iterator[dict[str, Any]]:
        for known, _, labels in self._each():
            yield label_row(known, labels, self.vocabulary)

    def captions(self) -> Iterator[dict[str, Any]]:
        for known, _, _ in self._each():
            texts = [*known.captions, *([known.written] if known.written else [])]
            row: dict[str, Any] = {"image": known.path, "captions": texts or None}
            row["origins"] = ["given"] * len(known.captions) + ["generated"] * bool(known.written)
            yield row if known.split is None else {**row, "split": known.split}

    def report(self, about: Mapping[str, Any]) -> dict[str, Any]:
        tally = Tally(self.vocabulary, truth=self.store.rows(TRUTH))
        for known, going, labels in self._each():
            verdicts = self.judgement.verdicts.get(known.row, {})
            tally.add(known, going, labels, spared=len(verdicts) - len(going))
        return tally.report(self.judgement.tags, about={**about, "undone": self.undone})


def label_row(known: Known, labels: Sequence[Label], vocabulary: Vocabulary) -> dict[str, Any]:
    """A row of labels.jsonl: what shards, training and evaluation read, and beside it where each label is from."""
    row: dict[str, Any] = {"image": known.path, "source": known.image}
    if known.split is not None:
        row["split"] = known.split
    said = bool(labels or known.strange) or known.error is None
    entries = [vocabulary[vocabulary.position(label.tag)] for label in labels]
    if not said or known.error is not None:
        # Nobody could look: nothing is known, and whoever builds shards leaves the row out.
        return {**row, "labels": None, "error": known.error}
    return {
        **row,
        "labels": [*(entry.name for entry in entries), *(name for name, _ in known.strange)],
        # A kind tells homographs apart where the file is read; "typed" is how a label is scored.
        "kind": [
            *(None if entry.kind == "typed" else entry.kind for entry in entries),
            *(kind for _, kind in known.strange),
        ],
        "tags": [*(label.tag for label in labels), *(None for _ in known.strange)],
        "origins": [*(list(label.origins) for label in labels), *(["given"] for _ in known.strange)],
        "scores": [*(label.score for label in labels), *(None for _ in known.strange)],
        "error": None,
    }


# -- taking back --------------------------------------------------------------------------------------------


def taken_back(store: EngineStore) -> dict[str, Stage]:
    """Tag, or "*" for every one -> the state that was asked back. Raises DataError: the file is damaged."""
    import json

    path = store.folder / UNDONE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; remove it, and nothing counts as taken back") from None
    if not isinstance(found, dict) or not all(stage in ("given", "merged") for stage in found.values()):
        raise DataError(f"{path} is damaged; remove it, and nothing counts as taken back")
    return cast("dict[str, Stage]", found)


def undo(folder: Path, tags: Iterable[str] = (), *, to: Stage = "merged") -> dict[str, Any]:
    """Take some tags back, in every picture: removals only, or additions too. Returns the report.

    Args:
        tags: names, synonyms or ids; none: every tag.
        to: "merged": what was removed is there again; "given": just what the corpus said.

    Raises:
        UsageError: no finished engine, or a name that is no tag.
    """
    return _change(folder, tags, to)


def redo(folder: Path, tags: Iterable[str] = ()) -> dict[str, Any]:
    """The reverse of `undo`: what the engine decided counts again. Arguments and errors as there."""
    return _change(folder, tags, None)


def _change(folder: Path, tags: Iterable[str], to: Stage | None) -> dict[str, Any]:
    store = EngineStore(folder)
    there = store.configuration()
    if there is None or there[1] is None:
        raise UsageError(
            f"{folder} holds no finished data engine; run it to its end: taglens engine run … --out {folder}"
        )
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    ids = [_id(name, vocabulary) for name in tags]
    with store.locked():
        undone = taken_back(store)
        if not ids:
            undone = {} if to is None else {EVERY: to}
        for tag in ids:
            if to is not None:
                undone[tag] = to
            elif EVERY in undone:
                raise UsageError(
                    "every tag was taken back: redo all of them (name no tag), and then undo those that you mean"
                )
            else:
                undone.pop(tag, None)
        if undone:
            store.write_document(UNDONE, dict(sorted(undone.items())))
        else:
            (folder / UNDONE).unlink(missing_ok=True)
        cleaning = Cleaning(
            **{
                **there[0].cleaning,
                "kinds": tuple(there[0].cleaning["kinds"]),
                "spare": tuple(there[0].cleaning["spare"]),
            }
        )
        return write(store, there[0], vocabulary, cleaning=cleaning)


def _id(name: str, vocabulary: Vocabulary) -> str:
    column = vocabulary.position(name) if name in vocabulary else vocabulary.find(name)
    if column is None:
        raise UsageError(f"{name!r} is no tag of {vocabulary.ref}: see report.md for its tags")
    return vocabulary[column].id
