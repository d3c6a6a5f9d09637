"""What questions to a language model took: how many, how long, how many tokens, how much money; and what more will.

Knows counts, prices and a limit, and is shared by the threads that ask. Refuses to know who answers and where replies
are kept: `CountedChat` stands between a `Chat` and whoever asks it.

A server that does not say how many tokens a reply took leaves them unknown: such a query is counted in
`unknown_usage`, adds no tokens, stays out of the averages, and is charged what was set aside for it before it was
asked (an estimate from above); `cost_estimated` says how much of the cost is of that kind.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from taglens.errors import BudgetError, ChatError, UsageError
from taglens.language.chat import PICTURE_TOKENS, Ask, Chat, Reply, Usage, prompt_tokens_at_most


@dataclass(frozen=True, slots=True)
class Prices:
    """What a server charges; every sum adds to the others.

    Args:
        prompt: for a million tokens of questions.
        completion: for a million tokens of answers.
        cached: for a million tokens of questions that the server still had; None: as `prompt`.
        request: for each query.
        hour: for an hour in which at least one query is out, such as of a rented GPU.
        currency: in which all this is.

    Raises:
        UsageError: for a price that is negative or no number.
    """

    prompt: float = 0.0
    completion: float = 0.0
    cached: float | None = None
    request: float = 0.0
    hour: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached", "request", "hour"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price >= 0):
                raise UsageError(f"a price is a number from 0 on, got {name}={price}")

    @property
    def free(self) -> bool:
        return not (self.prompt or self.completion or self.cached or self.request or self.hour)

    def of(self, usage: Usage, *, queries: float = 1, seconds: float = 0.0) -> float:
        """The money for `queries` queries that took `usage` together, and for `seconds` of the server's time."""
        cached = self.prompt if self.cached is None else self.cached
        # Sums of whole-token prices are taken before the division, so that they do not depend on an order.
        tokens = (
            (usage.prompt_tokens - usage.cached_tokens) * self.prompt
            + usage.cached_tokens * cached
            + usage.completion_tokens * self.completion
        )
        return tokens / 1e6 + queries * self.request + seconds / 3600 * self.hour


