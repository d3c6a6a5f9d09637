"""``taglens engine``: labels generated, merged and cleaned by RAM's data engine; taken back, and done again.

Knows the options, the progress line and the exit status. Refuses to know what the engine does
(`taglens.training.data_engine`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from taglens.cli.console import OK, SOME_FAILED, TOO_MANY_FAILED, ProgressLine, fail, say
from taglens.cli.options import BatchSize, Device, Model, Quiet, VocabularyFile
from taglens.errors import UsageError

if TYPE_CHECKING:
    from taglens.inference.tagger import Tagger
    from taglens.results import Kind
    from taglens.training.engine_cleaning import Rule, Stage
    from taglens.training.engine_generate import Origin
    from taglens.training.engine_regions import Regions

_STAGES = {"generate": "generating", "look": "looking at regions"}

AsObject = Annotated[bool, typer.Option("--json", help="The report without its tags, as one object.")]
EngineFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a finished engine.")]
SomeTags = Annotated[
    list[str] | None, typer.Option("--tag", help="This tag, by name or id; may be repeated. Else all.")
]


def run(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="captions.jsonl, labels.jsonl, or one of each.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder to write; the same one goes on.")],
    model: Model = "starter",
    vocabulary: VocabularyFile = None,
    split: Annotated[str | None, typer.Option("--split", help="Only rows of this split.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pictures.")] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Lowest score of a recognised tag, for every tag.")
    ] = 0.5,
    own_thresholds: Annotated[
        bool, typer.Option("--own-thresholds", help="Each tag's own instead: more labels, more wrong ones.")
    ] = False,
    captions: Annotated[
        bool, typer.Option("--captions/--no-captions", help="Whether the model writes captions too.")
    ] = True,
    regions: Annotated[
        str,
        typer.Option(
            "--regions", help="crops, windows, attention (torch, a trained model), or a boxes.jsonl."
        ),
    ] = "crops",
    least_box: Annotated[
        float, typer.Option("--least-box", min=0.0, max=1.0, help="Lowest score of a detector's box.")
    ] = 0.0,
    kinds: Annotated[
        str, typer.Option("--kinds", help="Kinds of the tags that are judged, with commas.")
    ] = "object,scene",
    rule: Annotated[
        str, typer.Option("--rule", help="What removes a label: either, both, outliers or regions.")
    ] = "either",
    share: Annotated[float, typer.Option("--share", help="A tag's farthest regions: outliers.")] = 0.1,
    agree: Annotated[
        float | None,
        typer.Option("--agree", help="Score at which a region agrees.", show_default="each tag's own"),
    ] = None,
    trust: Annotated[
        float,
        typer.Option(
            "--trust", help="Of a tag's regions so many must agree, else none counts as disagreeing."
        ),
    ] = 0.5,
    spare: Annotated[
        list[str] | None,
        typer.Option("--spare", help="Never remove labels of this origin: given, parsed, generated-tag …"),
    ] = None,
    least_pictures: Annotated[
        int, typer.Option("--least-pictures", min=1, help="Tags with fewer regions are left alone.")
    ] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the clusters.")] = 0,
    clean_again: Annotated[
        bool, typer.Option("--clean-again", help="Clean otherwise what was looked at already.")
    ] = False,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="A labels.jsonl to measure before and after against.")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", help="Stop, with status 3, when more pictures failed.")
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    as_json: AsObject = False,
    quiet: Quiet = False,
) -> int:
    """Generate tags and captions, merge them with what is known, remove what looks wrong.

    OUT holds labels.jsonl and captions.jsonl (which taglens shards, train and evaluate read), decisions.jsonl and a
    report. The same command goes on where one was stopped.
    """
    from taglens.collection.runs import TooManyFailuresError
    from taglens.training import data_engine
    from taglens.training.engine_cleaning import Cleaning

    cleaning = Cleaning(
        kinds=tuple(cast("Kind", kind.strip()) for kind in kinds.split(",") if kind.strip()),
        least_pictures=least_pictures,
        share=share,
        rule=cast("Rule", rule),
        agree=agree,
        trust=trust,
        spare=tuple(cast("Origin", origin) for origin in spare or ()),
        seed=seed,
    )
    tagger = _tagger(model, vocabulary, device)
    job = data_engine.Job(
        tuple(sources),
        tagger,
        regions=_regions(regions, tagger, model, device=device, least=least_box, quiet=quiet),
        cleaning=cleaning,
        threshold=None if own_thresholds else threshold,
        captions=captions,
        split=split,
        limit=limit,
        batch_size=batch_size,
        max_failures=max_failures,
    )
    watch = _Watch(quiet=quiet)
    try:
        report = data_engine.run(job, out, truth=truth, clean_again=clean_again, watch=watch)
    except TooManyFailuresError as error:
        watch.clear()
        fail(str(error))
        return TOO_MANY_FAILED
    except KeyboardInterrupt:
        watch.clear()
        say("finished pieces are kept: the same command goes on")
        raise
    finally:
        watch.clear()
    return _tell(report, out, as_json=as_json, quiet=quiet)


def undo(
    folder: EngineFolder,
    *,
    tags: SomeTags = None,
    to: Annotated[
        str, typer.Option("--to", help="merged: what was removed returns; given: just what the corpus said.")
    ] = "merged",
    as_json: AsObject = False,
    quiet: Quiet = False,
) -> int:
    """Take the engine's work on some tags back, or on all; looks at no picture."""
    from taglens.training.data_engine import undo as take_back

    if to not in ("merged", "given"):
        raise UsageError(f"--to {to}: expected merged or given")
    report = take_back(folder, tags or (), to=cast("Stage", to))
    return _tell(report, folder, as_json=as_json, quiet=quiet)


