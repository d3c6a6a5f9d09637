"""Model folders: what is saved comes back bit by bit, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from taglens.errors import MismatchError, ModelError, TaglensError, VocabularyError
from taglens.models.checkpoint import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    from_pretrained,
    save_pretrained,
    start_from,
)
from taglens.models.configs import EncoderConfig
from taglens.models.recognizer import Recognizer
from taglens.vocabulary import Entry, Vocabulary

BOTH = pytest.mark.parametrize("encoder", tiny.ENCODERS.values(), ids=tiny.ENCODERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(tiny.recognizer(), tiny.vocabulary(), tmp_path / "model", name="small")
    return tmp_path / "model"


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    row = json.loads((folder / CONFIG).read_text())
    change(row)
    (folder / CONFIG).write_text(json.dumps(row))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


# -- there and back ----------------------------------------------------------------------------------


@BOTH
def test_what_is_saved_comes_back_bit_by_bit(encoder: EncoderConfig, tmp_path: Path) -> None:
    model = tiny.recognizer(encoder)
    # The loop trains in this memory format; a file must not depend on it.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_pretrained(model, tiny.vocabulary(), tmp_path / "new" / "folder", name="small")
    again, vocabulary, name = from_pretrained(tmp_path / "new" / "folder")
    assert name == "small" and not again.training
    assert again.config == model.config
    assert [entry.to_dict() for entry in vocabulary] == [entry.to_dict() for entry in tiny.vocabulary()]
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value) and state[key].dtype == value.dtype, key
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {CONFIG, WEIGHTS, VOCABULARY}


def test_a_folder_is_overwritten_whole(folder: Path) -> None:
    other = tiny.recognizer(tiny.HYBRID, tags=4, seed=1)
    save_pretrained(other, tiny.vocabulary(4), folder, name="other")
    again, vocabulary, name = from_pretrained(folder)
    assert (name, len(vocabulary), again.config) == ("other", 4, other.config)


def test_an_interrupted_save_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taglens.models.checkpoint.save_file", broken)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(tiny.recognizer(seed=1), tiny.vocabulary(name="new"), folder, name="new")
    assert from_pretrained(folder)[2] == "small"
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, VOCABULARY}


def test_a_vocabulary_of_another_length_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"6 tags.*has 5"):
        save_pretrained(tiny.recognizer(), tiny.vocabulary(5), tmp_path / "model", name="small")
    assert not (tmp_path / "model").exists()


def test_the_vocabulary_may_be_improved_without_its_meaning(folder: Path) -> None:
    tiny.vocabulary().with_thresholds([0.9] * 6).save(folder / VOCABULARY)
    _, vocabulary, _ = from_pretrained(folder)
    assert {entry.threshold for entry in vocabulary} == {0.9}


# -- damage ------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def spoil(key: str, value: float) -> Callable[[Path], None]:
    def change(state: dict[str, torch.Tensor]) -> None:
        state[key].view(-1)[-1] = value

    return lambda folder: rewrite_weights(folder, change)


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[TaglensError], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), ModelError, "config.json is missing"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ModelError, "model.safetensors is missing"),
    "no vocabulary": (lambda f: (f / VOCABULARY).unlink(), VocabularyError, "vocabulary.jsonl"),
    "config cut": (lambda f: cut(f / CONFIG), ModelError, "cannot read .*config.json"),
    "config of a bundle": (
        lambda f: (f / CONFIG).write_text('{"taglens_bundle": 1}'),
        ModelError,
        "is a bundle",
    ),
    "config no object": (lambda f: (f / CONFIG).write_text("[1]"), ModelError, "not a taglens model"),
    "config without name": (
        lambda f: rewrite_config(f, lambda row: row.pop("name")),
        ModelError,
        "incomplete: 'name'",
    ),
    "config without vocabulary": (
        lambda f: rewrite_config(f, lambda row: row.pop("vocabulary")),
        ModelError,
        "incomplete: 'vocabulary'",
    ),
    "config without sizes": (
        lambda f: rewrite_config(f, lambda row: row.pop("recognizer")),
        ModelError,
        "incomplete: 'recognizer'",
    ),
    "config of another size": (
        lambda f: rewrite_config(f, lambda row: row["recognizer"]["encoder"].update(stem_width=4)),
        ModelError,
        "does not fit config.json",
    ),
    "weights cut": (lambda f: cut(f / WEIGHTS), ModelError, "model.safetensors is damaged"),
    "weights empty": (lambda f: (f / WEIGHTS).write_bytes(b""), ModelError, "is damaged"),
    "weights are text": (lambda f: (f / WEIGHTS).write_text("404 Not Found"), ModelError, "is damaged"),
    "weights not a number": (
        spoil("bank.embeddings", float("nan")),
        ModelError,
        "bank.embeddings.*not finite",
    ),
    "weights infinite": (spoil("pooled_bias", float("inf")), ModelError, "pooled_bias.*not finite"),
    "a tensor missing": (
        lambda f: rewrite_weights(f, lambda state: state.pop("project.bias")),
        ModelError,
        "project.bias",
    ),
    "a tensor too many": (
        lambda f: rewrite_weights(f, lambda state: state.update(extra=torch.zeros(1))),
        ModelError,
        "extra",
    ),
    "a tensor of another shape": (
        lambda f: rewrite_weights(f, lambda state: state.update(pooled_bias=torch.zeros(7))),
        ModelError,
        "pooled_bias",
    ),
    "vocabulary of another model": (
        lambda f: tiny.vocabulary(prefix="no ").save(f / VOCABULARY),
        MismatchError,
        "made for another vocabulary",
    ),
    "vocabulary in another order": (
        lambda f: Vocabulary(list(tiny.vocabulary())[::-1], name="tiny").save(f / VOCABULARY),
        MismatchError,
        "made for another vocabulary",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "named"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(
    damage: Callable[[Path], Any], kind: type[TaglensError], named: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(kind, match=named) as caught:
        from_pretrained(folder)
    assert str(folder) in str(caught.value), "the message says which folder"


# -- starting from another model ---------------------------------------------------------------------


def test_starting_matches_tags_by_id(folder: Path) -> None:
    old = tiny.recognizer()
    ids = tiny.vocabulary().ids
    # Another order, one tag left out, a homograph of another kind, and one that is new.
    entries = [
        Entry("boat", "object"),
        Entry("zebra", "object"),
        Entry("run", "object"),
        *(e for e in tiny.vocabulary() if e.name in ("dog", "red", "run", "beach")),
    ]
    vocabulary = Vocabulary(entries, name="new")
    model = tiny.recognizer(tags=len(vocabulary), seed=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert start_from(model, folder, vocabulary) == ["object:zebra", "object:run"]
    after = model.state_dict()
    for key, value in old.state_dict().items():
        if key not in ("bank.embeddings", "pooled_bias"):
            assert torch.equal(after[key], value), key
    for key in ("bank.embeddings", "pooled_bias"):
        for column, entry in enumerate(vocabulary):
            known = entry.id in ids
            expected = old.state_dict()[key][ids.index(entry.id)] if known else before[key][column]
            assert torch.equal(after[key][column], expected), (key, entry.id)


def test_a_model_started_from_another_scores_like_it(folder: Path) -> None:
    old = tiny.recognizer()
    order = [4, 2, 0, 1, 5, 3]
    vocabulary = Vocabulary([tiny.vocabulary()[column] for column in order])
    model = tiny.recognizer(seed=9)
    assert start_from(model, folder, vocabulary) == []
    given = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(given).logits, old(given).logits[:, order], atol=1e-5)


def test_starting_with_no_tag_in_common_takes_the_rest_over(folder: Path) -> None:
    vocabulary = tiny.vocabulary(prefix="sea ")
    model = tiny.recognizer(seed=5)
    bank = model.bank.embeddings.detach().clone()
    assert start_from(model, folder, vocabulary) == vocabulary.ids
    assert torch.equal(model.bank.embeddings, bank)
    assert torch.equal(model.project.weight, tiny.recognizer().project.weight)


def shallow() -> Recognizer:
    return Recognizer(replace(tiny.config(), decoder=replace(tiny.DECODER, depth=1)))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: tiny.recognizer(tiny.HYBRID), "another architecture"),
        (lambda: tiny.recognizer(pooled_term=False), "pooled.*another architecture"),
        (shallow, "decoder.layers.1.*another architecture"),
    ],
    ids=["encoder", "pooled term", "fewer layers"],
)
def test_starting_from_another_architecture_is_refused(
    model: Callable[[], Recognizer], named: str, folder: Path
) -> None:
    with pytest.raises(ModelError, match=named):
        start_from(model(), folder, tiny.vocabulary())


def test_a_part_may_start_anew(folder: Path) -> None:
    """Whatever that part was in the other model: here, deeper and without normalised inputs."""
    decoder = replace(tiny.DECODER, depth=1, input_norm=not tiny.DECODER.input_norm)
    model = Recognizer(replace(tiny.config(), decoder=decoder))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert start_from(model, folder, tiny.vocabulary(), fresh_parts=["decoder"]) == []
    old = tiny.recognizer().state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, (before if key.startswith("decoder.") else old)[key]), key
    with pytest.raises(ModelError, match=r"no part 'head'.*decoder"):
        start_from(model, folder, tiny.vocabulary(), fresh_parts=["head"])


def test_starting_from_other_widths_is_refused(tmp_path: Path) -> None:
    narrow = Recognizer(replace(tiny.config(), token_width=8, label_width=8))
    save_pretrained(narrow, tiny.vocabulary(), tmp_path / "narrow", name="narrow")
    with pytest.raises(ModelError, match="does not fit"):
        start_from(tiny.recognizer(), tmp_path / "narrow", tiny.vocabulary())


def test_starting_from_a_folder_with_a_swapped_vocabulary_is_refused(folder: Path) -> None:
    """Each tag would get another one's embedding, and nothing would show it."""
    Vocabulary(list(tiny.vocabulary())[::-1], name="tiny").save(folder / VOCABULARY)
    with pytest.raises(MismatchError, match="another vocabulary"):
        start_from(tiny.recognizer(), folder, tiny.vocabulary())


def test_starting_from_damaged_weights_is_refused(folder: Path) -> None:
    spoil("bank.embeddings", float("nan"))(folder)
    with pytest.raises(ModelError, match="not finite"):
        start_from(tiny.recognizer(), folder, tiny.vocabulary())
