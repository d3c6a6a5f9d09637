"""A published model at full size: memory and time of converting, bundling and tagging.

    python bench/published.py [--repeats 3] [--folder FOLDER]

The weights are noise in the shapes of RAM++ 14M: Swin-L at 384 px, 4,585 tags of 51 descriptions. Every step is a
process of its own, the command as a user types it; its peak is what was resident at most, files it has mapped
included. Cold: one photograph, start and loading included. Warm: what each of fifteen more adds. Appends one line to
bench/results/published.jsonl; needs 6 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import REPOSITORY, record

# Light on purpose: a child begins with its parent's memory, and would be charged for it.
TAGS, DESCRIPTIONS, SIDE, PICTURES = 4585, 51, 384, 16
MAKE = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "tests")!r})
import published_weights as published
import torch
state = published.ram(published.SWIN_L, tags={TAGS}, descriptions={DESCRIPTIONS}, labels=512, width=768, ffn=3072)
torch.save({{"model": state}}, sys.argv[1])
print(sum(value.numel() for value in state.values()))
"""
PHOTOGRAPHS = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from skimage import data
for number in range(int(sys.argv[2])):
    picture = (data.astronaut, data.chelsea, data.coffee, data.rocket)[number % 4]()
    Image.fromarray(np.roll(picture, 7 * number, 1)).save(Path(sys.argv[1]) / f"{number:02}.jpg", quality=90)
"""
COMMAND = "from taglens.cli import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where to work; by default a folder that is removed.")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(Path(folder), options.repeats)
    settings = {
        "tags": TAGS,
        "descriptions": DESCRIPTIONS,
        "side": SIDE,
        "pictures": PICTURES,
        "repeats": options.repeats,
        "threads": os.cpu_count(),
        "load_before": round(load, 2),
    }
    record("published", settings, figures)


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    weights, model, bundle, pictures = (
        folder / name for name in ("noise.pth", "model", "bundle", "pictures")
    )
    pictures.mkdir()
    _, _, values = timed(MAKE, weights)
    timed(PHOTOGRAPHS, pictures, PICTURES)
    figures: dict[str, Any] = {"values_millions": round(int(values) / 1e6, 1), "peak_mb": {}, "seconds": {}}
    for name, arguments in (
        ("convert", ("convert", weights, "--out", model)),
        ("bundle", ("bundle", model, "--out", bundle)),
    ):
        seconds, peak, _ = timed(COMMAND, *arguments)
        figures["seconds"][name], figures["peak_mb"][name] = round(seconds, 1), round(peak)
    for name, source in (("one", pictures / "00.jpg"), ("sixteen", pictures)):
        runs = [timed(COMMAND, "tag", source, "--model", bundle, "--json")[:2] for _ in range(repeats)]
        figures["seconds"][name] = round(statistics.median(seconds for seconds, _ in runs), 2)
        figures["peak_mb"][name] = round(max(peak for _, peak in runs))
    figures["cold_s"] = figures["seconds"]["one"]
    figures["warm_s_per_picture"] = round(
        (figures["seconds"]["sixteen"] - figures["seconds"]["one"]) / (PICTURES - 1), 2
    )
    figures["weights_mb"] = round(weights.stat().st_size / 1e6)
    figures["bundle_mb"] = round(sum(path.stat().st_size for path in bundle.iterdir()) / 1e6)
    return figures


def timed(program: str, *arguments: object) -> tuple[float, float, str]:
    """Run a Python program; seconds, the most that was resident in MB, and what it printed."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=told)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{arguments[0]} ended with status {process.returncode}")
        told.seek(0)
        return time.perf_counter() - begun, used.ru_maxrss * 1024 / 1e6, told.read()


if __name__ == "__main__":
    main()
