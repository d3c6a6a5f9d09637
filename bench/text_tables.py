"""Tables of what is measured on captions, on retrieval, and on guidance by tags; see tables.py."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from common import HERE, Row, holding, newest, origin


def captions() -> str:
    row = holding("captions", "guided")
    figures = row["figures"]
    beams = row["settings"]["beams"]
    lines = [
        f"Model `{figures['model']}`, {figures['images']:,} validation pictures, five references, {beams} beams.",
        "",
        "| captions | CIDEr | 95 % | BLEU-4 | ROUGE-L | tags said: precision | recall | distinct | words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = {
        "guided": "guided by recognised tags",
        "greedy": "the same, one beam",
        "unguided": "guided by no tags",
        "guided_by_people": "guided by the tags of people's captions",
        "constant": "one caption for all",
    }
    for key, name in names.items():
        found = figures[key]
        low, high = found["CIDEr_95"]
        lines.append(
            f"| {name} | {found['CIDEr']:.3f} | {low:.3f} to {high:.3f} | {found['BLEU-4']:.3f} "
            f"| {found['ROUGE-L']:.3f} | {found['tag_precision']:.3f} | {found['tag_recall']:.3f} "
            f"| {found['distinct']:,} | {found['words']:.1f} |"
        )
    seconds = figures["guided"]["seconds_a_picture"]
    return "\n".join([*lines, "", f"{seconds:.3f} s a picture, tagging included. {origin(row)}"])


def caption_thresholds() -> str:
    row = holding("captions", "thresholds")
    figures = row["figures"]
    lines = ["| threshold of guiding tags | CIDEr | tags said: precision | recall |", "|---|---|---|---|"]
    for threshold, found in figures["thresholds"].items():
        lines.append(
            f"| {threshold} | {found['CIDEr']:.3f} | {found['tag_precision']:.3f} | {found['tag_recall']:.3f} |"
        )
    return "\n".join([*lines, "", f"{figures['images']:,} pictures. {origin(row)}"])


def caption_wrong() -> str:
    row = holding("captions", "wrong")
    figures = row["figures"]
    lines = [
        "| wrong tags given | said, given alone | CIDEr | said, added to recognised ones | CIDEr |",
        "|---|---|---|---|---|",
    ]
    found = figures["wrong"]
    for count in dict.fromkeys(key.partition("_")[0] for key in found):
        alone, added = found[f"{count}_alone"], found[f"{count}_added"]
        lines.append(
            f"| {count} | {alone['said']:.3f} | {alone['CIDEr']:.3f} | {added['said']:.3f} | {added['CIDEr']:.3f} |"
        )
    return "\n".join([*lines, "", f"{figures['images']:,} pictures. {origin(row)}"])


def three_ways() -> str:
    row = newest("three_ways")
    figures = row["figures"]
    lines = [
        "| tagged by | mAP | CP | CR | CF1 | OF1 | tags a picture |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {
        "head": "the tagging head",
        "similarity": "similarity with sentences that hold the name",
        "caption": "what the guided caption says",
    }
    for key, name in names.items():
        found = figures[key]
        mean = f"{found['mAP']:.3f}" if "mAP" in found else "–"
        lines.append(
            f"| {name} | {mean} | {found['CP']:.3f} | {found['CR']:.3f} | {found['CF1']:.3f} | {found['OF1']:.3f} "
            f"| {found['tags_a_picture']:.1f} |"
        )
    return "\n".join([*lines, "", f"{figures['names']} names, {figures['images']:,} pictures. {origin(row)}"])


def retrieval() -> str:
    row = newest("retrieval")
    figures = row["figures"]
    lines = [
        "| ordered by | picture to caption R@1 | R@5 | R@10 | caption to picture R@1 | R@5 | R@10 | median rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in figures["methods"].items():
        ways = [found[way][f"R@{most}"] for way in ("i2t", "t2i") for most in (1, 5, 10)]
        shares = " | ".join(f"{share:.3f}" for share in ways)
        lines.append(f"| {name} | {shares} | {found['t2i']['median_rank']:.0f} |")
    said = f"{figures['images']:,} pictures, {figures['captions']:,} captions, lambda {figures['lambda']}."
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def keywords() -> str:
    row = newest("retrieval")
    found = row["figures"]["keywords"]
    methods = list(next(iter(found.values()))["mAP"])
    head = " | ".join(f"mAP, {name}" for name in methods)
    lines = [f"| tags asked | queries | right pictures each | {head} |", "|---" * (3 + len(methods)) + "|"]
    for size, each in found.items():
        figures = " | ".join(f"{each['mAP'][name]:.3f}" for name in methods)
        lines.append(f"| {size} | {each['queries']} | {each['right']:.1f} | {figures} |")
    return "\n".join([*lines, "", origin(row)])


def guidance() -> str:
    """The newest line of each arm and seed; where there are several seeds, their mean and spread."""
    rows = _newest_arms("guidance")
    names = {
        "mix0": "guided by recognised tags only",
        "mix0.25": "a quarter by the caption's own tags, the others by recognised ones",
        "mix0.5": "half by the caption's own tags, half by recognised ones",
        "mix1": "guided by the caption's own tags only",
        "untold": "no guidance, in training and afterwards",
        "anew": "as the half mix, no captions without pictures before",
        "textonly": "captions without pictures only",
    }
    said = "tags said: precision | recall | distinct | loss, recognised | own tags | none"
    table = [f"| trained | seeds | CIDEr | 95 % | BLEU-4 | {said} |", "|---" * 11 + "|"]
    for arm, name in names.items():
        found = [row["figures"] for (each, _), row in rows.items() if each == arm]
        if not found:
            continue

        def mean(key: str, found: list[dict[str, float]] = found) -> float:
            return float(np.mean([one[key] for one in found]))

        spread = [one["CIDEr"] for one in found]
        edges = np.mean([one["CIDEr_95"] for one in found], 0)
        beside = f" ({min(spread):.3f} to {max(spread):.3f})" if len(found) > 1 else ""
        table.append(
            f"| {name} | {len(found)} | {mean('CIDEr'):.3f}{beside} | {edges[0]:.3f} to {edges[1]:.3f} "
            f"| {mean('BLEU-4'):.3f} | {mean('tag_precision'):.3f} | {mean('tag_recall'):.3f} "
            f"| {mean('distinct'):,.0f} | {mean('lm'):.3f} | {mean('lm_said'):.3f} | {mean('lm_none'):.3f} |"
        )
    last = list(rows.values())[-1]
    settings = last["settings"]
    told = f"{settings['steps']} steps of {settings['batch_size']} captions each, {settings['beams']} beams."
    return "\n".join([*table, "", f"{told} {origin(last)}"])


def joint() -> str:
    """The newest line of each arm and seed; means over seeds."""
    rows = _newest_arms("joint")
    names = {
        "tags": "tagging alone, decoder head",
        "captions": "captions alone",
        "joint": "both, decoder head, nothing shared",
        "joint shared": "both, decoder head shares its layers",
        "joint fully": "both, fully connected head",
    }
    table = [
        "| taught | seeds | learned parameters | mAP | CIDEr | 95 % | BLEU-4 | loss, recognised tags | own tags |",
        "|---" * 9 + "|",
    ]
    for arm, name in names.items():
        found = [row["figures"] for (each, _), row in rows.items() if each == arm]
        if not found:
            continue
        cells = [name, str(len(found)), f"{found[0]['parameters'] / 1e6:.2f} M", _mean(found, "mAP")]
        cells.append(_mean(found, "CIDEr"))
        if "CIDEr_95" in found[0]:
            low, high = np.mean([one["CIDEr_95"] for one in found], 0)
            cells.append(f"{low:.3f} to {high:.3f}")
        else:
            cells.append("")
        cells += [_mean(found, key) for key in ("BLEU-4", "lm", "lm_said")]
        table.append(f"| {' | '.join(cells)} |")
    last = list(rows.values())[-1]
    told = f"{last['settings']['steps']} steps of {last['settings']['batch_size']} captions each."
    return "\n".join([*table, "", f"{told} {origin(last)}"])


def answers() -> str:
    """The newest line of each arm and seed, a line for each way of asking; the first seed's figures per type."""
    rows = _newest_arms("answers")
    kinds = ("exists", "colour", "action", "count")
    table = [f"| taught, asked | seeds | accuracy | 95 % | {' | '.join(kinds)} |", "|---" * 8 + "|"]
    names = {"tags": "with tags beside the question", "untold": "never with tags"}
    ways = ("with tags", "without tags", "another picture")
    found = [row["figures"]["ways"] for row in rows.values()]
    blind = found[0]["without tags"]
    table.append(
        f"| nothing: the most common answer to the same question | | {blind['blind']:.3f} | | "
        + " | ".join(f"{blind['blind_per_type'][kind]:.3f}" for kind in kinds)
        + " |"
    )
    for arm, name in names.items():
        for way in ways:
            each = [row["figures"]["ways"].get(way) for (known, _), row in rows.items() if known == arm]
            seen = [one for one in each if one is not None]
            if not seen:
                continue
            low, high = np.mean([one["accuracy_95"] for one in seen], 0)
            asked = "about another picture, with its tags" if way == "another picture" else way
            shares = [np.mean([one["per_type"][kind][1] for one in seen]) for kind in kinds]
            table.append(
                f"| {name}; asked {asked} | {len(seen)} | {_mean(seen, 'accuracy')} | {low:.3f} to {high:.3f} | "
                + " | ".join(f"{share:.3f}" for share in shares)
                + " |"
            )
    last = list(rows.values())[-1]
    settings = last["settings"]
    told = (
        f"{settings['questions']:,} questions about 1,000 pictures; {settings['steps']} steps of "
        f"{settings['batch_size']}, half captions, half questions."
    )
    return "\n".join([*table, "", f"{told} {origin(last)}"])