@dataclass(frozen=True, slots=True)
class Projection:
    """What a number of queries would take.

    Args:
        queries: how many.
        usage: their tokens together.
        seconds: of the server's time, as busy as it was so far.
        cost: in `currency`.
        measured: how many queries the averages come from; 0 for given estimates.
    """

    queries: int
    usage: Usage
    seconds: float
    cost: float
    currency: str
    measured: int

    def __str__(self) -> str:
        source = f"from {self.measured:,} measured" if self.measured else "from the estimates given"
        return (
            f"{self.queries:,} queries: {self.usage.prompt_tokens:,} + {self.usage.completion_tokens:,} tokens, "
            f"{self.seconds / 3600:,.2f} h, {self.cost:,.4f} {self.currency} ({source})"
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Where a ledger stands.

    Args:
        queries: that the server answered.
        failed: that finally had no answer; what the server charges for these is not known and not in `cost`.
        retries: further attempts, those of failed queries included.
        kept: answers that were there already; they count nowhere else but in `kept_usage`.
        refused, cut: how many of `queries` were that.
        usage: tokens of `queries`.
        unknown_usage: how many of `queries` came without a count of tokens.
        seconds: of the queries, added up.
        busy_seconds: in which at least one query was out.
        cost: of all this, `cost_estimated` included.
        cost_estimated: for the queries of unknown usage.
        kept_usage: what the kept answers took when they were asked.
    """

    queries: int = 0
    failed: int = 0
    retries: int = 0
    kept: int = 0
    refused: int = 0
    cut: int = 0
    usage: Usage = field(default_factory=Usage)
    unknown_usage: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    cost: float = 0.0
    cost_estimated: float = 0.0
    kept_usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, eq=False)
class _SetAside:
    """Money held for one query that is out; equal only to itself."""

    by_length: int  # prompt tokens as they were reckoned before anything was learned from replies
    estimate: Usage
    cost: float


class Ledger:
    """Counts what is asked, and stops before it costs too much.

    Args:
        prices: what the server charges.
        max_cost: the most that may be spent, in the currency of `prices`; None for no limit.
        picture_tokens: how many tokens a picture takes at most, until replies show more.
        clock: seconds that only ever rise.

    Raises:
        UsageError: for a limit that is no number from 0 on, and for one without any price, which could never end
            anything.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        max_cost: float | None = None,
        picture_tokens: int = PICTURE_TOKENS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prices = prices or Prices()
        if max_cost is not None:
            if not (math.isfinite(max_cost) and max_cost >= 0):
                raise UsageError(f"a limit of cost is a number from 0 on, got {max_cost}")
            if self.prices.free:
                raise UsageError(
                    f"a limit of cost ({max_cost}) needs prices to reckon with; give what the server charges"
                )
        if picture_tokens < 0:
            raise UsageError(f"a picture takes a number of tokens from 0 on, got {picture_tokens}")
        self.max_cost = max_cost
        self._picture_tokens = picture_tokens
        self._clock = clock
        self._count = Totals()
        self._out: set[_SetAside] = set()
        self._busy = 0.0
        self._busy_since = 0.0
        # The largest prompt seen, over what was estimated for it: estimates follow what a server really counts.
        self._prompt_factor = 1.0
        self._settled = threading.Condition()

    def begin(self, ask: Ask) -> _SetAside:
        """Set aside what `ask` may cost, before it is asked; `end` or `abandon` gives it back.

        Where there would be enough money once the queries that are out have come back below their estimates, this
        waits for them.

        Raises:
            BudgetError: when the limit would be passed.
        """
        with self._settled:
            while True:
                item = self._estimated(ask)
                if self.max_cost is None:
                    break
                spent, held = self._spent(), sum(other.cost for other in self._out)
                most = self.max_cost * (1 + 1e-9)  # three times 0.1 are more than 0.3 in binary fractions
                if spent + held + item.cost <= most:
                    break
                if not self._out or spent + item.cost > most:
                    raise BudgetError(
                        f"the next query may cost {item.cost:.6f} {self.prices.currency}, and {spent:.6f} of at most "
                        f"{self.max_cost:.6f} are spent: raise the limit to go on; answers that are kept are not "
                        "asked again"
                    )
                self._settled.wait()
            if not self._out:
                self._busy_since = self._clock()
            self._out.add(item)
        return item

    def end(self, item: _SetAside, reply: Reply) -> None:
        """Count the reply for which `item` was set aside."""
        with self._settled:
            self._give_back(item)
            if reply.kept:
                self._count_kept(reply)
                return
            known, count = reply.usage.known, self._count
            # What a query costs by itself and by the hour is known without its tokens.
            estimated = 0.0 if known else self.prices.of(item.estimate, queries=0)
            self._count = replace(
                count,
                queries=count.queries + 1,
                retries=count.retries + reply.retries,
                refused=count.refused + reply.refused,
                cut=count.cut + reply.cut,
                seconds=count.seconds + reply.seconds,
                usage=count.usage + reply.usage if known else count.usage,
                unknown_usage=count.unknown_usage + (not known),
                cost_estimated=count.cost_estimated + estimated,
            )
            self._prompt_factor = max(self._prompt_factor, reply.usage.prompt_tokens / item.by_length)

    def abandon(self, item: _SetAside, error: ChatError | None = None) -> None:
        """Count a query that finally had no answer; without an `error` it was not asked at all."""
        with self._settled:
            self._give_back(item)
            if error is not None:
                count = self._count
                self._count = replace(count, failed=count.failed + 1, retries=count.retries + error.retries)

    def saw_kept(self, reply: Reply) -> None:
        """Count an answer that was there already."""
        with self._settled:
            self._count_kept(reply)

    @property
    def totals(self) -> Totals:
        """Where it stands now."""
        with self._settled:
            return replace(self._count, busy_seconds=self._busy_seconds(), cost=self._spent())

    def projected(
        self, queries: int, *, usage: Usage | None = None, seconds: float | None = None
    ) -> Projection:
        """What `queries` queries would take altogether, those already counted included if they are meant.

        Args:
            usage: tokens of one query; None: the average of the queries whose usage is known.
            seconds: of the server's time for one query, with as many side by side as there will be; None: the
                average so far, or 0 with a given `usage` and nothing counted.

        Raises:
            UsageError: for a negative number, and where there is neither an average nor an estimate.
        """
        if queries < 0:
            raise UsageError(f"a number of queries is from 0 on, got {queries}")
        totals = self.totals
        known = totals.queries - totals.unknown_usage
        if usage is None and not known:
            raise UsageError(
                "nothing to project from: no query with a known usage was counted; ask a few questions first, or "
                "give the tokens of one (usage=Usage(...))"
            )
        if seconds is None:
            seconds = totals.busy_seconds / totals.queries if totals.queries else 0.0
        whole = _times(totals.usage, queries / known) if usage is None else _times(usage, queries)
        return Projection(
            queries=queries,
            usage=whole,
            seconds=seconds * queries,
            cost=self.prices.of(whole, queries=queries, seconds=seconds * queries),
            currency=self.prices.currency,
            measured=known if usage is None else 0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything counted, the prices and the limit, as JSON has it."""
        return {**asdict(self.totals), "prices": asdict(self.prices), "max_cost": self.max_cost}

    def table(self) -> str:
        """The counts for people, a line each."""
        totals, currency = self.totals, self.prices.currency
        rows = [
            ("queries", f"{totals.queries:,}"),
            ("kept answers", f"{totals.kept:,}"),
            ("refused", f"{totals.refused:,}"),
            ("cut short", f"{totals.cut:,}"),
            ("failed", f"{totals.failed:,}"),
            ("retries", f"{totals.retries:,}"),
            ("prompt tokens", f"{totals.usage.prompt_tokens:,}"),
            ("of these cached", f"{totals.usage.cached_tokens:,}"),
            ("answer tokens", f"{totals.usage.completion_tokens:,}"),
            ("usage unknown", f"{totals.unknown_usage:,}"),
            ("seconds", f"{totals.seconds:,.1f}"),
            ("busy seconds", f"{totals.busy_seconds:,.1f}"),
            ("cost", "no prices given" if self.prices.free else f"{totals.cost:,.4f} {currency}"),
        ]
        if totals.cost_estimated:
            rows.append(("of it estimated", f"{totals.cost_estimated:,.4f} {currency}"))
        if self.max_cost is not None:
            rows.append(("limit", f"{self.max_cost:,.4f} {currency}"))
        return "\n".join(f"{name:<16}{value:>20}" for name, value in rows)

    def _estimated(self, ask: Ask) -> _SetAside:
        prompt = prompt_tokens_at_most(ask, picture_tokens=self._picture_tokens)
        estimate = Usage(math.ceil(prompt * self._prompt_factor), ask.max_tokens)
        seconds = (
            self._busy_seconds() / self._count.queries if self.prices.hour and self._count.queries else 0.0
        )
        return _SetAside(prompt, estimate, self.prices.of(estimate, seconds=seconds))

    def _spent(self) -> float:
        count = self._count
        counted = self.prices.of(count.usage, queries=count.queries, seconds=self._busy_seconds())
        return counted + count.cost_estimated

    def _busy_seconds(self) -> float:
        return self._busy + (self._clock() - self._busy_since if self._out else 0.0)

    def _give_back(self, item: _SetAside) -> None:
        if item not in self._out:
            raise UsageError("this query was ended before; begin each one anew")
        self._busy = self._busy_seconds()
        self._busy_since = self._clock()
        self._out.remove(item)
        self._settled.notify_all()

    def _count_kept(self, reply: Reply) -> None:
        count = self._count
        self._count = replace(count, kept=count.kept + 1, kept_usage=count.kept_usage + reply.usage)


def _times(usage: Usage, factor: float) -> Usage:
    return Usage(
        round(usage.prompt_tokens * factor),
        round(usage.completion_tokens * factor),
        round(usage.cached_tokens * factor),
    )


class CountedChat:
    """A `Chat` whose questions a ledger counts, and stops when there is no money for them.

    It belongs around the server and inside of what keeps answers, ``KeptChat(CountedChat(server, ledger), file,
    on_kept=ledger.saw_kept)``: answers that are kept then need no money.
    """

    def __init__(self, chat: Chat, ledger: Ledger) -> None:
        self._chat = chat
        self._ledger = ledger

    @property
    def model(self) -> str:
        return self._chat.model

    def __call__(self, ask: Ask) -> Reply:
        """The answer.

        Raises:
            ChatError: when there finally is none.
            BudgetError: when there is no money for the question, which is not asked then.
        """
        item = self._ledger.begin(ask)
        try:
            reply = self._chat(ask)
        except BaseException as error:
            self._ledger.abandon(item, error if isinstance(error, ChatError) else None)
            raise
        self._ledger.end(item, reply)
        return reply
