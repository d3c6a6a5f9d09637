"""``taglens caption``: sentences about pictures, guided by tags.

Knows the options. Refuses to know how a sentence is written (`taglens.inference.captioning`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli import options as shared
from taglens.cli.listing import CaptionListing
from taglens.cli.rows import Tally, conclude, deliver, rows, show_json, watched
from taglens.cli.tag import split_tags
from taglens.errors import UsageError
from taglens.inference.sources import Source, Unopened, expand
from taglens.results import Captioned

if TYPE_CHECKING:
    from taglens.inference.captioning import Search

# What published models draw captions with, and search for them with.
SAMPLED_PENALTY, SEARCHED_PENALTY = 1.1, 1.0
BEAMS, MIN_LENGTH, MAX_LENGTH, TOP_P = 3, 10, 30, 0.9


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """What ``taglens caption`` can be told of captions; refuses what cannot be meant.

    None takes the default: `BEAMS` or as many as captions, `MIN_LENGTH` or all that ``max_length`` leaves, `TOP_P`,
    seed 0, and the penalty of published models.
    """

    tags: tuple[str, ...] | None = None
    add_tags: bool = False
    must_mention: bool = False
    threshold: float | None = None
    number: int = 1
    beams: int | None = None
    sample: bool = False
    seed: int | None = None
    top_p: float | None = None
    min_length: int | None = None
    max_length: int = MAX_LENGTH
    repetition_penalty: float | None = None
    batch_size: int = 16
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.tags == ():
            raise UsageError('--tags names no tag; expected names with commas between them: --tags "dog,cat"')
        if self.add_tags and self.tags is None:
            raise UsageError('--add-tags says what to do with --tags; give both: --tags "dog,cat" --add-tags')
        if self.must_mention:
            self._check_mentions()
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, found {self.threshold:g}")
        least = {
            "--number": (self.number, 1),
            "--beams": (self.beams, 1),
            "--seed": (self.seed, 0),
            "--min-length": (self.min_length, 0),
            "--max-length": (self.max_length, 1),
            "--batch-size": (self.batch_size, 1),
            "--max-pixels": (self.max_pixels, 1),
        }
        for option, (found, lowest) in least.items():
            if found is not None and found < lowest:
                raise UsageError(f"{option} must be {lowest} or more, found {found}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"--top-p must be above 0 and at most 1, found {self.top_p:g}")
        if self.repetition_penalty is not None and not 0.0 < self.repetition_penalty < math.inf:
            raise UsageError(f"--repetition-penalty must be above 0, found {self.repetition_penalty:g}")
        if self.min_length is not None and self.min_length > self.max_length:
            raise UsageError(f"--min-length {self.min_length} is above --max-length, {self.max_length}")
        if self.sample and self.beams is not None:
            raise UsageError("--sample draws words and --beams searches for them; give one")
        if not self.sample and (self.seed is not None or self.top_p is not None):
            raise UsageError("--seed and --top-p say how --sample draws; give it too")
        if self.beams is not None and self.number > self.beams:
            raise UsageError(
                f"--number {self.number} needs as many --beams, found {self.beams}; raise them, leave them out, or "
                "draw: --sample"
            )

    def _check_mentions(self) -> None:
        from taglens.inference.constrained import MOST_DEMANDS
        from taglens.vocabulary import normalise

        if self.tags is None:
            raise UsageError(
                '--must-mention says that captions must name --tags; give both: --tags "dog,cat" --must-mention'
            )
        if self.sample:
            raise UsageError("--must-mention searches for words and --sample draws them; give one")
        if (found := len(set(map(normalise, self.tags)))) > MOST_DEMANDS:
            raise UsageError(f"--must-mention takes at most {MOST_DEMANDS} --tags, found {found}")

    def search(self) -> Search:
        from taglens.inference.captioning import Search
        from taglens.inference.generation import Sampling

        penalty = self.repetition_penalty
        if penalty is None:
            penalty = SAMPLED_PENALTY if self.sample else SEARCHED_PENALTY
        drawn = Sampling(self.seed or 0, TOP_P if self.top_p is None else self.top_p)
        return Search(
            beams=max(BEAMS, self.number) if self.beams is None else self.beams,
            sampling=drawn if self.sample else None,
            number=self.number,
            min_length=min(MIN_LENGTH, self.max_length) if self.min_length is None else self.min_length,
            max_length=self.max_length,
            repetition_penalty=penalty,
            must_mention=self.must_mention,
        )


def run(
    sources: shared.Sources,
    *,
    model: Annotated[
        str, typer.Option("--model", help="The folder of a model that writes captions.")
    ] = "starter",
    tags: Annotated[
        str | None,
        typer.Option("--tags", metavar='"A,B"', help="What to write about, instead of the recognised tags."),
    ] = None,
    add_tags: shared.JoinRecognised = False,
    must_mention: Annotated[
        bool,
        typer.Option("--must-mention", help="Captions say each of --tags, or tell which they could not."),
    ] = False,
    threshold: shared.RecognisedThreshold = None,
    number: Annotated[int, typer.Option("--number", help="Captions a picture, best first.")] = 1,
    beams: Annotated[
        int | None,
        typer.Option("--beams", help="Beams of the search; 1: greedy.", show_default="3, or --number"),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw from the likeliest words instead.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Of --sample.", show_default="0")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", help="Of --sample: draw from words of this probability together.", show_default="0.9"
        ),
    ] = None,
    min_length: Annotated[
        int | None,
        typer.Option("--min-length", help="Word pieces, the prompt's 4 too.", show_default=str(MIN_LENGTH)),
    ] = None,
    max_length: Annotated[
        int, typer.Option("--max-length", help="Word pieces, the prompt's 4 too.")
    ] = MAX_LENGTH,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty", help="Above 1: fewer repeated words.", show_default="1, sampling 1.1"
        ),
    ] = None,
    batch_size: shared.BatchSize = 16,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", help="Adapters for --model, as taglens train enhance writes them."),
    ] = None,
    device: shared.Device = "auto",
    engine: shared.Engine = "auto",
    max_pixels: shared.MaxPixels = None,
    json: shared.AsRows = False,
    quiet: shared.Quiet = False,
) -> int:
    """Write a sentence about each picture, in the order given, guided by the tags found in it or by yours.

    A tag of yours that a caption does not say is listed as unmet.

    A picture that cannot be used gets a row that says why; the exit status is then 1.
    """
    options = CaptionOptions(
        tags=split_tags(tags),
        add_tags=add_tags,
        must_mention=must_mention,
        threshold=threshold,
        number=number,
        beams=beams,
        sample=sample,
        seed=seed,
        top_p=top_p,
        min_length=min_length,
        max_length=max_length,
        repetition_penalty=repetition_penalty,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
    # Looked up here: the engine behind it is heavy, and a wrong option should not have to wait for it.
    from taglens.inference.tagger import Tagger

    tagger = Tagger.from_pretrained(model, engine=engine, device=device, adapter=adapter)
    lengths = tagger.caption_lengths
    if max_length not in lengths:
        raise UsageError(
            f"--max-length must be {lengths[0]} to {lengths[-1]} for this model, the prompt included; "
            f"found {max_length}"
        )
    search = options.search()
    limits: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}

    def write(pictures: Iterator[Source]) -> Iterator[Captioned]:
        return tagger.caption(
            pictures,
            tags=options.tags,
            add_tags=add_tags,
            threshold=threshold,
            search=search,
            batch_size=batch_size,
            **limits,
        )

    def barred(item: Unopened) -> Captioned:
        return Captioned(
            source=item.source.shown,
            width=None,
            height=None,
            captions=None,
            guide_tags=None,
            model=tagger.ref,
            error=item.failure,
            source_bytes=item.source.source_bytes,
        )

    tally = Tally()
    found, progress = watched(expand(sources), quiet=quiet)
    show = show_json if json else CaptionListing(sys.stdout).show
    stream = rows(found, write, barred, tally=tally, purpose="caption")
    for _ in deliver(stream, show, tally=tally, progress=progress):
        pass
    return conclude(tally, quiet=quiet)
