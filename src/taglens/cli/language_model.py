"""What commands that ask a language model share: its options, the server that is meant, and the account at the end.

Knows options and the terminal. Refuses to know what is asked and what becomes of the answers.
"""

from __future__ import annotations

import errno
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.console import say
from taglens.errors import ChatError, UsageError

if TYPE_CHECKING:
    from taglens.language.chat import Ask, Chat, Reply
    from taglens.language.chat_kept import Replies
    from taglens.language.chat_server import ServerChat
    from taglens.language.ledger import Ledger, Prices

# Seconds that answers in flight have after Ctrl-C: they may be paid for.
_GRACE = 1.0

KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key-variable", metavar="NAME", help="The environment variable that holds the server's key."
    ),
]
Rate = Annotated[
    float | None, typer.Option("--rate", help="At most so many requests a minute.", show_default="no limit")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until an answer must be there.")]
Retries = Annotated[int, typer.Option("--retries", min=0, help="Further attempts for a question.")]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", help="Stop before more is spent, all starts together; needs prices."),
]
PromptPrice = Annotated[
    float, typer.Option("--price-prompt", min=0.0, help="For a million tokens of questions.")
]
CachedPrice = Annotated[
    float | None,
    typer.Option(
        "--price-cached",
        help="For a million tokens that the server still had.",
        show_default="as --price-prompt",
    ),
]
AnswerPrice = Annotated[
    float, typer.Option("--price-answer", min=0.0, help="For a million tokens of answers.")
]
RequestPrice = Annotated[float, typer.Option("--price-request", min=0.0, help="For each query.")]
HourPrice = Annotated[
    float,
    typer.Option(
        "--price-hour",
        "--price-per-hour",
        min=0.0,
        help="For an hour in which a query is out, such as of a rented GPU.",
    ),
]
Currency = Annotated[str, typer.Option("--currency", help="Of the prices.")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Questions side by side.")]
Extra = Annotated[
    str | None,
    typer.Option("--extra", metavar="JSON", help='More fields of requests: {"reasoning_effort": "low"}.'),
]


@dataclass(frozen=True, slots=True)
class Server:
    """A language model's server, as options name it.

    Attributes:
        address: None where answers are only read from what is kept; or a file of kept answers, which asks nobody.
        model: its name there; None: the only one that the server has.
        key_variable: the environment variable that holds the key.
        rate: requests a minute at most; None: no limit.
        timeout: seconds until an answer must be there.
        retries: further attempts for a question.
        extra: fields of every request.
        option: the command's option for the model's name, for messages.
    """

    address: str | None
    model: str | None = None
    key_variable: str | None = None
    rate: float | None = None
    timeout: float = 120.0
    retries: int = 5
    extra: Mapping[str, Any] = field(default_factory=dict)
    option: str = "--model"

    def named(self) -> Server:
        """The same with the model's name, for which the server is asked where it was not given.

        Raises:
            UsageError: there is no server to ask, or it has not exactly one model.
            ChatError: it does not say what it has.
        """
        if self.model is not None:
            return self
        if self.address is None or self._is_file:
            raise UsageError(f"{self.option} is needed: whose answers are these?")
        with self._opened(self.address, "unnamed") as chat:
            names = chat.models()
        if len(names) != 1:
            has = ", ".join(names[:10]) + (", …" if len(names) > 10 else "") or "none"
            raise UsageError(f"{self.address} has {len(names)} models; choose one with {self.option}: {has}")
        return replace(self, model=names[0])

    @property
    def label(self) -> str:
        """Under which answers are kept."""
        from taglens.language.chat_wire import model_label

        return model_label(self.model or "", self.extra)

    @contextmanager
    def chat(self, *, check: bool) -> Iterator[Chat]:
        """Whoever answers, until the block ends.

        Args:
            check: whether to ask first if the server is there and has the model.

        Raises:
            UsageError, MissingExtraError: it cannot be asked as it was named.
            ChatError: it cannot be reached, or has no such model.
        """
        server = self.named()
        if server.address is None or server._is_file:
            from taglens.language.chat_kept import ReplayChat, Replies

            with Replies(server.address or "") as replies:
                yield ReplayChat(replies, model=server.label)
            return
        with server._opened(server.address, server.model or "") as chat:
            if check and self.model is not None:
                _check(chat)
            with _interruptible(chat) as stoppable:
                yield stoppable

    def door(self, replies: Replies, ledger: Ledger, stack: ExitStack, *, asks: bool) -> Chat:
        """Whoever answers: the server, counted, with all its replies kept; or, if nothing is asked, these alone.

        Args:
            stack: closes what is opened here.
            asks: whether some question has no kept answer.

        Raises: as `chat`.
        """
        from taglens.language.chat_kept import KeptChat, ReplayChat
        from taglens.language.ledger import CountedChat

        if self.address is None or not asks:
            return KeptChat(ReplayChat({}, model=self.label), replies, on_kept=ledger.saw_kept)
        asked = stack.enter_context(self.chat(check=True))
        return KeptChat(CountedChat(asked, ledger), replies, on_kept=ledger.saw_kept)

    @property
    def _is_file(self) -> bool:
        return self.address is not None and "://" not in self.address and Path(self.address).is_file()

    def _opened(self, address: str, model: str) -> ServerChat:
        from taglens.language.chat_pace import Limits, Patience
        from taglens.language.chat_server import ServerChat

        return ServerChat(
            address,
            model,
            key_variable=self.key_variable,
            patience=Patience(read=self.timeout, retries=self.retries),
            limits=Limits(requests_per_minute=self.rate),
            extra=self.extra,
        )


class _Interruptible:
    """A server's chat that Ctrl-C ends: first waits and further attempts, soon all connections.

    Raising KeyboardInterrupt wherever the main thread happens to be can leave a lock held for which the threads with
    questions wait for ever. So while questions are out, they raise it themselves, as soon as they are cut.
    """

    def __init__(self, chat: ServerChat) -> None:
        self._chat = chat
        self._lock = threading.Lock()
        self._out = 0
        self._stopped = False

    @property
    def model(self) -> str:
        return self._chat.model

    def __call__(self, ask: Ask) -> Reply:
        """The answer. Raises KeyboardInterrupt in the place of ChatError once it is to stop."""
        with self._lock:
            self._out += 1
        try:
            return self._chat(ask)
        except ChatError:
            if self._stopped:
                raise KeyboardInterrupt from None
            raise
        finally:
            with self._lock:
                self._out -= 1

    def interrupt(self, *_: object) -> None:
        """Handle a first Ctrl-C; a second one ends the program, whatever is still unanswered."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        out = self._out
        if out:
            say(f"stopping: answers that come within {_GRACE:g} s are still kept; Ctrl-C again stops at once")
        self._stopped = True
        # In a thread of its own: the lock it takes may be held by what was interrupted here.
        threading.Thread(target=self._chat.cut, kwargs={"after": _GRACE}, daemon=True).start()
        if not out:
            raise KeyboardInterrupt


@contextmanager
def _interruptible(chat: ServerChat) -> Iterator[Chat]:
    """The chat, with Ctrl-C in its hands until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield chat
        return
    stoppable = _Interruptible(chat)
    before = signal.signal(signal.SIGINT, stoppable.interrupt)
    try:
        yield stoppable
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Work that the same command goes on with: says so where it is interrupted, or where the disk is full.

    Args:
        kept: what stands on the disk then, as a sentence.

    Raises:
        UsageError: the disk is full.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"{kept}: the same command goes on")
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        of = f" ({error.filename})" if error.filename else ""
        raise UsageError(
            f"there is no room on the disk{of}; {kept}: make room, and the same command goes on"
        ) from None


