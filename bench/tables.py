"""Fill the tables in README.md and the model card from the committed result lines; nothing there is typed by hand.

    python bench/tables.py            rewrite the files
    python bench/tables.py --check    exit 1 when a file does not show the newest lines

A table stands between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

import downstream_tables
import enhance_tables
import text_tables
from common import REPOSITORY, newest, origin

FILES = (
    REPOSITORY / "README.md",
    REPOSITORY / "EXPERIMENTS.md",
    REPOSITORY / "src" / "taglens" / "assets" / "starter" / "MODEL_CARD.md",
)


def quality() -> str:
    row = newest("quality")
    figures = row["figures"]
    lines = [
        f"Model `{figures['model']}`, held-out pictures, thresholds as stored.",
        "",
        "| validation split | pictures | classes | mAP | tag-frequency baseline mAP | CF1 | OF1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        if isinstance(found, dict):
            lines.append(
                f"| {name} | {found['images']:,} | {found['classes']} | {found['mAP']:.3f} "
                f"| {found['frequency_baseline_mAP']:.3f} | {found['CF1']:.3f} | {found['OF1']:.3f} |"
            )
    return "\n".join([*lines, "", origin(row)])


def heads() -> str:
    row = newest("heads")
    lines = ["| head | mAP on the yardstick |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in row["figures"].items()]
    told = row["settings"]
    return "\n".join(
        [*lines, "", f"Side {told['side']}, {told['epochs']} epochs, seed {told['seed']}. {origin(row)}"]
    )


def evidence() -> str:
    row = newest("evidence")
    groups = ("taught", "held out", "shuffled")
    lines = [
        "| trained on, labels | taught tags | tags held out | the same, labels shuffled |",
        "|---|---|---|---|",
    ]
    for name, found in row["figures"].items():
        cells = [f"{found[f'{group} mean']:.3f} ± {found[f'{group} deviation']:.3f}" for group in groups]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = row["settings"]
    said = (
        f"mAP on validation pictures, mean and standard deviation over {told['seeds']} seeds; {told['taught']} tags "
        f"taught, {told['held_out']} held out; {told['steps']} steps of {told['batch_size']} over the tokens of "
        f"`{told['encoder']}`."
    )
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def open_tags() -> str:
    row = newest("open_tags")
    f = row["figures"]
    change = f["score_change_by_descriptions"]
    lines = [
        "| scored | mAP |",
        "|---|---|",
        f"| {f['names']} names of the yardstick, by the model's own columns | {f['own_columns_mAP']:.3f} |",
        f"| the same, as typed text | {f['typed_mAP']:.3f} |",
        f"| the same, as typed text with their descriptions | {f['typed_with_descriptions_mAP']:.3f} |",
        f"| {f['new_words']} words that are no tag, as typed text | {f['new_words_mAP']:.3f} |",
        (
            f"| the same under each other's names | {f['new_words_shuffled_mAP']:.3f} "
            f"± {f['new_words_shuffled_deviation']:.3f} |"
        ),
        "",
        (
            f"Model `{f['model']}`. Descriptions change a score by {change['mean']:.3f} on average and by "
            f"{change['largest']:.2f} at most. The words, by frequency: {f['examples']}. {origin(row)}"
        ),
    ]
    return "\n".join(lines)


def full_size() -> str:
    row = newest("full_size")
    f, s = row["figures"], row["settings"]
    return (
        f"{f['parameters_millions']:.0f} million parameters, {f['label_values_millions']:.0f} million label values, "
        f"batch {s['batch_size']}, {s['side']} px, {s['precision']}, {s['threads']} threads: first update "
        f"{f['first_update_s']:.0f} s, second {f['second_update_s']:.0f} s, {f['peak_memory_gib']:.1f} GiB at most. "
        f"{origin(row)}"
    )


def best_and_worst() -> str:
    found = newest("quality")["figures"]["flickr8k"]
    said = {
        side: ", ".join(f"{name} {ap:.2f}" for name, ap in found[side].items()) for side in ("best", "worst")
    }
    return f"Best on Flickr8k (AP): {said['best']}.\n\nWorst: {said['worst']}."


def speed() -> str:
    row = newest("speed")
    names = {
        "process_tag_one_photo_ms": "`taglens tag` on one photograph, cold process",
        "process_tag_12mp_jpeg_ms": "`taglens tag` on a 12-megapixel JPEG, cold process",
        "process_import_taglens_ms": "`import taglens`, cold process",
        "process_python_alone_ms": "Python alone, for comparison",
        "process_help_ms": "`taglens --help`, cold process",
        "load_tagger_ms": "load the tagger",
        "decode_photo_ms": "decode a 512 px PNG",
        "decode_12mp_jpeg_full_ms": "decode a 12-megapixel JPEG in full",
        "decode_12mp_jpeg_reduced_ms": "the same, reduced while decoding (what tagging does)",
        "prepare_ms": "resize to the model's side",
        "engine_batch1_ms": "engine, one picture",
        "engine_batch1_thread1_ms": "engine, one picture, one thread",
        "engine_batch16_per_image_ms": "engine, a picture in a batch of 16",
        "select_ms": "scores to tags",
    }
    lines = ["| stage | median ms |", "|---|---|"]
    lines += [f"| {text} | {row['figures'][key]:,.1f} |" for key, text in names.items()]
    rate = row["figures"]["tagger_images_per_s"]
    lines.append("")
    lines.append(f"End to end, 512 px PNGs from disk: {rate:.0f} pictures a second. {origin(row)}")
    return "\n".join(lines)


def encoders() -> str:
    row = newest("encoders")
    settings = row["settings"]
    names = list(next(iter(row["figures"].values()))["mAP"])
    lines = [
        f"| encoder | parameters, M | images/s | {' | '.join(names)} |",
        "|" + "---|" * (3 + len(names)),
    ]
    for name, found in row["figures"].items():
        scores = " | ".join(f"{found['mAP'][s]:.3f}" for s in names)
        lines.append(
            f"| {name} | {found['parameters_millions']:.1f} | {found['images_per_s']:.0f} | {scores} |"
        )
    told = (
        f"{settings['minutes']} minutes each, side {settings['side']}, batch {settings['batch_size']}, "
        f"seed {settings['seed']}; mAP on the validation splits."
    )
    return "\n".join([*lines, "", f"{told} {origin(row)}"])


def labels() -> str:
    row = newest("labels")
    f = row["figures"]
    low = ", ".join(f"{name} {value:.2f}" for name, value in f["lowest"].items())
    return f"Mean F1 over {f['names']} names: {f['mean_f1']:.3f}. Lowest: {low}. {origin(row)}"


def parser() -> str:
    row = newest("parser")
    f = row["figures"]
    lines = ["| on 1,000 gold graphs | precision | recall | F1 | 95 % |", "|---|---|---|---|---|"]
    for kind in ("entities", "attributes", "actions"):
        k = f[kind]
        shares = " | ".join(f"{k[part]:.3f}" for part in ("precision", "recall", "f1"))
        lines.append(f"| {kind} | {shares} | {k['low']:.3f} to {k['high']:.3f} |")
    lines += [f"| {name} | | | {value:.3f} | |" for name, value in f["structure"].items()]
    speed = f["speed"]
    errors = [
        f"{kind}: " + ", ".join(f"{what} {count}" for what, count in found.items())
        for kind, found in f["errors"].items()
    ]
    rate = (
        f"{speed['captions_per_cpu_second']:,} captions a CPU second in one process (five runs: "
        f"{speed['slowest_fifth']:,} to {speed['fastest_fifth']:,}); `taglens parse` on the whole file, start "
        f"and JSON included, {speed['command_captions_per_second']:,} a second. {origin(row)}"
    )
    return "\n".join([*lines, "", rate, "", f"Errors by type, {'; '.join(errors)}."])


def parser_short() -> str:
    row = newest("parser")
    f = row["figures"]
    scores = ", ".join(f"{kind} {f[kind]['f1']:.3f}" for kind in ("entities", "attributes", "actions"))
    return (
        f"F1 on 1,000 gold graphs it never saw: {scores}; {f['speed']['captions_per_cpu_second']:,} captions a CPU "
        f"second. {origin(row)}"
    )


def relabelled() -> str:
    row = newest("relabelled")
    f = row["figures"]
    gained = ", ".join(f"{name} {count:+d}" for name, count in f["largest"].items())
    return (
        f"{f['pictures']:,} pictures: {f['before']:,} labels before, {f['after']:,} after; {f['kept']:,} are the "
        f"same, {f['gone']:,} gone, {f['new']:,} new. The largest changes: {gained}. {origin(row)}"
    )


def training() -> str:
    row = newest("training")
    f, s = row["figures"], row["settings"]
    pictures = f"{s['batch_size']} pictures of {s['side']} px"
    return "\n".join(
        [
            "| what | figure |",
            "|---|---|",
            f"| 3x3 convolution, fp32 | {f['convolution_fp32_gflops']:.0f} GFLOP/s |",
            f"| the same in bf16 autocast | {f['convolution_bf16_gflops']:.0f} GFLOP/s |",
            f"| forward and backward without the decoder, {pictures} | {f['step_without_decoder_s']:.2f} s |",
            f"| with the decoder asked about 96 tags | {f['step_96_tags_ratio']:.2f} times that |",
            f"| with the decoder asked about all {s['tags']:,} | {f['step_all_tags_ratio']:.2f} times that |",
            "",
            f"{s['threads']} threads, {s['capability']}. {origin(row)}",
        ]
    )


def published() -> str:
    row = newest("published")
    f, s = row["figures"], row["settings"]
    names = {
        "convert": "`taglens convert`",
        "bundle": "`taglens bundle`",
        "one": "`taglens tag`, one photograph",
        "sixteen": f"`taglens tag`, {s['pictures']} photographs",
    }
    lines = ["| command | seconds | at most resident, MB |", "|---|---|---|"]
    lines += [
        f"| {told} | {f['seconds'][name]:,.1f} | {f['peak_mb'][name]:,} |" for name, told in names.items()
    ]
    said = (
        f"Noise in the shapes of RAM++ 14M ({f['values_millions']:.0f} million values, {s['tags']:,} tags of "
        f"{s['descriptions']} descriptions, {s['side']} px), fp32; a process each, {s['threads']} threads. Weights "
        f"{f['weights_mb']:,} MB, bundle {f['bundle_mb']:,} MB. A further picture takes "
        f"{f['warm_s_per_picture']:.1f} s. The machine's load before was {s['load_before']:.1f}."
    )
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def swin() -> str:
    row = newest("swin")
    s = row["settings"]
    lines = [
        "| encoder x pictures | ours, s | transformers, s | ratio | ours as a graph, s | ours, MB | theirs, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in row["figures"].items():
        if isinstance(f, dict):
            lines.append(
                f"| {name} | {f['ours_s']:.2f} | {f['library_s']:.2f} | {f['library_to_ours']:.2f} "
                f"| {f['graph_s']:.2f} | {f['ours_peak_mb']:,} | {f['library_peak_mb']:,} |"
            )
    apart = max(f["difference"] for f in row["figures"].values() if isinstance(f, dict))
    said = (
        f"Medians of passes that take turns, {s['side']} px, {s['precision']}, {s['threads']} threads; "
        f"{', '.join(f'{name} {found}' for name, found in s['versions'].items())}. Tokens differ by {apart:.1g} at "
        f"most. The machine's load before was {s['load_before']:.1f}."
    )
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


def collection() -> str:
    row = newest("collection")
    f, s = row["figures"], row["settings"]
    lines = ["| pictures, read by | a second | share of the engine's own rate |", "|---|---|---|"]
    for kind, told in (
        ("small_threads", "Flickr8k's, small; threads"),
        ("small_processes", "the same; two processes"),
        ("12mp_threads", "12 megapixels, JPEG; threads"),
        ("12mp_processes", "the same; two processes"),
    ):
        lines.append(f"| {told} | {f[f'{kind}_per_s']:.1f} | {f[f'{kind}_share']:.0%} |")
    said = (
        f"The engine alone, given prepared pictures in the same batches: {f['engine_per_s']:.1f} a second; medians "
        f"of {s['repeat']} rounds. Decoding at a fraction of the size moves a score by "
        f"{f['reduced_decode_mean_score_change']:.5f} on average, {f['reduced_decode_share_above_0.001']:.1%} of "
        f"them by more than 0.001, and one by {f['reduced_decode_largest_score_change']:.3f}."
    )
    return "\n".join([*lines, "", f"{said} {origin(row)}"])


TABLES: dict[str, Callable[[], str]] = {
    **text_tables.TABLES,
    **downstream_tables.TABLES,
    **enhance_tables.TABLES,
    "collection": collection,
    "published": published,
    "swin": swin,
    "heads": heads,
    "evidence": evidence,
    "full_size": full_size,
    "open_tags": open_tags,
    "quality": quality,
    "best": best_and_worst,
    "speed": speed,
    "encoders": encoders,
    "labels": labels,
    "parser": parser,
    "parser_short": parser_short,
    "relabelled": relabelled,
    "training": training,
}


def filled(text: str) -> str:
    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- bench:{name} -->\n{TABLES[name]()}\n<!-- /bench:{name} -->"

    return re.sub(r"<!-- bench:(\w+) -->.*?<!-- /bench:\1 -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        wanted = filled(text)
        if text != wanted:
            stale.append(path)
            if not options.check:
                path.write_text(wanted, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if options.check else 'rewritten'}: {path.relative_to(REPOSITORY)}")
    if stale and options.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
