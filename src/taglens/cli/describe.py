"""``taglens describe``: visual descriptions of a vocabulary's tags, by a language model or from templates.

Thin: asks with `taglens.language.describe` through the one door to language models, writes rows, and tells what came
of it. Refuses to know a question's wording and what makes an answer usable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, ProgressLine, printable, say
from taglens.cli.language_model import (
    AnswerPrice,
    AtOnce,
    CachedPrice,
    Currency,
    Extra,
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
    tell_account,
)
from taglens.cli.vocabulary_files import require_jsonl
from taglens.errors import ChatError, UsageError
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.language.chat import Ask, Reply, Usage
    from taglens.language.chat_kept import Replies
    from taglens.language.describe import Plan, Projected
    from taglens.language.description_prompts import Subject
    from taglens.language.description_rows import Described
    from taglens.language.description_text import Limits
    from taglens.language.ledger import Prices

_NAMED = 5


def run(
    *,
    vocabulary: Annotated[Path, typer.Option("--vocabulary", help="The tags: a vocabulary file.")],
    out: Annotated[Path, typer.Option("--out", help="The file of descriptions to write, a tag a line.")],
    llm: Annotated[
        str | None,
        typer.Option("--llm", metavar="URL", help="A server that speaks OpenAI's chat format, up to /v1."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The language model's name there.", show_default="the only one"),
    ] = None,
    templates: Annotated[
        bool,
        typer.Option(
            "--templates",
            help="Sentences made of names and kinds: for all tags, or with --llm where it gives nothing.",
        ),
    ] = False,
    count: Annotated[int, typer.Option("--count", help="Descriptions wanted for a tag.")] = 50,
    per_query: Annotated[
        int | None,
        typer.Option(
            "--per-query",
            help="Descriptions in one answer; more cost less.",
            show_default="1; --specific: all",
        ),
    ] = None,
    specific: Annotated[
        bool, typer.Option("--specific", help="Ask for different appearances instead of five questions.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="TAG",
            help="This tag, by id, name or synonym; other rows of OUT stay. Repeatable.",
        ),
    ] = None,
    merged: Annotated[
        Path | None, typer.Option("--merge", help="Also write the vocabulary with these descriptions.")
    ] = None,
    pieces: Annotated[
        Path | None,
        typer.Option("--pieces", help="CLIP's merges, to count lengths exactly.", show_default="an estimate"),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="How freely answers differ.")] = 0.99,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other answers.")] = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            help="Where an answer is cut; more for models that think.",
            show_default="by length",
        ),
    ] = None,
    extra: Extra = None,
    key_variable: KeyVariable = None,
    at_once: AtOnce = 8,
    rate: Rate = None,
    timeout: Timeout = 120.0,
    retries: Retries = 5,
    price_prompt: PromptPrice = 0.0,
    price_cached: CachedPrice = None,
    price_answer: AnswerPrice = 0.0,
    price_request: RequestPrice = 0.0,
    currency: Currency = "USD",
    max_cost: MaxCost = None,
    write_batch: Annotated[
        Path | None,
        typer.Option(
            "--write-batch", metavar="FOLDER", help="Write the questions for a batch service, and stop."
        ),
    ] = None,
    read_batch: Annotated[
        list[Path] | None,
        typer.Option("--read-batch", metavar="FILE", help="Results of such a batch. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked; ask nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> int:
    """Describe how each tag looks, for models that find tags by their descriptions.

    Five questions are put about each tag, several times each, to any server that speaks OpenAI's chat format;
    answers that refuse, stray, repeat or run too long are left out and counted. Every reply is kept beside OUT: a
    run that was stopped goes on where it was. --templates needs no language model.
    """
    from taglens.language.chat_kept import Replies
    from taglens.language.describe import Plan, choose, describe_by_templates, describe_tags, project
    from taglens.language.description_rows import read_lines
    from taglens.language.ledger import Ledger, Prices

    _require_places(out, merged)
    before = read_lines(out) if out.exists() else {}
    require_files("--read-batch", read_batch or ())
    asks = llm is not None or read_batch or write_batch is not None or (dry_run and not templates)
    if not asks and not templates:
        raise UsageError(
            "nobody to ask: give --llm URL, such as http://127.0.0.1:8000/v1, or --templates for sentences made of "
            "names and kinds"
        )
    if not asks and dry_run:
        raise UsageError("--templates asks nobody and costs nothing; leave --dry-run out")
    plan = Plan(count, per_query, specific, temperature, seed, max_tokens)
    known = Vocabulary.load(vocabulary)
    chosen = choose(known, only)
    result = _Result(known, out, merged, before if only else {}, quiet)
    if not asks:
        rows = describe_by_templates(chosen, count=count)
        return result.finish(list(rows))
    prices = Prices(
        prompt=price_prompt,
        cached=price_cached,
        completion=price_answer,
        request=price_request,
        currency=currency,
    )
    Ledger(prices, max_cost=max_cost)  # refuses a limit without prices before anything is opened
    limits = _limits(pieces)
    server = Server(llm, model, key_variable, rate, timeout, retries, fields(extra))
    kept_at = out.with_suffix(".replies.jsonl")
    with ExitStack() as stack:
        stack.enter_context(resumable(f"replies are kept in {kept_at}"))
        if dry_run and not kept_at.exists():
            _tell_plan(project(chosen, plan, kept=lambda _: None), chosen, plan, prices)
            return OK
        if not dry_run:
            server = server.named()
        replies = stack.enter_context(Replies(kept_at))
        label = server.label
        if not dry_run:
            _read_batches(read_batch or (), replies, model=server.model or "")
        projected = project(chosen, plan, kept=lambda ask: replies.get(ask.key(label)))
        if dry_run:
            _tell_plan(projected, chosen, plan, prices)
            return OK
        if write_batch is not None:
            asked = (plan.ask(subject, each) for subject in chosen for each in plan.questions())
            return _write_batch(asked, write_batch, replies, server=server)
        line = _Answers(0 if quiet else projected.queries + projected.kept)
        ledger = ledger_for(prices, max_cost, spent=prices.of(projected.spent, queries=projected.kept))
        chat = server.door(replies, ledger, stack, asks=projected.queries > 0)
        try:
            rows = describe_tags(
                chosen, chat, plan, limits=limits, at_once=at_once, templates=templates, told=line.tell
            )
            status = result.finish(list(rows))
        finally:
            line.clear()
            if not quiet:
                tell_account(ledger)
    if not quiet:
        say(f"replies are kept in {kept_at}; the same command asks only what is missing there")
    return status


class _Answers(ProgressLine):
    """The progress line of answers; ``tell`` counts one, or what came instead."""

    def __init__(self, total: int) -> None:
        super().__init__(total, unit="answers")
        self._lost = self._told = self._known = 0

    def tell(self, answer: Reply | ChatError) -> None:
        self._told += 1
        self._lost += isinstance(answer, ChatError)
        self._known += not isinstance(answer, ChatError) and answer.kept
        self.move(self._told, failed=self._lost, free=self._known)


def _require_places(out: Path, merged: Path | None) -> None:
    require_jsonl(out, command="describe")
    require_folder("--out", out)
    if merged is not None:
        require_jsonl(merged, command="describe")
        require_folder("--merge", merged)
        if merged.absolute() == out.absolute():
            raise UsageError(
                "--merge and --out name one file; the vocabulary and its descriptions need one each"
            )


def _limits(pieces: Path | None) -> Limits:
    from taglens.language.description_text import Limits

    if pieces is None:
        return Limits()
    from taglens.language.clip_pieces import ClipPieces

    cut = ClipPieces.load(pieces)
    return Limits(count=lambda text: len(cut.pieces(text)))


def _read_batches(paths: Sequence[Path], replies: Replies, *, model: str) -> None:
    from taglens.language.chat_batch import read_batch

    for path in paths:
        read = read_batch(path, replies, model=model)
        say(f"{path}: {read.replies:,} answers, {read.known:,} known before, {len(read.failed):,} failed")
        for _, why in read.failed[:_NAMED]:
            say(f"{path}: {why}")


def _write_batch(asked: Iterable[Ask], folder: Path, replies: Replies, *, server: Server) -> int:
    from taglens.language.chat_batch import write_batch

    written = write_batch(asked, folder, model=server.model or "", kept=replies, extra=server.extra)
    say(
        f"{folder}: {written.requests:,} questions in {len(written.files):,} files; {written.kept:,} have their "
        "answer. Give the files to the service; then the same command with --read-batch RESULTS"
    )
    return OK


def _tell_plan(projected: Projected, chosen: Sequence[Subject], plan: Plan, prices: Prices) -> None:
    """What a run would do, on standard output."""
    usual, most = projected.usual, projected.most
    lines = [
        f"tags           {projected.tags:,}",
        f"questions      {projected.queries:,} to ask; {projected.kept:,} have their answer",
        f"tokens         about {_tokens(usual)}; at most {_tokens(most)} (questions + answers, by their lengths)",
    ]
    if prices.free:
        lines.append("cost           no prices given (--price-prompt, --price-answer)")
    else:
        about, above = (prices.of(usage, queries=projected.queries) for usage in (usual, most))
        lines.append(f"cost           about {about:,.2f}; at most {above:,.2f} {prices.currency}")
    first = plan.ask(chosen[0], next(plan.questions()))
    lines += ["", "The first question:", first.system, "", first.text]
    typer.echo("\n".join(map(printable, "\n".join(lines).split("\n"))))


def _tokens(usage: Usage) -> str:
    return f"{usage.prompt_tokens:,} + {usage.completion_tokens:,}"


@dataclass(frozen=True, slots=True)
class _Result:
    """Where the rows go.

    Attributes:
        others: id -> line of OUT that stays.
    """

    vocabulary: Vocabulary
    out: Path
    merged: Path | None
    others: dict[str, str]
    quiet: bool

    def finish(self, rows: Sequence[Described]) -> int:
        """Write the files and tell what is in them; exit status 1 where something failed for a tag."""
        from taglens.language.description_rows import merge, write_rows

        write_rows(rows, self.out, others=self.others, order=self.vocabulary.ids)
        if not self.quiet:
            _tell_rows(rows, self.out)
        if self.merged is not None:
            described, own = merge(self.vocabulary, rows)
            described.save(self.merged)
            if not self.quiet:
                kept = f"; {len(own):,} tags keep the descriptions they had" if own else ""
                say(f"{self.merged}: {described.ref} with descriptions{kept}")
        failed = [row for row in rows if row.is_short]
        for row in failed[:_NAMED]:
            say(f"{row.id}: {(row.error or {}).get('message', '')}")
        if len(failed) > _NAMED:
            say(f'and {len(failed) - _NAMED:,} more; see "error" in {self.out}')
        return SOME_FAILED if failed else OK


def _tell_rows(rows: Sequence[Described], out: Path) -> None:
    dropped = Counter[str]()
    for row in rows:
        dropped.update(row.dropped or {})
    for source, words in (("llm", "by a language model"), ("template", "from templates")):
        of = [row for row in rows if row.source == source]
        texts = sum(len(row.descriptions) for row in of)
        if of:
            say(f"{out}: {len(of):,} tags, {texts:,} descriptions {words} ({texts / len(of):.1f} a tag)")
    if dropped:
        said = ", ".join(f"{number:,} {reason}" for reason, number in dropped.most_common())
        say(f"left out of the answers: {said}; shortened: {sum(row.shortened for row in rows):,}")
