"""Speed of each stage of tagging, and of the command as a whole.

    python bench/speed.py [--model NAME_OR_DIR] [--repeat 7]

Stages are timed in this process, medians over ``--repeat`` rounds after a warm-up; start-up is timed as whole
processes. The photographs are those inside scikit-image, and one of them blown up to 12 megapixels as JPEG.
Appends one line to bench/results/speed.jsonl.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import record
from taglens import images
from taglens.cli.demo import photographs
from taglens.inference.bundle import Bundle, locate
from taglens.inference.engines import OnnxEngine
from taglens.inference.tagger import Tagger


def median_ms(work: Callable[[], Any], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1000, 3)


def process_ms(arguments: list[str], repeat: int) -> float:
    def work() -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return median_ms(work, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    repeat = options.repeat
    photo = next(path for path in photographs() if path.name == "astronaut.png")
    buffer = io.BytesIO()
    Image.open(photo).convert("RGB").resize((4000, 3000)).save(buffer, "JPEG", quality=90)
    large = buffer.getvalue()

    bundle = Bundle.open(locate(options.model))
    tagger = Tagger.from_pretrained(options.model)
    one = OnnxEngine(bundle.graph, device="cpu", threads=1)
    both = OnnxEngine(bundle.graph, device="cpu")
    noise = np.random.default_rng(0).random((16, 3, bundle.side, bundle.side), dtype=np.float32)
    picture = images.load(photo)
    scores = both(noise).scores[0]
    many = [photo] * 64
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "large.jpg"
        copy.write_bytes(large)
        start_up = "from taglens.cli import main; main()"
        figures = {
            "decode_photo_ms": median_ms(lambda: images.load(photo), repeat),
            "decode_12mp_jpeg_full_ms": median_ms(lambda: images.load(large), repeat),
            "decode_12mp_jpeg_reduced_ms": median_ms(
                lambda: images.load(large, at_least=bundle.side), repeat
            ),
            "prepare_ms": median_ms(lambda: images.prepare(picture.pixels, bundle.side), repeat),
            "engine_batch1_thread1_ms": median_ms(lambda: one(noise[:1]), repeat),
            "engine_batch1_ms": median_ms(lambda: both(noise[:1]), repeat),
            "engine_batch16_per_image_ms": round(median_ms(lambda: both(noise), repeat) / 16, 3),
            "select_ms": median_ms(lambda: tagger.vocabulary.select(scores), repeat),
            "tagger_images_per_s": round(64_000 / median_ms(lambda: list(tagger(many)), 3), 1),
            "load_tagger_ms": median_ms(lambda: Tagger.from_pretrained(options.model), repeat),
            "process_python_alone_ms": process_ms(["-c", "pass"], repeat),
            "process_import_taglens_ms": process_ms(["-c", "import taglens"], repeat),
            "process_help_ms": process_ms(["-c", start_up, "--help"], repeat),
            "process_tag_one_photo_ms": process_ms(
                ["-c", start_up, "tag", str(photo), "--json", "--model", options.model], repeat
            ),
            "process_tag_12mp_jpeg_ms": process_ms(
                ["-c", start_up, "tag", str(copy), "--json", "--model", options.model], repeat
            ),
        }
    settings = {"model": bundle.ref, "side": bundle.side, "tags": len(bundle.vocabulary), "repeat": repeat}
    record("speed", settings, figures)


if __name__ == "__main__":
    main()
