from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_tagger import VOCABULARY, FakeTagger

from taglens.cli import doctor
from taglens.cli.doctor import Check
from taglens.cli.main import start
from taglens.errors import ModelError
from taglens.inference import bundle


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("taglens.inference.tagger")
    module.Tagger = FakeTagger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taglens.inference.tagger", module)


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete bundle in the starter model's place."""
    (tmp_path / bundle.GRAPH).write_bytes(b"a graph that is never run")
    VOCABULARY.save(tmp_path / bundle.VOCABULARY)
    bundle.write_config(tmp_path, name="starter", side=32, vocabulary=VOCABULARY, about={})
    monkeypatch.setattr(bundle, "locate", lambda name: tmp_path)
    return tmp_path


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        start(["doctor", *arguments])
    assert isinstance(exit.value.code, int)
    return exit.value.code


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


def test_a_working_installation(starter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(row) == {"check", "status", "detail", "cure"} for row in rows)
    assert not [row for row in rows if row["status"] == "fail"]
    names = {row["check"] for row in rows}
    assert {"python", "taglens", "numpy", "torch", "pictures: JPEG", "pictures: HEIC", "cpu"} <= names
    assert {"execution providers", "starter model: files", "starter model: tags"} <= names


def test_a_failure_is_status_1_and_hides_nothing(starter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (starter / bundle.GRAPH).unlink()
    assert status() == 1
    out = capsys.readouterr().out
    assert "fail  starter model: files" in out and "-> pip install" in out
    assert "ok    starter model: tags" in out
    assert "1 of" in out.splitlines()[-1]


def test_the_starter_files(starter: Path) -> None:
    check = only(doctor.check_bundle())
    assert (check.status, check.cure) == ("ok", None)
    assert "starter@" in check.detail
    (starter / bundle.GRAPH).write_bytes(b"a graph that was cut")
    check = only(doctor.check_bundle())
    assert check.status == "fail" and bundle.GRAPH in check.detail and check.cure is not None
    (starter / bundle.CONFIG).unlink()
    assert only(doctor.check_bundle()).status == "fail"


def test_a_missing_package_fails_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"onnxruntime", "torch"}
    monkeypatch.setattr(doctor, "installed", lambda package: None if package in absent else "1.0")
    checks = {check.name: check for check in doctor.check_packages()}
    assert (checks["onnxruntime"].status, checks["onnxruntime"].cure) == ("fail", "pip install onnxruntime")
    assert (checks["torch"].status, checks["torch"].cure) == ("ok", "pip install 'taglens[train]'")
    assert checks["numpy"] == Check("numpy", "ok", "1.0")


def test_missing_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: feature not in ("jpg", "avif"))
    checks = {check.name: check.status for check in doctor.check_codecs()}
    assert checks["pictures: JPEG"] == "fail"
    assert checks["pictures: AVIF"] == "warn"
    assert checks["pictures: WebP"] == "ok"


def test_a_runtime_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("libfoo.so: cannot open shared object file")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    cpu, runtime = doctor.check_processors()
    assert cpu.status == "ok"
    assert runtime.status == "fail" and "libfoo.so" in runtime.detail and runtime.cure is not None


def test_a_model_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ModelError("model.onnx is damaged")

    monkeypatch.setattr(FakeTagger, "from_pretrained", refuse)
    check = only(doctor.check_tagging())
    assert (check.status, check.detail) == ("fail", "model.onnx is damaged")
