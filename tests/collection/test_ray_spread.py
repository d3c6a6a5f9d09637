"""Shards made by Ray: the same store as a local run, also when an actor dies. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import colours
from taglens.collection.inputs import open_inputs
from taglens.collection.run_options import RunOptions
from taglens.collection.runs import Progress, run
from taglens.collection.store import RunFile, Store
from taglens.errors import MissingExtraError, TaglensError, UsageError
from taglens.inference.tagger import Tagger

OPTIONS = RunOptions(shard_size=7, batch_size=4, features=True)


@dataclass(frozen=True)
class Load:
    """Gives an actor its tagger; one whose process ends once, in the middle of a shard, where ``mark`` is missing."""

    mark: Path | None = None
    broken: bool = False

    def __call__(self) -> Tagger:
        engine = Dying(self.mark) if self.mark is not None else colours.Colours()
        if self.broken:
            engine = Failing()
        return colours.tagger(engine)


class Dying(colours.Colours):
    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark

    def __call__(self, pixels: Any) -> Any:
        if self.looked >= 8 and not self.mark.exists():
            self.mark.touch()
            os._exit(9)
        return super().__call__(pixels)


class Failing(colours.Colours):
    def __call__(self, pixels: Any) -> Any:
        raise ValueError("no such kernel")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install 'taglens[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'taglens[ray]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # An actor imports the taggers of this file and of ``colours``.
        ours = (str(Path(file).parent) for file in (__file__, colours.__file__))
        paths = os.pathsep.join((*ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
        found.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
        yield found
        found.shutdown()


def go(
    folder: Path, source: Path, load: Load | None, options: RunOptions = OPTIONS, workers: int = 2
) -> Progress:
    from taglens.collection.ray_spread import RaySpread

    tagger, store = colours.tagger(), Store(folder)
    spread = None
    if load is not None:
        fingerprint = RunFile((), options.configuration(tagger)).fingerprint
        spread = RaySpread(load, folder, options, fingerprint, workers)
    return run(tagger, open_inputs([str(source)]), store, options, sources=[str(source)], spread=spread)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.filterwarnings("ignore")
def test_two_actors_one_of_which_dies_write_what_a_local_run_writes(ray: Any, tmp_path: Path) -> None:
    colours.write_pictures(tmp_path / "pictures", 60)
    (tmp_path / "pictures" / "bad.jpg").write_bytes(b"\xff\xd8\xff cut")
    go(tmp_path / "local", tmp_path / "pictures", None)
    mark = tmp_path / "died"
    progress = go(tmp_path / "ray", tmp_path / "pictures", Load(mark))
    assert mark.exists(), "an actor died"
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert (progress.pictures, progress.made, progress.failed, progress.shards) == (61, 60, 1, 9)
    again = go(tmp_path / "ray", tmp_path / "pictures", Load(mark))
    assert (again.kept, again.made) == (9, 0)


@pytest.mark.filterwarnings("ignore")
def test_what_goes_wrong_in_an_actor_is_told_and_nothing_is_lost(ray: Any, tmp_path: Path) -> None:
    colours.write_pictures(tmp_path / "pictures", 10)
    with pytest.raises(TaglensError, match=r"no such kernel.*the same command goes on"):
        go(tmp_path / "ray", tmp_path / "pictures", Load(broken=True))
    assert go(tmp_path / "ray", tmp_path / "pictures", Load()).made == 10


def test_nonsense_is_refused_and_a_missing_ray_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from taglens.collection.ray_spread import RaySpread, require_ray

    with pytest.raises(UsageError, match="--workers"):
        RaySpread(Load(), tmp_path, OPTIONS, "", 0)
    with pytest.raises(UsageError, match="GPUs"):
        RaySpread(Load(), tmp_path, OPTIONS, "", 1, gpus=-1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"taglens\[ray\]"):
        require_ray()
