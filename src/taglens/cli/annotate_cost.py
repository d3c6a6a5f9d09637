"""``taglens annotate cost``: what an annotation costs beside people, with every number that goes into it.

Thin: calls `taglens.collection.annotation_people` and prints it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.console import OK, printable, say
from taglens.cli.language_model import (
    AnswerPrice,
    CachedPrice,
    HourPrice,
    PromptPrice,
    RequestPrice,
)
from taglens.errors import UsageError

if TYPE_CHECKING:
    from taglens.collection.annotation_people import Beside


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of taglens annotate.")],
    *,
    human_seconds: Annotated[
        float,
        typer.Option("--human-seconds", help="Assumed: people's work a picture, of all who label it."),
    ] = 220.0,
    human_wage: Annotated[
        float, typer.Option("--human-wage", help="Assumed: what an hour of their work costs.")
    ] = 15.0,
    price_hour: HourPrice = 0.0,
    price_prompt: PromptPrice = 0.0,
    price_cached: CachedPrice = None,
    price_answer: AnswerPrice = 0.0,
    price_request: RequestPrice = 0.0,
    currency: Annotated[
        str | None, typer.Option("--currency", help="Of prices and wage.", show_default="as in DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object on standard output.")] = False,
) -> int:
    """Divide what an annotation cost by what people would have cost, and print all that was assumed.

    Without prices those that it was made with count.
    """
    from taglens.collection.annotation_people import People, Took, beside_people
    from taglens.language.ledger import Prices

    took = Took.read(folder)
    prices = Prices(
        prompt=price_prompt,
        cached=price_cached,
        completion=price_answer,
        request=price_request,
        hour=price_hour,
        currency=currency or took.currency,
    )
    if prices.free and currency not in (None, took.currency):
        raise UsageError(
            f"--currency {currency}: {folder} was charged in {took.currency}, and nothing here knows the rate; give "
            "the prices and the wage in one currency"
        )
    found = beside_people(
        took, prices=None if prices.free else prices, people=People(human_seconds, human_wage)
    )
    if as_json:
        typer.echo(json.dumps({"out": str(folder), **found.to_dict()}, ensure_ascii=False))
    else:
        for line in _lines(found, currency or took.currency):
            typer.echo(printable(line))
    if found.prices is not None and took.unknown_usage:
        say(f"note: of {took.unknown_usage:,} queries no tokens are known, and their price is not in this")
    if took.model.startswith("simulated"):
        say(f"note: {took.model} is a simulation: its seconds and tokens are no model's")
    return OK


def _lines(found: Beside, currency: str) -> Iterator[str]:
    took, people = found.took, found.people
    yield (
        f"{took.model}: {took.pictures:,} pictures, {took.labels:,} labels, {took.queries:,} queries, "
        f"{took.usage.prompt_tokens:,} + {took.usage.completion_tokens:,} tokens, {took.seconds:,.1f} s busy"
    )
    if found.prices is None:
        yield f"charged {took.cost:,.6f} {currency}, as its ledger reckoned"
    else:
        p = found.prices
        cached = "" if p.cached is None else f", {p.cached:g} of cached ones"
        yield (
            f"prices: {p.prompt:g} a million tokens of questions{cached}, {p.completion:g} of answers, "
            f"{p.request:g} a query, {p.hour:g} an hour"
        )
    yield f"machine: {found.machine:.6g} {currency} a picture"
    yield (
        f"people: {people.seconds:g} s a picture / 3600 x {people.wage:g} {currency} an hour (assumed) = "
        f"{found.human:.6g} {currency} a picture"
    )
    yield f"machine / people: {found.share:.3g}" + (
        f", one part in {1 / found.share:,.0f}" if found.share else ""
    )
