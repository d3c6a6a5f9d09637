"""``taglens annotate concepts``: what each tag means, as a file for a person to edit and for questions to use.

Thin: asks with `taglens.language.concepts` where a server is named, lays a person's files over it, and tells what
came of it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.annotate_plan import askable_tags, concepts_from
from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, TOO_MANY_FAILED, ProgressLine, fail, say
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
from taglens.cli.options import Quiet
from taglens.errors import BudgetError

if TYPE_CHECKING:
    from taglens.language.annotation_prompts import Concept
    from taglens.language.chat import Chat
    from taglens.vocabulary import Vocabulary

_NAMED = 10


def run(
    *,
    vocabulary: Annotated[Path, typer.Option("--vocabulary", help="The vocabulary whose tags are meant.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, a tag a line; it can be edited.")],
    llm: Annotated[
        str | None,
        typer.Option(
            "--llm", metavar="URL", help="A server to ask; without one the vocabulary speaks for itself."
        ),
    ] = None,
    llm_model: Annotated[
        str | None, typer.Option("--llm-model", help="The model to ask.", show_default="the only one there")
    ] = None,
    concepts: Annotated[
        list[Path] | None,
        typer.Option("--concepts", metavar="FILE", help="A person's lines, which win; may be repeated."),
    ] = None,
    tries: Annotated[int, typer.Option("--tries", min=1, help="For an answer that cannot be used.")] = 2,
    at_once: AtOnce = 4,
    key_variable: KeyVariable = None,
    rate: Rate = None,
    timeout: Timeout = 120.0,
    retries: Retries = 5,
    price_prompt: PromptPrice = 0.0,
    price_cached: CachedPrice = None,
    price_answer: AnswerPrice = 0.0,
    price_request: RequestPrice = 0.0,
    currency: Currency = "USD",
    max_cost: MaxCost = None,
    extra: Extra = None,
    quiet: Quiet = False,
) -> int:
    """Prepare what questions say of each tag: what it is a kind of, what only looks like it, phrases for its name.

    Each line names its source. Lines of OUT with the source "user" stay as they are when the command is run again:
    write that into a line that you have changed. Answers are kept beside OUT.
    """
    from taglens.collection.annotation_costs import cost_of
    from taglens.collection.annotation_store import paid_in
    from taglens.language.concepts import overridden, read_concepts, write_concepts
    from taglens.language.ledger import Prices

    tags = askable_tags(vocabulary)
    require_files("--concepts", concepts or ())
    require_folder("--out", out)
    by_hand = read_concepts(out, tags) if out.is_file() else {}
    by_hand = {id: row for id, row in by_hand.items() if row.get("source") == "user"}
    prices = Prices(
        prompt=price_prompt,
        cached=price_cached,
        completion=price_answer,
        request=price_request,
        currency=currency,
    )
    queries = out.with_name(out.name + ".queries.jsonl")
    ledger = ledger_for(prices, max_cost, spent=cost_of(paid_in(queries), prices))
    found = concepts_from(tags, ())
    troubled = 0
    if llm is not None:
        from taglens.language.chat_kept import KeptChat
        from taglens.language.ledger import CountedChat

        where = Server(
            llm, llm_model, key_variable, rate, timeout, retries, fields(extra), option="--llm-model"
        )
        with ExitStack() as stack:
            stack.enter_context(resumable(f"answers are kept in {queries}"))
            chat = stack.enter_context(where.chat(check=True))
            kept = stack.enter_context(
                KeptChat(
                    CountedChat(chat, ledger),
                    queries,
                    on_kept=ledger.saw_kept,
                )
            )
            wanted = [entry.id for entry in tags if not entry.hidden and entry.id not in by_hand]
            try:
                asked, troubled = _asked(kept, tags, wanted, tries, at_once, quiet=quiet)
            except BudgetError as error:
                fail(f"{error}; {out} is not written")
                return TOO_MANY_FAILED
            found |= asked
        if not quiet:
            tell_account(ledger)
    found = overridden(found, by_hand)
    for path in concepts or ():
        found = overridden(found, read_concepts(path, tags), source="user")
    with resumable(f"answers are kept in {queries}" if llm is not None else "nothing was changed"):
        write_concepts(out, tags, found)
    if not quiet:
        counts = Counter(concept.source for concept in found.values() if concept)
        say(
            f"{out}: {len(found):,} tags, of which {sum(counts.values()):,} say more than their name"
            + "".join(f", {count:,} by {source}" for source, count in sorted(counts.items()))
        )
    return SOME_FAILED if troubled else OK


def _asked(
    chat: Chat, tags: Vocabulary, wanted: list[str], tries: int, at_once: int, *, quiet: bool
) -> tuple[dict[str, Concept], int]:
    """The model's concepts, and of how many tags there is nothing by the model."""
    from taglens.language.concepts import from_llm

    found = {}
    left = partly = 0
    line = ProgressLine(len(wanted), unit="tags")
    try:
        for asked in from_llm(chat, tags, ids=wanted, tries=tries, at_once=at_once):
            found[asked.id] = asked.concept
            left += asked.concept.source != "llm"
            partly += bool(asked.problems)
            if asked.problems and partly <= _NAMED:
                line.clear()
                say(f"{asked.id}: {'; '.join(asked.problems)}")
            if not quiet:
                line.advance(failed=asked.concept.source != "llm")
    finally:
        line.clear()
    if partly > _NAMED:
        say(f"so of {partly - _NAMED:,} more tags; every answer stands beside the file")
    return found, left
