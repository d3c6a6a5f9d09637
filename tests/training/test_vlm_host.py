"""Hosts made of transformers' models, tiny and of chance: they read and write as the models themselves do.

And what ViZer asks for: the original without adapters, gradient into adapters alone, adapters that peft reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_transformers as tiny
from taglens.errors import MismatchError, MissingExtraError, ModelError, UsageError
from taglens.models import transformers_folders as folders
from taglens.training import vlm_host
from taglens.training.vlm_host import VlmHost, open_host
from taglens.training.vlm_reading import joined
from taglens.training.zero_label import Latent, Mapper, MapperConfig, Shown
from taglens.training.zero_label_hosts import Drawn, Host, Pixels

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("peft") is None,
    reason="transformers or peft is not installed: pip install 'taglens[vlm]'",
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "VLM_HOSTS.md"
KINDS: dict[str, Callable[[Path], Path]] = {
    "smolvlm": tiny.smolvlm,
    "idefics3": lambda folder: tiny.smolvlm(folder, kind="idefics3", chat=False),
    "qwen2_vl": tiny.qwen2_vl,
    # The smallest of the published ones has no head of its own.
    "qwen2_vl, no conversation": lambda folder: tiny.qwen2_vl(folder, chat=False, tied=True),
}
CAPTIONS = ["a dog runs on grass .", "the cat", ""]


def pictures(count: int = 3) -> list[Pixels]:
    """Of shapes that need prompts of different lengths."""
    rng = np.random.default_rng(0)
    shapes = ((20, 40), (32, 32), (9, 14))
    return [rng.integers(0, 255, (*shapes[n % 3], 3), dtype=np.uint8) for n in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = KINDS[kind](tmp_path_factory.mktemp("models") / re.sub(r"\W", "", kind))
        return made[kind]

    return folder


@pytest.fixture(params=list(KINDS))
def any_folder(request: pytest.FixtureRequest, place: Callable[[str], Path]) -> Path:
    return place(request.param)


@pytest.fixture(params=["smolvlm", "qwen2_vl"])
def folder(request: pytest.FixtureRequest, place: Callable[[str], Path]) -> Path:
    """One of each family: where the kinds of a family cannot differ."""
    return place(request.param)


@pytest.fixture
def host(folder: Path) -> VlmHost:
    return opened(folder)


def opened(folder: Path, **options: Any) -> VlmHost:
    return open_host(folder, **{"device": "cpu", "rank": 3, "alpha": 6.0, "longest": 7, **options})


def stirred(host: VlmHost, seed: int = 0) -> VlmHost:
    """The same with adapters that do something: as they begin, they do not."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in host.parameters().values():
            value.copy_(torch.randn(value.shape, generator=chance) * 0.3)
    return host


