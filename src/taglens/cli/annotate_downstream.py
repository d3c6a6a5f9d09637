"""``taglens annotate downstream``: what labels from each source teach a classifier, beside people's labels.

Thin: calls `taglens.training.label_trials` and `taglens.training.label_sources`, and prints a row a source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, ProgressLine, printable, say
from taglens.cli.options import BatchSize, Device, Model, Quiet
from taglens.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from taglens.training.label_sources import Judged

_HUMAN = "human"


def run(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="NAME=LABELS", help="A labels.jsonl, or a folder with one; each is a source."),
    ],
    *,
    human: Annotated[Path, typer.Option("--human", help="People's labels of the same pictures.")],
    test: Annotated[Path, typer.Option("--test", help="People's labels of other pictures, to test on.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="The tags; names and synonyms then meet.", show_default="none"),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="NAME", help="A source from which the gap to people is measured."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of --human, and sources that say one, only these rows.")
    ] = None,
    test_split: Annotated[
        str | None, typer.Option("--test-split", help="Of --test, only these rows.")
    ] = None,
    model: Model = "starter",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Classifiers a source.")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 30,
    hidden: Annotated[int, typer.Option("--hidden", min=0, help="Width of a layer between; 0: none.")] = 256,
    resamples: Annotated[
        int, typer.Option("--resamples", min=2, help="Of the test pictures, for intervals.")
    ] = 300,
    features_file: Annotated[
        Path | None,
        typer.Option("--features", metavar="FILE", help="Keep the encoder's features in FILE and FILE.test."),
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One object on standard output.")] = False,
    quiet: Quiet = False,
) -> int:
    """Train a small classifier over frozen features on the labels of each source, and test it on people's labels.

    Told for each: its labels against people's; mAP on the test pictures, with an interval of 95 of 100; that as a
    share of what people's labels reach; the share of the gap between the best baseline and people that it closes.
    """
    from taglens.inference.engines import require_torch
    from taglens.inference.tagger import Tagger
    from taglens.vocabulary import Vocabulary

    require_files("--human", [human])
    require_files("--test", [test])
    require_torch("a classifier")
    if features_file is not None:
        require_folder("--features", features_file)
    files = {_HUMAN: human, **dict(_named(sources))}
    if strange := sorted(set(baselines or ()) - (files.keys() - {_HUMAN})):
        raise UsageError(f"--baseline {strange[0]}: expected a source, one of {', '.join(sorted(files))}")
    from taglens.training.label_sources import Recipe, judge, taught
    from taglens.training.label_trials import classes_of, features, read_sources

    words = None if vocabulary is None else Vocabulary.load(vocabulary)
    classes = classes_of(human, vocabulary=words, split=split)
    trial = read_sources(files, classes=classes, vocabulary=words, split=split)
    tested = read_sources({_HUMAN: test}, classes=classes, vocabulary=words, split=test_split)
    if both := set(trial.pictures) & set(tested.pictures):
        raise UsageError(
            f"{len(both)} pictures are trained and tested on, {min(both)} among them; test on pictures of their own"
        )
    if trial.left_out and not quiet:
        say(f"{trial.left_out:,} pictures have no labels of some source, and are left out for all")
    tagger = Tagger.from_pretrained(model, device=device)
    line = ProgressLine(len(trial.pictures) + len(tested.pictures), unit="pictures")

    def seen(pictures: Sequence[Path], end: str, before: int) -> npt.NDArray[np.float32]:
        return features(
            tagger,
            pictures,
            keep=None if features_file is None else features_file.with_name(features_file.name + end),
            batch_size=batch_size,
            watch=lambda done: None if quiet else line.reach(before + done),
        )

    try:
        train_seen = seen(trial.pictures, "", 0)
        test_seen = seen(tested.pictures, ".test", len(trial.pictures))
    finally:
        line.clear()
    recipe = Recipe(epochs=epochs, hidden=hidden)
    scored = {
        name: taught(train_seen, labels, test_seen, recipe=recipe, seeds=range(seeds))
        for name, labels in trial.labels.items()
    }
    found = judge(
        scored,
        trial.labels,
        tested.labels[_HUMAN],
        human=_HUMAN,
        baselines=tuple(baselines or ()),
        resamples=resamples,
    )
    if as_json:
        typer.echo(json.dumps({"model": tagger.ref, **found.to_dict()}, ensure_ascii=False))
    else:
        for text in _lines(found):
            typer.echo(printable(text))
    return OK


def _named(sources: list[str]) -> Iterator[tuple[str, Path]]:
    seen = {_HUMAN}
    for source in sources:
        name, given, path = source.partition("=")
        if not name or not given or not path:
            raise UsageError(f"{source!r}: expected NAME=LABELS, such as options=annotated/labels.jsonl")
        if name in seen:
            raise UsageError(
                f"the source {name!r} stands twice; people's labels are {_HUMAN!r}: choose another name"
            )
        seen.add(name)
        yield name, Path(path)


def _lines(found: Judged) -> Iterator[str]:
    yield (
        f"{found.pictures:,} pictures taught, {found.tested:,} tested, {found.classes:,} classes; figures in per cent"
    )
    yield f"{'source':<24}{'labels OF1':>11}{'mAP':>7}{'95 of 100':>16}{'of human':>10}{'gap closed':>12}"
    for name, worth in found.sources.items():
        mean = worth.mean_precision
        gap = "-" if worth.gap_closed is None else f"{100 * worth.gap_closed.value:.1f}"
        between = f"{100 * mean.low:.1f} to {100 * mean.high:.1f}"
        yield (
            f"{name:<24}{100 * worth.quality.overall_f1:>11.1f}{100 * mean.value:>7.1f}{between:>16}"
            f"{100 * worth.of_human.value:>10.1f}{gap:>12}"
        )
    if found.baseline is not None:
        yield f"the gap is the one between {found.baseline}, the best baseline, and people's labels"
