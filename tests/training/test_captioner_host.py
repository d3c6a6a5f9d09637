"""Our captioner behind the interface of ViZer says what it says everywhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import small_aligner as small
import small_captioner
import small_host
import tiny
from taglens.errors import UsageError
from taglens.inference.captioning import Search
from taglens.inference.tagger import Tagger
from taglens.training.captioner_host import CaptionerHost
from taglens.training.zero_label_hosts import Drawn, Texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory) / "model"


def test_it_sees_and_writes_what_the_tagger_does(folder: Path) -> None:
    host, tagger = CaptionerHost.open(folder), Tagger.from_pretrained(folder)
    pictures = list(tiny.pixels(7))
    seen = host.see(pictures)
    rows = list(tagger.caption(pictures, search=Search(beams=1)))
    assert host.write(seen).strings == tuple(str(row.caption) for row in rows)
    looked, embedded = host.looked(seen, tagger), list(tagger.embed(pictures))
    np.testing.assert_allclose(looked.scores, np.stack([row.scores for row in embedded]), atol=1e-6)
    assert looked.vectors is not None
    np.testing.assert_allclose(looked.vectors, np.stack([row.vector for row in embedded]), atol=1e-5)
    assert tagger.ref == f"{host.name}@{host.fingerprint}"


def test_another_model_may_say_which_tags_guide(folder: Path) -> None:
    bundle = Tagger.from_pretrained(folder.parent / "bundle")
    dog = bundle.with_vocabulary(bundle.vocabulary.with_thresholds([0.0, *[1.0] * 5]))
    pictures = list(tiny.pixels(5))
    host = CaptionerHost.open(folder, tagger=dog)
    seen = host.see(pictures)
    rows = Tagger.from_pretrained(folder).caption(pictures, tags=["dog"], search=Search(beams=1))
    assert host.write(seen).strings == tuple(str(row.caption) for row in rows)
    assert host.guided_by == bundle.ref
    plain = CaptionerHost.open(folder)
    assert plain.guided_by == f"{plain.name}@{plain.fingerprint}"
    torch.testing.assert_close(seen.features, plain.see(pictures).features)
    looked, embedded = host.looked(seen, bundle), list(bundle.embed(pictures))
    assert looked.vectors is not None
    np.testing.assert_allclose(looked.vectors, np.stack([row.vector for row in embedded]), atol=1e-5)
    np.testing.assert_allclose(looked.scores, np.stack([row.scores for row in embedded]), atol=1e-6)


def test_features_are_the_mean_of_the_encoders_tokens() -> None:
    host = small_host.host()
    pictures = tiny.pixels(3)
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 255
    tokens = small.recognizer().encoder(pixels)[:, 1:]
    found = host.see(list(pictures)).features
    assert found.shape == (3, host.vision_width)
    torch.testing.assert_close(found, tokens.mean(1), atol=1e-5, rtol=1e-4)


def test_a_picture_is_seen_alike_in_any_company() -> None:
    host = small_host.host()
    pictures = list(tiny.pixels(5))
    whole = host.see(pictures)
    joined = host.joined([host.see(pictures[:2]), host.see(pictures[2:])])
    assert len(joined) == len(whole) == 5
    rows = torch.tensor([4, 0, 4])
    for one, other in zip(joined.at(rows)._all(), whole._all(), strict=True):
        torch.testing.assert_close(one, other[rows], atol=1e-5, rtol=1e-4)
    assert whole.nbytes == sum(each.numel() * each.element_size() for each in whole._all())
    assert host.write(joined.at(rows)).strings == tuple(host.write(whole).strings[row] for row in (4, 0, 4))


@pytest.mark.parametrize("drawn", [None, Drawn(3), Drawn(3, top_p=0.5, temperature=2.0)])
def test_the_masks_are_a_loop_over_pieces(drawn: Drawn | None) -> None:
    host = small_host.host()
    texts = host.write(small_host.seen(host, 8), drawn=drawn)
    words, prompt = host.text.pieces, len(host.text.prompt_ids)
    for row, ids in enumerate(texts.ids.tolist()):
        assert tuple(ids[:prompt]) == host.text.prompt_ids
        ended = False
        for place, piece in enumerate(ids):
            own = place >= prompt and not ended and piece not in (words.sep, words.pad)
            assert bool(texts.mask[row, place]) == own
            first_end = place >= prompt and piece == words.sep and not ended
            assert bool(texts.ends[row, place]) == first_end
            ended = ended or first_end
        assert texts.strings[row] == host.text.read([piece for piece in ids if piece != words.pad])
    assert texts.ids.shape[1] <= 30


def test_drawing_follows_its_seed() -> None:
    host = small_host.host()
    seen = small_host.seen(host)
    first, again, other = (host.write(seen, drawn=Drawn(seed)).strings for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # Nearly cold, drawing is taking the likeliest.
    assert host.write(seen, drawn=Drawn(0, temperature=1e-4)).strings == host.write(seen).strings
    assert host.write(seen, drawn=Drawn(0, top_p=1e-6)).strings == host.write(seen).strings


def test_pieces_are_drawn_as_often_as_they_are_likely() -> None:
    host = small_host.host()
    seen = small_host.seen(host, 1).at(torch.zeros(3000, dtype=torch.long))
    place = len(host.text.prompt_ids)
    drawn = host.write(seen, drawn=Drawn(0)).ids[:, place]
    with torch.no_grad():
        one = seen.at(torch.tensor([0]))
        start = host.captioner.start(one.memory, one.guide_mask)
        ids = torch.tensor([host.text.prompt_ids])
        logits, _ = host.captioner.step(ids, start, torch.tensor([0]))
    logits[:, host.text.pieces.sep] = -torch.inf
    expected = logits.softmax(-1)[0]
    found = torch.bincount(drawn, minlength=len(expected)) / 3000
    assert float((found - expected).abs().max()) < 0.04


def test_given_captions_read_as_written_ones(folder: Path) -> None:
    host = CaptionerHost.open(folder)
    texts = host.texts(["dog run", "a red boat on grass", ""])
    pieces = host.text.pieces
    assert texts.mask.sum(1).tolist() == [2, 5, 0]
    assert texts.ends.sum(1).tolist() == [1, 1, 1]
    assert texts.strings == ("dog run", "a red boat on grass", "")
    prompt = host.text.prompt_ids
    assert texts.ids[0].tolist()[: len(prompt) + 3] == [*prompt, *pieces.ids("dog run")[1:]]


def test_what_fills_a_text_up_changes_nothing() -> None:
    host = small_host.host()
    seen = small_host.seen(host, 2)
    short, long = host.texts(["dog"]), host.texts(["dog", "a red boat on the grass"])
    for given in (seen, None):
        one = host.hidden(None if given is None else given.at(torch.tensor([0])), short)
        both = host.hidden(given, long)
        torch.testing.assert_close(both[:1, : short.ids.shape[1]], one, atol=1e-5, rtol=1e-4)


def test_without_a_picture_the_text_alone_decides() -> None:
    host = small_host.host()
    texts = host.texts(["dog", "red boat", "dog"])
    hidden = host.hidden(None, texts)
    assert hidden.shape == (*texts.ids.shape, host.hidden_width)
    torch.testing.assert_close(hidden[0], hidden[2])
    seen = host.hidden(small_host.seen(host, 3), texts)
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)


def test_log_probabilities_are_a_loop() -> None:
    host = small_host.host()
    small_host.stir(host)
    seen = small_host.seen(host, 3)
    texts = host.write(seen, drawn=Drawn(0))
    learning = host.log_probs(seen, texts)
    found = learning.detach()
    with torch.no_grad():
        ones = torch.ones_like(texts.ids)
        logits = host.captioner.write(texts.ids, seen.memory, mask=ones, memory_mask=seen.guide_mask)
    for row in range(3):
        for place in range(texts.ids.shape[1]):
            twin = 0.0
            if texts.mask[row, place] or texts.ends[row, place]:
                twin = float(logits[row, place - 1].log_softmax(-1)[texts.ids[row, place]])
            assert float(found[row, place]) == pytest.approx(twin, abs=1e-4)
    assert learning.requires_grad


def test_off_is_the_original_bit_for_bit() -> None:
    host = small_host.host()
    seen, texts = small_host.seen(host), host.texts(["a red dog"] * 6)
    plain, said = host.hidden(seen, texts), host.write(seen).strings
    small_host.stir(host, by=1.0)
    assert not torch.allclose(host.hidden(seen, texts), plain, atol=1e-2)
    with host.adapters_off():
        assert torch.equal(host.hidden(seen, texts), plain)
        assert host.write(seen).strings == said


def test_texts_that_do_not_fit_together_are_refused() -> None:
    from taglens.errors import MismatchError

    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(MismatchError):
        Texts(ids, ids.bool(), ids.bool(), ("one",))
    with pytest.raises(MismatchError):
        Texts(ids, ids.bool()[:, :2], ids.bool(), ("one", "two"))


@pytest.mark.parametrize("given", [{"seed": -1}, {"seed": 0, "top_p": 0.0}, {"seed": 0, "temperature": 0.0}])
def test_nonsense_draws_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Drawn(**given)  # type: ignore[arg-type]


def test_what_cannot_be_improved_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="exported bundle"):
        CaptionerHost.open(folder.parent / "bundle")
    from taglens.models.checkpoint import save_pretrained

    save_pretrained(small.recognizer(), small.vocabulary(), tmp_path / "tags", name="tags")
    with pytest.raises(UsageError, match="writes no captions"):
        CaptionerHost.open(tmp_path / "tags")


def test_published_captioners_can_be_improved_too(tmp_path: Path) -> None:
    """Those do not see the picture, and read padding."""
    host = CaptionerHost.open(small_captioner.model_folder(tmp_path / "m"), lora=small_host.LORA)
    seen = host.see(small_captioner.pictures(3))
    texts = host.write(seen)
    host.hidden(seen, texts).sum().backward()  # type: ignore[no-untyped-call]
    assert any(value.grad is not None and value.grad.any() for value in host.parameters().values())
    assert host.hidden(None, texts).shape == (*texts.ids.shape, host.hidden_width)
    shutil.rmtree(tmp_path / "m")
