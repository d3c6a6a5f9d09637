"""Files of published weights: read without running what is in them, converted, matched with the user's tags.

Knows torch's and safetensors' files and what a vocabulary needs beside such weights. Keys and shapes are
`taglens.models.convert`'s.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from taglens.errors import ModelError, UsageError
from taglens.models.checkpoint import CONFIG, read_config, save_pretrained
from taglens.models.convert import TAG2TEXT, Converted
from taglens.vocabulary import Entry, Vocabulary

# Tag2Text keeps its thresholds in code (PAPERS.md 1.8): 0.68, three tags 0.70, and seven that are never given.
_TAG2TEXT_TAGS = 3429
_TAG2TEXT_THRESHOLD, _TAG2TEXT_HIGHER = 0.68, 0.70
_TAG2TEXT_HIGH = frozenset((1167, 2701, 2828))
_TAG2TEXT_HIDDEN = frozenset((127, 2961, 3265, 3338, 3351, 3355, 3359))


def read_published(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth or .safetensors file, told apart by content.

    Raises:
        ModelError: no such file, a cut or damaged one, one that would run code, or one without a state dict.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise ModelError(f"{path} is empty; download it again")
    if head[8:9] == b"{":
        try:
            return load_file(path)
        except Exception as error:  # noqa: BLE001 - safetensors' own error class is not public in every release
            raise ModelError(f"{path} is cut or damaged: {error}; download it again") from None
    if head[:2] != b"PK" and head[:1] != b"\x80":
        raise ModelError(
            f"{path} is neither a torch file (.pth) nor safetensors; it begins with {head[:8]!r}"
        )
    return _state_dict(_load(path, zipped=head[:2] == b"PK"), path)


def _load(path: Path, *, zipped: bool) -> Any:
    if zipped and not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is cut short: its end is missing; download it again")
    try:
        with warnings.catch_warnings():
            # On kinds of pickle that torch reads less well; what it cannot read it refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "truncated" not in str(error):
            reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
            raise ModelError(
                f"{path} holds more than weights, and reading it could run code, so it was not read"
                f"{f' ({reason})' if reason else ''}; ask for a file of plain tensors"
            ) from None
        raise ModelError(f"{path} is cut or damaged: {error}; download it again") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path} is cut or damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}; "
            "download it again"
        ) from None


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """What `{"model": state_dict}` or a bare state dict holds."""
    inner = loaded.get("model", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(inner, Mapping) or not inner:
        found = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ModelError(
            f"{path}: expected {{'model': state dict}} or a state dict, found {found or 'nothing'}"
        )
    for key, value in inner.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{path}: expected {{'model': state dict}} or a state dict, found {key!r} with "
                f"{type(value).__name__}"
            )
    return {str(key): value for key, value in inner.items()}


@dataclass(frozen=True, slots=True)
class Named:
    """A vocabulary for a converted model, and sentences on what had to be assumed."""

    vocabulary: Vocabulary
    notes: tuple[str, ...]


def numbered_tags(converted: Converted, *, name: str) -> Vocabulary:
    """Tags called "tag 1" and so on, for weights that came without a list."""
    entries = (Entry(f"tag {number}", "object") for number in range(1, converted.config.tags + 1))
    return Vocabulary(entries, name=name)


def vocabulary_of(converted: Converted, given: Vocabulary) -> Named:
    """The user's tags under the original's rule for what is given.

    Raises:
        ModelError: another number of tags than the model has.
    """
    tags, notes = converted.config.tags, []
    if len(given) != tags:
        raise ModelError(f"the file scores {tags} tags and {given.ref} has {len(given)}")
    entries = list(given)
    if all(entry.threshold is None for entry in entries):
        if converted.family == TAG2TEXT and tags == _TAG2TEXT_TAGS:
            entries = [_as_tag2text(number, entry) for number, entry in enumerate(entries)]
            notes.append("no thresholds given: those that the original release has in its code")
        else:
            notes.append("no thresholds given: 0.5 for every tag; give --thresholds FILE")
    vocabulary = Vocabulary(entries, name=given.name, description=given.description, strict=True)
    return Named(vocabulary, tuple(notes))


def _as_tag2text(number: int, entry: Entry) -> Entry:
    threshold = _TAG2TEXT_HIGHER if number in _TAG2TEXT_HIGH else _TAG2TEXT_THRESHOLD
    return replace(entry, threshold=threshold, hidden=entry.hidden or number in _TAG2TEXT_HIDDEN)


def save_converted(converted: Converted, vocabulary: Vocabulary, out: Path, *, name: str) -> None:
    """Write the model folder; a folder that was not there before is not left half-written.

    Raises:
        UsageError: the folder holds other things than a model.
    """
    require_place(out)
    fresh = not out.exists()
    about = {"converted": converted.family, "reads_text": False}
    try:
        save_pretrained(converted.model(), vocabulary, out, name=name, about=about)
    except BaseException:
        for left in out.glob("*.part"):
            left.unlink()
        if fresh and out.is_dir():
            for file in out.iterdir():
                file.unlink()
            out.rmdir()
        raise


def require_place(out: Path) -> None:
    """Raises UsageError where a model folder cannot be written: a file, or a folder with other things in it."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        try:
            read_config(out)
        except ModelError:
            raise UsageError(
                f"--out {out} holds other things than a model ({CONFIG} of one is not there); name a new folder"
            ) from None
