"""What an annotation costs beside people doing the same: every input stands in the result.

TagLLM claims a thousandth of the human cost and shows no arithmetic (PAPERS 4.8, L8). Here it is one division, and
what goes into it is told with it: what people take and earn is an **assumption** of whoever asks.
Knows numbers and `ledger.json`. Refuses to know where prices come from.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taglens.collection.annotation_store import LEDGER, RUN
from taglens.errors import DataError, UsageError
from taglens.language.chat import Usage
from taglens.language.ledger import Prices


@dataclass(frozen=True, slots=True)
class People:
    """What people are assumed to take and to earn.

    Attributes:
        seconds: of work a picture, of all that label it together. 220: MS-COCO's authors report, unless memory
            errs, about 20,000 hours for finding which categories 328,000 pictures hold, by eight workers each.
        wage: an hour, with all that an hour of work costs.
    """

    seconds: float = 220.0
    wage: float = 15.0

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("wage", self.wage)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"people's {name} must be above 0, found {value}")

    @property
    def per_picture(self) -> float:
        return self.seconds / 3600 * self.wage


@dataclass(frozen=True, slots=True)
class Took:
    """What an annotation took, of all its starts together.

    Attributes:
        seconds: in which the server was busy with it.
        cost: what its ledger reckoned with the prices of then.
        model: who answered.
        unknown_usage: queries whose tokens the server did not tell; prices of tokens leave them out.
    """

    pictures: int
    labels: int
    queries: int
    usage: Usage
    seconds: float
    cost: float
    currency: str
    model: str
    unknown_usage: int = 0

    @classmethod
    def read(cls, folder: Path) -> Took:
        """From a folder of ``taglens annotate``.

        Raises:
            DataError: it is none, or nothing was annotated.
        """
        try:
            row = json.loads((folder / LEDGER).read_bytes())
            about = json.loads((folder / RUN).read_bytes())
            # Folders from before the server's time was added up over starts have that of the last one.
            busy = row.get("busy_seconds", row["this_start"]["busy_seconds"])
            found = cls(
                pictures=int(row["pictures"]) - int(row["failed"]),
                labels=int(row["labels"]),
                queries=int(row["queries"]),
                usage=Usage(
                    int(row["prompt_tokens"]), int(row["completion_tokens"]), int(row["cached_tokens"])
                ),
                seconds=float(busy),
                cost=float(row["cost"]),
                currency=str(row["currency"]),
                model=str(about["configuration"]["model"]),
                unknown_usage=int(row.get("unknown_usage", 0)),
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder}: cannot read what it took ({error}); name a folder of taglens annotate"
            ) from None
        if found.pictures < 1:
            raise DataError(f"{folder}: no picture was annotated, so that there is nothing to divide by")
        return found


@dataclass(frozen=True, slots=True)
class Beside:
    """The comparison, with all that it was reckoned from.

    Attributes:
        machine, human: money a picture.
        share: machine / human.
    """

    took: Took
    prices: Prices | None
    people: People
    machine: float
    human: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine_per_picture": self.machine,
            "machine_per_label": self.machine * self.took.pictures / self.took.labels
            if self.took.labels
            else None,
            "human_per_picture": self.human,
            "share": self.share,
            "times_cheaper": 1 / self.share if self.share else None,
            "inputs": {
                **asdict(self.took),
                "prices": None if self.prices is None else asdict(self.prices),
                "human_seconds": self.people.seconds,
                "human_wage": self.people.wage,
            },
        }


def beside_people(took: Took, *, prices: Prices | None = None, people: People | None = None) -> Beside:
    """An annotation's cost as a share of what people would cost for the same pictures.

    machine = (tokens x their prices + queries x theirs + busy hours x the hour's) / pictures, or the ledger's own
    cost; human = seconds / 3600 x wage. Both in one currency.

    Args:
        prices: other ones than the ledger's, such as of a server of one's own by the hour; None: as it reckoned.

    Raises:
        UsageError: nothing has a price, or there is one for hours or tokens of which nothing is known.
    """
    people = people or People()
    cost = took.cost if prices is None else prices.of(took.usage, queries=took.queries, seconds=took.seconds)
    if (prices is None and not cost) or (prices is not None and prices.free):
        raise UsageError(
            "the annotation was made without prices: say what the server charges, such as --price-hour for one that "
            "is paid by the hour"
        )
    if prices is not None and prices.hour and took.queries and not took.seconds:
        raise UsageError(
            "the ledger tells no seconds in which the server was asked, so that an hour's price says nothing: it was "
            "written by an earlier release and the run gone on with; give the other prices"
        )
    if prices is not None and not cost and took.unknown_usage:
        raise UsageError(
            f"the server told of {took.unknown_usage:,} queries no tokens, so that their price says nothing; give "
            "the other prices, such as --price-request or --price-hour"
        )
    machine = cost / took.pictures
    return Beside(took, prices, people, machine, people.per_picture, machine / people.per_picture)
