"""Shards made by Ray Data: a pool of actors on one machine or many, each with a model of its own.

A shard goes to an actor and comes out in the store, which all machines must see under the same path; what travels
back is the receipt. An actor that dies is started again and its shard made again, to the same bytes. Needs the
``ray`` extra.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taglens.collection.run_options import RunOptions
from taglens.collection.shard_maker import Count, ShardMaker, Work
from taglens.collection.store import Receipt, Store
from taglens.errors import MissingExtraError, TaglensError, UsageError
from taglens.inference.tagger import Tagger

Load = Callable[[], Tagger]

# The line in which a traceback ends.
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): .+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RaySpread:
    """Makes shards on Ray; see `taglens.collection.runs.Spread`.

    Attributes:
        load: gives an actor its model; picklable.
        configuration: fingerprint of the run.
        workers: actors.
        gpus: of each actor; a share of one lets several stand on a device.
    """

    load: Load
    store: Path
    options: RunOptions
    configuration: str
    workers: int
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"Ray needs at least one worker, found {self.workers}; give --workers")
        if self.gpus < 0:
            raise UsageError(f"GPUs of a worker must be 0 or more, found {self.gpus}")

    def __call__(self, works: Iterator[Work], count: Count, /) -> Iterator[Receipt]:
        """Every shard's receipt, as they come.

        Raises:
            MissingExtraError: Ray is not installed.
            TaglensError: a shard could not be made, after Ray's own attempts.
        """
        ray = require_ray()
        rows = [{"work": work} for work in works]
        if not rows:
            return
        if not ray.is_initialized():
            # RAY_ADDRESS names a cluster; without it, one is started here.
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
        ray.data.DataContext.get_current().enable_progress_bars = False
        # What Ray says on its way is no part of this program's standard error.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_kwargs={
                "load": self.load,
                "store": self.store.absolute(),
                "options": self.options,
                "configuration": self.configuration,
            },
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            num_cpus=1,
            num_gpus=self.gpus,
        )
        try:
            for row in made.iter_rows():
                count(**{key: int(row[key]) for key in ("pictures", "failed", "made", "reused")})
                yield row["receipt"]
        except ray.exceptions.RayError as error:
            raise TaglensError(
                f"a shard could not be made on Ray: {_reason(error)}; what is done is kept: the same command goes on"
            ) from error


def _reason(error: BaseException) -> str:
    """What went wrong in the first place, in a line; Ray gives it within a text of tracebacks."""
    found = _RAISED.findall(str(error))
    return found[0] if found else f"{type(error).__name__}: {error}".splitlines()[0]


class _Actor:
    """One worker: loads the model once, makes shard after shard."""

    def __init__(self, load: Load, store: Path, options: RunOptions, configuration: str) -> None:
        maker = ShardMaker(load(), Store(store), options, configuration)
        self._maker = maker.__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        counts = dict.fromkeys(("pictures", "failed", "made", "reused"), 0)

        def count(**more: int) -> None:
            for key, value in more.items():
                counts[key] += value

        (work,) = batch["work"]
        receipt = self._maker.make(work, count)
        return {"receipt": [receipt], **{key: [value] for key, value in counts.items()}}


def require_ray() -> Any:
    """Ray with its data part, or MissingExtraError with the pip line."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise MissingExtraError("ray[data]", extra="ray", purpose="spreading a run over Ray") from None
    return ray