class Original:
    """The model as transformers itself runs it, one picture and one text at a time."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText

        with folders.hushed():
            self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.kind = self.model.config.model_type
        name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3", "qwen2_vl": "Qwen2VL"}[self.kind]
        import transformers

        self.processor = getattr(transformers, f"{name}ImageProcessorPil").from_pretrained(folder)

    def __call__(self, picture: Pixels, ids: torch.Tensor) -> Any:
        """Of prompt and text together [P + L]: logits and hidden states."""
        whole = Image.fromarray(picture)
        given = dict(self.processor([whole] if self.kind == "qwen2_vl" else [[whole]], return_tensors="pt"))
        if self.kind == "qwen2_vl":
            given["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()[None]
        with torch.no_grad():
            return self.model(input_ids=ids[None], **given, output_hidden_states=True)


def test_frames_stand_in_a_prompt_as_transformers_puts_them() -> None:
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    for rows, columns in ((0, 0), (1, 1), (2, 3)):
        wanted = get_image_prompt_string(
            rows,
            columns,
            4,
            fake_token_around_image="<fake_token_around_image>",
            image_token="<image>",
            global_image_token="<global-img>",
        )
        assert vlm_host.frames(rows, columns, "<image>" * 4) == wanted


def test_it_reads_as_the_model_itself(any_folder: Path) -> None:
    host, original, shown = opened(any_folder), Original(any_folder), pictures()
    seen, texts = host.see(shown), host.texts(CAPTIONS)
    assert len({len(ids) for ids in seen.ids}) > 1, "padding is tried, too"
    with torch.no_grad():
        hidden, likely = host.hidden(seen, texts), host.log_probs(seen, texts)
    for row, picture in enumerate(shown):
        ids = texts.ids[row][texts.written[row]]
        found = original(picture, torch.cat((seen.ids[row], ids)))
        torch.testing.assert_close(
            hidden[row, : len(ids)], found.hidden_states[-1][0, -len(ids) :], atol=2e-5, rtol=1e-4
        )
        told = found.logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(
            likely[row, : len(ids)], told.gather(1, ids[:, None])[:, 0], atol=2e-5, rtol=1e-4
        )
        assert not likely[row, len(ids) :].any()
    assert (hidden.shape[2], seen.features.shape) == (host.hidden_width, (3, host.vision_width))


def test_features_are_the_encoders_own_tokens_on_average(folder: Path, host: VlmHost) -> None:
    original = Original(folder)
    told: list[torch.Tensor] = []
    parts = original.model.model
    tower = parts.visual if original.kind == "qwen2_vl" else parts.vision_model
    tower.register_forward_hook(lambda *each: told.append(each[2].last_hidden_state))
    for picture in pictures():
        seen = host.see([picture])
        original(picture, seen.ids[0])
        wanted = told.pop().reshape(-1, host.vision_width).mean(0)
        torch.testing.assert_close(seen.features[0], wanted, atol=1e-5, rtol=1e-4)


def test_it_writes_the_likeliest_piece_again_and_again(folder: Path, host: VlmHost) -> None:
    """The slow twin reads everything anew for every piece, without a cache, a batch or padding."""
    stirred(host)
    seen = host.see(pictures())
    found = host.write(seen)
    ends = set(host._spoken.ends)
    for row in range(3):
        alone, ids = seen.at(torch.tensor([row])), []
        while len(ids) < 7 and not ends & set(ids):
            # Any piece will do where the next is told: what stands before it tells it.
            table = torch.tensor([[*ids, 0]])
            texts = host._spoken.read(table, [""])
            with torch.no_grad():
                states, before = host._reader._states(alone, texts)
                logits = host._base.lm_head(states[0, before + len(ids) - 1])
            ids.append(int(logits.argmax()))
        assert found.ids[row][found.written[row]].tolist() == ids
        assert found.mask[row].sum() == len(ids) - (ids[-1] in ends)
    assert host.write(seen).strings == found.strings


def test_what_was_written_reads_back_alike(host: VlmHost) -> None:
    """The cache's states and those of reading all at once lead to the same pieces."""
    stirred(host)
    seen = host.see(pictures())
    for drawn in (None, Drawn(3), Drawn(3, top_p=0.6, temperature=0.7)):
        texts = host.write(seen, drawn=drawn)
        with torch.no_grad():
            states, before = host._reader._states(seen, texts)
            logits = host._base.lm_head(states[:, before - 1 : -1])
        if drawn is None:
            assert torch.equal(logits.argmax(-1)[texts.written], texts.ids[texts.written])
        assert (host.log_probs(seen, texts) <= 0).all() and host.write(
            seen, drawn=drawn
        ).strings == texts.strings
        assert not (texts.mask & texts.ends).any() and (texts.ends.sum(1) <= 1).all()
    one, other = (host.write(seen, drawn=Drawn(seed)).ids for seed in (1, 2))
    assert one.shape != other.shape or not torch.equal(one, other)


