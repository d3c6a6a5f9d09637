"""Tables of what pictures alone teach a captioner; see tables.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from common import HERE, Row, origin

NAMES = {
    "base": "the captioner as it was",
    "rl": "reinforcement by an aligner",
    "gt": "ViZer_GT",
    "gtseen": "ViZer_GT, captions read with their pictures",
    "g": "ViZer_G",
    "contrast": "ViZer_G, with the contrastive term",
    "centred": "ViZer_G, centred features",
    "mean": "control: a mapper of the mean feature",
    "shuffled": "control: other pictures' features",
    "tags": "tags signal",
    "tags+g": "tags signal and ViZer_G",
    "tags+gt": "tags signal and ViZer_GT",
    "tags+centred": "tags signal and ViZer_G, centred",
}
WIDTH = 256


def _rows(*, best: bool = False) -> list[Row]:
    """The newest line of each model, arm, seed, width and number of pictures.

    Args:
        best: of runs that kept the adapters with the best held-out score, as the command does, not the last.
    """
    path = HERE / "results" / "enhance.jsonl"
    rows: dict[tuple[Any, ...], Row] = {}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        told = row["settings"]
        if told["arm"] != "base" and told["keep_best"] != best:
            continue
        rows[tuple(told[key] for key in ("model", "arm", "seed", "width", "pictures"))] = row
    return list(rows.values())


def _mean(rows: list[Row], key: str) -> float:
    return float(np.mean([row["figures"][key] for row in rows]))


def _found(rows: list[Row]) -> str:
    """What the mapper finds of a held-out picture in its caption: before, after stage 2; "–" without a mapper."""
    pairs = [
        (row["figures"]["base_held"]["retrieval"], row["figures"]["kept_held"]["retrieval"])
        for row in rows
        if "retrieval" in row["figures"].get("base_held", {})
    ]
    if not pairs:
        return "–"
    before, after = np.mean(pairs, axis=0)
    return f"{before:.3f} → {after:.3f}"


def _line(name: str, rows: list[Row]) -> str:
    low, high = np.mean([row["figures"]["CIDEr_95"] for row in rows], axis=0)
    gained = "–"
    if rows[0]["settings"]["arm"] != "base":
        each = [row["figures"]["CIDEr_gained"] for row in rows]
        edges = np.mean([row["figures"]["CIDEr_gained_95"] for row in rows], axis=0)
        spread = f"; seeds {min(each):+.3f} to {max(each):+.3f}" if len(each) > 1 else ""
        gained = f"{np.mean(each):+.3f} ({edges[0]:+.3f} to {edges[1]:+.3f}{spread})"
    cells = [
        name,
        str(len(rows)),
        f"{_mean(rows, 'CIDEr'):.3f} ({low:.3f} to {high:.3f})",
        gained,
        f"{_mean(rows, 'BLEU-4'):.3f}",
        f"{_mean(rows, 'tag_precision'):.3f}",
        f"{_mean(rows, 'tag_recall'):.3f}",
        f"{_mean(rows, 'objects_not_there'):.3f}",
        f"{_mean(rows, 'scorer_cos'):.3f}" if "scorer_cos" in rows[0]["figures"] else "–",
        f"{_mean(rows, 'tagger_agreement'):.3f}",
        _found(rows),
        f"{_mean(rows, 'distinct'):,.0f}",
        f"{_mean(rows, 'words'):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


_COLUMNS = (
    "learned from pictures alone by", "seeds", "CIDEr (95 %)", "beside the base, picture by picture (95 %)", "BLEU-4",
    "tags said: precision", "recall", "objects nobody mentions", "independent aligner", "agreement with the tagger",
    "mapper finds the picture", "distinct", "words",
)  # fmt: skip
HEAD = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]


def enhance() -> str:
    """Every arm of every model, at the published width and with the most pictures that were given to it."""
    return _arms(_rows())


def enhance_best() -> str:
    """The same of runs that kept the best adapters by the held-out score."""
    return _arms(_rows(best=True))


def _arms(rows: list[Row]) -> str:
    parts: list[str] = []
    for model in dict.fromkeys(row["settings"]["model"] for row in rows):
        own = [row for row in rows if row["settings"]["model"] == model]
        if all(row["settings"]["arm"] == "base" for row in own):
            continue
        most = max(row["settings"]["pictures"] for row in own)
        table: list[str] = []
        for arm, name in NAMES.items():
            chosen = [
                row
                for row in own
                if row["settings"]["arm"] == arm
                and (
                    arm == "base"
                    or (row["settings"]["width"] == WIDTH and row["settings"]["pictures"] == most)
                )
            ]
            if chosen:
                table.append(_line(name, chosen[-1:] if arm == "base" else chosen))
        told = own[-1]["settings"]
        steps = f"{told['steps']:,} steps" if told["steps"] else "one epoch"
        said = (
            f"Model `{model}`, {most:,} pictures without captions, {steps} of {told['batch_size']}, "
            f"{told['images']:,} validation pictures."
        )
        parts += [said, "", *HEAD, *table, ""]
    return "\n".join([*parts, origin(rows[-1])])


def enhance_sizes() -> str:
    """Mapper widths and numbers of pictures, arm by arm."""
    rows = [row for row in _rows() if row["settings"]["arm"] != "base"]
    columns = (
        "model", "signal", "mapper width", "pictures", "seeds", "CIDEr", "beside the base", "objects nobody mentions",
        "independent aligner", "mapper finds the picture",
    )  # fmt: skip
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    places = sorted(
        {
            tuple(row["settings"][key] for key in ("model", "arm", "width", "pictures"))
            for row in rows
            if row["settings"]["arm"] in NAMES
        },
        key=lambda place: (place[0], list(NAMES).index(place[1]), *place[2:]),
    )
    for model, arm, width, pictures in places:
        other = [place for place in places if place[:2] == (model, arm)]
        if len(other) < 2:
            continue
        own = [
            row
            for row in rows
            if tuple(row["settings"][key] for key in ("model", "arm", "width", "pictures"))
            == (model, arm, width, pictures)
        ]
        table.append(
            f"| `{model}` | {NAMES[arm]} | {width} | {pictures:,} | {len(own)} | {_mean(own, 'CIDEr'):.3f} "
            f"| {_mean(own, 'CIDEr_gained'):+.3f} | {_mean(own, 'objects_not_there'):.3f} "
            f"| {_mean(own, 'scorer_cos'):.3f} | {_found(own)} |"
        )
    return "\n".join([*table, "", origin(rows[-1])])


TABLES: dict[str, Callable[[], str]] = {
    "enhance": enhance,
    "enhance_best": enhance_best,
    "enhance_sizes": enhance_sizes,
}
