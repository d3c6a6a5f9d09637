"""An exported model on disk: what inference needs, in one folder, without torch.

    config.json        name, fingerprint, side, widths; written last, so a folder that has one is complete
    model.onnx         pixels [B, 3, S, S] in [0, 1] -> scores [B, T], pooled [B, K], tokens [B, 1 + N, K]
    vocabulary.jsonl   what the T columns mean
    labels.onnx        tokens, embedded texts [U, D, L], counts [U] -> scores [B, U]; where labels are texts
    text.npz           the encoder of these texts; likewise, but not where the texts came embedded:
    labels.npy         these, fp16 [T, D, L]; model.onnx then gives no scores, labels.onnx does, some tags at a time

Knows names and checksums; knows nothing of how a graph is run (`engines`) or made (`export`).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taglens.errors import ModelError
from taglens.images import PIXELS
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.language.text_encoder import TextEncoder

CONFIG, GRAPH, VOCABULARY = "config.json", "model.onnx", "vocabulary.jsonl"
LABELS, TEXT, TABLE = "labels.onnx", "text.npz", "labels.npy"
FORMAT_VERSION = 1
STARTER = "starter"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A complete bundle folder.

    Attributes:
        name: the model's name.
        fingerprint: first 12 hex digits of the graph's sha256; with a table, of both sums' own.
        side: side in pixels of the square the graph takes.
        typed_threshold: the lowest score at which a typed tag is given; None where the model reads no text.
        has_table: the labels stand in a file of their own, see `table`.
    """

    folder: Path
    name: str
    fingerprint: str
    side: int
    vocabulary: Vocabulary
    typed_threshold: float | None = None
    has_table: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    @property
    def labels(self) -> Path:
        """The graph from texts to scores; only where `typed_threshold` is not None, or `has_table`."""
        return self.folder / LABELS

    @property
    def table(self) -> Path:
        """Embedded texts of the model's own tags, float16 [T, D, L]; only where `has_table`."""
        return self.folder / TABLE

    def text_encoder(self) -> TextEncoder:
        """What embeds typed tags. Raises ModelError when it is missing, damaged or not the model's own."""
        from taglens.language.text_encoder import TextEncoder

        encoder = TextEncoder.load(self.folder / TEXT)
        wanted = read_config(self.folder).get("text_encoder")
        if encoder.fingerprint != wanted:
            raise ModelError(
                f"{self.folder / TEXT} is not the text encoder of {self.ref} "
                f"({wanted} expected, {encoder.fingerprint} found); copy the bundle again"
            )
        return encoder

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read and check a bundle.

        Raises:
            ModelError: a file is missing, or the graph is not the one the configuration was written for.
            MismatchError: the vocabulary beside it belongs to another model.
        """
        row = read_config(folder)
        try:
            name, wanted, side = str(row["name"]), str(row["graph_sha256"]), int(row["side"])
            vocabulary_fingerprint = str(row["vocabulary"])
            labels = row.get("labels_sha256")
            table = row.get("table_sha256")
            typed = None if labels is None or table is not None else float(row["typed_threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / CONFIG} is incomplete: {error}") from None
        _verify(folder / GRAPH, wanted)
        if labels is not None:
            _verify(folder / LABELS, str(labels))
        if table is not None:
            _verify(folder / TABLE, str(table))
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        vocabulary.require(vocabulary_fingerprint, what=f"the model in {folder}")
        return cls(folder, name, _fingerprint(wanted, table), side, vocabulary, typed, table is not None)


def _fingerprint(graph: str, table: object) -> str:
    """Of the graph, and of the labels where these are no part of it."""
    return graph[:12] if table is None else hashlib.sha256(f"{graph}{table}".encode()).hexdigest()[:12]


def checksum(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(path: Path, wanted: str) -> None:
    try:
        found = checksum(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; export or copy it again") from None
    if found != wanted:
        raise ModelError(
            f"{path} is not the file its configuration was written for "
            f"(sha256 {wanted[:12]}… expected, {found[:12]}… found): it was cut or replaced; copy it again"
        )


def read_config(folder: Path) -> dict[str, Any]:
    try:
        row = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no model folder: it has no {CONFIG}. Give the name of a shipped model ({STARTER}) "
            "or a folder written by taglens"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / CONFIG}: {error}") from None
    if isinstance(row, dict) and row.get("pixels", PIXELS) != PIXELS:
        raise ModelError(
            f"{folder / CONFIG}: the model wants pictures prepared as {row['pixels']}, this release prepares them as "
            f"{PIXELS}"
        )
    if not isinstance(row, dict) or row.get("taglens_bundle") != FORMAT_VERSION:
        if is_trained(folder):
            raise ModelError(
                f"{folder} holds weights for torch; export it first: taglens bundle {folder} --out DIR"
            )
        raise ModelError(f"{folder / CONFIG} is not a bundle of format {FORMAT_VERSION}")
    return row


def write_config(
    folder: Path, *, name: str, side: int, vocabulary: Vocabulary, about: dict[str, Any]
) -> None:
    """Complete a folder that holds a graph and a vocabulary file."""
    row = {
        "taglens_bundle": FORMAT_VERSION,
        "name": name,
        "side": side,
        "vocabulary": vocabulary.fingerprint,
        "graph_sha256": checksum(folder / GRAPH),
        "pixels": PIXELS,
        **about,
    }
    beside = folder / (CONFIG + ".part")
    beside.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / CONFIG)


def is_trained(folder: Path) -> bool:
    """Whether the folder holds weights for torch instead of an exported graph.

    A folder that is neither is not judged here: whoever opens it says what is missing.
    """
    try:
        row = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "taglens_model" in row


def locate(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model: a shipped model's by name, else the folder itself."""
    if os.fspath(name_or_folder) == STARTER:
        return Path(str(files("taglens"))) / "assets" / STARTER
    return Path(name_or_folder)