def redo(
    folder: EngineFolder, *, tags: SomeTags = None, as_json: AsObject = False, quiet: Quiet = False
) -> int:
    """Let the engine's work count again that was taken back; looks at no picture."""
    from taglens.training.data_engine import redo as again

    return _tell(again(folder, tags or ()), folder, as_json=as_json, quiet=quiet)


class _Watch:
    """A progress line per stage."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._line: ProgressLine | None = None

    def __call__(self, stage: str, done: int, total: int, failed: int) -> None:
        if self._quiet:
            return
        if stage != self._stage or self._line is None:
            self.clear()
            self._stage, self._line = stage, ProgressLine(total)
            say(f"{_STAGES[stage]}: {total:,} pictures")
        self._line.move(done, failed=failed)

    def clear(self) -> None:
        if self._line is not None:
            self._line.clear()


def _tagger(model: str, vocabulary: Path | None, device: str) -> Tagger:
    from taglens.inference.tagger import Tagger
    from taglens.vocabulary import Vocabulary

    tagger = Tagger.from_pretrained(model, device=device)
    return tagger if vocabulary is None else tagger.with_vocabulary(Vocabulary.load(vocabulary))


def _regions(wanted: str, tagger: Tagger, model: str, *, device: str, least: float, quiet: bool) -> Regions:
    from taglens.training.engine_regions import WINDOWS, BoxesFile, SlidingCrops

    if wanted == "crops":
        return SlidingCrops()
    if wanted == "windows":
        return SlidingCrops(WINDOWS)
    if wanted == "attention":
        return _attention(tagger, model, device)
    path = Path(wanted)
    if not path.is_file():
        raise UsageError(
            f"--regions {wanted}: expected crops, windows, attention, or a file of boxes; no such file"
        )
    boxes = BoxesFile(path, tagger.vocabulary, least=least)
    if boxes.strange and not quiet:
        most = sorted(boxes.strange.items(), key=lambda item: (-item[1], item[0]))[:5]
        told = ", ".join(f"{name} ({count:,})" for name, count in most)
        say(f"{path}: boxes of {len(boxes.strange):,} names that are no tag are not used: {told}")
    return boxes


def _attention(tagger: Tagger, model: str, device: str) -> Regions:
    from taglens.inference.bundle import is_trained, locate
    from taglens.inference.engines import require_torch, torch_device

    folder = locate(model)
    if not is_trained(folder):
        raise UsageError(
            f"--regions attention needs a trained model folder; {model} is an exported bundle, which does not tell "
            "where it looks: use crops"
        )
    require_torch("--regions attention")
    from taglens.models.checkpoint import from_pretrained
    from taglens.training.engine_attention import AttentionCrops

    recognizer, words, _ = from_pretrained(folder)
    return AttentionCrops(recognizer.to(torch_device(device)), words, ref=tagger.ref)


def _tell(report: dict[str, Any], out: Path, *, as_json: bool, quiet: bool) -> int:
    if not quiet:
        stages = report["stages"]
        counts = " → ".join(f"{stages[stage]['labels']:,} {stage}" for stage in stages)
        say(f"{report['pictures']:,} pictures in {out}: labels {counts}; see {out / 'report.md'}")
        if report["failed"]:
            say(f"{report['failed']:,} pictures cannot be read: see {out / 'errors.jsonl'}")
    if as_json:
        row = {name: value for name, value in report.items() if name != "tags"}
        typer.echo(json.dumps({"out": str(out), **row}, ensure_ascii=False))
    return SOME_FAILED if report["failed"] else OK
