"""A model folder and its adapter as one plain model folder, which everything reads that reads the original.

Knows folders; what an adapter does is `taglens.models.lora`'s to know.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from taglens import staging
from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import is_trained, trained_ref
from taglens.models import checkpoint
from taglens.models.lora import load_adapter, merge

# Written by `save_pretrained`; whatever else a folder holds goes along as it is.
_FILES = {
    checkpoint.CONFIG,
    checkpoint.WEIGHTS,
    checkpoint.VOCABULARY,
    checkpoint.CAPTIONER,
    checkpoint.PIECES,
    checkpoint.ALIGNER,
}
_FIELDS = {
    "taglens_model",
    "name",
    "vocabulary",
    "recognizer",
    "pixels",
    "captioner",
    "pieces_sha256",
    "aligner",
}


@dataclass(frozen=True, slots=True)
class Merged:
    """A folder that was written, and whether the model's aligner had to be left out."""

    folder: Path
    left_aligner: bool


def merge_folder(model: Path, adapter: Path, out: Path, *, name: str | None = None) -> Merged:
    """Write the model with the adapter's work in its matrices.

    An aligner reads with the decoder's cross-attention and feed-forward. Where these were adapted it goes missing,
    for it would compare by other numbers than it learned; the original folder still has it.

    Args:
        name: of the new model; by default the old name and "+enhanced".

    Raises:
        UsageError: ``model`` is no trained folder, writes no captions, or is ``out``; ``out`` holds other things than
            an earlier merger.
        MismatchError: the adapter was trained for another model.
        ModelError: a file is missing or damaged.
    """
    if not is_trained(model):
        raise UsageError(
            f"{model} is no trained model folder; merge into the one that the adapter was trained for"
        )
    if out.resolve() == model.resolve():
        raise UsageError(f"{out} is the model itself; give another --out")
    staging.require_place(out, what="a model that was merged", holds=_was_merged)
    recognizer, vocabulary, old = checkpoint.from_pretrained(model)
    captioner = checkpoint.captioner_from_pretrained(model, recognizer)
    if captioner is None:
        raise UsageError(
            f"{model} gives tags and writes no captions: there is nothing to merge an adapter into"
        )
    found = load_adapter(adapter)
    ref = trained_ref(model, old)
    found.require(ref.rpartition("@")[2], what=ref)
    row = checkpoint.read_config(model)
    # Read before the matrices change under it.
    aligner = checkpoint.aligner_from_pretrained(model, captioner)
    left = aligner is not None and bool(set(found.config.parts) - {"self_attention"})
    kept = {key: value for key, value in row.items() if key not in _FIELDS}
    if left:
        kept.pop("retrieval", None)

    def copy(stage: Path) -> None:
        for path in model.iterdir():
            if path.is_file() and path.name not in _FILES:
                shutil.copyfile(path, stage / path.name)

    checkpoint.save_pretrained(
        recognizer,
        vocabulary,
        out,
        name=name or f"{old}+enhanced",
        about={**kept, "merged": {"base": ref, "adapter": found.fingerprint}},
        captioner=merge(captioner, found.state, found.config),
        aligner=None if left else aligner,
        pieces=(model / checkpoint.PIECES).read_bytes(),
        beside=copy,
    )
    return Merged(out, left)


def _was_merged(folder: Path) -> bool:
    try:
        return "merged" in checkpoint.read_config(folder)
    except ModelError:
        return False
