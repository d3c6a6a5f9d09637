"""An exported model on disk: what inference needs, in one folder, without torch.

    config.json        name, fingerprint, side, widths; written last, so a folder that has one is complete
    model.onnx         pixels [B, 3, S, S] in [0, 1] -> scores [B, T], pooled [B, K], tokens [B, 1 + N, K]
    vocabulary.jsonl   what the T columns mean
    labels.onnx        tokens, embedded texts [U, D, L], counts [U] -> scores [B, U]; where labels are texts
    text.npz           the encoder of these texts; likewise, but not where the texts came embedded:
    labels.npy         these, fp16 [T, D, L]; model.onnx then gives no scores, labels.onnx does, some tags at a time
    guide.onnx         tag pieces and tokens -> what a caption's writing looks at; where the model writes captions
    writer.onnx        one step of this writing (`taglens.inference.caption_engines`); likewise
    vocab.txt          the word pieces it reads and writes; likewise
    pictures.onnx      tokens -> unit vectors; where the model compares pictures with texts, as are
    texts.onnx         word pieces -> unit vectors of the same space, and
    match.onnx         word pieces and what guide.onnx gives -> a logit; both read weights that stand in writer.onnx
                       from there (`taglens.inference.export_aligner`)
    text.onnx          CLIP's text tower, and three text_… files with its words: where labels came embedded and the
                       model reads text all the same (`taglens.inference.clip_texts`)

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
    from taglens.inference.typed import Texts

CONFIG, GRAPH, VOCABULARY = "config.json", "model.onnx", "vocabulary.jsonl"
LABELS, TEXT, TABLE = "labels.onnx", "text.npz", "labels.npy"
GUIDE, WRITER, PIECES = "guide.onnx", "writer.onnx", "vocab.txt"
PICTURES, TEXTS, MATCH = "pictures.onnx", "texts.onnx", "match.onnx"
FORMAT_VERSION = 1
STARTER = "starter"


@dataclass(frozen=True, slots=True)
class CaptionParts:
    """What a bundle says of its captioner.

    Attributes:
        tag_length: pieces to which tag lists are cut or filled up.
        positions: most pieces of a caption.
        pieces: how many its vocabulary has.
        see_padding: whether writing looks at what filled a tag list up.
        most_tags: recognised tags that guide a caption, the surest; 0: all.
        sums: file -> its sha256.
        answers: whether it answers questions, too.
    """

    tag_length: int
    positions: int
    pieces: int
    see_padding: bool
    most_tags: int
    sums: dict[str, str]
    answers: bool = False

    @classmethod
    def read(cls, row: dict[str, Any]) -> CaptionParts:
        sums = {
            file: str(row[f"{what}_sha256"])
            for what, file in (("guide", GUIDE), ("writer", WRITER), ("pieces", PIECES))
        }
        length, positions, pieces = (int(row[key]) for key in ("tag_length", "positions", "pieces"))
        # Bundles of published models, written before there was a choice, are guided by all.
        most = int(row.get("most_tags", 0))
        answers = row.get("answers") is True
        return cls(length, positions, pieces, bool(row["see_padding"]), most, sums, answers)


@dataclass(frozen=True, slots=True)
class AlignParts:
    """What a bundle says of its aligner.

    Attributes:
        width: of its vectors.
        sums: file -> its sha256.
    """

    width: int
    sums: dict[str, str]

    @classmethod
    def read(cls, row: dict[str, Any]) -> AlignParts:
        named = (("pictures", PICTURES), ("texts", TEXTS), ("match", MATCH))
        return cls(int(row["width"]), {file: str(row[f"{what}_sha256"]) for what, file in named})


def tag_weight(row: dict[str, Any]) -> float | None:
    """What a configuration says that tags weigh beside similarity in search; None where it does not say.

    Raises:
        ModelError: it says something that is no weight.
    """
    said = row.get("retrieval")
    if said is None:
        return None
    weight = said.get("lambda") if isinstance(said, dict) else None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise ModelError(
            f'{CONFIG} says "retrieval": {said}; expected {{"lambda": a number of 0 or more}}, or nothing'
        )
    return float(weight)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A complete bundle folder.

    Attributes:
        name: the model's name.
        fingerprint: first 12 hex digits of the graph's sha256; with a table, a captioner or more, of all sums' own.
        side: side in pixels of the square the graph takes.
        typed_threshold: the lowest score at which a typed tag is given; None where the model reads no text.
        has_table: the labels stand in a file of their own, see `table`.
        captioner: None where the model writes no captions.
        aligner: None where the model does not compare pictures with texts.
        tag_weight: see there.
    """

    folder: Path
    name: str
    fingerprint: str
    side: int
    vocabulary: Vocabulary
    typed_threshold: float | None = None
    has_table: bool = False
    captioner: CaptionParts | None = None
    aligner: AlignParts | None = None
    tag_weight: float | None = None

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

    def text_encoder(self, *, device: str = "auto", threads: int | None = None) -> Texts:
        """What embeds typed tags. Raises ModelError when it is missing, damaged or not the model's own."""
        from taglens.inference import clip_texts
        from taglens.language.text_encoder import TextEncoder

        row = read_config(self.folder)
        if (tower := row.get(clip_texts.ABOUT)) is not None:
            _verify(self.folder / clip_texts.GRAPH, str(tower.get("graph_sha256")))
            return clip_texts.open_exported(self.folder, tower, device=device, threads=threads)
        encoder = TextEncoder.load(self.folder / TEXT)
        wanted = row.get("text_encoder")
        if encoder.fingerprint != wanted:
            raise ModelError(
                f"{self.folder / TEXT} is not the text encoder of {self.ref} "
                f"({wanted} expected, {encoder.fingerprint} found); copy the bundle again"
            )
        return encoder

    def verify_captioner(self) -> None:
        """Compare the captioner's files with their sums: large, so only when they are needed. Raises ModelError."""
        for file, wanted in ({} if self.captioner is None else self.captioner.sums).items():
            _verify(self.folder / file, wanted)

    def verify_aligner(self) -> None:
        """The same for the aligner's files, of which some read weights in the captioner's. Raises ModelError."""
        for file, wanted in ({} if self.aligner is None else self.aligner.sums).items():
            _verify(self.folder / file, wanted)

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
            tower = row.get("text_tower")
            reads = labels is not None and (table is None or tower is not None)
            typed = float(row["typed_threshold"]) if reads else None
            captioner = None if row.get("captioner") is None else CaptionParts.read(row["captioner"])
            aligner = None if row.get("aligner") is None else AlignParts.read(row["aligner"])
            weight = tag_weight(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / CONFIG} is incomplete: {error}") from None
        _verify(folder / GRAPH, wanted)
        if labels is not None:
            _verify(folder / LABELS, str(labels))
        if table is not None:
            _verify(folder / TABLE, str(table))
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        vocabulary.require(vocabulary_fingerprint, what=f"the model in {folder}")
        parts = [wanted]
        if table is not None:
            parts.append(str(table))
        if captioner is not None:
            parts += captioner.sums.values()
        if aligner is not None:
            if captioner is None:
                raise ModelError(
                    f"{folder / CONFIG} has an aligner and no captioner to read with; export it again"
                )
            parts += aligner.sums.values()
        if tower is not None:
            parts.append(str(tower["fingerprint"]))
        fingerprint = _fingerprint(parts)
        return cls(
            folder,
            name,
            fingerprint,
            side,
            vocabulary,
            typed_threshold=typed,
            has_table=table is not None,
            captioner=captioner,
            aligner=aligner,
            tag_weight=weight,
        )


def _fingerprint(sums: list[str]) -> str:
    """Of the graph alone, or of all that the model is made of."""
    return (sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest())[:12]


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


def trained_ref(folder: Path, name: str) -> str:
    """``name@fingerprint`` of a model folder for torch: of its weights, a captioner's and an aligner's."""
    from taglens.models.checkpoint import ALIGNER, CAPTIONER, WEIGHTS, aligns, writes_captions

    more = ((CAPTIONER, writes_captions(folder)), (ALIGNER, aligns(folder)))
    files = [WEIGHTS, *(file for file, there in more if there)]
    return f"{name}@{_fingerprint([checksum(folder / file) for file in files])}"


def locate(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model: a shipped model's by name, else the folder itself."""
    if os.fspath(name_or_folder) == STARTER:
        return Path(str(files("taglens"))) / "assets" / STARTER
    return Path(name_or_folder)
