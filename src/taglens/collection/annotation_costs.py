"""What an annotation will take, before anybody is asked, and what it took: ``ledger.json``.

Knows pictures that are still to be done, averages of those that are, rough sizes where there are none yet, and
prices. Refuses to know how pictures are asked about.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from taglens.collection.annotating import Job, Progress, encoded, is_done
from taglens.collection.annotation_store import LEDGER, AnnotationStore, Paid
from taglens.collection.items import Item
from taglens.errors import ImageError
from taglens.images import MAX_FILE_BYTES
from taglens.language.annotate import FromTagger, OpenEnded, Options
from taglens.language.annotation_prompts import SYSTEM
from taglens.language.chat import Usage
from taglens.language.ledger import Ledger, Prices

_LEDGER_SECONDS = 5.0
# Characters of English a token, pixels a token of today's models, tokens of short answers.
_CHARACTERS, _PIXELS, _ANSWER, _LIST_ANSWER = 4, 1024, 6, 30
_SIZED = 8  # pictures that are made ready for an estimate
_SAMPLE = 16  # pictures that a tagger scores for an estimate
_NAMED = 6  # of so many tags that a tagger thinks possible, one is named: models that see over-list
_FEWEST = 6.0  # candidates that lists leave in a picture, at least
# Averages are taken from so many queries and pictures on.
_QUERIES, _PICTURES = 50, 10


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is still to be asked.

    Attributes:
        pictures: that have no row yet; done: that have.
        least, expected, most: queries for them; equal where the strategy leaves no choice.
        usage: tokens of the expected queries, estimated.
        cost: of these.
        basis: in words, where the estimate comes from.
    """

    pictures: int
    done: int
    least: int
    expected: int
    most: int
    usage: Usage
    cost: float
    basis: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "done": self.done,
            "queries": self.expected,
            "queries_least": self.least,
            "queries_most": self.most,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cost": self.cost,
            "basis": self.basis,
        }


def outlook(job: Job, items: Iterable[Item], store: AnnotationStore, *, prices: Prices) -> Outlook:
    """Look ahead without asking anybody: counts pictures, scores a few of them where a tagger proposes."""
    known = store.known()
    done = 0
    left = 0
    sample: list[Item] = []
    for item in items:
        if item.skipped is not None or item.failure is not None:
            continue
        if is_done(item, known):
            done += 1
        else:
            left += 1
            if len(sample) < _SAMPLE:
                sample.append(item)
    strategy = job.strategy
    least, expected, most, basis = _candidates(job, sample)
    paid = store.paid()
    if paid.queries >= _QUERIES and len(known) >= _PICTURES:
        a_picture = paid.queries / len(known)
        basis = f"the {len(known):,} pictures done"
    else:
        a_picture = strategy.questions(expected)
    queries = round(left * a_picture)
    known_usage = paid.queries - paid.unknown_usage
    if known_usage >= _QUERIES:
        each = (paid.usage.prompt_tokens / known_usage, paid.usage.completion_tokens / known_usage)
    else:
        each = _tokens(job, a_picture, sample[:_SIZED])
    usage = Usage(round(queries * each[0]), round(queries * each[1]))
    busy = told_busy(store) / paid.queries if paid.queries >= _QUERIES else 0.0
    if prices.hour and not busy:
        basis += "; how long the server takes is not known yet, and not in the cost"
    return Outlook(
        pictures=left,
        done=done,
        least=round(left * strategy.questions(least)),
        expected=queries,
        most=round(left * strategy.questions(most)),
        usage=usage,
        cost=prices.of(usage, queries=queries, seconds=queries * busy),
        basis=basis,
    )


def _candidates(job: Job, sample: Iterable[Item]) -> tuple[float, float, float, str]:
    """Candidates a picture: at least, expected, at most, and why."""
    strategy, tags = job.strategy, len(job.vocabulary)
    most = tags if strategy.most_candidates is None else min(tags, strategy.most_candidates)
    propose = strategy.propose
    if isinstance(propose, FromTagger) and job.scores is not None:
        found = []
        for item in sample:
            try:
                scores = job.scores(item.where.read(MAX_FILE_BYTES))
            except ImageError:
                continue
            asked = len(propose.band.split(scores)[1])
            lists = propose.lists(asked)
            found.append(lists + min(asked, max(_FEWEST, asked / _NAMED)) if lists else asked)
        mean = sum(found) / len(found) if found else 0.0
        most = propose.lists(tags) + most
        return 0, min(mean, most), most, f"the tagger's scores of {len(found)} pictures"
    if isinstance(propose, Options):
        # The paper's own figures: a list of 80 gives 4.2 candidates a picture, one of 251 gives 13.6. Short lists
        # give more for each of their names.
        return 0, min(most, max(_FEWEST, tags / 18)), most, "one candidate for 18 tags, at least 6"
    if isinstance(propose, OpenEnded):
        return 0, min(most, 5.0), most, "five candidates a picture"
    return tags, tags, tags, "every tag is asked for"