def _newest_arms(name: str) -> dict[tuple[str, int], Row]:
    """(arm, seed) to its newest line, the newest of all last."""
    rows: dict[tuple[str, int], Row] = {}
    for row in map(json.loads, (HERE / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()):
        key = row["settings"]["arm"], row["settings"]["seed"]
        rows.pop(key, None)
        rows[key] = row
    return rows


def _mean(found: list[Row], key: str) -> str:
    """Over seeds, and between which values; nothing where it was not measured."""
    values = [one[key] for one in found if key in one]
    if not values:
        return ""
    between = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{between}"


def mentions() -> str:
    """Of the newest line: tags asked for that captions say, with and without the demand."""
    row = newest("mentions")
    figures = row["figures"]
    table = [
        "| tags each | pictures | way | tags said | captions saying all | CIDEr | mean log-probability | words |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for given, found in figures.items():
        if not isinstance(found, dict) or "free" not in found:
            continue
        for way, name in (("free", "guided"), ("must_mention", "must mention")):
            each = found[way]
            cider = f"{each['CIDEr']:.3f}" if "CIDEr" in each else ""
            table.append(
                f"| {given.partition('_')[0]} | {found['pictures']:,} | {name} | {each['mentioned']:.3f} "
                f"| {each['all_mentioned']:.3f} | {cider} | {each['score']:.2f} | {each['words']:.1f} |"
            )
    return "\n".join([*table, "", origin(row)])


def annotation() -> str:
    row = newest("annotation")
    figures = row["figures"]
    keys = ("OP", "OR", "OF1", "CP", "CR", "CF1")
    table = [
        f"| strategy | {' | '.join(keys)} | queries a picture | tokens a picture |",
        "|---" * (len(keys) + 3) + "|",
    ]
    for name, found in figures["strategies"].items():
        scores = " | ".join(f"{found[key]:.1f}" for key in keys)
        table.append(
            f"| {name} | {scores} | {found['queries_a_picture']:.1f} | {found['tokens_a_picture']:,.0f} |"
        )
    said = f"Simulated: {figures['pictures']} mosaics, {figures['classes']} classes, invented errors."
    return "\n".join([*table, "", f"{said} {origin(row)}"])


TABLES: dict[str, Callable[[], str]] = {
    "captions": captions,
    "caption_thresholds": caption_thresholds,
    "caption_wrong": caption_wrong,
    "three_ways": three_ways,
    "retrieval": retrieval,
    "keywords": keywords,
    "guidance": guidance,
    "joint": joint,
    "answers": answers,
    "mentions": mentions,
    "annotation": annotation,
}
