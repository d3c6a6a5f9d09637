"""The exception tree. Every message says what was expected, what came, and the cure.

TaglensError
├── UsageError            a call or a command line that cannot be meant (exit status 2)
├── MissingExtraError     an optional package is asked for and absent; the message holds the pip line
├── ImageError            one picture that cannot be used; becomes a row, never stops a run
├── VocabularyError       a vocabulary file or entry that breaks its own rules
├── ModelError            a bundle or checkpoint that is incomplete, damaged or not finite
├── MismatchError         two things that do not belong together (both fingerprints are named)
├── DownloadError         a file of others that cannot be fetched, or is not what it should be
├── ChatError             a question that a language model's server finally did not answer; stops no run
├── BudgetError           the next question would cost more than the limit that was set
└── DataError             a corpus, a label file or a shard that cannot be read as what it claims to be
"""

from __future__ import annotations

from typing import Literal

ImageErrorType = Literal[
    "not_found", "permission", "not_image", "truncated", "empty", "too_large", "unsupported"
]


class TaglensError(Exception):
    """Base of everything this library raises on purpose."""


class UsageError(TaglensError):
    """The caller asked for something that cannot be meant."""


class MissingExtraError(TaglensError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'taglens[{extra}]'")
        self.package = package
        self.extra = extra


class ImageError(TaglensError):
    """One picture that cannot be used.

    Attributes:
        type: one of the contract's seven error types.
        source: the picture, as the caller named it.
    """

    def __init__(self, type: ImageErrorType, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.type: ImageErrorType = type
        self.source = source


class VocabularyError(TaglensError):
    """A vocabulary that breaks its own rules."""


class ModelError(TaglensError):
    """A model folder that cannot be used."""


class MismatchError(TaglensError):
    """Two things that do not belong together, such as a shard and another vocabulary."""

    def __init__(self, what: str, *, expected: str, found: str, cure: str) -> None:
        super().__init__(f"{what}: expected {expected}, found {found}. {cure}")
        self.expected = expected
        self.found = found


class DataError(TaglensError):
    """A corpus, label file or shard that is not what it claims to be."""


class DownloadError(TaglensError):
    """A file of others that cannot be fetched, or is not what it should be."""


class ChatError(TaglensError):
    """A question to a language model that finally has no answer.

    Attributes:
        status: the HTTP status of the last attempt; None where no answer came or none was usable.
        retries: how many further attempts were made after the first.
    """

    def __init__(self, message: str, *, status: int | None = None, retries: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retries = retries


class BudgetError(TaglensError):
    """The next question would cost more than what is left; it was not asked."""
