"""Tables of what labels teach and of what the data engine does to them; see tables.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common import Row, holding, newest, origin


def _between(found: Sequence[float | None], *, digits: int = 1) -> str:
    """A share with its interval, in per cent."""
    value, low, high = (None if each is None else f"{100 * each:.{digits}f}" for each in found)
    return f"{value} ({low} to {high})"


def _sources(row: Row, part: str) -> tuple[list[str], dict[str, Any]]:
    figures = row["figures"][part]
    took = figures.get("took", {})
    head = "| labels from | labels a picture | OP | OR | OF1 | mAP (95 %) | of people's | gap closed |"
    asked = " queries a picture |" if took else ""
    lines = [head + asked, "|---|---|---|---|---|---|---|---|" + ("---|" if took else "")]
    order = sorted(figures["sources"].items(), key=lambda each: each[1]["mAP"][0])
    for name, found in order:
        quality = found["quality"]
        gap = "–" if found["gap_closed"] is None else _between(found["gap_closed"], digits=0)
        shares = " | ".join(f"{100 * quality[key]:.1f}" for key in ("OP", "OR", "OF1"))
        queries = ""
        if took:
            queries = f" {took[name]['queries_a_picture']:.1f} |" if name in took else " – |"
        lines.append(
            f"| {name} | {found['labels_per_picture']:.2f} | {shares} | {_between(found['mAP'])} "
            f"| {_between(found['of_human'])} | {gap} |{queries}"
        )
    return lines, figures


def _told(row: Row, figures: dict[str, Any]) -> str:
    settings = row["settings"]
    recipe = settings["recipe"]
    kind = "linear" if not recipe["hidden"] else f"two-layer ({recipe['hidden']})"
    best = f"{figures['baseline']}, the best baseline,"
    gap = f"The gap lies between {best} and people."
    if all(found["gap_closed"] is None for found in figures["sources"].values()):
        gap = f"People's labels teach no more than those of {best} so that there is no gap."
    return (
        f"A {kind} classifier over the frozen encoder of `{figures['model']}`, {len(settings['seeds'])} seeds, "
        f"{recipe['epochs']} epochs, {figures['classes']} classes; quality of labels (OP, OR, OF1) against people's "
        f"on the {figures['pictures']:,} pictures that teach; intervals of {settings['resamples']} resamples of the "
        f"{figures['tested']:,} test pictures. {gap}"
    )


def mosaics() -> str:
    row = holding("downstream", "mosaics")
    lines, figures = _sources(row, "mosaics")
    said = f"Annotators are simulated: their figures are no model's. {_told(row, figures)}"
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def flickr8k() -> str:
    row = holding("downstream", "flickr8k")
    lines, figures = _sources(row, "flickr8k")
    folds = row["settings"]["folds"]
    said = f"Tested crosswise in {folds} folds; the yardstick leaves out what nobody wrote. {_told(row, figures)}"
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def engine() -> str:
    row = newest("engine")
    figures, settings = row["figures"], row["settings"]
    lines = [
        "| rule | removed | planted among them | by chance | planted found | right labels of its own removed |",
        "|---|---|---|---|---|---|",
    ]
    for rule, found in figures["rules"].items():
        precision, recall = (
            f"{100 * found[key]:.1f} ({100 * found[f'{key}_range'][0]:.1f} to {100 * found[f'{key}_range'][1]:.1f})"
            for key in ("precision", "recall")
        )
        lines.append(
            f"| {rule} | {found['removed']:,.0f} | {precision} | {100 * found['precision_by_chance']:.1f} | {recall} "
            f"| {100 * found['own_removed']:.1f} |"
        )
    either = figures["rules"]["either"]
    signs = ", ".join(f"{name} {value:.2f}" for name, value in figures["signs"].items())
    said = (
        f"Per cent; {figures['pictures']:,} pictures, {either['planted']:,.0f} labels planted "
        f"({100 * settings['rate']:.0f} for 100 of their own; {either['planted_in_judged_tags']:,.0f} of tags with "
        f"enough pictures to be judged), mean and range of {len(settings['seeds'])} seeds. How well each sign tells "
        f"planted from own (area under the curve, within a tag): {signs}."
    )
    whole = [
        "",
        "| labels | a picture | OP | OR | OF1 |",
        "|---|---|---|---|---|",
    ]
    plain, noisy = figures["unplanted"], figures["noisy"]
    for name, found in (
        ("as given, by the first caption", plain["given"]),
        ("and the model's", plain["merged"]),
        ("and cleaned", plain["cleaned"]),
        ("as given, with planted ones", noisy["given"]),
        ("and cleaned, nothing added", noisy["given_cleaned"]),
    ):
        shares = " | ".join(f"{100 * found[key]:.1f}" for key in ("OP", "OR", "OF1"))
        whole.append(f"| {name} | {found['labels_a_picture']:.2f} | {shares} |")
    wrong = plain["removed_of_added_wrong"] / max(plain["removed_of_added"], 1)
    added = (
        f"Of the labels added {plain['added_right'] / max(plain['added'], 1):.0%} are right ({plain['added']:,}); of "
        f"the added ones that cleaning removed {wrong:.0%} are wrong "
        f"({plain['removed_of_added']:,}), against val-tags.jsonl. "
        f"{figures['cpu_seconds_a_picture']:.2f} s of one core a picture."
    )
    return "\n".join([*lines, "", said, *whole, "", f"{added} {origin(row)}"])


TABLES: dict[str, Callable[[], str]] = {
    "downstream_mosaics": mosaics,
    "downstream_flickr8k": flickr8k,
    "engine": engine,
}
