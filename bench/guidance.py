"""What guidance by tags is worth when captioners are trained apart: one small run for each way, measured alike.

    python bench/guidance.py --start DIR --shards DIR --arms mix0 mix0.5 mix1 untold --steps 400 --record

Every arm teaches a captioner on Flickr8k's training pictures for so many steps, writing only, from the same pictures
encoded ahead, and writes a caption for each validation picture. Arms:
    mixN      a share N of captions is guided by the tags that they say, the others by recognised ones (Tag2Text 1.7)
    untold    no caption is guided, in training or afterwards (Tag2Text 1.11, "Effect of guidance")
    anew      as mix0.5, but the captioner has not read captions without pictures before ("fine-tune only")
    textonly  the captioner that has read captions only, with no step on pictures ("pre-train only")
--start is the captioner that has read captions (``taglens train captions --text ...``). Told are CIDEr with its 95 %
interval over pictures, BLEU-4, precision and recall of the tags that captions say, distinct captions, and held-out
losses guided by recognised tags, by the caption's own and by none. Small runs: arms compare with each other, not with
the starter. Needs the extras train and eval.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captions import Judge
from common import record, shared
from taglens.evaluation.datasets import CaptionedImage, read_captions
from taglens.inference.caption_engines import TorchCaptionEngine
from taglens.inference.captioning import CaptionWriter, Search
from taglens.models.captioner import Captioner
from taglens.models.checkpoint import PIECES, captioner_from_pretrained, from_pretrained
from taglens.training.loop import LoopConfig, Progress, run_steps
from taglens.training.recipes import open_sources
from taglens.training.text_data import GuideMix
from taglens.training.text_reading import Corpus, Reader
from taglens.training.text_recipes import side_of
from taglens.training.text_settings import TextRunConfig, Texts
from taglens.training.text_steps import Trainer
from taglens.training.text_tasks import Tag2Text

AT_ONCE = 50


def mix_of(arm: str) -> GuideMix:
    if arm.startswith("mix"):
        return GuideMix(parsed=float(arm.removeprefix("mix")), none=0.1)
    if arm == "untold":
        return GuideMix(parsed=0.0, none=1.0)
    if arm in ("anew", "textonly"):
        return GuideMix(parsed=0.5, none=0.1)
    raise SystemExit(f"unknown arm {arm!r}; see --help")


class Runs:
    """The pictures once, and as many captioners taught on them as are asked for."""

    def __init__(self, start: Path, shards: Sequence[Path], config: TextRunConfig) -> None:
        self._start, self.config = start, config
        self.sources = open_sources(list(shards))
        self.model, self._vocabulary = self.fresh(anew=False)
        pieces = (start / PIECES).read_bytes()
        self.reader = Reader(
            start, self.model, self._vocabulary, pieces, config, self._prepared, keep=config.keep_views
        )
        self.seen = self.reader.corpus(self.sources, "train", views=config.views)
        self.held = self.reader.corpus(self.sources, "val", views=0)
        self.held_names = [
            Path(sample.source).name for source in self.sources for sample in source.samples("val")
        ]

    @staticmethod
    def _prepared(what: str, done: int, total: int) -> None:
        if done == total:
            print(f"{what}: {total:,}", flush=True)

    def fresh(self, *, anew: bool) -> tuple[Tag2Text, Any]:
        torch.manual_seed(self.config.loop.seed)
        recognizer, vocabulary, _ = from_pretrained(self._start)
        captioner = captioner_from_pretrained(self._start, recognizer)
        if captioner is None:
            raise SystemExit(f"{self._start} writes no captions; make it with taglens train captions --text")
        if anew:
            captioner = Captioner(captioner.config)
        captioner.train()
        return Tag2Text(recognizer, captioner, None), vocabulary

    def run(self, arm: str, out: Path) -> tuple[Tag2Text, dict[str, float], float]:
        """The captioner of an arm, its held-out losses, and the seconds of its training."""
        model, _ = self.fresh(anew=arm == "anew")
        config = replace(self.config, mix=mix_of(arm))
        self.reader.config = config
        streams = self.reader.streams(self.sources, Texts(), self.seen)
        trainer = Trainer(model, self.reader, streams, self.seen.views)
        started = time.perf_counter()

        def tell(progress: Progress) -> None:
            print(f"{arm} {progress.step}: {progress.losses}", flush=True)

        if arm != "textonly":
            model = run_steps(model, trainer.gradients, config.loop, out=out, report=tell)
        return model, trainer.judge(model, self.held), time.perf_counter() - started

    def captions(self, model: Tag2Text, *, guided: bool, beams: int) -> list[str]:
        captioner = model.captioner.eval()
        text = self.reader.text
        writer = CaptionWriter(
            TorchCaptionEngine(captioner, device="cpu"), text, positions=captioner.config.positions
        )
        tokens = held_tokens(model, self.held, self.config.loop.side)
        names, lists = self.reader.names, self.held.captions.recognised
        found = []
        for at in range(0, len(tokens), AT_ONCE):
            guides = [[names[t] for t in tags] if guided else [] for tags in lists[at : at + AT_ONCE]]
            written = writer.write(tokens[at : at + AT_ONCE], guides, Search(beams=beams))
            found += [each[0].text for each in written]
        return found


def held_tokens(model: Tag2Text, held: Corpus, side: int) -> np.ndarray[Any, Any]:
    from taglens.training.augment import plain

    rows = []
    with torch.inference_mode():
        for at in range(0, len(held.views[0].pixels), AT_ONCE):
            pixels = torch.from_numpy(held.views[0].pixels[at : at + AT_ONCE])
            rows.append(model.recognizer.tokens(plain(pixels, side)).numpy())
    return np.concatenate(rows)


def held_images(runs: Runs) -> list[CaptionedImage]:
    """The validation pictures with people's captions, in the order of the runs."""
    told = read_captions(shared() / "data" / "flickr8k" / "captions.jsonl", split="val")
    by_name = {Path(image.path).name: image for image in told}
    return [by_name[name] for name in runs.held_names]


