"""``taglens vocabulary stats``: what a vocabulary holds, how it meets corpora, which classes it has.

Thin: counts with `taglens.language.vocabulary_stats`, draws with `taglens.language.plots`, and prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.captions import (
    caption_progress,
    require_files,
    require_folder,
    require_workers,
    texts_of,
)
from taglens.cli.vocabulary_tables import print_report
from taglens.errors import DataError, UsageError
from taglens.results import to_line
from taglens.vocabulary import Vocabulary, tag_id

if TYPE_CHECKING:
    from taglens.language.plots import Named
    from taglens.language.vocabulary_stats import Corpus, Coverage

Files = list[Path]


def stats(
    file: Annotated[Path, typer.Argument(help="A vocabulary file.")],
    *,
    captions: Annotated[
        Files | None,
        typer.Option("--captions", help="Text or .gz, one caption a line, or captions.jsonl; repeatable."),
    ] = None,
    labels: Annotated[
        Files | None, typer.Option("--labels", help="labels.jsonl, one corpus each; repeatable.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Text, one class a line: which of them are tags.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="The rows of captions.jsonl to read; all by default.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="How many uncovered words to list.")] = 25,
    zipf: Annotated[Path | None, typer.Option("--zipf", help="Draw frequency by rank as a PNG.")] = None,
    cloud: Annotated[Path | None, typer.Option("--cloud", help="Draw a word cloud as a PNG.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Parsing processes; 0: one per processor.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Count a vocabulary's tags by kind, and how captions, labels and class lists meet it."""
    from taglens.language.vocabulary_stats import count_kinds, cover, overlap

    _check(captions, labels, classes, zipf, cloud, top, workers)
    vocabulary = Vocabulary.load(file)
    wanted = None if classes is None else _class_names(classes)
    corpora, find = _count(vocabulary, captions or [], labels or [], split, workers)
    mentions = sum((corpus.mentions for corpus in corpora), Counter[Any]())
    coverage = cover(mentions, find) if captions else None
    report = {
        "vocabulary": vocabulary.ref,
        "tags": len(vocabulary),
        "kinds": {kind: asdict(figures) for kind, figures in count_kinds(vocabulary).items()},
        "corpora": [corpus.to_dict() for corpus in corpora],
        "coverage": None if coverage is None else coverage.to_dict(top=top),
        "unmatched_labels": _unmatched(corpora, top),
        "classes": None if wanted is None else overlap(vocabulary, wanted).to_dict(),
        "frequencies": _frequencies(vocabulary, corpora) if corpora else None,
    }
    if json:
        typer.echo(to_line(report))
    else:
        print_report(report)
    _draw(vocabulary, corpora, coverage, zipf, cloud)


def _check(
    captions: Files | None,
    labels: Files | None,
    classes: Path | None,
    zipf: Path | None,
    cloud: Path | None,
    top: int,
    workers: int,
) -> None:
    """Refuse before the long work what would be refused after it."""
    require_files("--captions", captions or ())
    require_files("--labels", labels or ())
    require_files("--classes", [classes] if classes else ())
    require_folder("--zipf", zipf)
    require_folder("--cloud", cloud)
    require_workers(workers)
    if top < 0:
        raise UsageError(f"--top must be 0 or more, found {top}")
    if zipf or cloud:
        from taglens.language.plots import require_plots

        require_plots("drawing (--zipf, --cloud)")


def _class_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the classes {path}: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} names no class: expected text, one class a line")
    return names


def _count(
    vocabulary: Vocabulary, captions: Files, labels: Files, split: str | None, workers: int
) -> tuple[list[Corpus], Any]:
    from taglens.language.corpora import has_pictures, label_rows
    from taglens.language.mentions import MentionFinder
    from taglens.language.parser import parse_lines
    from taglens.language.vocabulary_stats import count_captions, count_labels
    from taglens.language.word_lists import packaged

    lists = packaged()
    find = MentionFinder(vocabulary, lists)
    labelled = [count_labels(str(path), label_rows(path), find) for path in labels]
    with caption_progress(captions, split=split) as progress:
        captioned = [
            count_captions(
                str(path),
                texts_of(path, split=split),
                lambda texts: parse_lines(texts, workers=workers),
                lists,
                find,
                pictures=has_pictures(path),
                told=progress.tell,
            )
            for path in captions
        ]
    return [*captioned, *labelled], find


def _unmatched(corpora: Sequence[Corpus], top: int) -> list[dict[str, Any]]:
    counts = sum((corpus.unmatched for corpus in corpora), Counter[str]())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count} for name, count in ranked[:top]]


def _frequencies(vocabulary: Vocabulary, corpora: Sequence[Corpus]) -> dict[str, dict[str, int | None]]:
    """Id -> texts that name it and pictures that have it, over all corpora; null where none could say."""
    texts = sum((corpus.tag_texts for corpus in corpora), Counter[int]())
    images = sum((corpus.tag_images for corpus in corpora), Counter[int]())
    has_texts = any(corpus.texts is not None for corpus in corpora)
    has_images = any(corpus.images is not None for corpus in corpora)
    return {
        entry.id: {
            "texts": texts[column] if has_texts else None,
            "images": images[column] if has_images else None,
        }
        for column, entry in enumerate(vocabulary)
    }


# -- drawing -------------------------------------------------------------------------------------------


def _draw(
    vocabulary: Vocabulary,
    corpora: Sequence[Corpus],
    coverage: Coverage | None,
    zipf: Path | None,
    cloud: Path | None,
) -> None:
    if zipf is None and cloud is None:
        return
    from taglens.language.plots import draw_cloud, draw_zipf

    tags, unit = _named(vocabulary, corpora)
    if zipf is not None:
        rest = (
            () if coverage is None else [word.count for word in (*coverage.uncovered, *coverage.denied_words)]
        )
        curve = () if coverage is None else coverage.curve
        title = f"{vocabulary.ref}: {len(vocabulary):,} tags, {len(tags):,} of them named"
        draw_zipf(tags, zipf, title=title, unit=unit, uncovered=rest, curve=curve)
        typer.echo(f"{zipf}: {len(tags)} tags by rank", err=True)
    if cloud is not None:
        # What is never given to a user is not put on a poster either.
        seen = {entry.id for entry in vocabulary if not entry.hidden}
        draw_cloud([tag for tag in tags if tag_id(tag.kind, tag.name) in seen], cloud)
        typer.echo(f"{cloud}: a cloud of the most frequent tags", err=True)


def _named(vocabulary: Vocabulary, corpora: Sequence[Corpus]) -> tuple[list[Named], str]:
    """Tags with their counts, and what is counted: captions, failing that pictures, failing that the file's own."""
    from taglens.language.plots import Named

    texts = sum((corpus.tag_texts for corpus in corpora), Counter[int]())
    images = sum((corpus.tag_images for corpus in corpora if corpus.form == "labels"), Counter[int]())
    own = Counter({column: entry.count for column, entry in enumerate(vocabulary)})
    if any(corpus.form == "captions" for corpus in corpora):
        counts, unit = texts, "captions that name the tag"
    elif corpora:
        counts, unit = images, "pictures that have the label"
    else:
        counts, unit = own, "count in the vocabulary file"
    named = [Named(vocabulary[column].name, vocabulary[column].kind, n) for column, n in counts.items() if n]
    return sorted(named, key=lambda tag: (-tag.count, tag.kind, tag.name)), unit
