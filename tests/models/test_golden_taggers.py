"""The published models: every stage of small ones, converted, equals what the original code computed.

The stored tensors are described in the shared data's own format file; where there is no shared data at all the tests
are skipped, see `conftest`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from taglens import images
from taglens.inference.bundle import LABELS
from taglens.inference.engines import LabelEngine
from taglens.inference.export import export
from taglens.inference.tagger import Tagger
from taglens.language.vocabulary_files import read_vocabulary, with_translation_file
from taglens.models.checkpoint import read_config
from taglens.models.convert import Converted, convert
from taglens.models.label_bank import DescriptionBank, EmbeddedBank
from taglens.models.published import read_published, save_converted, vocabulary_of
from taglens.models.recognizer import Recognition, Recognizer
from taglens.training.objectives import Asked, TagObjective
from taglens.vocabulary import Entry, Vocabulary

PLUS_384, PLUS_224, RAM, TAG2TEXT = (
    "ram_plus_tiny_384",
    "ram_plus_tiny_224",
    "ram_tiny_384",
    "tag2text_tiny_384",
)
TEXTS = (PLUS_384, PLUS_224, RAM)  # whose labels are texts
PICTURES = ("preprocess/im0.png", "preprocess/im1.png")
FEATURES, LOGITS, EXPORTED = 1e-4, 2e-4, 1e-3

SWIN_STAGES = [f"swin.layer_{stage}" for stage in range(4)] + ["visual_encoder"]
DECODER_STAGES = [f"tagging.layer_{layer}{part}" for layer in (0, 1) for part in (".crossattention", "")]
HEAD_STAGES = [*SWIN_STAGES, *DECODER_STAGES, "tagging_head"]
RAM_STAGES = [*HEAD_STAGES, "image_proj", "wordvec_proj", "label_embed_relu"]
PLUS_STAGES = [*RAM_STAGES, "reweight_logits", "reweight_softmax", "wordvec_proj_input"]
STAGES = {PLUS_384: PLUS_STAGES, PLUS_224: PLUS_STAGES, RAM: RAM_STAGES, TAG2TEXT: HEAD_STAGES}


@dataclass(frozen=True)
class Golden:
    """One stored model: what came in and out of the original, and ours made of its weights."""

    name: str
    folder: Path
    meta: dict[str, Any]
    stored: dict[str, Tensor]
    image: Tensor
    pixels: Tensor
    converted: Converted
    model: Recognizer
    vocabulary: Vocabulary
    stages: dict[str, Tensor]
    found: Recognition


@pytest.fixture(scope="module")
def golden(shared: Callable[[str], Path]) -> Iterator[Callable[[str], Golden]]:
    """``golden(name)``: computed once a module."""
    made: dict[str, Golden] = {}

    def get(name: str) -> Golden:
        if name not in made:
            made[name] = _golden(name, shared)
        return made[name]

    yield get
    made.clear()


def _golden(name: str, shared: Callable[[str], Path]) -> Golden:
    folder = shared(f"golden/{name}")
    meta = json.loads(shared(f"golden/{name}/meta.json").read_text("utf-8"))
    stored = load_file(shared(f"golden/{name}/io.safetensors"))
    image = stored.get("image")
    if image is None:
        image = load_file(shared("golden/preprocess/image_384.safetensors"))["image"]
    converted = convert(read_published(shared(f"golden/{name}/state.safetensors")))
    model = converted.model()
    # Stored pictures are normalised already; ours do that inside.
    pixels = image * model.encoder.pixels.std + model.encoder.pixels.mean
    stages, found = _stages(model, pixels)
    vocabulary = vocabulary_of(converted, _tags(name, meta, shared)).vocabulary
    return Golden(name, folder, meta, stored, image, pixels, converted, model, vocabulary, stages, found)


def _tags(name: str, meta: dict[str, Any], shared: Callable[[str], Path]) -> Vocabulary:
    if name == TAG2TEXT:
        return read_vocabulary(shared("published/tag2text_ori_tag_list.txt")).vocabulary
    pairs = zip(meta["tag_list"], meta["class_threshold"], strict=True)
    return Vocabulary([Entry(tag, "object", threshold=threshold) for tag, threshold in pairs], name=name)


def _stages(model: Recognizer, pixels: Tensor) -> tuple[dict[str, Tensor], Recognition]:
    """What each part gave, under the stored names."""
    parts: dict[str, nn.Module] = {"visual_encoder": model.encoder, "image_proj": model.project}
    parts |= {f"swin.layer_{n}": stage for n, stage in enumerate(model.encoder.stages)}
    for n, layer in enumerate(model.decoder.layers):
        parts |= {f"tagging.layer_{n}.crossattention": layer.norm1, f"tagging.layer_{n}": layer}
    if model.config.decoder.label_map:
        parts["wordvec_proj"] = model.decoder.label_in
    seen: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda *call, name=name: seen.update({name: call[-1]}))
        for name, part in parts.items()
    ]
    with torch.no_grad():
        found = model(pixels)
        for hook in hooks:
            hook.remove()
        for n in range(len(model.encoder.stages)):
            seen[f"swin.layer_{n}"] = seen[f"swin.layer_{n}"].flatten(1, 2)
        seen["tagging_head"] = seen[f"tagging.layer_{len(model.decoder.layers) - 1}"]
        if model.config.decoder.label_map:
            seen["label_embed_relu"] = seen["wordvec_proj"].relu()
        if isinstance(model.bank, DescriptionBank):
            seen["reweight_logits"] = model.bank.fit(found.pooled)
            seen["reweight_softmax"] = model.bank.weights(found.pooled)
            seen["wordvec_proj_input"] = model.bank(found.pooled)
    return seen, found


def _gap(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())


def _names(joined: str) -> list[str]:
    return joined.split(" | ") if joined else []


# -- stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name in STAGES for stage in STAGES[name]])
def test_every_stage_is_the_original_one(golden: Callable[[str], Golden], name: str, stage: str) -> None:
    given = golden(name)
    wanted = given.stored[stage]
    found = given.stages[stage]
    if name == TAG2TEXT and stage.startswith("tagging"):
        found = found[:, :64]  # as many as are stored
    assert wanted.abs().max() > 1e-2
    assert _gap(found, wanted) <= FEATURES


@pytest.mark.parametrize("name", STAGES)
def test_no_stored_tensor_is_left_out(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    parts = ("tag_encoder", "decoder.", "encoder_")  # of the captioner, which has its own tests
    stored = {key for key in given.stored if name != TAG2TEXT or not key.startswith(parts)}
    texts = {"logits", "probs", "class_threshold", "openset.label_embed", "openset.logits"}
    trained = {"train.image_tag", "train.clip_feature"}
    compared = {
        PLUS_384: texts | trained | {"train.batch_text_embed"},
        PLUS_224: texts | trained | {"train.batch_text_embed", "image"},
        RAM: texts | trained | {"train.parse_tag"},
        TAG2TEXT: {"tag_logits", "tag_class_threshold", "train.tag"},
    }
    assert stored == {*STAGES[name], *compared[name]}


@pytest.mark.parametrize("name", STAGES)
def test_logits_are_the_original_ones(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    wanted = given.stored["tag_logits" if name == TAG2TEXT else "logits"]
    assert _gap(given.found.logits, wanted) <= LOGITS
    assert wanted.std() > 0.1
    if "probs" in given.stored:
        assert _gap(torch.sigmoid(given.found.logits), given.stored["probs"]) <= FEATURES


@pytest.mark.parametrize("name", STAGES)
def test_sizes_are_read_from_the_shapes(golden: Callable[[str], Golden], name: str) -> None:
    config = golden(name).converted.config
    encoder = config.encoder
    assert (encoder.width, encoder.depths, encoder.heads) == (16, (2, 2, 2, 2), (1, 2, 4, 8))
    assert (config.side, encoder.window) == ((224, 7) if name == PLUS_224 else (384, 12))
    assert (config.decoder.width, config.decoder.depth, config.decoder.ffn_width) == (96, 2, 192)
    assert config.tags == (3429 if name == TAG2TEXT else 32)
    assert config.descriptions == {PLUS_384: 51, PLUS_224: 51, RAM: 1, TAG2TEXT: 0}[name]


@pytest.mark.parametrize("name", STAGES)
def test_every_key_is_accounted_for(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    converted = given.converted
    told = {*converted.used, *converted.tied, *converted.dropped}
    assert told == load_file(given.folder / "state.safetensors").keys()
    assert len(told) == len(converted.used) + len(converted.tied) + len(converted.dropped)
    assert len(converted.tied) == (0 if "plus" in name else 32)
    reasons = {PLUS_384: 0, PLUS_224: 1, RAM: 1, TAG2TEXT: 1}
    assert len(set(converted.dropped.values())) == reasons[name]


# -- tags --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_tags_are_the_original_ones_together_and_alone(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    alone = torch.cat([given.model(given.pixels[n : n + 1]).logits for n in range(2)]).detach()
    assert _gap(alone, given.found.logits) <= LOGITS
    for logits, key in ((given.found.logits, "tags"), (alone, "tags_single")):
        for row, joined in zip(
            torch.sigmoid(logits).numpy(), given.meta.get(key, given.meta["tags"]), strict=True
        ):
            columns = sorted(given.vocabulary.position(tag.id) for tag in given.vocabulary.select(row))
            assert [given.vocabulary[column].name for column in columns] == _names(joined)


@pytest.mark.parametrize("name", STAGES)
def test_thresholds_are_the_original_ones(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    wanted = given.stored["tag_class_threshold" if name == TAG2TEXT else "class_threshold"].numpy()
    assert np.array_equal(given.vocabulary.thresholds(), wanted)
    assert given.vocabulary.strict
    at_threshold = given.vocabulary.select(wanted)
    assert not at_threshold, "a score that only reaches its threshold is not given"
    above = given.vocabulary.select(np.nextafter(wanted, np.float32(2)))
    assert len(above) == len(wanted) - (7 if name == TAG2TEXT else 0), "some of Tag2Text's are never given"


def test_tag2texts_tags_are_given_by_number(golden: Callable[[str], Golden]) -> None:
    """Names repeat in its list, so that only columns tell: those above their thresholds, seven never among them."""
    given = golden(TAG2TEXT)
    never = given.meta["delete_tag_index"]
    hidden = [column for column, entry in enumerate(given.vocabulary) if entry.hidden]
    assert hidden == sorted(never)
    names = [entry.name for entry in given.vocabulary]
    assert sum(count > 1 for count in Counter(names).values()) == 114
    assert len(set(given.vocabulary.ids)) == len(names) == 3429
    wanted = torch.sigmoid(given.stored["tag_logits"]) > given.stored["tag_class_threshold"]
    assert not wanted[:, never].any(), "none of the seven is in the stored pictures: they are raised below"
    for row, columns in zip(torch.sigmoid(given.found.logits).numpy(), wanted, strict=True):
        row[never] = 1.0
        found = {given.vocabulary.position(tag.id) for tag in given.vocabulary.select(row)}
        assert found == set(columns.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("name", TEXTS)
def test_tags_have_the_original_chinese_names(
    golden: Callable[[str], Golden], name: str, tmp_path: Path
) -> None:
    """Parity: spaces at the end of a name, which the published list has here and there, are not kept."""
    given = golden(name)
    (tmp_path / "zh.txt").write_text("\n".join(given.meta["tag_list_chinese"]) + "\n", "utf-8")
    vocabulary = with_translation_file(given.vocabulary, "zh", tmp_path / "zh.txt")
    assert vocabulary.languages == {"zh": 32}
    chances = torch.sigmoid(given.found.logits).numpy()
    for row, joined in zip(chances, given.meta["tags_chinese"], strict=True):
        tags = sorted(vocabulary.select(row, language="zh"), key=lambda tag: vocabulary.position(tag.id))
        assert [tag.name for tag in tags] == [part.strip() for part in _names(joined)]
        assert {tag.id for tag in tags} == {tag.id for tag in given.vocabulary.select(row)}


@pytest.mark.parametrize("name", TEXTS)
def test_a_threshold_of_one_is_never_reached(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    never = np.flatnonzero(np.float32(given.meta["class_threshold"]) == 1)
    assert len(never) == 4
    given_tags = given.vocabulary.select(np.ones(32, np.float32))
    assert {given.vocabulary.position(tag.id) for tag in given_tags} == set(range(32)) - set(never.tolist())


# -- other labels ------------------------------------------------------------------------------------


def _other(given: Golden) -> Tensor:
    """[10, K, L]: the stored table of other labels, cut into its classes."""
    classes, each = given.meta["openset_num_class"], given.meta["openset_des_per_class"]
    assert (classes, each) == (10, 1 if given.name == RAM else 7)
    return given.stored["openset.label_embed"].view(classes, each, -1)


@pytest.mark.parametrize("name", TEXTS)
def test_other_labels_are_asked_with_the_same_weights(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    table = _other(given)
    classes, each = table.shape[:2]
    bank: DescriptionBank | EmbeddedBank = EmbeddedBank(table[:, 0])
    if each > 1:
        bank = DescriptionBank(table, torch.full((classes,), each))
    with torch.no_grad():
        logits = given.model.with_labels(bank)(given.pixels).logits
    assert _gap(logits, given.stored["openset.logits"]) <= LOGITS
    least = given.meta["openset_threshold"]
    entries = [Entry(f"open{number}", "object", threshold=least) for number in range(classes)]
    vocabulary = Vocabulary(entries, strict=True)
    for row, joined in zip(torch.sigmoid(logits).numpy(), given.meta["openset_tags"], strict=True):
        columns = sorted(vocabulary.position(tag.id) for tag in vocabulary.select(row))
        assert [f"open{column}" for column in columns] == _names(joined)


@pytest.mark.parametrize("name", [PLUS_384, PLUS_224])
def test_rows_beyond_a_labels_texts_count_for_nothing(golden: Callable[[str], Golden], name: str) -> None:
    given = golden(name)
    table = torch.nn.functional.pad(_other(given), (0, 0, 0, 4), value=0.3)
    with torch.no_grad():
        bank = DescriptionBank(table, torch.full((10,), 7))
        assert (
            _gap(given.model.with_labels(bank)(given.pixels).logits, given.stored["openset.logits"]) <= LOGITS
        )
        whole = DescriptionBank(table, torch.full((10,), 11))
        assert (
            _gap(given.model.with_labels(whole)(given.pixels).logits, given.stored["openset.logits"]) > LOGITS
        )


@pytest.mark.parametrize("name", TEXTS)
def test_weights_with_another_table_are_a_model_of_their_own(
    golden: Callable[[str], Golden], name: str
) -> None:
    given = golden(name)
    published = read_published(given.folder / "state.safetensors")
    published["label_embed"] = given.stored["openset.label_embed"]
    converted = convert(published, tags=10, descriptions=given.meta["openset_des_per_class"])
    with torch.no_grad():
        logits = converted.model()(given.pixels).logits
    assert _gap(logits, given.stored["openset.logits"]) <= LOGITS


# -- training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        (name, ours, theirs)
        for name in STAGES
        for ours, theirs in (("tag", "loss_tag"), ("distil", "loss_dis"), ("text", "loss_alignment"))
        if (ours == "tag" or name != TAG2TEXT) and (ours != "text" or name in (PLUS_384, PLUS_224))
    ],
)
def test_losses_are_the_original_ones(
    golden: Callable[[str], Golden], name: str, ours: str, theirs: str
) -> None:
    given = golden(name)
    targets = given.stored["train.tag" if name == TAG2TEXT else "train.image_tag"].float()
    width = given.model.config.label_width
    texts = given.stored.get("train.batch_text_embed", torch.zeros(0, width))
    asked = Asked(
        targets,
        torch.ones_like(targets),
        texts,
        torch.arange(len(texts)),
        torch.eye(len(texts)),
        given.stored.get("train.clip_feature"),
    )
    objective = TagObjective(tags_per_step=0, weights={"tag": 1.0, "text": 1.0, "distil": 1.0})
    with torch.no_grad():
        tokens = given.model.tokens(given.pixels)
        named = objective.losses(given.model, tokens, asked, generator=torch.Generator())
    # Theirs are sums, ours stand on a scale of their own.
    factor = {"tag": float(targets.sum()), "text": len(texts), "distil": 1}[ours]
    assert float(named[ours]) * factor == pytest.approx(given.meta["train_losses"][theirs], rel=1e-4)


# -- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PLUS_384, PLUS_224])
@pytest.mark.parametrize("number", [0, 1])
def test_pictures_are_prepared_as_the_original_does(
    golden: Callable[[str], Golden], shared: Callable[[str], Path], name: str, number: int
) -> None:
    given = golden(name)
    side = given.model.config.side
    path = shared(f"golden/{PICTURES[number]}")
    prepared = images.prepare(images.load(path, at_least=side).pixels, side)
    assert np.abs(prepared - given.pixels[number].numpy()).max() <= 1e-6
    with torch.no_grad():
        normalised = given.model.encoder.pixels(torch.from_numpy(prepared)[None])
    assert _gap(normalised[0], given.image[number]) <= 1e-5
    mean, std = (torch.tensor(images.PIXELS[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert _gap((torch.from_numpy(prepared) - mean) / std, given.image[number]) <= 1e-5


# -- folders -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(
    golden: Callable[[str], Golden], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``folders(name)``: a folder with ``model`` and ``bundle``."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            given, folder = golden(name), tmp_path_factory.mktemp(name)
            save_converted(given.converted, given.vocabulary, folder / "model", name=name)
            export(given.model, given.vocabulary, folder / "bundle", name=name, half=False)
            made[name] = folder
        return made[name]

    return get


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("kind", ["model", "bundle"])
def test_folders_tag_picture_files_as_the_original_does(
    golden: Callable[[str], Golden],
    folders: Callable[[str], Path],
    shared: Callable[[str], Path],
    name: str,
    kind: str,
) -> None:
    given = golden(name)
    paths = [shared(f"golden/{picture}") for picture in PICTURES]
    tagger = Tagger.from_pretrained(folders(name) / kind, device="cpu")
    wanted = torch.sigmoid(given.stored["tag_logits" if name == TAG2TEXT else "logits"]).numpy()
    for (_, scores), row in zip(tagger.scores(paths), wanted, strict=True):
        assert scores is not None
        assert np.abs(scores - row).max() <= (EXPORTED if kind == "bundle" else FEATURES)
    for prediction, joined in zip(tagger(paths), given.meta["tags"], strict=True):
        assert prediction.tags is not None
        columns = sorted(given.vocabulary.position(tag.id) for tag in prediction.tags)
        assert [given.vocabulary[column].name for column in columns] == _names(joined)
    assert not tagger.reads_text
    assert json.loads((folders(name) / kind / "config.json").read_text("utf-8"))["pixels"] == images.PIXELS
    if kind == "model":
        assert read_config(folders(name) / kind)["converted"] == given.converted.family


@pytest.mark.parametrize("name", TEXTS)
def test_bundles_score_other_labels_on_the_stored_tokens(
    golden: Callable[[str], Golden], folders: Callable[[str], Path], name: str
) -> None:
    given = golden(name)
    table = _other(given)
    engine = LabelEngine(folders(name) / "bundle" / LABELS, device="cpu")
    counts = np.full(len(table), table.shape[1], np.int64)
    scores = engine(given.stored["image_proj"].numpy(), table.numpy(), counts)
    assert np.abs(scores - torch.sigmoid(given.stored["openset.logits"]).numpy()).max() <= EXPORTED


def test_a_bundle_tags_without_torch(
    golden: Callable[[str], Golden], folders: Callable[[str], Path], shared: Callable[[str], Path]
) -> None:
    """No torch in the process at all, and batches of any size give the same."""
    given = golden(PLUS_224)
    paths = [str(shared(f"golden/{picture}")) for picture in PICTURES]
    script = "import sys; sys.modules['torch'] = None; from taglens.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        script,
        "tag",
        *paths,
        *paths,
        "--model",
        str(folders(PLUS_224) / "bundle"),
    ]
    for size in ("1", "4"):
        run = subprocess.run(
            [*command, "--json", "--batch-size", size],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr
        rows = [json.loads(line) for line in run.stdout.splitlines()]
        for row, joined in zip(rows, given.meta["tags"] * 2, strict=True):
            assert sorted(tag["name"] for tag in row["tags"]) == sorted(_names(joined))
