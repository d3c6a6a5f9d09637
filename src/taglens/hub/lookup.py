"""What the Hugging Face hub says of a file before a byte of it is fetched, and what its cache on this machine holds.

The only place that asks for the package huggingface_hub: addresses, tokens, metadata, cache. It does not fetch: its
own downloads begin anew in every process (2.4), which three gigabytes over a bad line do not forgive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taglens.errors import DownloadError, MissingExtraError, UsageError
from taglens.hub.download import PASSING, TRIES, refusal

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
TIMEOUT_S = 20.0


def require_hub() -> Any:
    """The package, or the error that says how to get it."""
    try:
        import huggingface_hub

        # The package loads its parts when they are first imported, and these two are read as attributes.
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise MissingExtraError("huggingface_hub", extra="hub", purpose="pulling a published model") from None
    return huggingface_hub


@dataclass(frozen=True, slots=True)
class Stated:
    """What the hub says of one file.

    Attributes:
        commit: forty hex digits; nothing else is let through, since it becomes part of a path.
        sha256: None where the file is not kept as a large file: then the hub states none.
    """

    commit: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Hub:
    """One hub: the public one, a mirror, or one in the house.

    Attributes:
        endpoint: its address.
        token: for it alone; None: asked without.
    """

    endpoint: str
    token: str | None = None
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def connect(cls, endpoint: str | None, *, offline: bool = False) -> Hub:
        """Of an address, or of HF_ENDPOINT, with the token of HF_TOKEN or of a log-in.

        Raises:
            UsageError: an address that is none, or that holds a password.
        """
        package = require_hub()
        address = (endpoint or str(package.constants.ENDPOINT)).rstrip("/")
        parts = urlsplit(address)
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "--endpoint with a user or password in it would end in logs; set HF_TOKEN instead"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--endpoint {address!r}: expected an address such as https://hub.example.org")
        return cls(address, None if offline else package.get_token())

    def url(self, repository: str, path: str, revision: str) -> str:
        return str(require_hub().hf_hub_url(repository, path, revision=revision, endpoint=self.endpoint))

    def look_up(self, repository: str, path: str, revision: str) -> Stated:
        """Ask for a file's commit, size and checksum.

        Raises:
            DownloadError: no answer, a refusal, or an answer that is no hub's.
        """
        package = require_hub()
        url = self.url(repository, path, revision)
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                self.sleep(min(2.0**attempt, 30.0))
            try:
                found = package.get_hf_file_metadata(url, token=self.token or False, timeout=TIMEOUT_S)
            except (OSError, package.errors.HTTPError) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status is not None and status not in PASSING:
                    raise self._refused(error, f"{repository}/{path}@{revision}", int(status)) from None
                reason = (
                    f"answers {status}" if status is not None else f"does not answer ({type(error).__name__})"
                )
                continue
            return self._stated(found)
        raise DownloadError(
            f"{self.endpoint} {reason}, {TRIES} times in a row; try again later, or with files that are here: "
            "--offline"
        )

    def _refused(self, error: Exception, what: str, status: int) -> DownloadError:
        errors = require_hub().errors
        if isinstance(error, errors.RevisionNotFoundError):
            return DownloadError(f"{self.endpoint} has no such revision: {what}")
        if isinstance(error, errors.EntryNotFoundError):
            return DownloadError(f"{self.endpoint} has no such file: {what}")
        if isinstance(error, errors.RepositoryNotFoundError):
            # Also what the hub answers for a repository that this token may not see.
            return DownloadError(f"{self.endpoint} has no such repository, or not for this HF_TOKEN: {what}")
        return refusal(f"{self.endpoint}/{what}", status)

    def _stated(self, found: Any) -> Stated:
        commit, etag, size = found.commit_hash, found.etag, found.size
        if commit is None or not COMMIT.fullmatch(commit):
            raise DownloadError(
                f"{self.endpoint} does not answer as a hub does (no commit); see whether a proxy stands between"
            )
        return Stated(
            commit,
            size if isinstance(size, int) and size >= 0 else None,
            etag if etag is not None and SHA256.fullmatch(etag) else None,
        )


def in_hub_cache(repository: str, path: str, revision: str) -> tuple[Path, str] | None:
    """A file in the hub's own cache, as other programs left it, and its commit."""
    package = require_hub()
    found = package.try_to_load_from_cache(repository, path, revision=revision)
    if not isinstance(found, str):
        return None
    # …/snapshots/COMMIT/PATH
    commit = Path(found).parents[len(Path(path).parts) - 1].name
    return (Path(found), commit) if COMMIT.fullmatch(commit) else None


def hub_cache_folder() -> Path:
    return Path(str(require_hub().constants.HF_HUB_CACHE))


def told_to_stay_offline() -> bool:
    """HF_HUB_OFFLINE, which other programs obey too."""
    return bool(require_hub().constants.HF_HUB_OFFLINE)
