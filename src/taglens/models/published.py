"""Files of published weights: read without running what is in them, converted, matched with the user's tags.

Knows torch's and safetensors' files and what a vocabulary needs beside such weights. Keys and shapes are
`taglens.models.convert`'s.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from taglens import staging
from taglens.errors import ModelError
from taglens.models.checkpoint import read_config, save_pretrained
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
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(f"{path} is no plain file; give the checkpoint itself")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise ModelError(f"{path} is empty; download it again")
    if head[8:9] == b"{":
        try:
            return _plain(load_file(path), path)
        except SafetensorError as error:
            raise ModelError(f"{path} is cut or damaged: {error}; download it again") from None
    if head[:2] == b"PK":
        _check_archive(path)
    elif head[:1] != b"\x80":
        raise ModelError(f"{path} {_other_kind(head)}")
    return _state_dict(_load(path, zipped=head[:2] == b"PK"), path)


def _other_kind(head: bytes) -> str:
    """What a file is that is no checkpoint, by its first bytes, and what to do."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "is a web page, saved in the place of the file; download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, which stands for the file; fetch that: git lfs pull"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")):
        return "is packed; unpack it, and give the checkpoint inside"
    return (
        f"is neither a torch file (.pth) nor safetensors; it begins with {head[:8]!r}: give the checkpoint as its "
        "authors published it"
    )


def _check_archive(path: Path) -> None:
    """Raises ModelError for a zip archive that torch.save did not write, or whose contents miss their checksums."""
    try:
        if not zipfile.is_zipfile(path):
            raise ModelError(f"{path} is cut short: its end is missing; download it again")
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
            for each in archive.infolist():
                # 0: written without a checksum, as torch may be told to.
                if each.CRC and "data.pkl" in names:
                    with archive.open(each) as content:
                        while content.read(1 << 22):
                            pass
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # noqa: BLE001 - there is no end to what a damaged directory makes zipfile raise
        raise ModelError(f"{path} is damaged: {error}; download it again") from None
    if "constants.pkl" in names:
        raise ModelError(
            f"{path} holds a TorchScript program, and reading it could run code, so it was not read; save its "
            "state_dict() instead"
        )
    if "data.pkl" not in names:
        raise ModelError(
            f"{path} is an archive, but not one of torch.save; unpack it if a checkpoint is inside"
        )


def _load(path: Path, *, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            # On kinds of pickle that torch reads less well; what it cannot read it refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - there is no end to what a damaged pickle makes its reader raise
        told = str(error)
        if "allocate memory" in told:
            raise MemoryError(told) from None
        if isinstance(error, pickle.UnpicklingError) and "Weights only" in told and "truncated" not in told:
            asked = re.search(r"(?:GLOBAL|function) ([\w.]+)", told)
            found = (
                f"holds more than weights ({asked[1]})"
                if asked
                else "is damaged, or no checkpoint of torch.save"
            )
            raise ModelError(
                f"{path} {found}, and reading it could run code, so it was not read; ask for a file of plain tensors"
            ) from None
        reason = told.splitlines()[0] if told else type(error).__name__
        raise ModelError(f"{path} is cut or damaged: {reason}; download it again") from None


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """What `{"model": state_dict}` or a bare state dict holds."""
    wanted = f"{path}: expected {{'model': state dict}} or a state dict"
    inner = loaded.get("model", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(inner, Mapping) or not inner:
        found = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ModelError(f"{wanted}, found {found or 'nothing'}; give the checkpoint of a released model")
    for key, value in inner.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{wanted}, found {key!r} with {type(value).__name__}; of a training checkpoint, save the weights "
                "alone"
            )
    return _plain({str(key): value for key, value in inner.items()}, path)


def _plain(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same. Raises ModelError for tensors whose numbers do not simply stand there."""
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            kind = "without numbers" if value.is_meta else "quantised" if value.is_quantized else "sparse"
            raise ModelError(f"{path}: {key} is {kind}, expected plain tensors; save it as such")
    return state


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


class Reader(Protocol):
    """What reads texts beside a converted model: `taglens.inference.clip_texts.TextParts`."""

    def rows(self) -> dict[str, Any]:
        """What the configuration says of it."""
        ...

    def save(self, folder: Path) -> None:
        """Write its files into the folder."""
        ...


def save_converted(
    converted: Converted,
    vocabulary: Vocabulary,
    out: Path,
    *,
    name: str,
    pieces: bytes | None = None,
    text: Reader | None = None,
) -> None:
    """Write the model folder, whole or not at all.

    Args:
        pieces: content of the file of word pieces; exactly where ``converted`` has a captioner.
        text: what reads texts in the space of the model's labels; None: the model reads no text.

    Raises:
        UsageError: the folder holds other things than a model.
        OSError: it cannot be written; what was there before is whole.
    """
    require_place(out)
    model, captioner = converted.model(), None
    if converted.captioner is not None:
        captioner = converted.captioner.model(model)
    about = {"converted": converted.family, "reads_text": False, **({} if text is None else text.rows())}
    save_pretrained(
        model,
        vocabulary,
        out,
        name=name,
        about=about,
        captioner=captioner,
        pieces=pieces,
        beside=None if text is None else text.save,
    )


def require_place(out: Path) -> None:
    """Raises UsageError where a model folder cannot be written: a file, or a folder with other things in it."""
    staging.require_place(out, what="a model", holds=_is_model)


def _is_model(folder: Path) -> bool:
    try:
        read_config(folder)
    except ModelError:
        return False
    return True
