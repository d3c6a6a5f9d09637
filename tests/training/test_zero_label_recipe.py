"""A whole run: goes on where it was killed, keeps the best, stops at a collapse, refuses what cannot be meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import small_host
from taglens.errors import DataError, MismatchError, ModelError, UsageError
from taglens.models.lora import load_adapter
from taglens.training.captioner_host import CaptionerHost
from taglens.training.collapse import Limits
from taglens.training.zero_label_hosts import Drawn, Texts
from taglens.training.zero_label_pictures import Album
from taglens.training.zero_label_recipe import Enhancement, _digest, run
from taglens.training.zero_label_settings import EnhanceConfig, Enhanced, Judges

CONFIG = small_host.CONFIG


def enhance(
    pictures: Path, out: Path, config: EnhanceConfig = CONFIG, judges: Judges | None = None, **more: Any
) -> Enhanced:
    host = more.pop("host", None) or small_host.host()
    album = small_host.album(host, pictures)
    return run(host, album, judges or small_host.judges(), config, out=out, **more)


def state(out: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(out / "state.pt", weights_only=True)["model"]
    return found


LOOSE = Limits(distinct=0.0, words=0.0, most_words=100.0, empty=1.0, spread=0.0)
ALL = replace(CONFIG, contrast=0.5, tags=1.0, reward=1.0, sampled=True, drawn=2, limits=LOOSE)


def test_stopped_runs_end_as_whole_ones(tmp_path: Path) -> None:
    config = ALL
    whole = enhance(tmp_path / "p", tmp_path / "whole", config)
    enhance(tmp_path / "p", tmp_path / "half", replace(config, until=2))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(state(tmp_path / "half").values(), state(tmp_path / "whole").values(), strict=True)
    )
    again = enhance(tmp_path / "p", tmp_path / "half", config)
    for part in ("mapper", "."):
        one, other = (state(tmp_path / name / part) for name in ("whole", "half"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (whole.kept, whole.base) == (again.kept, again.base)
    first, second = (load_adapter(each.adapter) for each in (whole, again))
    assert first.fingerprint == second.fingerprint


def test_a_killed_process_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    enhance(tmp_path / "p", tmp_path / "whole")
    host = small_host.host()
    wrote, calls = host.write, 0

    def dies(seen: Any, *, drawn: Drawn | None = None) -> Texts:
        nonlocal calls
        calls += (tmp_path / "out" / "state.pt").exists()
        if calls > 2:
            raise KeyboardInterrupt
        return wrote(seen, drawn=drawn)

    host.write = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        enhance(tmp_path / "p", tmp_path / "out", host=host)
    assert not (tmp_path / "out" / "adapter").exists()
    enhance(tmp_path / "p", tmp_path / "out")
    one, other = state(tmp_path / "whole"), state(tmp_path / "out")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    host = small_host.host()
    found = enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, keep_last=True), host=host)
    assert (found.pictures, found.held, found.stopped) == (11, 1, None)
    assert found.kept.step == 4
    adapter = load_adapter(found.adapter)
    adapter.require(host.fingerprint, what="small")
    assert adapter.trained["kept_step"] == 4
    assert adapter.trained["base"] == "small@000000000000"
    for name, value in host.adapter_state().items():
        assert torch.equal(value, adapter.state[name])
        assert torch.equal(value, state(tmp_path / "out")[name.replace(".", "/")])
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "latent" in row] == [1, 2, 3, 4]
    told = next(row["evaluation"] for row in log if "evaluation" in row)
    assert told.keys() >= {"distinct", "words", "empty", "score", "pairwise", "retrieval", "gain"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["base_figures"] == found.base.to_dict()
    assert (report["held"], report["unread"]) == (1, 0)


def scored(*scores: float) -> Judges:
    return Judges(small_host.Scripted(*scores), "scripted")


def test_the_best_is_kept_and_not_the_last(tmp_path: Path) -> None:
    # Base, step 2, step 4, and the last look at what was kept.
    found = enhance(tmp_path / "p", tmp_path / "a", judges=scored(0.5, 0.9, 0.7, 0.9))
    assert found.kept.step == 2
    first = enhance(
        tmp_path / "p", tmp_path / "b", replace(CONFIG, steps=4, until=2), judges=scored(0.5, 0.9)
    )
    assert load_adapter(found.adapter).fingerprint == load_adapter(first.adapter).fingerprint


def test_where_nothing_is_better_the_model_stays_as_it_was(tmp_path: Path) -> None:
    host = small_host.host()
    fresh = host.adapter_state()
    found = enhance(tmp_path / "p", tmp_path / "a", judges=scored(0.5, 0.4, 0.5), host=host)
    assert found.kept.step == 0
    assert all(torch.equal(value, fresh[name]) for name, value in host.adapter_state().items())


def test_what_a_run_killed_before_its_first_checkpoint_left_counts_for_no_other(tmp_path: Path) -> None:
    config = replace(CONFIG, latent=0.0, tags=1.0, checkpoint_every=0, limits=LOOSE)
    letters = small_host.LetterJudge()

    def begun(score: small_host.Scripted) -> Judges:
        return Judges(score, "scripted", tags=letters)

    class Dies(small_host.Scripted):
        asked = 0

        def __call__(self, numbers: Any, captions: Any) -> Any:
            self.asked += 1
            if self.asked > 2:
                raise KeyboardInterrupt
            return super().__call__(numbers, captions)

    # Base, step 2; killed at step 4, before anything but the best was written.
    with pytest.raises(KeyboardInterrupt):
        enhance(tmp_path / "p", tmp_path / "out", config, begun(Dies(0.5, 0.9)))
    assert (tmp_path / "out" / "best.pt").exists() and not (tmp_path / "out" / "state.pt").exists()
    other = replace(config, lr=1e-4)
    again = enhance(tmp_path / "p", tmp_path / "out", other, begun(small_host.Scripted(0.5, 0.6, 0.8)))
    alone = enhance(tmp_path / "p", tmp_path / "alone", other, begun(small_host.Scripted(0.5, 0.6, 0.8)))
    assert again.kept.step == 4
    assert load_adapter(again.adapter).fingerprint == load_adapter(alone.adapter).fingerprint


def test_a_damaged_best_is_named(tmp_path: Path) -> None:
    enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, until=2))
    (tmp_path / "out" / "best.pt").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"best\.pt is damaged"):
        enhance(tmp_path / "p", tmp_path / "out")


def test_a_collapse_stops_the_run_and_the_best_before_it_is_kept(tmp_path: Path) -> None:
    host = small_host.host()
    wrote, fresh = host.write, host.adapter_state()

    def repeats(seen: Any, *, drawn: Drawn | None = None) -> Texts:
        texts = wrote(seen, drawn=drawn)
        moved = any(not torch.equal(value, fresh[name]) for name, value in host.adapter_state().items())
        if not moved or calls["tuning"] < 4:
            return texts
        return host.texts(["dog"] * len(texts))

    calls = {"tuning": 0}
    shown = Enhancement.show

    def counted(self: Any, step: int) -> Any:
        calls["tuning"] = step + 1
        return shown(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Enhancement, "show", counted)
        host.write = repeats  # type: ignore[method-assign]
        found = enhance(tmp_path / "p", tmp_path / "out", judges=scored(0.1, 0.2, 0.9), host=host)
    assert found.stopped is not None
    assert "by step 4" in found.stopped
    assert "words, they had" in found.stopped
    assert found.kept.step == 2
    assert (found.adapter / "config.json").exists()


def test_mapper_learns_from_peoples_captions(tmp_path: Path) -> None:
    host = small_host.host()
    captioned = Album(host, small_host.pictures(tmp_path / "told", 8, seed=3), kept_bytes=0)
    captions = [("a red dog", "dog on grass")] * 4 + [("a boat", "")] * 4
    found = enhance(tmp_path / "p", tmp_path / "gt", host=host, captioned=captioned, captions=captions)
    own = enhance(tmp_path / "p", tmp_path / "g")
    assert found.base.mapped != own.base.mapped
    work = Enhancement(host, small_host.album(host, tmp_path / "p"), small_host.judges(), CONFIG)
    pairs = work.told_pairs(captioned, captions)
    assert len(pairs) == 12  # the empty ones teach nothing
    with host.adapters_off():
        texts = host.texts(["a boat"])
        hidden = host.hidden(None, texts)[0][texts.mask[0]].mean(0)
    torch.testing.assert_close(pairs.hidden[-1], hidden.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pairs.features[-1], captioned.features[-1])
    seeing = Enhancement(host, work.album, small_host.judges(), replace(CONFIG, sees_picture=True))
    assert not torch.allclose(seeing.told_pairs(captioned, captions).hidden, pairs.hidden, atol=1e-3)
    with pytest.raises(UsageError, match="as many"):
        work.told_pairs(captioned, captions[1:])
    with pytest.raises(UsageError, match="no caption to teach"):
        work.told_pairs(captioned, [("",)] * 8)


def test_centred_features_have_no_mean(tmp_path: Path) -> None:
    host = small_host.host()
    album = small_host.album(host, tmp_path / "p")
    work = Enhancement(host, album, small_host.judges(), replace(CONFIG, centred=True))
    torch.testing.assert_close(
        work.features[work.train].mean(0), torch.zeros(host.vision_width), atol=1e-5, rtol=0
    )
    assert not set(work.train.tolist()) & set(work.held.tolist())
    assert sorted([*work.train.tolist(), *work.held.tolist()]) == list(range(12))


# -- bad input -------------------------------------------------------------------------------------


def test_unreadable_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    paths = small_host.pictures(tmp_path, 10)
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    paths[7].write_text("no picture")
    host = small_host.host()
    album = Album(host, [*paths, tmp_path / "absent.png"])
    assert len(album) == 8
    assert [each.path.name for each in album.unread] == ["003.png", "007.png", "absent.png"]
    assert [path.name for path in album.paths] == [f"{n:03d}.png" for n in (0, 1, 2, 4, 5, 6, 8, 9)]
    alone = Album(host, [paths[4]])
    torch.testing.assert_close(album.features[3], alone.features[0], atol=1e-5, rtol=1e-4)


def test_an_album_that_keeps_nothing_shows_the_same(tmp_path: Path) -> None:
    host = small_host.host()
    paths = small_host.pictures(tmp_path, 9)
    kept, read = Album(host, paths), Album(host, paths, kept_bytes=1000)
    assert (kept.keeps, read.keeps) == (True, False)
    torch.testing.assert_close(kept.features, read.features)
    rows = torch.tensor([8, 2, 2])
    for one, other in zip(kept.at(rows)._all(), read.at(rows)._all(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    paths[2].unlink()
    with pytest.raises(DataError, match="cannot now"):
        read.at(rows)


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    host = small_host.host()
    few = Album(host, small_host.pictures(tmp_path / "few", 7))
    with pytest.raises(UsageError, match="7 pictures can be read of 7; expected 8"):
        run(host, few, small_host.judges(), CONFIG, out=tmp_path / "out")
    with pytest.raises(UsageError, match="a batch holds 12"):
        enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, batch_size=12))
    assert not (tmp_path / "out").exists()


def test_a_captioner_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    host = small_host.host()
    host.write = lambda seen, *, drawn=None: host.texts([""] * len(seen))  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="writes nothing about 1 of 1 pictures"):
        enhance(tmp_path / "p", tmp_path / "out", host=host)


def test_a_stop_beyond_the_end_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="until 9 is beyond the run's 4 steps"):
        enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, until=9))
    assert not (tmp_path / "out").exists()


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, until=2))
    with pytest.raises(MismatchError, match="begun with other lr"):
        enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, lr=0.5))
    stronger = small_host.host(lora=replace(small_host.LORA, alpha=9))
    with pytest.raises(MismatchError, match="begun with other adapter_scale"):
        enhance(tmp_path / "p", tmp_path / "out", host=stronger)
    with pytest.raises(MismatchError, match="begun with other pictures"):
        enhance(tmp_path / "q", tmp_path / "out")


def test_any_text_has_a_digest() -> None:
    """Half characters stand in names that are no UTF-8, and may stand in a file of captions."""
    found = {_digest([[text]]) for text in ("a", "\ud800", "\udcff", "\udfff")}
    assert len(found) == 4


def test_signals_need_their_judges(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing judges it"):
        enhance(tmp_path / "p", tmp_path / "out", replace(CONFIG, tags=1.0), judges=scored(0.1))


@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": 1}, {"epochs": 0.0}, {"steps": -1}, {"lr": 0.0}, {"mapper_epochs": 0}, {"contrast": -1.0},
        {"latent": 0.0}, {"held": 0},
    ],
)  # fmt: skip
def test_nonsense_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EnhanceConfig(**given)


def test_without_the_latent_signal_there_is_no_mapper(tmp_path: Path) -> None:
    config = replace(CONFIG, latent=0.0, tags=1.0)
    found = enhance(tmp_path / "p", tmp_path / "out", config)
    assert found.base.mapped is None
    assert not (tmp_path / "out" / "mapper" / "state.pt").exists()


def test_an_epoch_takes_as_many_steps_as_its_batches(tmp_path: Path) -> None:
    host = small_host.host()
    album = small_host.album(host, tmp_path / "p")
    work = Enhancement(host, album, small_host.judges(), replace(CONFIG, steps=0, epochs=3.0))
    assert work.steps == 3 * (11 // 4)
    assert isinstance(host, CaptionerHost)
