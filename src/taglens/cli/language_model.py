"""What commands that ask a language model share: its options, the server that is meant, and the account at the end.

Knows options and the terminal. Refuses to know what is asked and what becomes of the answers.
"""

from __future__ import annotations

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
    from taglens.language.chat import Chat
    from taglens.language.chat_kept import Replies
    from taglens.language.chat_server import ServerChat
    from taglens.language.ledger import Ledger, Prices

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
Currency = Annotated[str, typer.Option("--currency", help="Of the prices.")]
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
            with _interruptible(chat):
                yield chat

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


@contextmanager
def _interruptible(chat: ServerChat) -> Iterator[None]:
    """Ctrl-C ends waits and further attempts; a second one ends the program, whatever is still unanswered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        say("stopping once the questions in flight are answered or time out; Ctrl-C again stops at once")
        # In a thread of its own: the lock it takes may be held by what was interrupted here.
        threading.Thread(target=chat.close, daemon=True).start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