def add_arguments(parser: argparse.ArgumentParser, *, steps: int, batch_size: int) -> None:
    """What every benchmark that teaches captioners apart can be told."""
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--keep-views", type=Path, help="as taglens train captions has it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recognised-by", default="starter", help="the model whose tags count as recognised")
    parser.add_argument("--record", action="store_true")


def configured(options: argparse.Namespace, *, only: tuple[str, ...]) -> TextRunConfig:
    """A run that teaches writing, of the parts ``only``."""
    loop = LoopConfig(
        steps=options.steps, side=side_of(options.start), lr=1e-3, warmup=100, weight_decay=0.05, log_every=50,
        average=0.995, only=only,
    )  # fmt: skip
    return TextRunConfig(
        loop=loop,
        batch_size=options.batch_size,
        weights={"lm": 1.0, "itc": 0.0, "itm": 0.0, "tag": 0.0},
        views=options.views,
        tagger=options.recognised_by,
        keep_views=options.keep_views,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser, steps=400, batch_size=64)
    parser.add_argument("--arms", nargs="+", default=["mix0", "mix0.5", "mix1", "untold"])
    parser.add_argument("--beams", type=int, default=Search().beams)
    options = parser.parse_args()
    config = configured(options, only=("captioner",))
    loop = config.loop
    runs = Runs(options.start, options.shards, config)
    _, vocabulary, _ = from_pretrained(options.start)
    judge = Judge(held_images(runs), vocabulary)
    for seed in options.seeds:
        runs.config = replace(config, loop=replace(loop, seed=seed))
        for arm in options.arms:
            with tempfile.TemporaryDirectory() as folder:
                model, losses, seconds = runs.run(arm, Path(folder))
            texts = runs.captions(model, guided=arm != "untold", beams=options.beams)
            figures = judge(texts) | {name: round(value, 4) for name, value in losses.items()}
            settings = {
                "arm": arm,
                "seed": seed,
                "steps": 0 if arm == "textonly" else options.steps,
                "batch_size": options.batch_size,
                "views": options.views,
                "beams": options.beams,
                "threads": torch.get_num_threads(),
            }
            if options.record:
                record("guidance", settings, figures | {"seconds": round(seconds)})
            else:
                print(settings, figures, flush=True)


if __name__ == "__main__":
    main()
