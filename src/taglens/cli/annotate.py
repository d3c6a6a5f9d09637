"""``taglens annotate``: labels for a collection by a language model that sees.

Knows the options, the outlook, the progress line and the exit status. Refuses to know what a strategy is made of
(`taglens.cli.annotate_plan`), how pictures are asked about (`taglens.language.annotate`) and how a run goes on
(`taglens.collection.annotating`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.annotate_plan import GROUPINGS, STRATEGIES, Plan, askable_tags
from taglens.cli.console import OK, SOME_FAILED, TOO_MANY_FAILED, ProgressLine, fail, is_terminal, say
from taglens.cli.language_model import (
    AnswerPrice,
    CachedPrice,
    Currency,
    Extra,
    HourPrice,
    KeyVariable,
    MaxCost,
    PromptPrice,
    Rate,
    RequestPrice,
    Retries,
    Server,
    Timeout,
    fields,
    ledger_for,
    resumable,
)
from taglens.cli.options import MaxPixels, Quiet
from taglens.cli.rows import SKIPPED_WORDS
from taglens.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from taglens.collection.annotating import Job, Progress
    from taglens.collection.annotation_costs import Outlook
    from taglens.collection.annotation_store import AnnotationStore
    from taglens.collection.items import Item
    from taglens.inference.tagger import Tagger
    from taglens.language.chat import Chat
    from taglens.vocabulary import Vocabulary

# From here on a picture takes so many questions that whoever starts the run should know first.
_MANY_QUERIES = 100

VocabularyFile = Annotated[
    Path, typer.Option("--vocabulary", help="The vocabulary whose tags are asked for.")
]
ConceptFiles = Annotated[
    list[Path] | None,
    typer.Option("--concepts", metavar="FILE", help="What tags mean; may be repeated, later ones win."),
]


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Folders, pictures, patterns, .tar files, lists (@labels.jsonl, .csv …)."
        ),
    ],
    *,
    vocabulary: VocabularyFile,
    mllm: Annotated[
        str,
        typer.Option("--mllm", metavar="URL", help="The server, http://…/v1; or a queries.jsonl to replay."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of rows and answers; the same one goes on.")],
    mllm_model: Annotated[
        str | None, typer.Option("--mllm-model", help="The model to ask.", show_default="the only one there")
    ] = None,
    strategy: Annotated[str, typer.Option("--strategy", help=", ".join(STRATEGIES) + ".")] = "full",
    grouping: Annotated[
        str | None,
        typer.Option(
            "--grouping",
            help=", ".join(GROUPINGS) + ", or a groups.json.",
            show_default="together with --statistics, else random",
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option("--statistics", metavar="FILE", help="Captions or labels to count tags together in."),
    ] = None,
    group_size: Annotated[int, typer.Option("--group-size", min=1, help="Names in a question at most.")] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Of random groups.")] = 0,
    concepts: ConceptFiles = None,
    votes: Annotated[int, typer.Option("--votes", min=1, help="Answers a candidate; most must say yes.")] = 1,
    careful: Annotated[
        bool, typer.Option("--careful/--simple", help="Whether questions ask to study the picture first.")
    ] = True,
    model: Annotated[str, typer.Option("--model", help="For hybrid: the tagger that proposes.")] = "starter",
    below: Annotated[
        float, typer.Option("--below", min=0.0, help="For hybrid: the band under a threshold, in log odds.")
    ] = 3.0,
    above: Annotated[float, typer.Option("--above", min=0.0, help="For hybrid: the band over it.")] = 4.0,
    side: Annotated[int, typer.Option("--side", min=32, help="Longer side of pictures as sent, px.")] = 768,
    split: Annotated[
        str | None, typer.Option("--split", help="Written into the rows, such as train.")
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Pictures asked about at a time.")] = 4,
    key_variable: KeyVariable = None,
    rate: Rate = None,
    timeout: Timeout = 120.0,
    retries: Retries = 5,
    price_prompt: PromptPrice = 0.0,
    price_cached: CachedPrice = None,
    price_answer: AnswerPrice = 0.0,
    price_request: RequestPrice = 0.0,
    price_hour: HourPrice = 0.0,
    currency: Currency = "USD",
    max_cost: MaxCost = None,
    extra: Extra = None,
    max_pixels: MaxPixels = None,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", help="Stop, with status 3, when more pictures failed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take; ask nobody, write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the ledger as one object at the end.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Label pictures with a language model that sees; the same command goes on where one was stopped.

    OUT holds labels.jsonl (which taglens shards, train and evaluate read), queries.jsonl (every answer) and
    ledger.json.

    A picture that cannot be used gets a row that says why; the exit status is then 1.
    """
    from taglens.collection.annotating import Job, Progress, scores_of
    from taglens.collection.annotation_store import AnnotationStore
    from taglens.images import DEFAULT_MAX_PIXELS
    from taglens.language.ledger import Prices

    plan = Plan(
        strategy, grouping, statistics, group_size, seed, tuple(concepts or ()), votes, careful, below, above
    )
    tags = askable_tags(vocabulary)
    prices = Prices(
        prompt=price_prompt,
        cached=price_cached,
        completion=price_answer,
        request=price_request,
        hour=price_hour,
        currency=currency,
    )
    if max_cost is not None and prices.free:
        raise UsageError(
            "--max-cost needs prices: give --price-prompt and --price-answer, --price-request or --price-hour"
        )
    tagger = _tagger(model, tags) if strategy == "hybrid" else None
    store = AnnotationStore(out)
    own = out.absolute()

    def items() -> Iterator[Item]:
        from taglens.collection.inputs import open_inputs

        for item in open_inputs(sources):
            if item.path is None or not item.path.absolute().is_relative_to(own):
                yield item

    _require_something(items())
    # A dry run asks nobody, not even what the only model's name is.
    name = "unnamed" if dry_run and mllm_model is None else mllm_model
    where = Server(mllm, name, key_variable, rate, timeout, retries, fields(extra), option="--mllm-model")
    with resumable(f"what is done is kept in {out}"), where.chat(check=not dry_run) as chat:
        configuration = {
            "model": chat.model,
            "vocabulary": tags.ref,
            "side": side,
            **plan.configuration(tags, tagger),
        }
        if name == mllm_model:
            store.require(configuration)
        made = Parts(configuration, side, max_pixels or DEFAULT_MAX_PIXELS, split, at_once, max_failures)

        def job_with(asked: Chat | None) -> Job:
            prepared = plan.prepared(tags, tagger, asked, quiet=quiet)
            return Job(
                prepared.strategy,
                tags,
                made.configuration,
                parts=prepared.files,
                scores=None if tagger is None else scores_of(tagger),
                side=made.side,
                max_pixels=made.max_pixels,
                split=made.split,
                at_once=made.at_once,
                max_failures=made.max_failures,
            )

        if dry_run:
            from taglens.collection.annotation_costs import outlook

            look = outlook(job_with(None), items(), store, prices=prices)
            _tell(look, prices.currency, priced=not prices.free, quiet=quiet and as_json)
            if as_json:
                typer.echo(json.dumps(look.to_dict(), ensure_ascii=False))
            return OK
        from taglens.collection.annotation_costs import LedgerFile, cost_of, outlook
        from taglens.language.chat_kept import KeptChat
        from taglens.language.ledger import CountedChat

        earlier = store.paid()
        # Of answers whose tokens nobody counted only the ledger knows what they were charged.
        spent = max(cost_of(earlier, prices), store.told_cost(prices.currency))
        ledger = ledger_for(prices, max_cost, spent=spent)
        with KeptChat(CountedChat(chat, ledger), store.queries, on_kept=ledger.saw_kept) as kept:
            told = LedgerFile(store, ledger, earlier=earlier, spent=spent)
            try:
                job = job_with(kept)
            except BudgetError as error:
                fail(str(error))
                row = told.write(Progress(), finished=False)
                _tell_end(Progress(), row, store, kept, Telling(0, as_json, quiet))
                return TOO_MANY_FAILED
            look = outlook(job, items(), store, prices=prices)
            _tell(look, prices.currency, priced=not prices.free, quiet=quiet)
            return _work(job, items(), store, kept, told, Telling(look.pictures + look.done, as_json, quiet))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job is made of beside its strategy."""

    configuration: dict[str, Any]
    side: int
    max_pixels: int
    split: str | None
    at_once: int
    max_failures: int | None


@dataclass(frozen=True, slots=True)
class Telling:
    """What a person is told: how many pictures there are, and in which form."""

    total: int
    as_json: bool
    quiet: bool


def _work(
    job: Job, items: Iterator[Item], store: AnnotationStore, chat: Chat, ledger: Any, telling: Telling
) -> int:
    from taglens.collection.annotating import Progress, TooManyFailuresError, annotate

    progress = Progress()
    status = OK
    line = ProgressLine(telling.total if is_terminal(sys.stderr) else None)
    finished = False

    def watch(now: Progress) -> None:
        ledger.watch(now)
        if not telling.quiet:
            line.move(now.pictures, failed=now.failed, free=now.kept)

    try:
        with store.opened(job.configuration, parts=job.parts):
            try:
                annotate(job, items, store, chat, progress=progress, watch=watch)
                finished = True
            finally:
                row = ledger.write(progress, finished=finished)
    except (BudgetError, TooManyFailuresError) as error:
        line.clear()
        fail(str(error))
        status = TOO_MANY_FAILED
    finally:
        line.clear()
    _tell_end(progress, row, store, chat, telling)
    return status or (SOME_FAILED if progress.failed else OK)


def _tell_end(
    progress: Progress, row: dict[str, Any], store: AnnotationStore, chat: Chat, telling: Telling
) -> None:
    """What came of it, also where it stopped early."""
    if not telling.quiet:
        say(_summary(progress, row, store))
    if telling.as_json:
        typer.echo(json.dumps({"out": str(store.folder), "model": chat.model, **row}, ensure_ascii=False))


def _summary(progress: Progress, row: dict[str, Any], store: AnnotationStore) -> str:
    parts = [f"{progress.pictures:,} pictures in {store.folder}, {progress.labels:,} labels"]
    if progress.kept:
        parts.append(f"{progress.kept:,} were done before")
    for count, what in (
        (progress.failed, "failed"),
        (progress.unsettled, "tags unsettled"),
        (progress.off_list, "answers off the list"),
        (progress.malformed, "malformed"),
        (progress.refused, "refused"),
        (progress.cut, "cut off"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    a_picture = row["queries_per_picture"] or 0
    parts.append(f"{row['queries']:,} queries ({a_picture:.1f} a picture), {tokens:,} tokens")
    if row["cost"]:
        each = ", ".join(
            f"{row[f'cost_per_{what}']:.6f} a {what}"
            for what in ("picture", "label")
            if row[f"cost_per_{what}"]
        )
        parts.append(f"{row['cost']:.4f} {row['currency']}" + (f" ({each})" if each else ""))
    skipped = [f"{count:,} {SKIPPED_WORDS.get(why, why)}" for why, count in progress.skipped.most_common()]
    return ", ".join(parts) + (f"; skipped: {', '.join(skipped)}" if skipped else "")


def _tell(look: Outlook, currency: str, *, priced: bool, quiet: bool) -> None:
    """What is ahead; what is much is said even to who wants quiet."""
    a_picture = look.expected / look.pictures if look.pictures else 0
    if quiet and a_picture <= _MANY_QUERIES:
        return
    between = "" if look.least == look.most else f" ({look.least:,} to {look.most:,})"
    tokens = look.usage.prompt_tokens + look.usage.completion_tokens
    cost = f", about {look.cost:,.4f} {currency}" if priced else ""
    done = f" ({look.done:,} are done)" if look.done else ""
    say(
        f"{look.pictures:,} pictures to do{done}: about {look.expected:,} queries{between}, {tokens:,} tokens{cost}; "
        f"from {look.basis}"
    )
    if a_picture > _MANY_QUERIES:
        say(
            f"note: that is {a_picture:,.0f} queries a picture; fewer: --strategy hybrid, or full with more names in "
            "a question (--group-size)"
        )


def _require_something(items: Iterator[Item]) -> None:
    """Refuse at once where there is nothing to look at, before a folder is made."""
    messages = []
    for item in items:
        if item.skipped is not None:
            continue
        if item.failure is None or item.failure.type != "not_found":
            return
        messages.append(item.failure.message)
    raise UsageError(f"nothing to annotate: {'; '.join(messages[:3]) or 'no picture in the given folders'}")


def _tagger(model: str, tags: Vocabulary) -> Tagger:
    from taglens.inference.tagger import Tagger

    return Tagger.from_pretrained(model).with_vocabulary(tags)
