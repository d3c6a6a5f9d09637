"""What ``taglens convert`` and ``taglens bundle`` say of files, folders and machines that do not do.

One line and status 2, nothing half-written, and what was there before whole.
"""

from __future__ import annotations

import gzip
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

import published_weights as published
from taglens.cli.main import app
from taglens.errors import ModelError, TaglensError
from taglens.inference.bundle import Bundle
from taglens.models.checkpoint import from_pretrained
from taglens.models.convert import convert
from taglens.models.published import read_published
from taglens.staging import STAGE

torch.set_num_threads(1)
State = dict[str, Tensor]
SOURCE = Path(__file__).resolve().parents[2] / "src"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(run: Result, out: Path, *says: str) -> None:
    """One line, status 2, and no folder."""
    assert run.exit_code == 2, (run.exception, run.stderr)
    assert run.stdout == "" and run.stderr.startswith("taglens: error: ") and run.stderr.count("\n") == 1
    for words in says:
        assert words in run.stderr
    assert not out.exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound weights in every form, a converted model and its bundle."""
    folder = tmp_path_factory.mktemp("whole")
    state = published.ram()
    torch.save({"model": state}, folder / "zip.pth")
    torch.save({"model": state}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "plain.safetensors")
    assert invoke("convert", folder / "zip.pth", "--out", folder / "model").exit_code == 0
    assert invoke("bundle", folder / "model", "--out", folder / "bundle").exit_code == 0
    return folder


# -- other files -------------------------------------------------------------------------------------


class Attack:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was-run",)


class Settings:
    """What training scripts like to keep beside weights."""


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def trained(path: Path) -> None:
    """As Lightning writes it."""
    optimizer = {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}},
        "param_groups": [{"lr": 1e-3}],
    }
    state = {f"model.{key}": value for key, value in published.ram().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer_states": [optimizer]}, path)


def packed(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(b"\x80\x02 weights")


def archived(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights.pth", b"\x80\x02")


def saved(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def content(value: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(value)


VIT = {"cls_token": torch.zeros(1, 1, 4), "blocks.0.attn.qkv.weight": torch.zeros(12, 4)}
CLIP = {"text_projection": torch.zeros(4, 4), "logit_scale": torch.tensor(1.0)}
RESNET = {"conv1.weight": torch.zeros(4, 3, 7, 7), "bn1.num_batches_tracked": torch.tensor(1)}


@pytest.mark.filterwarnings("ignore")  # torch calls its own scripting old
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(saved(VIT), "found 2 keys: blocks.0.attn.qkv.weight, cls_token", id="another encoder"),
        pytest.param(saved(CLIP), "logit_scale, text_projection; other models are", id="CLIP"),
        pytest.param(saved({"model": RESNET}), "found 2 keys: bn1.num_batches_tracked", id="ResNet"),
        pytest.param(lambda path: save_file(CLIP, path), "other models are not converted", id="safetensors"),
        pytest.param(scripted, "TorchScript program, and reading it could run code", id="TorchScript"),
        pytest.param(trained, "'epoch' with int; of a training checkpoint", id="Lightning"),
        pytest.param(saved([torch.ones(2)]), "found list", id="list"),
        pytest.param(saved({"model": Settings()}), "(test_convert_errors.Settings), and", id="an object"),
        pytest.param(saved({"model": Attack()}), "(posix.system), and reading it could run", id="code"),
        pytest.param(content(pickle.dumps(Attack())), "could run code, so it was not read", id="bare code"),
        pytest.param(content(b"<!DOCTYPE html><p>404</p>"), "download the file itself", id="web page"),
        pytest.param(content(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull", id="LFS"),
        pytest.param(content(b"dog\ncat\n"), "neither a torch file (.pth) nor safetensors", id="text"),
        pytest.param(packed, "is packed; unpack it", id="gzip"),
        pytest.param(archived, "not one of torch.save; unpack it", id="zip"),
        pytest.param(content(b""), "is empty; download it again", id="nothing"),
        pytest.param(content(b"\x80"), "cut or damaged", id="one byte"),
        pytest.param(lambda path: path.mkdir(), "Is a directory", id="folder"),
        pytest.param(lambda path: os.mkfifo(path), "no plain file", id="pipe"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "No such file", id="broken link"),
    ],
)
def test_other_files_are_named(
    make: Callable[[Path], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("file.pth"))
    refused(invoke("convert", "file.pth", "--out", "model"), Path("model"), says)
    assert not Path("was-run").exists()


def test_a_file_that_may_not_be_read_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def closed(path: Path, *arguments: Any, **others: Any) -> Any:
        if path.name == "zip.pth":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **others)

    monkeypatch.setattr(Path, "open", closed)
    out = tmp_path / "model"
    refused(invoke("convert", whole / "zip.pth", "--out", out), out, "zip.pth: Permission denied")


# -- damaged files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "plain.safetensors"])
def test_a_cut_file_is_refused_wherever_it_was_cut(name: str, whole: Path, tmp_path: Path) -> None:
    full = (whole / name).read_bytes()
    header = 8 + int.from_bytes(full[:8], "little") if name.startswith("plain") else 3000
    for kept in (4, 9, header // 2, header, header + 700, len(full) // 2, len(full) - 100, len(full) - 1):
        (tmp_path / name).write_bytes(full[:kept])
        refused(invoke("convert", tmp_path / name, "--out", tmp_path / "model"), tmp_path / "model")


def test_flipped_bits_in_the_weights_are_noticed(whole: Path, tmp_path: Path) -> None:
    damaged = bytearray((whole / "zip.pth").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "file.pth").write_bytes(damaged)
    refused(
        invoke("convert", tmp_path / "file.pth", "--out", tmp_path / "m"), tmp_path / "m", "CRC", "download"
    )


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    told = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": published.ram()}, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(told)
    assert read_published(tmp_path / "file.pth").keys() == published.ram().keys()


def test_no_damage_escapes_as_another_error(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    refusals = 0
    for name in ("zip.pth", "old.pth", "plain.safetensors"):
        full = (whole / name).read_bytes()
        for number in range(40):
            damaged = bytearray(full)
            reach = len(full) if number % 3 else 6000
            for _ in range(rng.choice((1, 3, 20))):
                damaged[rng.randrange(reach)] = rng.randrange(256)
            # A name of its own each time: files are mapped.
            path = tmp_path / f"{name}.{number}"
            path.write_bytes(damaged)
            try:
                convert(read_published(path))
            except TaglensError:
                refusals += 1
    assert refusals > 60


# -- other numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        ((torch.float16,), "101 tensors of torch.float16 converted to float32"),
        ((torch.bfloat16,), "101 tensors of torch.bfloat16 converted to float32"),
        ((torch.float64,), "101 tensors of torch.float64 converted to float32"),
        ((torch.float16, torch.float32), "51 tensors of torch.float16 converted to float32"),
    ],
    ids=["fp16", "bf16", "fp64", "mixed"],
)
def test_other_precisions_are_widened_and_noted(
    kinds: tuple[torch.dtype, ...], note: str, tmp_path: Path
) -> None:
    state = {key: value.to(kinds[n % len(kinds)]) for n, (key, value) in enumerate(published.ram().items())}
    torch.save({"model": state}, tmp_path / "file.pth")
    run = invoke("convert", tmp_path / "file.pth", "--out", tmp_path / "model")
    assert run.exit_code == 0 and note in run.stderr
    kept = load_file(tmp_path / "model" / "model.safetensors")
    for key, value in convert({key: value.float() for key, value in state.items()}).state.items():
        assert torch.equal(kept[key], value), key


def spoiled(change: Callable[[Tensor], Tensor]) -> State:
    state = published.ram()
    return state | {"fc.weight": change(state["fc.weight"])}


@pytest.mark.filterwarnings("ignore")  # torch calls quantised tensors old
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value * float("nan"), "not finite: fc.weight; download"),
        (lambda value: value / 0, "not finite: fc.weight; download"),
        (lambda value: value.double() * 1e300, "not finite: fc.weight; download"),
        (lambda value: value.to(torch.int8), "fc.weight holds torch.int8, expected floating-point"),
        (lambda value: value.to(torch.float8_e4m3fn), "fc.weight holds torch.float8_e4m3fn"),
        (lambda value: value.to(torch.complex64), "fc.weight holds torch.complex64"),
        (lambda value: value.to_sparse(), "fc.weight is sparse"),
        (lambda value: value.to("meta"), "fc.weight is without numbers"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "fc.weight is quantised"),
    ],
    ids=["nan", "inf", "too large", "integers", "fp8", "complex", "sparse", "no numbers", "quantised"],
)
def test_weights_that_are_no_plain_numbers_are_refused(
    change: Callable[[Tensor], Tensor], says: str, tmp_path: Path
) -> None:
    torch.save({"model": spoiled(change)}, tmp_path / "file.pth")
    refused(invoke("convert", tmp_path / "file.pth", "--out", tmp_path / "m"), tmp_path / "m", says)


# -- other lists and options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tags": "a\nb\nc\nd\n"}, ("scores 5 tags", "the tag list has 4", "give the list")),
        ({"tags": "a\nb\nc\nd\ne\nf\n"}, ("scores 5 tags", "the tag list has 6")),
        ({"thresholds": "0.5\n" * 4}, ("4 thresholds for the 5 tags",)),
        ({"thresholds": "0.5\n" * 6}, ("6 thresholds for the 5 tags",)),
        ({"thresholds": "0.5\n1.5\n" + "0.5\n" * 3}, ("line 2", "from 0 to 1", "'1.5'")),
        ({"thresholds": "0.5\nnan\n" + "0.5\n" * 3}, ("line 2", "'nan'")),
        ({"thresholds": "0.5\nhigh\n" + "0.5\n" * 3}, ("line 2", "'high'")),
        ({"descriptions": 50}, ("255 rows", "--descriptions")),
        ({"descriptions": 0}, ("255 rows", "--descriptions")),
        ({"side": 12}, ("a side of 12 px", "multiple of 8 up to 256")),
        ({"side": 100_000}, ("a side of 100000 px", "up to 256")),
        ({"side": -8}, ("a side of -8 px",)),
    ],
    ids=str,
)
def test_what_does_not_go_with_the_file_is_refused(
    given: dict[str, Any], says: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    options: list[object] = []
    for option, value in given.items():
        if isinstance(value, str):
            (tmp_path / option).write_text(value, "utf-8")
            value = tmp_path / option
        options += [f"--{option}", value]
    out = tmp_path / "model"
    refused(invoke("convert", whole / "zip.pth", "--out", out, *options), out, *says)


def test_windows_too_large_for_any_machine_are_refused() -> None:
    state = published.ram()
    for key in state:
        if "bias_table" in key:
            state[key] = torch.zeros(199**2, state[key].shape[1])
    with pytest.raises(ModelError, match="window must be at most 32, found 100"):
        convert(state)


# -- places ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["convert", "bundle"])
def test_a_place_where_nothing_can_be_written_is_refused_and_left_alone(
    command: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = whole / ("zip.pth" if command == "convert" else "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    before = contents(tmp_path / "full")
    for out, says in (
        ("full", "holds other things than a "),
        ("full/letter.txt", "is a file; name a folder"),
        ("full/letter.txt/below", "letter.txt is a file; name another folder"),
    ):
        run = invoke(command, source, "--out", tmp_path / out)
        assert run.exit_code == 2 and says in run.stderr and run.stderr.count("\n") == 1
        assert contents(tmp_path / "full") == before
    barred = SimpleNamespace(access=lambda *_: False, W_OK=os.W_OK, X_OK=os.X_OK)
    monkeypatch.setattr("taglens.staging.os", barred)
    refused(invoke(command, source, "--out", tmp_path / "new"), tmp_path / "new", "no right to write in")


def test_folders_above_are_made_and_unmade(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "model"
    assert invoke("convert", whole / "zip.pth", "--out", out).exit_code == 0
    assert from_pretrained(out)[0].config.tags == 5


def test_neither_source_is_overwritten(whole: Path, tmp_path: Path) -> None:
    """--out where FILE lies, or where the model itself lies."""
    torch.save({"model": published.ram()}, tmp_path / "model.safetensors")
    before = contents(tmp_path)
    run = invoke("convert", tmp_path / "model.safetensors", "--out", tmp_path)
    assert run.exit_code == 2 and contents(tmp_path) == before
    before = contents(whole / "model")
    run = invoke("bundle", whole / "model", "--out", whole / "model")
    assert run.exit_code == 2 and "other things than a bundle" in run.stderr
    assert contents(whole / "model") == before
    run = invoke("bundle", whole / "bundle", "--out", tmp_path / "again")
    refused(run, tmp_path / "again", "is a bundle, exported already")


# -- machines that give way --------------------------------------------------------------------------


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow past 20 kB, as on a disk that is full; nor may the log of these tests, so leave soon."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("command", ["convert", "bundle"])
def test_a_full_disk_leaves_nothing(command: str, whole: Path, tmp_path: Path) -> None:
    source = whole / ("zip.pth" if command == "convert" else "model")
    out = tmp_path / "new" / "folder"
    with small_files():
        run = invoke(command, source, "--out", out)
    refused(run, out, f"cannot write {out}", "make room")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["convert", "bundle"])
def test_a_full_disk_leaves_what_was_there(command: str, whole: Path, tmp_path: Path) -> None:
    source, out = (whole / "zip.pth", tmp_path / "model")
    assert invoke("convert", source, "--out", out, "--name", "older").exit_code == 0
    if command == "bundle":
        source, out = out, tmp_path / "bundle"
        assert invoke("bundle", source, "--out", out).exit_code == 0
    before = contents(out)
    with small_files():
        run = invoke(command, source, "--out", out, "--name", "newer")
    assert run.exit_code == 2 and run.stderr.count("\n") == 1 and "make room" in run.stderr
    assert contents(out) == before
    if command == "bundle":
        assert Bundle.open(out).name == "older"
    else:
        assert from_pretrained(out)[2] == "older"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:130] can't allocate memory: you tried")],
)
@pytest.mark.parametrize("command", ["convert", "bundle"])
def test_a_lack_of_memory_is_told(
    command: str, error: Exception, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise error

    name = {"convert": "taglens.models.checkpoint.save_file", "bundle": "torch.onnx.export"}[command]
    monkeypatch.setattr(name, lacking)
    source = whole / ("zip.pth" if command == "convert" else "model")
    refused(invoke(command, source, "--out", tmp_path / "new"), tmp_path / "new", "not enough memory")


def test_a_mapping_that_fails_is_no_damage(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)")

    monkeypatch.setattr("taglens.models.published.torch.load", lacking)
    monkeypatch.setattr("taglens.models.checkpoint.load_file", lacking)
    for command, source in (("convert", "zip.pth"), ("bundle", "model")):
        refused(invoke(command, whole / source, "--out", tmp_path / "x"), tmp_path / "x", "not enough memory")


def test_an_interruption_leaves_what_was_there(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taglens.models.checkpoint.save_file", interrupted)
    before = contents(whole / "model")
    run = invoke("convert", whole / "zip.pth", "--out", whole / "model")
    assert run.exit_code == 130 and contents(whole / "model") == before
    assert invoke("convert", whole / "zip.pth", "--out", tmp_path / "new").exit_code == 130
    assert not (tmp_path / "new").exists()


KILLED = """
import os, signal, sys
import taglens.models.checkpoint as checkpoint
from taglens.cli.main import start

def half(state, path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save_file = half
start(sys.argv[1:])
"""


def test_a_kill_leaves_nothing_that_loads_and_the_next_attempt_succeeds(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    command = [sys.executable, "-c", KILLED, "convert", str(whole / "zip.pth"), "--out", str(out)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in out.iterdir()] == [STAGE]
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        from_pretrained(out)
    assert invoke("convert", whole / "zip.pth", "--out", out).exit_code == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "vocabulary.jsonl"}
    kept, wanted = (load_file(folder / "model.safetensors") for folder in (out, whole / "model"))
    assert kept.keys() == wanted.keys()
    assert all(np.array_equal(kept[key].numpy(), wanted[key].numpy()) for key in wanted)
