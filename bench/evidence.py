"""What each idea of RAM++ is worth at this size: heads trained over one frozen encoder's tokens, several seeds.

    python bench/evidence.py --model MODEL --shards SHARDS [--seeds 3] [--steps 500]

Settings after RAM++ table 3: tags only, captions only, both; both with descriptions, averaged or re-weighted by the
picture. A fifth of the tags is held out of the labels; what is left is trained on, and both are scored on the
validation pictures (mAP over tags with at least five positives). As a control, held-out tags are also scored under
each other's labels. The model is the papers' own: no pooled term, label embeddings read from text. Appends one line
to bench/results/evidence.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from common import record
from taglens.data.batches import BatchStream, PictureSet, decode_set
from taglens.data.shards import ShardSet
from taglens.evaluation.metrics import average_precisions
from taglens.language.text_encoder import TextEncoder, shipped
from taglens.models.checkpoint import from_pretrained
from taglens.models.configs import RecognizerConfig
from taglens.models.label_bank import DescriptionBank, EmbeddedBank, LabelBank
from taglens.models.recognizer import Recognizer
from taglens.training import cached
from taglens.training.augment import AugmentConfig
from taglens.training.loop import LoopConfig, train
from taglens.training.objectives import TagObjective
from taglens.training.recipes import text_bank
from taglens.vocabulary import Entry, Vocabulary

# name -> (weights of the losses, which bank)
SETTINGS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "text only": ({"text": 1.0}, "names"),
    "tag only": ({"tag": 1.0}, "names"),
    "both": ({"tag": 1.0, "text": 1.0}, "names"),
    "both, descriptions averaged": ({"tag": 1.0, "text": 1.0}, "averaged"),
    "both, descriptions re-weighted": ({"tag": 1.0, "text": 1.0}, "re-weighted"),
}
LEAST = 5


def bank_of(entries: list[Entry], text: TextEncoder, kind: str) -> LabelBank:
    if kind == "names":
        return EmbeddedBank(torch.from_numpy(text([entry.name for entry in entries])))
    described = text_bank(Vocabulary(entries), text)
    return described if kind == "re-weighted" else EmbeddedBank(described.plain())


def shuffled(bank: LabelBank, seed: int) -> LabelBank:
    """The same labels under other tags' names: what held-out tags score by chance."""
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))
    if isinstance(bank, DescriptionBank):
        return DescriptionBank(bank.embeddings[order], bank.counts[order])
    return EmbeddedBank(bank.plain()[order])


def held_out(present: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Every fifth tag by falling frequency [T]: common and rare ones alike."""
    order = np.argsort(-present.sum(0).astype(np.int64), kind="stable")
    held = np.zeros(present.shape[1], np.bool_)
    held[order[2::5]] = True
    return held


def measure(model: Recognizer, pictures: PictureSet) -> float:
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 100):
            tokens = model.project(torch.from_numpy(pictures.pixels[start : start + 100]).float())
            rows.append(model.score(tokens).logits.numpy())
    enough = pictures.present.sum(0) >= LEAST
    return float(average_precisions(np.concatenate(rows)[:, enough], pictures.present[:, enough]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained folder; its encoder is used")
    parser.add_argument("--shards", type=Path, required=True, help="a corpus with captions")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tags-per-step", type=int, default=96)
    options = parser.parse_args()

    source, _, name_of_source = from_pretrained(options.model)
    shards = ShardSet.open(options.shards)
    text = shipped()
    side = source.config.side
    split = {
        name: decode_set(shards, shards.vocabulary, split=name, side=side, embed=text)
        for name in ("train", "val")
    }
    views = cached.encode(
        source, split["train"], side=side, views=options.views, config=AugmentConfig(least_area=0.5)
    )
    (val,) = cached.encode(source, split["val"], side=side)
    held = held_out(split["train"].present)
    entries = np.array(shards.vocabulary.entries, dtype=object)

    def only(pictures: PictureSet, columns: npt.NDArray[np.bool_]) -> PictureSet:
        return replace(
            pictures, present=pictures.present[:, columns], absent_weight=pictures.absent_weight[columns]
        )

    found: dict[str, dict[str, list[float]]] = {}
    for name, (weights, kind) in SETTINGS.items():
        banks = [bank_of(list(entries[columns]), text, kind) for columns in (~held, held)]
        found[name] = {"taught": [], "held out": [], "shuffled": []}
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            many = banks[0].embeddings.shape[1] if isinstance(banks[0], DescriptionBank) else 1
            config = RecognizerConfig(
                encoder=source.config.encoder,
                tags=int((~held).sum()),
                token_width=text.width,
                label_width=text.width,
                descriptions=many,
                pooled_term=False,
                side=side,
            )
            model = Recognizer(config)
            model.encoder = source.encoder
            model.bank = banks[0]
            stream = BatchStream(
                [only(view, ~held) for view in views], batch_size=options.batch_size, seed=seed
            )
            objective = TagObjective(
                gamma_negative=0.0,
                gamma_text=0.0,
                shift=0.0,
                tags_per_step=options.tags_per_step,
                frequency=torch.from_numpy(stream.frequency()),
                weights=weights,
            )
            loop = LoopConfig(
                steps=options.steps,
                side=side,
                lr=options.lr,
                warmup=50,
                average=0.99,
                seed=seed,
                checkpoint_every=0,
                only=tuple(part for part, _ in model.named_children() if part != "encoder"),
            )
            with tempfile.TemporaryDirectory() as folder:
                trained = train(model, stream, objective, loop, out=Path(folder), look=cached.look)
            found[name]["taught"].append(measure(trained, only(val, ~held)))
            found[name]["held out"].append(measure(trained.with_labels(banks[1]), only(val, held)))
            found[name]["shuffled"].append(
                measure(trained.with_labels(shuffled(banks[1], seed)), only(val, held))
            )
            print(name, seed, {key: round(values[-1], 4) for key, values in found[name].items()}, flush=True)
    figures = {
        name: {
            f"{group} {what}": round(float(how(values)), 4)
            for group, values in groups.items()
            for what, how in (
                ("mean", np.mean),
                ("deviation", lambda v: np.std(v, ddof=1) if len(v) > 1 else 0.0),
            )
        }
        for name, groups in found.items()
    }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    settings |= {
        "encoder": name_of_source,
        "shards": options.shards.name,
        "taught": int((~held).sum()),
        "held_out": int(held.sum()),
        "pictures": len(split["train"]),
        "text_encoder": text.fingerprint,
    }
    record("evidence", settings, figures)


if __name__ == "__main__":
    main()
