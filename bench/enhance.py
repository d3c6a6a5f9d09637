"""What pictures alone teach a captioner (ViZer), beside its rivals and its controls, on Flickr8k.

    python bench/enhance.py --model MODEL --arms base rl gt g mean shuffled tags tags+g --seeds 0 1 2 --steps 190

Every arm begins with the same captioner, learns from the training pictures for so many steps with the same adapters,
and then writes a caption for each validation picture. Arms:
    base       no training
    rl         self-critical reinforcement by an aligner's cosine, with the distance to the base (V8)
    gt, g      the mapper learns from people's captions of the pictures, or from the captioner's own (ViZer_GT, _G)
    gtseen     as gt, but the captions are read behind their pictures
    contrast   as g, with the contrastive term, too
    centred    as g, features counted from their mean on
    mean       control: as g, but the mapper learns the mean feature, whatever the picture
    shuffled   control: as g, but captions are to map onto another picture's features
    tags       self-training on the drawn caption that agrees best with the tagger
    tags+g, tags+gt, tags+centred   both signals
Figures against people's captions: CIDEr with its 95 % interval over pictures, the difference to the base picture by
picture with its interval, BLEU-4, ROUGE-L, precision and recall of tags said, the share of objects said that no
person mentions; and without people: agreement with the tagger, cosines of aligners (--scorer: one that nothing was
learned from), how much of a picture the mapper finds in a caption. What is seen of pictures is kept in --keep, so
that arms are cheap. --widths and --pictures repeat the arms for ablations. Needs the extras train and eval.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captions import Judge, interval
from common import record, shared
from taglens.evaluation.caption_words import words
from taglens.evaluation.datasets import CaptionedImage, read_captions
from taglens.inference.generation import Beams, Bounds, beam_search
from taglens.inference.tagger import Tagger
from taglens.models.lora import LoraConfig
from taglens.training.captioner_host import LEAST, MOST, CaptionerHost, CaptionerSeen
from taglens.training.loop import Progress
from taglens.training.zero_label import Mapper, MapperConfig, Pairs
from taglens.training.zero_label_judges import Looked, TagJudge, judges_of, look_at
from taglens.training.zero_label_pictures import Album
from taglens.training.zero_label_recipe import Enhancement
from taglens.training.zero_label_settings import EnhanceConfig, Judges

AT_ONCE = 64
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "rl": {"latent": 0.0, "reward": 1.0},
    "gt": {},
    "gtseen": {"sees_picture": True},
    "g": {},
    "contrast": {"contrast": 0.1},
    "centred": {"centred": True},
    "mean": {},
    "shuffled": {},
    "tags": {"latent": 0.0, "tags": 1.0},
    "tags+g": {"tags": 1.0},
    "tags+gt": {"tags": 1.0},
    "tags+centred": {"tags": 1.0, "centred": True},
}
TOLD = ("gt", "gtseen", "tags+gt")


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split: who they are, what a host sees of them, what judges say of their captions."""

    images: list[CaptionedImage]
    album: Album[CaptionerSeen]
    judges: Judges


