"""Search on Flickr8k's validation pictures: by vectors, by tags, by both, and re-ranked (Tag2Text 1.9).

    python bench/retrieval.py [--model starter] [--rerank K] [--tune] [--record]

Runs taglens evaluate --task retrieval. With --tune lambda is chosen on 1,000 training pictures, else the model's.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from typer.testing import CliRunner

from common import record, shared
from taglens.cli.main import app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rerank", type=int, default=16)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    data = shared() / "data" / "flickr8k" / "captions.jsonl"
    arguments = [
        "evaluate",
        "--task",
        "retrieval",
        "--model",
        options.model,
        "--data",
        str(data),
        "--split",
        "val",
    ]
    arguments += ["--rerank", str(options.rerank)] + (["--tune-split", "train"] if options.tune else [])
    started = time.perf_counter()
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    if said.exit_code:
        raise SystemExit(said.output)
    figures: dict[str, Any] = json.loads(said.stdout)
    figures["seconds"] = round(time.perf_counter() - started, 1)
    figures["model"] = options.model
    settings = {
        "data": "flickr8k/captions.jsonl",
        "split": "val",
        "rerank": options.rerank,
        "tune": options.tune,
    }
    if options.record:
        record("retrieval", settings, figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
