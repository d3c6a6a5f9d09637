"""``taglens doctor``: is everything here that tagging needs, does it work, and what to do if not.

Knows what a working installation looks like, and a cure for each thing that can be missing. Refuses to repair
anything and to ask the network. Every check stands alone: one that fails does not hide the next.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from taglens import __version__
from taglens.cli.console import OK, SOME_FAILED, is_terminal, printable
from taglens.errors import TaglensError
from taglens.results import to_line

Status = Literal["ok", "warn", "fail"]

NEEDED = ("numpy", "pillow", "onnxruntime", "typer", "rich")
OPTIONAL = {
    "scikit-image": ("demo", "the photographs of taglens demo"),
    "torch": ("train", "training, export and CUDA"),
    "safetensors": ("train", "reading and writing training checkpoints"),
    "onnx": ("train", "export"),
}
# What Pillow calls the codec -> what people call it, and whether a picture tagger can do without.
CODECS = {
    "jpg": ("JPEG", "fail"),
    "zlib": ("PNG", "fail"),
    "webp": ("WebP", "warn"),
    "avif": ("AVIF", "warn"),
}
OLDEST_PYTHON = (3, 11)
REINSTALL = "pip install --force-reinstall --no-deps taglens"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        detail: what was found.
        cure: what to do, or how to get what is absent; None where nothing needs doing.
    """

    name: str
    status: Status
    detail: str
    cure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"check": self.name, "status": self.status, "detail": self.detail, "cure": self.cure}


def installed(package: str) -> str | None:
    """A distribution's version without importing it, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> Iterator[Check]:
    implementation, machine = platform.python_implementation(), platform.machine()
    found = f"{implementation} {platform.python_version()}, {platform.system()} {machine}"
    wanted = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check("python", "fail", found, f"install Python {wanted} or newer")
    else:
        yield Check("python", "ok", found)
    yield Check("taglens", "ok", f"{__version__} in {Path(__file__).resolve().parents[1]}")


def check_packages() -> Iterator[Check]:
    for package in NEEDED:
        version = installed(package)
        if version is None:
            yield Check(package, "fail", "not installed", f"pip install {package}")
        else:
            yield Check(package, "ok", version)
    for package, (extra, purpose) in OPTIONAL.items():
        version = installed(package)
        if version is None:
            # Absent by choice is no fault; the line says what it would be good for.
            yield Check(
                package, "ok", f"not installed; only for {purpose}", f"pip install 'taglens[{extra}]'"
            )
        else:
            yield Check(package, "ok", f"{version}, for {purpose}")


def check_codecs() -> Iterator[Check]:
    try:
        from PIL import features
    except ImportError as error:
        yield Check(
            "pictures", "fail", f"Pillow cannot be loaded: {error}", "pip install --force-reinstall pillow"
        )
        return
    for feature, (name, without) in CODECS.items():
        if features.check(feature):
            version = features.version(feature)
            yield Check(f"pictures: {name}", "ok", f"read{'' if version is None else f' (codec {version})'}")
        else:
            status: Status = "fail" if without == "fail" else "warn"
            cure = "pip install --upgrade --force-reinstall pillow"
            yield Check(f"pictures: {name}", status, "this Pillow was built without it", cure)
    yield Check("pictures: HEIC", "ok", "not read in this release", "convert such pictures to JPEG or PNG")


def check_processors() -> Iterator[Check]:
    cores = os.cpu_count() or 1
    # A container may be given fewer cores than the machine has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield Check("cpu", "ok", f"{allowed} of {cores} cores usable")
    try:
        import onnxruntime
    except ImportError as error:
        yield Check(
            "onnxruntime loads",
            "fail",
            str(error),
            "pip install --force-reinstall onnxruntime (64-bit Python only)",
        )
        return
    providers = list(onnxruntime.get_available_providers())
    if "CPUExecutionProvider" in providers:
        yield Check("execution providers", "ok", ", ".join(providers))
    else:
        cure = "pip install --force-reinstall onnxruntime"
        yield Check("execution providers", "fail", f"no CPU among {', '.join(providers) or 'none'}", cure)


def check_bundle() -> Iterator[Check]:
    """The starter model's files: all there, the checksum fits, the vocabulary belongs to it."""
    name = "starter model: files"
    try:
        from taglens.inference.bundle import STARTER, Bundle, locate

        bundle = Bundle.open(locate(STARTER))
        size = sum(file.stat().st_size for file in bundle.folder.iterdir() if file.is_file())
    except (TaglensError, ImportError, OSError) as error:
        yield Check(name, "fail", str(error), REINSTALL)
    else:
        yield Check(name, "ok", f"{bundle.ref}, {size / 1e6:.1f} MB, checksum fits")


def check_tagging() -> Iterator[Check]:
    """Load the starter model and tag one generated picture."""
    name = "starter model: tags"
    try:
        import numpy as np

        from taglens.inference.tagger import Tagger

        start = time.perf_counter()
        tagger = Tagger.from_pretrained("starter")
        loaded = time.perf_counter()
        across, down = np.meshgrid(np.arange(640), np.arange(480))
        picture = np.stack([across % 256, down % 256, (across + down) % 256], axis=-1).astype(np.uint8)
        (prediction,) = tagger(picture, threshold=0.0, top=0)
        done = time.perf_counter()
    except (TaglensError, ImportError, OSError) as error:
        yield Check(name, "fail", str(error), REINSTALL)
        return
    if prediction.error is not None or not prediction.tags:
        detail = "no scores" if prediction.error is None else prediction.error.message
        yield Check(name, "fail", detail, REINSTALL)
        return
    yield Check(
        name,
        "ok",
        f"{tagger.ref}, {len(tagger.vocabulary)} tags; loaded in {loaded - start:.2f} s, "
        f"a generated 640 × 480 picture in {1000 * (done - loaded):.0f} ms",
    )


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_codecs,
    check_processors,
    check_bundle,
    check_tagging,
)


def run(
    *,
    json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, nothing else there.")
    ] = False,
) -> int:
    """Check that everything taglens needs is here and works. Exit status 1 when something fails."""
    found: list[Check] = []
    coloured = is_terminal(sys.stdout) and "NO_COLOR" not in os.environ
    for checks in CHECKS:
        for check in checks():
            found.append(check)
            typer.echo(to_line(check.to_dict()) if json else _line(check, coloured=coloured))
    failed = sum(check.status == "fail" for check in found)
    warned = sum(check.status == "warn" for check in found)
    if not json:
        typer.echo(
            f"\n{failed} of {len(found)} checks failed: see the cures above"
            if failed
            else f"\nall {len(found)} checks passed{f', {warned} with a warning' if warned else ''}"
        )
    return SOME_FAILED if failed else OK


_COLOURS: dict[Status, int] = {"ok": 32, "warn": 33, "fail": 31}


def _line(check: Check, *, coloured: bool) -> str:
    status = f"{check.status:<4}"
    if coloured:
        status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    line = f"{status}  {check.name:<20} {printable(check.detail)}"
    return line if check.cure is None else f"{line}\n{'':<27}-> {check.cure}"