class Bench:
    """One model; everything that its arms share is made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lora = LoraConfig(options.rank, options.alpha)
        self.tagger = Tagger.from_pretrained(options.tagger or options.model)
        self.host = self._host(seed=0)
        self.rewarder = Tagger.from_pretrained(options.rewarder) if options.rewarder else self.tagger
        self.scorer = Tagger.from_pretrained(options.scorer) if options.scorer else None
        data = shared() / "data" / "flickr8k" / "captions.jsonl"
        train = read_captions(data, split="train")
        order = np.random.default_rng(0).permutation(len(train))[: max(options.pictures)]
        self.train = self._pictures([train[n] for n in order])
        self.val = self._pictures(read_captions(data, split="val")[: options.images])
        self.judge = Judge(self.val.images, self.tagger.vocabulary)
        self.base = np.zeros(len(self.val.images))
        self.first: list[str] = []

    # -- what is made once -----------------------------------------------------------------------

    def _host(self, *, seed: int) -> CaptionerHost:
        guide = self.tagger if self.options.tagger else None
        return CaptionerHost.open(self.options.model, lora=self.lora, tagger=guide, seed=seed)

    def _pictures(self, images: Sequence[CaptionedImage]) -> Pictures:
        album = self._album([image.path for image in images])
        looked = self._looked(self.tagger, album)
        rewarded = looked if self.rewarder is self.tagger else self._looked(self.rewarder, album)
        there = set(album.paths)
        kept = [image for image in images if image.path in there]
        return Pictures(kept, album, judges_of(self.tagger, looked, self.rewarder, rewarded))

    def _file(self, who: str, paths: Sequence[Path]) -> Path | None:
        if self.options.keep is None:
            return None
        digest = hashlib.sha256("\n".join([who, *map(str, paths)]).encode()).hexdigest()[:16]
        self.options.keep.mkdir(parents=True, exist_ok=True)
        return Path(self.options.keep) / f"{digest}.pt"

    def _album(self, paths: list[Path]) -> Album[CaptionerSeen]:
        file = self._file(f"seen {self.host.fingerprint} {self.host.guided_by}", paths)
        if file is not None and file.exists():
            found = torch.load(file, weights_only=True)
            chosen = [paths[n] for n in found.pop("numbers")]
            return Album.of(self.host, chosen, CaptionerSeen(**found))
        started = time.perf_counter()
        album = Album(self.host, paths, kept_bytes=16 << 30)
        print(f"{len(album):,} pictures seen in {time.perf_counter() - started:.0f} s", flush=True)
        if file is not None:
            numbers = {path: number for number, path in enumerate(paths)}
            seen = album.all()
            parts = {name: getattr(seen, name) for name in seen.__slots__}
            torch.save({"numbers": [numbers[path] for path in album.paths], **parts}, file)
        return album

    def _looked(self, tagger: Tagger, album: Album[CaptionerSeen]) -> Looked:
        if tagger.ref == self.host.guided_by:
            return self.host.looked(album.all(), tagger)
        file = self._file(f"looked {tagger.ref}", album.paths)
        if file is not None and file.exists():
            found = torch.load(file, weights_only=True)
            vectors = found["vectors"]
            return Looked(found["scores"].numpy(), None if vectors is None else vectors.numpy())
        looked = look_at(tagger, album.paths)
        if file is not None:
            vectors = None if looked.vectors is None else torch.from_numpy(looked.vectors)
            torch.save({"scores": torch.from_numpy(looked.scores), "vectors": vectors}, file)
        return looked

    # -- arms ------------------------------------------------------------------------------------

    def config(self, arm: str, *, seed: int, width: int) -> EnhanceConfig:
        options = self.options
        config = EnhanceConfig(
            batch_size=options.batch_size,
            steps=options.steps,
            lr=options.lr,
            mapper_epochs=options.mapper_epochs,
            mapper=MapperConfig(width=width),
            seed=seed,
            checkpoint_every=0,
            keep_last=not options.keep_best,
        )
        return replace(config, **ARMS[arm])

    def run(self, arm: str, *, seed: int, width: int, pictures: int) -> tuple[list[str], dict[str, Any]]:
        """The captions of the validation pictures after an arm, and what the run itself tells."""
        self.host = self._host(seed=seed)
        if arm == "base":
            return self.captions(), {}
        config = self.config(arm, seed=seed, width=width)
        images = self.train.images[:pictures]
        seen = self.train.album.at(torch.arange(len(images)))
        album = Album.of(self.host, self.train.album.paths[: len(images)], seen)
        work = Enhancement(self.host, album, self.train.judges, config)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            mapper = self._mapper(work, arm, images, Path(folder))
            ready = time.perf_counter()
            found = work.tune(mapper, out=Path(folder), report=lambda step: tell(arm, step))
        told = {
            "base_held": found.base.to_dict(),
            "kept_held": found.kept.to_dict(),
            "kept_step": found.kept.step,
            "stopped": found.stopped,
            "mapper_seconds": round(ready - started),
            "seconds": round(time.perf_counter() - ready),
        }
        return self.captions(), told

    def _mapper(
        self, work: Enhancement[CaptionerSeen], arm: str, images: Sequence[CaptionedImage], folder: Path
    ) -> Mapper | None:
        if not work.config.needs_mapper:
            return None
        said = [image.captions for image in images]
        pairs = work.told_pairs(work.album, said) if arm in TOLD else work.own_pairs()
        if arm == "mean":
            pairs = Pairs(pairs.hidden, pairs.features.mean(0).expand_as(pairs.features).contiguous())
        mapper = work.mapper(pairs, out=folder / "mapper", report=lambda step: tell(arm, step))
        if arm == "shuffled":
            chance = torch.Generator().manual_seed(work.config.seed + 1)
            work.features = work.features[torch.randperm(len(work.features), generator=chance)]
        return mapper

    def captions(self) -> list[str]:
        found: list[str] = []
        for start in range(0, len(self.val.album), AT_ONCE):
            rows = torch.arange(start, min(start + AT_ONCE, len(self.val.album)))
            seen = self.val.album.at(rows)
            if self.options.beams == 1:
                found += self.host.write(seen).strings
                continue
            captioner, text = self.host.captioner, self.host.text
            prompts = np.tile(np.array(text.prompt_ids, np.int64), (len(seen), 1))
            with torch.inference_mode():
                state = captioner.start(seen.memory, seen.guide_mask)
            bounds = Bounds(text.pieces.sep, MOST, LEAST)
            beams = Beams(self.options.beams)
            best = beam_search(captioner.numpy_step, state, prompts, bounds, beams)
            found += [text.read(each[0].ids) for each in best]
        return found

    # -- figures ---------------------------------------------------------------------------------

    def figures(self, captions: Sequence[str]) -> dict[str, Any]:
        found = self.judge(captions)
        each = self._each(captions)
        numbers = range(len(captions))
        if not self.first:
            self.first, self.base = list(captions), each
        gained = each - self.base
        found |= {
            "CIDEr_gained": round(float(gained.mean()), 4),
            "CIDEr_gained_95": interval(gained),
            "changed": round(float(np.mean([a != b for a, b in zip(captions, self.first, strict=True)])), 4),
            "objects_not_there": round(self._invented(captions), 4),
        }
        judges = self.val.judges
        assert isinstance(judges.tags, TagJudge)
        agreed = judges.tags.agreements(numbers, captions)
        found["tagger_agreement"] = round(float(np.mean([one.score for one in agreed])), 4)
        found["tagger_denied"] = round(float(np.mean([one.denied for one in agreed])), 4)
        if judges.reward is not None:
            found["rewarder_cos"] = round(float(judges.reward(numbers, captions).mean()), 4)
        if self.scorer is not None:
            looked = self._looked(self.scorer, self.val.album)
            scored = judges_of(self.scorer, looked, self.scorer, looked).score(numbers, captions)
            found["scorer_cos"] = round(float(scored.mean()), 4)
            found["scorer_cos_95"] = interval(scored)
        return found

    def _each(self, captions: Sequence[str]) -> np.ndarray[Any, Any]:
        """The CIDEr of each picture."""
        truth = dict(enumerate(self.judge.known))
        plain = {number: [" ".join(words(text))] for number, text in enumerate(captions)}
        return np.asarray(self.judge._cider.compute_score(truth, plain)[1])

    def _invented(self, captions: Sequence[str]) -> float:
        """The share of objects said that no person's caption of the picture says or implies."""
        vocabulary = self.tagger.vocabulary
        said, wrong = 0, 0
        for tags, truth in zip(self.judge.tags.of(captions), self.judge.truth, strict=True):
            there = vocabulary.with_parents(vocabulary.position(tag) for tag in truth)
            columns = [vocabulary.position(tag) for tag in tags]
            objects = [column for column in columns if vocabulary[column].kind == "object"]
            said += len(objects)
            wrong += sum(column not in there for column in objects)
        return wrong / max(said, 1)


