"""How many labels another parser changes: two shard folders of the same corpus, sample by sample.

    python bench/relabelled.py --before FOLDER --after FOLDER

Both must be of one vocabulary. Appends one line to bench/results/relabelled.jsonl.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from common import record
from taglens.data.shards import ShardSet


def labels(folder: Path) -> tuple[str, dict[str, frozenset[str]]]:
    shards = ShardSet.open(folder)
    return shards.vocabulary.ref, {
        sample.source: frozenset(sample.tags)
        for split in ("train", "val")
        for sample in shards.samples(split)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    options = parser.parse_args()
    (vocabulary, before), (other, after) = labels(options.before), labels(options.after)
    if vocabulary != other or before.keys() != after.keys():
        raise SystemExit(f"not of one corpus and vocabulary: {vocabulary}, {other}")
    change: Counter[str] = Counter()
    for picture, tags in before.items():
        change.update(after[picture] - tags)
        change.subtract(tags - after[picture])
    figures = {
        "pictures": len(before),
        "before": sum(map(len, before.values())),
        "after": sum(map(len, after.values())),
        "kept": sum(len(tags & after[picture]) for picture, tags in before.items()),
        "gone": sum(len(tags - after[picture]) for picture, tags in before.items()),
        "new": sum(len(after[picture] - tags) for picture, tags in before.items()),
        "largest": dict(sorted(change.items(), key=lambda item: (-abs(item[1]), item[0]))[:16]),
    }
    record("relabelled", {"corpus": options.after.name, "vocabulary": vocabulary}, figures)


if __name__ == "__main__":
    main()
