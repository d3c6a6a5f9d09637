"""A model folder for torch: config.json, model.safetensors, vocabulary.jsonl; with a captioner, captioner.safetensors
and its word pieces, vocab.txt, too; with an aligner, aligner.safetensors. Strict both ways.

Knows files and shapes; knows nothing of training state (`taglens.training.loop`) or exported bundles
(`taglens.inference.bundle`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taglens.errors import ModelError
from taglens.images import PIXELS
from taglens.models.aligner import Aligner, AlignerConfig
from taglens.models.captioner import Captioner, CaptionerConfig
from taglens.models.configs import RecognizerConfig
from taglens.models.recognizer import Recognizer, empty_recognizer
from taglens.staging import staged
from taglens.vocabulary import Vocabulary

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.jsonl"
CAPTIONER, PIECES, ALIGNER = "captioner.safetensors", "vocab.txt", "aligner.safetensors"
FORMAT_VERSION = 1


def save_pretrained(
    model: Recognizer,
    vocabulary: Vocabulary,
    folder: str | os.PathLike[str],
    *,
    name: str,
    about: Mapping[str, Any] | None = None,
    captioner: Captioner | None = None,
    aligner: Aligner | None = None,
    pieces: bytes | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write the folder, whole or not at all: the configuration goes last, so that a folder with one is complete.

    Args:
        about: further fields of the configuration.
        captioner: what writes captions; layers that it shares with the model are stored once, with the model.
        aligner: what puts pictures and texts into one space; what it shares with the captioner is stored there.
        pieces: content of the file of word pieces that both read and write with.
        beside: writes further files into the folder that it is given.
    """
    if (captioner is None) != (pieces is None):
        raise ModelError("a captioner and its word pieces are saved together")
    if aligner is not None and captioner is None:
        raise ModelError("an aligner reads with a captioner's layers; save it together with that captioner")
    folder = Path(folder)
    if len(vocabulary) != model.config.tags:
        raise ModelError(f"the model has {model.config.tags} tags and {vocabulary.ref} has {len(vocabulary)}")
    if captioner is not None and pieces is not None:
        words = hashlib.sha256(pieces).hexdigest()
        about = {**(about or {}), "captioner": captioner.config.to_dict(), "pieces_sha256": words}
    if aligner is not None:
        about = {**(about or {}), "aligner": aligner.config.to_dict()}
    row = {
        "taglens_model": FORMAT_VERSION,
        "name": name,
        "vocabulary": vocabulary.fingerprint,
        "recognizer": model.config.to_dict(),
        "pixels": PIXELS,
        **(about or {}),
    }
    with staged(folder, last=CONFIG) as stage:
        vocabulary.save(stage / VOCABULARY)
        _save(model.state_dict(), stage / WEIGHTS)
        if captioner is not None and pieces is not None:
            _save(captioner.own_state(), stage / CAPTIONER)
            (stage / PIECES).write_bytes(pieces)
        if aligner is not None:
            _save(aligner.own_state(), stage / ALIGNER)
        if beside is not None:
            beside(stage)
        (stage / CONFIG).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError when it is missing, damaged or of another format."""
    try:
        row = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is no model folder: {CONFIG} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / CONFIG}: {error}") from None
    if isinstance(row, dict) and "taglens_bundle" in row:
        raise ModelError(
            f"{folder} is a bundle, exported already; expected the model folder it was made from"
        )
    if not isinstance(row, dict) or row.get("taglens_model") != FORMAT_VERSION:
        raise ModelError(f"{folder / CONFIG} is not a taglens model configuration of format {FORMAT_VERSION}")
    for key in ("name", "vocabulary", "recognizer"):
        if key not in row:
            raise ModelError(f"{folder / CONFIG} is incomplete: {key!r} is missing; copy or train it again")
    if row.get("pixels", PIXELS) != PIXELS:
        raise ModelError(
            f"{folder / CONFIG}: the model wants pictures prepared as {row['pixels']}, this release prepares them as "
            f"{PIXELS}"
        )
    return row


def reads_text(folder: str | os.PathLike[str]) -> bool:
    """Whether a text encoder stands beside the weights: labels of converted models are texts that came embedded."""
    row = read_config(Path(folder))
    return (
        RecognizerConfig.from_dict(row["recognizer"]).descriptions > 0 and row.get("reads_text") is not False
    )


def writes_captions(folder: str | os.PathLike[str]) -> bool:
    """Whether a captioner stands beside the weights."""
    return read_config(Path(folder)).get("captioner") is not None


def aligns(folder: str | os.PathLike[str]) -> bool:
    """Whether an aligner stands beside the weights."""
    return read_config(Path(folder)).get("aligner") is not None


def _vocabulary(folder: Path, row: dict[str, Any]) -> Vocabulary:
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    vocabulary.require(str(row["vocabulary"]), what=f"the model in {folder}")
    return vocabulary


def _weights(folder: Path, file: str = WEIGHTS) -> dict[str, Tensor]:
    try:
        state = load_file(folder / file)
    except FileNotFoundError:
        raise ModelError(f"{folder} is no model folder: {file} is missing") from None
    except Exception as error:  # noqa: BLE001 - whoever maps the file raises a class of its own
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise ModelError(f"{folder / file} is damaged: {error}") from None
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"{folder / file}: {key} holds values that are not finite; train or copy it again"
            )
    return state


def from_pretrained(folder: str | os.PathLike[str]) -> tuple[Recognizer, Vocabulary, str]:
    """Read a folder back: the model in eval mode, its vocabulary and its name.

    Raises:
        ModelError: a file is missing, damaged or not finite, or a tensor's name or shape does not fit.
        MismatchError: the vocabulary beside the weights is another one.
    """
    folder = Path(folder)
    row = read_config(folder)
    vocabulary = _vocabulary(folder, row)
    model = empty_recognizer(RecognizerConfig.from_dict(row["recognizer"]))
    ours = model.state_dict()
    state = {
        key: value.to(ours[key].dtype) if key in ours else value for key, value in _weights(folder).items()
    }
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from None
    return model.eval(), vocabulary, str(row["name"])


def captioner_from_pretrained(folder: str | os.PathLike[str], model: Recognizer) -> Captioner | None:
    """The captioner in the folder, in eval mode, sharing what it shares with ``model``; None where there is none.

    Args:
        model: the folder's own, as `from_pretrained` gives it.

    Raises:
        ModelError: a file is missing, damaged or not finite, a tensor's name or shape does not fit, or the word
            pieces are not those it was saved with.
    """
    folder = Path(folder)
    row = read_config(folder)
    if row.get("captioner") is None:
        return None
    _require_words(folder / PIECES, row.get("pieces_sha256"))
    config = CaptionerConfig.from_dict(row["captioner"])
    with torch.device("meta"):
        captioner = Captioner(config)
    captioner.share_layers(list(model.decoder.layers))
    state = _fitting(folder, CAPTIONER, captioner.own_state())
    captioner.load_state_dict(state, strict=False, assign=True)
    return captioner.eval()


def aligner_from_pretrained(folder: str | os.PathLike[str], captioner: Captioner) -> Aligner | None:
    """The aligner in the folder, in eval mode, reading with ``captioner``'s layers; None where there is none.

    Args:
        captioner: the folder's own, as `captioner_from_pretrained` gives it.

    Raises:
        ModelError: a file is missing, damaged or not finite, or a tensor's name or shape does not fit.
    """
    folder = Path(folder)
    row = read_config(folder)
    if row.get("aligner") is None:
        return None
    config = AlignerConfig.from_dict(row["aligner"])
    with torch.device("meta"):
        aligner = Aligner(config, captioner)
    aligner.load_state_dict(_fitting(folder, ALIGNER, aligner.own_state()), strict=False, assign=True)
    return aligner.eval()


def _fitting(folder: Path, file: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, in fp32, which must be of the names and shapes of ``wanted``."""
    state = _weights(folder, file)
    shapes, found = ({key: tuple(value.shape) for key, value in each.items()} for each in (wanted, state))
    if unlike := sorted(dict(shapes.items() ^ found.items())):
        raise ModelError(f"{folder / file} does not fit {CONFIG}: {unlike[0]} and {len(unlike) - 1} more")
    return {key: value.float() for key, value in state.items()}


