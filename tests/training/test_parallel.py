"""Several processes, or several parts, make the update of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from taglens.data.batches import BatchStream, PictureSet
from taglens.errors import UsageError
from taglens.models.recognizer import Recognizer
from taglens.training import parallel
from taglens.training.loop import LoopConfig, train
from taglens.training.objectives import TagObjective

# Batch statistics are those of a part, so the encoder's are frozen: what several processes ask for.
CONFIG = LoopConfig(
    steps=3,
    side=tiny.SIDE,
    lr=1e-2,
    warmup=1,
    average=0.5,
    log_every=1,
    checkpoint_every=2,
    only=("project", "decoder", "bank", "pooled_norm", "pooled_query"),
)


def captioned(name: str, count: int, *, seed: int) -> PictureSet:
    """Pictures of which two in three have captions, some tags being neither sure nor out of reach."""
    rng = np.random.default_rng(seed)
    texts = rng.standard_normal((count, 2, 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    made = tiny.picture_set(name, count, absent=0.3, seed=seed)
    return replace(made, texts=texts, text_counts=np.arange(count) % 3)


def reader() -> Recognizer:
    model = tiny.recognizer(descriptions=2)
    torch.manual_seed(1)
    model.bank.embeddings.copy_(torch.nn.functional.normalize(torch.randn(6, 2, 16), dim=-1))
    return model


def run(out: Path, **changes: int) -> dict[str, Tensor]:
    """Train a few steps; the last one's gradients. With 7 pictures a batch, no two parts are alike.

    Not the weights: where a gradient is nothing but rounding (a key's bias), AdamW makes a full step of it.
    """
    stream = BatchStream([captioned("a", 9, seed=0), captioned("b", 11, seed=1)], batch_size=7, seed=3)
    objective = TagObjective(gamma_negative=2, tags_per_step=4)
    model = reader()
    train(model, stream, objective, replace(CONFIG, **changes), out=out)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def alike(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(left[key], right[key], atol=1e-5) for key in left
    )


def test_parts_make_the_update_of_the_whole(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert any(float(gradient.abs().max()) > 1e-2 for gradient in whole.values())
    for accumulate in (2, 3, 50):
        assert alike(run(tmp_path / str(accumulate), accumulate=accumulate), whole), accumulate


def test_a_part_without_captions_leaves_it_to_the_others(tmp_path: Path) -> None:
    """Where only captions are asked, one picture at a time: some parts have nothing to say, none stops the run."""
    stream = BatchStream([captioned("a", 9, seed=0)], batch_size=7, seed=3)
    losses = []
    for accumulate in (1, 7):
        model = reader()
        objective = TagObjective(weights={"text": 1.0})
        config = replace(CONFIG, steps=1, accumulate=accumulate)
        train(model, stream, objective, config, out=tmp_path / str(accumulate))
        losses.append(json.loads((tmp_path / str(accumulate) / "log.jsonl").read_text())["text"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def worker(out: str) -> None:
    """What each of several processes runs."""
    assert parallel.start("cpu") == "cpu"
    assert parallel.size() == 2
    state = run(Path(out), accumulate=2)
    torch.save(state, Path(out) / f"rank{parallel.rank()}.pt")
    parallel.leave(0)


def launch(out: Path) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(__file__).parent
    paths = [str(folder), str(folder.parent)]
    code = f"import sys; sys.path[:0] = {paths!r}; import test_parallel; test_parallel.worker({str(out)!r})"
    started = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        started.append(
            subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        )
    done = []
    for process in started:
        _, errors = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, "", errors))
    return done


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    out = tmp_path / "shared"
    for process in launch(out):
        assert process.returncode == 0, process.stderr[-2000:]
    for rank in (0, 1):
        assert alike(torch.load(out / f"rank{rank}.pt", weights_only=True), whole), rank
    # One of them writes: the log has every step once, with the losses of the whole.
    told = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "shared")
    ]
    assert len(told[0]) == len(told[1]) == CONFIG.steps
    for left, right in zip(*told, strict=True):
        assert {"tag", "text", "rank"} <= left.keys() == right.keys()
        for name in ("tag", "text", "rank", "pooled_tag", "pooled_rank", "grad_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-4), name


def test_alone_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.start("cpu") == "cpu" and (parallel.rank(), parallel.size()) == (0, 1)
    parallel.leave(3)  # returns: there is nobody to leave
    assert parallel.add({"tag": 2.0}) == {"tag": 2.0}


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK is not; start with torchrun"):
        parallel.start("cpu")


def test_every_process_needs_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "size", lambda: 4)
    monkeypatch.setattr(parallel, "rank", lambda: 3)
    assert [rows.tolist() for rows in parallel.parts(9, accumulate=1)] == [[7, 8]]
    with pytest.raises(UsageError, match="cannot be shared by 4 processes"):
        parallel.parts(3, accumulate=1)