def test_alone_and_together_is_the_same(host: VlmHost) -> None:
    stirred(host)
    shown = pictures()
    seen, texts = host.see(shown), host.texts(CAPTIONS)
    parts = [host.see([picture]) for picture in shown]
    again = host.joined(parts)
    assert torch.equal(again.features, seen.features) and again.nbytes == seen.nbytes == sum(
        p.nbytes for p in parts
    )
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        whole = host.hidden(seen, texts)
        some = host.hidden(seen.at(rows), texts.at(rows))
        for row, part in enumerate(parts):
            length = int(texts.written[row].sum())
            alone = host.hidden(part, texts.at(torch.tensor([row])))
            torch.testing.assert_close(whole[row, :length], alone[0, :length], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(
                host.hidden(None, texts)[row, :length],
                host.hidden(None, texts.at(torch.tensor([row])))[0, :length],
                atol=2e-5,
                rtol=1e-4,
            )
    written = texts.at(rows).written
    torch.testing.assert_close(some[written], whole[rows][written], atol=2e-5, rtol=1e-4)


def test_texts_alone_hang_on_no_picture(host: VlmHost) -> None:
    texts = host.texts(CAPTIONS)
    with torch.no_grad():
        alone = host.hidden(None, texts)
        behind = host.hidden(host.see(pictures()), texts)
    assert alone.shape == behind.shape and not torch.allclose(alone, behind, atol=1e-3)
    assert texts.strings == tuple(CAPTIONS) and texts.mask.sum(1).tolist() == [6, 2, 0]
    assert host.texts(["a " * 20]).ends.sum() == 0, "a text that is cut has no end"


def test_without_adapters_it_is_the_original_to_the_bit(host: VlmHost) -> None:
    seen, texts = host.see(pictures()), host.texts(CAPTIONS)
    with torch.no_grad():
        before = host.hidden(seen, texts)
        stirred(host)
        changed = host.hidden(seen, texts)
        with host.adapters_off():
            without = host.hidden(seen, texts)
            assert torch.equal(host.see(pictures()).features, seen.features)
        again = host.hidden(seen, texts)
    assert torch.equal(without, before) and torch.equal(again, changed)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert all(value.requires_grad for value in host.parameters().values())


def test_half_precision_is_left_to_the_frozen_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CUDA device: weights in bfloat16, adapters and what comes out in float32."""
    whole = stirred(opened(folder))
    read = folders.read_weights
    monkeypatch.setattr(
        folders, "read_weights", lambda *each, **more: read(*each, **{**more, "dtype": torch.bfloat16})
    )
    host = stirred(opened(folder))
    seen, texts = host.see(pictures()), host.texts(CAPTIONS)
    hidden = host.hidden(seen, texts)
    assert seen.tokens[0].dtype == torch.bfloat16 and seen.features.dtype == hidden.dtype == torch.float32
    assert {value.dtype for value in host.parameters().values()} == {torch.float32}
    (hidden[texts.mask].sum() + host.log_probs(seen, texts).sum()).backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(value.grad).all() for value in host.parameters().values())
    assert host.write(seen).mask.any()
    with torch.no_grad():
        near = whole.hidden(whole.see(pictures()), texts)
    torch.testing.assert_close(hidden[texts.mask], near[texts.mask], atol=0.3, rtol=0.1)


def test_adapters_stand_on_the_language_model_alone(host: VlmHost) -> None:
    names = list(host.parameters())
    # Two layers, seven matrices in each, two adapters on each of them.
    assert len(names) == 2 * 7 * 2 and all(name.endswith("weight") and "lora_" in name for name in names)
    assert not [name for name in names if "vis" in name]
    seen, texts = stirred(host).see(pictures()), host.texts(CAPTIONS)
    assert not seen.features.requires_grad
    host.hidden(seen, texts)[texts.mask].sum().backward()
    learned = [name for name, value in host._model.named_parameters() if value.grad is not None]
    assert learned == names and all(value.grad.abs().sum() > 0 for value in host.parameters().values())


def test_its_captions_come_to_map_onto_what_was_seen(host: VlmHost) -> None:
    """Stage 2 by hand, a frozen mapper of chance: the loss falls, and only the adapters move."""
    protocol: Host[Any] = host
    torch.manual_seed(0)
    mapper = Mapper(host.hidden_width, host.vision_width, MapperConfig())
    seen = protocol.see(pictures())
    own = protocol.texts(["a dog runs", "the cat sits", "two red"])
    shown = Shown(seen, torch.arange(3), seen.features, own, 0)
    signal: Latent[Any] = Latent(mapper)
    base = {name: value.clone() for name, value in host._model.named_parameters() if "lora_" not in name}
    steps = torch.optim.AdamW(host.parameters().values(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = signal.losses(protocol, shown)["latent"]
        steps.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02
    assert all(
        torch.equal(value, base[name]) for name, value in host._model.named_parameters() if name in base
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_kept_as_peft_reads_them(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    host = stirred(opened(folder))
    seen, texts = host.see(pictures()), host.texts(CAPTIONS)
    host.save_adapter(tmp_path / "adapter", about={"steps": 3, "base": "another's name for it"})
    assert sorted(each.name for each in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "taglens.json",
    ]
    told = json.loads((tmp_path / "adapter" / "taglens.json").read_text())
    assert (told["base"], told["rank"], told["alpha"]) == (host.fingerprint, 3, 6.0)
    assert told["trained"] == {"steps": 3, "base": "another's name for it"}
    again = opened(folder)
    again.load_adapter(tmp_path / "adapter")
    with torch.no_grad():
        wanted = host.hidden(seen, texts)
        assert torch.equal(again.hidden(seen, texts), wanted)
    # By peft alone, on the model alone.
    by_peft = Original(folder)
    by_peft.model = PeftModel.from_pretrained(by_peft.model, tmp_path / "adapter").eval()
    kept = texts.ids[0][texts.written[0]]
    found = _bare(by_peft)(pictures()[0], torch.cat((seen.ids[0], kept)))
    torch.testing.assert_close(
        wanted[0, : len(kept)], found.hidden_states[-1][0, -len(kept) :], atol=2e-5, rtol=1e-4
    )


def _bare(wrapped: Original) -> Original:
    """Peft's wrapper hands everything on to the model that it put its adapters into."""
    wrapped.model = wrapped.model.base_model.model
    return wrapped


def test_adapters_of_another_model_or_rank_are_refused(place: Callable[[str], Path], tmp_path: Path) -> None:
    host = opened(place("smolvlm"))
    host.save_adapter(tmp_path / "adapter", about={})
    other = opened(tiny.smolvlm(tmp_path / "other", seed=5))
    with pytest.raises(MismatchError, match="another base"):
        other.load_adapter(tmp_path / "adapter")
    with pytest.raises(MismatchError, match="another rank"):
        opened(place("smolvlm"), rank=4).load_adapter(tmp_path / "adapter")
    with pytest.raises(MismatchError, match="another alpha"):
        opened(place("smolvlm"), alpha=1.0).load_adapter(tmp_path / "adapter")
    assert "asked 'A cat?'" in opened(place("smolvlm"), prompt="A cat?").name, (
        "a run must go on with its prompt"
    )
    with pytest.raises(MismatchError, match="adapters do not fit"):
        host.load_adapter_state({})
    with pytest.raises(ModelError, match="no adapters"):
        host.load_adapter(tmp_path)


def test_damaged_adapters_are_refused_and_nothing_else_is_read_for_them(
    place: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    host = opened(place("smolvlm"))
    host.save_adapter(tmp_path / "adapter", about={})
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    before = host.adapter_state()
    name = next(iter(state))
    save_file({**state, name: torch.full_like(state[name], torch.nan)}, weights)
    with pytest.raises(ModelError, match="not finite"):
        host.load_adapter(tmp_path / "adapter")
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ModelError, match="no adapters that can be read"):
        host.load_adapter(tmp_path / "adapter")
    # Not even from an older form, which could run a program, nor from the hub by the folder's name.
    weights.unlink()
    torch.save(state, weights.with_name("adapter_model.bin"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no adapters that can be read"):
        host.load_adapter(Path("adapter"))
    assert all(torch.equal(value, before[key]) for key, value in host.adapter_state().items())


def test_its_first_adapters_follow_the_seed_and_leave_chance_alone(place: Callable[[str], Path]) -> None:
    torch.manual_seed(7)
    one, same, other = (opened(place("smolvlm"), seed=seed).adapter_state() for seed in (1, 1, 2))
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), after)
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


# -- folders -----------------------------------------------------------------------------------------


def test_only_the_two_families_are_hosts(place: Callable[[str], Path], tmp_path: Path) -> None:
    assert all(vlm_host.opens(place(kind)) for kind in KINDS)
    assert not vlm_host.opens(tmp_path)
    assert not vlm_host.opens(tiny.bert(tmp_path / "bert"))
    with pytest.raises(ModelError, match="is a bert; expected smolvlm, idefics3 or qwen2_vl"):
        open_host(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_host(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("inf")}, {"longest": 0}])
def test_settings_that_cannot_be_meant_are_refused(
    wrong: dict[str, Any], place: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match="must be 1 or more"):
        opened(place("smolvlm"), **wrong)


def test_a_picture_and_its_places_must_agree(place: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny.smolvlm(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("no place for a picture")
    with pytest.raises(ModelError, match="0 places '<image>'"):
        opened(folder)
    host = opened(place("smolvlm"))
    host._base.model.image_seq_len += 1
    with pytest.raises(ModelError, match="belongs to another model"):
        host.see(pictures())
    with pytest.raises(UsageError, match="no pictures"):
        joined([])


def test_without_the_packages_the_cure_is_told(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "find_spec", lambda name: None if name == "peft" else 1)
    with pytest.raises(MissingExtraError, match=r"peft.*pip install 'taglens\[vlm\]'"):
        open_host(place("smolvlm"))


def test_the_document_does_what_it_says(
    place: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(pictures(4)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "SmolVLM-256M-Base").symlink_to(place("smolvlm"))
    told: dict[str, Any] = {}
    exec(compile(block, str(DOCUMENT), "exec"), told)
    assert len(told["captions"]) == 4 and (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
