"""The one door to any language model: a question, a reply, and many questions at once.

Knows what decides an answer (and so the key under which it is kept), and how questions run side by side. Refuses to
know which server answers (`chat_server`), what is on disk (`chat_kept`), and what it costs (`ledger`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from taglens.errors import ChatError, UsageError

# What a picture of about a million pixels takes in most models that see.
PICTURE_TOKENS: Final = 1600
# English has about four bytes to a token, Chinese three to a character: a token per three bytes counts from above.
_BYTES_PER_TOKEN: Final = 3
# Role marks and separators around each message.
_MESSAGE_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class ChatPicture:
    """An encoded picture file, as it will be sent.

    Args:
        data: the bytes of the file.
        media_type: what they are, such as ``image/jpeg``.

    Raises:
        UsageError: for no bytes, and for a type that is none of a picture.
    """

    data: bytes
    media_type: str = "image/jpeg"

    def __post_init__(self) -> None:
        if not self.data:
            raise UsageError(
                "a picture for a language model needs the bytes of its file, got none; encode it first"
            )
        if not self.media_type.startswith("image/"):
            raise UsageError(f"a picture's media type begins with image/, got {self.media_type!r}")

    def __repr__(self) -> str:  # megabytes of bytes belong into no log
        return f"ChatPicture({len(self.data):,} bytes of {self.media_type})"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question with everything that decides its answer.

    What is sent stands in the order system, pictures, text, so that questions about one picture share their beginning
    and a server can keep what it computed for it.

    Args:
        text: the question.
        system: what the model is told before it.
        pictures: what the question is about.
        schema: a JSON schema for the answer, followed where the server has structured output and only there: `text`
            has to say what is wanted as well.
        max_tokens: where the answer is cut at the latest.
        temperature: 0 for the most likely answer.
        seed: for servers that draw at random.

    Raises:
        UsageError: for a question without text, and for numbers that cannot be meant.
    """

    text: str
    system: str = ""
    pictures: tuple[ChatPicture, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError("a question for a language model needs a text, got an empty one")
        for name, text in (("text", self.text), ("system text", self.system)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UsageError(
                    f"the {name} of a question has to be Unicode, got {text[error.start : error.start + 1]!r} in it; "
                    "decode file names with errors='replace' before they go into a question"
                ) from None
        if self.max_tokens < 1:
            raise UsageError(f"an answer needs at least 1 token, got max_tokens={self.max_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"a temperature is a finite number from 0 on, got {self.temperature}")

    def key(self, model: str) -> str:
        """The name of the answer: 64 hexadecimal digits over everything here and the model.

        Raises:
            UsageError: for a schema that JSON cannot hold.
        """
        content = {
            "model": model,
            "system": self.system,
            "pictures": [
                [picture.media_type, hashlib.sha256(picture.data).hexdigest()] for picture in self.pictures
            ],
            "text": self.text,
            "schema": self.schema,
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "seed": self.seed,
        }
        try:
            written = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
        except (TypeError, ValueError) as error:
            raise UsageError(f"a schema has to be what JSON can hold, got one with {error}") from None
        return hashlib.sha256(written.encode()).hexdigest()


def prompt_tokens_at_most(ask: Ask, *, picture_tokens: int = PICTURE_TOKENS) -> int:
    """An estimate from above of the tokens a question takes, from its length alone."""
    texts = len(ask.text.encode()) + len(ask.system.encode())
    return -(-texts // _BYTES_PER_TOKEN) + len(ask.pictures) * picture_tokens + 2 * _MESSAGE_TOKENS


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply took, in tokens; all zero where the server did not say.

    Args:
        prompt_tokens: of the question, kept ones included.
        completion_tokens: of the answer.
        cached_tokens: those of the question that the server still had.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    @property
    def known(self) -> bool:
        """Whether the server said anything: no question has a prompt of 0 tokens."""
        return self.prompt_tokens > 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Args:
        text: the answer; empty where the model said nothing, its words where it refused.
        model: who answered, in the server's own words.
        usage: the tokens it took; `Usage.known` says whether the server counted.
        seconds: from sending the question to the whole answer, without earlier attempts and waits.
        refused: the model or a filter before it would not answer.
        cut: `max_tokens` ended the answer.
        kept: it was known already and cost nothing now.
        retries: how many further attempts were needed after the first.
    """

    text: str
    model: str
    usage: Usage = Usage()
    seconds: float = 0.0
    refused: bool = False
    cut: bool = False
    kept: bool = False
    retries: int = 0


class Chat(Protocol):
    """Whatever answers questions; called from many threads at once."""

    @property
    def model(self) -> str:
        """Whose answers these are, settings that change them included: part of every kept answer's key."""
        ...

    def __call__(self, ask: Ask) -> Reply:
        """The answer.

        Raises:
            ChatError: when there finally is none.
        """
        ...


def ask_all(chat: Chat, asks: Iterable[Ask], *, at_once: int) -> Generator[Reply | ChatError, None, None]:
    """The replies to `asks`, in their order, `at_once` of them asked side by side.

    Questions are taken as they are needed, at most ``2 * at_once`` beyond the replies given out, so that a slow one
    does not idle the others. Closing the generator begins nothing new and returns when what is in flight has come
    back: those answers are paid for, and are kept where `chat` keeps them.

    Returns:
        per question its reply, or the `ChatError` that came instead of it.

    Raises:
        UsageError: for `at_once` below 1.
        BudgetError: in the place of the first question that there was no money for, and so anything else that is
            no `ChatError`.
    """
    if at_once < 1:
        raise UsageError(f"at least one question has to be asked at a time, got at_once={at_once}")
    return _side_by_side(chat, asks, at_once)


def _side_by_side(chat: Chat, asks: Iterable[Ask], at_once: int) -> Generator[Reply | ChatError, None, None]:
    def answer(ask: Ask) -> Reply | ChatError:
        try:
            return chat(ask)
        except ChatError as error:
            return error

    waiting: deque[Future[Reply | ChatError]] = deque()
    threads = ThreadPoolExecutor(at_once, thread_name_prefix="taglens-ask")
    try:
        for ask in asks:
            waiting.append(threads.submit(answer, ask))
            if len(waiting) == 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