def tell(arm: str, progress: Progress) -> None:
    losses = " ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    print(f"{arm} {progress.step}/{progress.steps}: {losses}", flush=True)


STYLE = (
    "body{font:15px/1.4 sans-serif;max-width:62rem;margin:2rem auto}article{display:flex;gap:1rem;margin:1rem 0}"
    "img{width:200px;height:auto;align-self:start}dt{color:#666;font-size:13px}dd{margin:0 0 .3rem}.same{color:#999}"
)


def page(images: Sequence[CaptionedImage], ways: dict[str, list[str]], out: Path, *, most: int) -> None:
    """Pictures beside their captions before and after, those first that changed most often; one file."""
    from PIL import Image

    base = ways["base"]
    changed = [sum(texts[n] != base[n] for texts in ways.values()) for n in range(len(images))]
    chosen = sorted(range(len(images)), key=lambda n: (-changed[n], n))[:most]
    parts = [
        "<!doctype html><meta charset=utf-8><title>Captions before and after</title>",
        f"<style>{STYLE}</style>",
        "<h1>Captions before and after</h1>",
    ]
    for number in chosen:
        image = images[number]
        small = io.BytesIO()
        with Image.open(image.path) as picture:
            picture.thumbnail((240, 240))
            picture.convert("RGB").save(small, "JPEG", quality=80)
        shown = base64.b64encode(small.getvalue()).decode()
        rows = []
        for way, texts in ways.items():
            same = ' class="same"' if way != "base" and texts[number] == base[number] else ""
            rows.append(f"<dt>{html.escape(way)}</dt><dd{same}>{html.escape(texts[number])}</dd>")
        rows.append(f"<dt>a person</dt><dd>{html.escape(image.captions[0])}</dd>")
        parts.append(
            f'<article><img alt="" src="data:image/jpeg;base64,{shown}"><dl>{"".join(rows)}</dl></article>'
        )
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder that writes captions")
    parser.add_argument("--tagger", help="whose tags guide captions and judge them; by default --model")
    parser.add_argument("--rewarder", help="whose aligner rewards rl; by default the tagger")
    parser.add_argument("--scorer", help="an aligner that nothing is learned from")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["g"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=0, help="0: one epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mapper-epochs", type=int, default=4)
    parser.add_argument("--rank", type=int, default=LoraConfig().rank)
    parser.add_argument("--alpha", type=float, default=LoraConfig().alpha)
    parser.add_argument("--widths", nargs="+", type=int, default=[MapperConfig().width])
    parser.add_argument("--pictures", nargs="+", type=int, default=[6091], help="training pictures")
    parser.add_argument("--images", type=int, help="the first so many validation pictures")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--keep-best", action="store_true", help="by the held-out score, as the command does")
    parser.add_argument("--keep", type=Path, help="folder for what is seen of pictures")
    parser.add_argument("--page", type=Path, help="write pictures with captions before and after here, HTML")
    parser.add_argument("--most", type=int, default=40, help="pictures of the page")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    bench = Bench(options)
    ways: dict[str, list[str]] = {}
    # The base goes first: the others are told by their difference to it.
    arms = ["base", *(arm for arm in options.arms if arm != "base")]
    for pictures in options.pictures:
        for width in options.widths:
            for seed in options.seeds:
                for arm in arms:
                    if arm == "base" and ways:
                        continue
                    captions, told = bench.run(arm, seed=seed, width=width, pictures=pictures)
                    ways.setdefault(arm, captions)
                    settings = {
                        "model": f"{bench.host.name}@{bench.host.fingerprint}",
                        "arm": arm,
                        "seed": seed,
                        "pictures": min(pictures, len(bench.train.images)),
                        "width": width,
                        "images": len(bench.val.images),
                        "tagger": bench.tagger.ref,
                        "rewarder": bench.rewarder.ref,
                        "scorer": None if bench.scorer is None else bench.scorer.ref,
                        "lora": asdict(bench.lora),
                        "threads": torch.get_num_threads(),
                        **{
                            name: getattr(options, name)
                            for name in ("steps", "batch_size", "lr", "mapper_epochs", "beams", "keep_best")
                        },
                    }
                    figures = bench.figures(captions) | told
                    if options.record:
                        record("enhance", settings, figures)
                    else:
                        print(settings, figures, sep="\n", flush=True)
    if options.page is not None:
        page(bench.val.images, ways, options.page, most=options.most)


if __name__ == "__main__":
    main()