def _require_words(path: Path, wanted: str | None) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; convert or copy the model again") from None
    if wanted is not None and found != wanted:
        raise ModelError(
            f"{path} is not the file of word pieces that the captioner was saved with; put that one there, or "
            "convert the model again"
        )


# What belongs to one vocabulary and cannot go to a model of another.
_PER_TAG = ("bank.embeddings", "pooled_bias", "closed.read.", "decoder.heads.")


def keeps_closed_term(folder: str | os.PathLike[str]) -> bool:
    """Whether a model that reads its labels and starts from this folder can keep what was learned of them."""
    config = RecognizerConfig.from_dict(read_config(Path(folder))["recognizer"])
    return config.closed_term or (config.descriptions == 0 and config.pooled_term)


def _closed_term(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pooled term of a model with learned labels, as the weights of a `ClosedTerm`."""
    return {
        "closed.project.weight": state["project.weight"],
        "closed.project.bias": state["project.bias"],
        "closed.norm.weight": state["pooled_norm.weight"],
        "closed.norm.bias": state["pooled_norm.bias"],
        "closed.read.weight": state["pooled_scale"].exp() * state["bank.embeddings"],
        "closed.read.bias": state["pooled_bias"],
    }


def start_from(
    model: Recognizer,
    folder: str | os.PathLike[str],
    vocabulary: Vocabulary,
    *,
    fresh_parts: Sequence[str] = (),
) -> list[str]:
    """Begin training from another model's weights, matching tags by id.

    Encoder, projection and decoder are taken over and must fit; learned label embeddings are taken over for the tags
    that both vocabularies hold, the others keep their fresh values. Labels that were read from text stay the model's
    own. Where one model learned its labels and the other reads them, what reads labels starts anew, and what was
    learned of the labels is kept as the closed term, where the configuration has one.

    Args:
        fresh_parts: names of parts ("decoder") that are not taken over.

    Returns:
        ids of the tags whose learned embedding started fresh.

    Raises:
        ModelError: a file is missing, damaged or not finite, or the folder holds another architecture.
        MismatchError: the vocabulary beside the weights is another one.
    """
    folder = Path(folder)
    row = read_config(folder)
    old = _vocabulary(folder, row)
    state = _weights(folder)
    parts = [name for name, _ in model.named_children()]
    for part in fresh_parts:
        if part not in parts:
            raise ModelError(f"the model has no part {part!r} to start anew; it has {', '.join(parts)}")
    # Parts that start anew are neither taken over nor compared.
    anew = tuple(f"{part}." for part in fresh_parts)
    if model.config.closed_term and not any(key.startswith("closed.") for key in state):
        state |= _closed_term(state)
    reads, read = (
        model.config.descriptions > 0,
        RecognizerConfig.from_dict(row["recognizer"]).descriptions > 0,
    )
    if reads != read:
        anew += ("bank.", "pooled_bias", "pooled_query.")
    elif reads:
        anew += ("bank.embeddings", "bank.counts")
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith(anew)}
    state = {key: value for key, value in state.items() if not key.startswith(anew)}
    if extra := sorted(state.keys() - ours.keys()):
        raise ModelError(f"{folder / WEIGHTS} has {extra[0]}, which this model lacks: another architecture")
    fresh = [] if reads else [id for id in vocabulary.ids if id not in old]
    pairs = [(vocabulary.position(id), old.position(id)) for id in vocabulary.ids if id in old]
    to, source = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
    for key, value in ours.items():
        if key not in state:
            raise ModelError(f"{folder / WEIGHTS} has no {key}: it holds another architecture")
        if key.startswith(_PER_TAG):
            if state[key].shape[1:] != value.shape[1:]:
                raise ModelError(f"{key}: {tuple(state[key].shape)} does not fit {tuple(value.shape)}")
            value[to] = state[key][source]
        elif state[key].shape != value.shape:
            raise ModelError(
                f"{key}: {tuple(state[key].shape)} in {folder} does not fit {tuple(value.shape)} here; "
                "use the configuration that the folder's model was made with"
            )
        else:
            value.copy_(state[key])
    return fresh