def _check(chat: ServerChat) -> None:
    try:
        chat.check()
    except ChatError as error:
        # Some servers answer questions and list no models: only one that is not there ends it here.
        if error.status is None:
            raise


def ledger_for(prices: Prices, max_cost: float | None, *, spent: float) -> Ledger:
    """A ledger that stops where all starts together would cost more than ``max_cost``.

    Raises:
        UsageError: a limit without prices.
    """
    from taglens.language.ledger import Ledger

    return Ledger(prices, max_cost=None if max_cost is None else max(0.0, max_cost - spent))


def fields(text: str | None) -> dict[str, Any]:
    """The value of --extra. Raises UsageError for what is no JSON object."""
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(
            f'--extra {text!r}: expected a JSON object of fields, such as {{"reasoning_effort": "low"}}'
        )
    return value


def tell_account(ledger: Ledger) -> None:
    """What was asked and what it took, in one line."""
    totals, prices = ledger.totals, ledger.prices
    said = [f"{totals.queries:,} questions asked, {totals.kept:,} answered by what was kept"]
    if totals.failed:
        said.append(f"{totals.failed:,} without an answer")
    if totals.usage.known:
        said.append(f"{totals.usage.prompt_tokens:,} + {totals.usage.completion_tokens:,} tokens")
    if totals.unknown_usage:
        said.append(f"tokens of {totals.unknown_usage:,} unknown")
    if not prices.free:
        said.append(f"{totals.cost:,.4f} {prices.currency}")
    say("; ".join(said))