def _tokens(job: Job, a_picture: float, sample: Sequence[Item]) -> tuple[float, float]:
    """Tokens of a question and of an answer, on average, before anything was measured."""
    picture = _picture_pixels(job, sample) / _PIXELS
    system = len(SYSTEM) / _CHARACTERS
    first = job.strategy.propose.questions()
    settle = job.strategy.settle
    sizes = len(job.strategy.propose.sample()) / _CHARACTERS * first
    answers = float(_LIST_ANSWER * first)
    if settle is not None and a_picture > first:
        sizes += len(settle.question(len(job.vocabulary) // 2)) / _CHARACTERS * (a_picture - first)
        answers += _ANSWER * (a_picture - first)
    each = max(a_picture, 1e-9)
    return picture + system + sizes / each, answers / each


def _picture_pixels(job: Job, sample: Sequence[Item]) -> float:
    """Pixels of a picture as it is sent: the mean of a few, or of one of common proportions."""
    import io

    from PIL import Image

    sizes = []
    for item in sample:
        try:
            content = item.where.read(MAX_FILE_BYTES)
            picture = encoded(content, side=job.side, max_pixels=job.max_pixels, name=item.source)
        except ImageError:
            continue
        with Image.open(io.BytesIO(picture.data)) as image:
            sizes.append(image.width * image.height)
    return sum(sizes) / len(sizes) if sizes else job.side * job.side * 0.75


def ledger_row(
    ledger: Ledger,
    progress: Progress,
    *,
    earlier: Paid,
    spent: float,
    finished: bool,
    seconds: float,
    busy: float = 0.0,
) -> dict[str, Any]:
    """What stands in ledger.json: of all starts together, and of this one.

    Args:
        earlier: what was paid for before this start.
        spent: money that went into it; busy: seconds in which at least one query was out then.
        seconds: since it began.
    """
    prices, totals = ledger.prices, ledger.totals
    queries, usage = earlier.queries + totals.queries, earlier.usage + totals.usage
    cost = spent + totals.cost
    new = progress.pictures - progress.kept
    return {
        "pictures": progress.pictures,
        "kept_pictures": progress.kept,
        "failed": progress.failed,
        "labels": progress.labels,
        "finished": finished,
        "queries": queries,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "unknown_usage": earlier.unknown_usage + totals.unknown_usage,
        "query_seconds": round(earlier.seconds + totals.seconds, 3),
        "busy_seconds": round(busy + totals.busy_seconds, 3),
        "cost": cost,
        "currency": prices.currency,
        "queries_per_picture": _each(queries, progress.pictures),
        "seconds_per_picture": _each(earlier.seconds + totals.seconds, progress.pictures),
        "cost_per_picture": _each(cost, progress.pictures),
        "cost_per_label": _each(cost, progress.labels),
        "this_start": {
            **ledger.to_dict(),
            "pictures": new,
            "wall_seconds": round(seconds, 3),
            "pictures_per_second": _each(new, seconds),
            # Of the pictures of this start alone: the rows hold those of all.
            "unsettled": progress.unsettled,
            "off_list": progress.off_list,
            "malformed": progress.malformed,
            "refused": progress.refused,
        },
    }


def told_busy(store: AnnotationStore) -> float:
    """The seconds with a query out that ledger.json tells of; 0 where it tells of none."""
    try:
        row = json.loads((store.folder / LEDGER).read_bytes())
        # Files from before it was added up over starts have that of the last one.
        return float(row["busy_seconds"] if "busy_seconds" in row else row["this_start"]["busy_seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def cost_of(paid: Paid, prices: Prices) -> float:
    """What answers cost at these prices; those whose tokens nobody counted cost no more than their request."""
    return prices.of(paid.usage, queries=paid.queries)


def _each(amount: float, of: float) -> float | None:
    return amount / of if of else None


class LedgerFile:
    """Brings ledger.json up to date now and then, and at the end.

    Args:
        earlier: what was paid for before this start.
        spent: money that went into it; None: as its tokens say.
    """

    def __init__(
        self,
        store: AnnotationStore,
        ledger: Ledger,
        *,
        earlier: Paid,
        spent: float | None = None,
        every: float = _LEDGER_SECONDS,
    ) -> None:
        self._store, self._ledger, self._earlier, self._every = store, ledger, earlier, every
        self._spent = cost_of(earlier, ledger.prices) if spent is None else spent
        self._busy = told_busy(store)
        self._begun = self._written = time.monotonic()

    def watch(self, progress: Progress) -> None:
        """After every picture."""
        if time.monotonic() - self._written >= self._every:
            self.write(progress, finished=False)

    def write(self, progress: Progress, *, finished: bool) -> dict[str, Any]:
        """Bring it up to date now, and return what it holds."""
        row = ledger_row(
            self._ledger,
            progress,
            earlier=self._earlier,
            spent=self._spent,
            busy=self._busy,
            finished=finished,
            seconds=time.monotonic() - self._begun,
        )
        self._store.write_ledger(row)
        self._written = time.monotonic()
        return row
