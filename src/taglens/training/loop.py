"""The training loop: steps, logs, checkpoints, resume.

`run_steps` knows nothing of what is trained: the gradients of a step are passed in. `train` is the loop of a
recogniser, whose objective and stream of batches are passed in. The same loop runs on a CPU and on CUDA; bf16 is used
where it is asked for.

A run folder holds ``log.jsonl``, ``state.pt`` (for resuming) and, at the end, what `save_pretrained` writes.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from taglens.data.batches import Batch
from taglens.errors import MismatchError, ModelError, UsageError
from taglens.models.recognizer import Recognizer
from taglens.training import parallel
from taglens.training.augment import AugmentConfig, augment
from taglens.training.objectives import Asked
from taglens.training.optim import Average, adamw, rate

STATE, LOG = "state.pt", "log.jsonl"


class Stream(Protocol):
    """Batches by number; the same number gives the same batch."""

    def batch(self, number: int) -> Batch: ...


class Objective(Protocol):
    def losses(
        self, model: Recognizer, tokens: Tensor, asked: Asked, *, generator: torch.Generator
    ) -> dict[str, Tensor]: ...

    def total(self, named: Mapping[str, Tensor]) -> Tensor: ...


Model = TypeVar("Model", bound=nn.Module)

# The gradients of step n, left in the model's parameters: its losses by name, and how many pictures it saw. Summed
# over processes, if there are several.
Gradients = Callable[[int], tuple[dict[str, Tensor], int]]

# How rows [R] of a batch become tokens [R, 1 + N, K]; what is random about it is drawn for the whole batch.
Look = Callable[[Recognizer, Batch, npt.NDArray[np.intp], torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        steps: number of updates, over which the rate falls.
        until: stop after so many of them, with the model as it then is; the run can go on later. 0: all.
        side: side of the training pictures in pixels.
        lr: peak learning rate; warmup: steps to reach it.
        decay, decay_every: multiply the rate by ``decay`` after every so many steps; None: half a cosine instead.
        clip: largest gradient norm.
        average: decay of the weight average that is evaluated and saved.
        checkpoint_every, evaluate_every: in steps; 0 only at the end.
        accumulate: parts in which a batch is worked off before an update; the same update with less memory, but for
            batch statistics, which are those of a part.
        only: names of the model's parts to train ("decoder"); the others are frozen, batch statistics included.
        precision: "fp32" or "bf16" (mixed; worth it only where the processor multiplies bf16 natively).
    """

    steps: int
    until: int = 0
    side: int = 128
    lr: float = 1e-3
    warmup: int = 200
    decay: float | None = None
    decay_every: int = 0
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.999
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    evaluate_every: int = 0
    precision: str = "fp32"
    accumulate: int = 1
    only: tuple[str, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.side < 8 or self.lr <= 0:
            raise UsageError(
                f"steps {self.steps}, side {self.side} and lr {self.lr} must be at least 1, at least 8 and above 0"
            )
        if not 0 <= self.until <= self.steps:
            raise UsageError(f"until {self.until} must be in 0..{self.steps}, the steps of the run")
        if self.decay is not None and self.decay_every < 1:
            raise UsageError(f"a decay of {self.decay} needs the steps after which it applies, at least 1")
        if self.accumulate < 1:
            raise UsageError(f"accumulate {self.accumulate} is below 1")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision {self.precision!r} is unknown; use fp32 or bf16")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress bar needs to know after a step."""

    step: int
    steps: int
    losses: Mapping[str, float]
    lr: float
    images_per_s: float


def train(
    model: Recognizer,
    stream: Stream,
    objective: Objective,
    config: LoopConfig,
    *,
    out: Path,
    look: Look | None = None,
    evaluate: Callable[[Recognizer], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Recognizer:
    """Run the loop to its end on the model's device, going on from ``out/state.pt`` when that is there.

    Args:
        look: what the model makes of a batch; by default its pictures, augmented and encoded.

    Returns:
        The averaged model, in eval mode, on the CPU.

    Raises:
        UsageError: a part to train that the model lacks, or that no loss depends on.
        MismatchError: the state belongs to a run with other settings or another model.
        ModelError: the loss or its gradient stopped being finite, or ``state.pt`` is damaged.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    look = look or _see(config)

    def gradients(step: int) -> tuple[dict[str, Tensor], int]:
        batch = stream.batch(step)
        return _gradients(model, batch, objective, config, look=look, step=step), len(batch.pixels)

    return run_steps(model, gradients, config, out=out, evaluate=evaluate, report=report)


def run_steps(
    model: Model,
    gradients: Gradients,
    config: LoopConfig,
    *,
    out: Path,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Model:
    """Make ``config.steps`` updates, going on from ``out/state.pt`` when that is there.

    Returns:
        The averaged model, in eval mode, on the CPU.

    Raises: as `train`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    _thaw(model, config.only)
    optimizer = adamw(model, lr=config.lr, weight_decay=config.weight_decay)
    average = Average(model, config.average)
    start = _resume(out / STATE, config, model, optimizer, average)
    last = config.until or config.steps
    if start > last:
        raise UsageError(
            f"{out} stands at step {start} already, and is to stop after {last}; give a later one"
        )
    clock = time.perf_counter()
    seen = 0
    first = parallel.rank() == 0
    with (out / LOG if first else Path(os.devnull)).open("a", encoding="utf-8") as log:

        def write(row: Mapping[str, Any]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()

        for step in range(start, last):
            lr = rate(
                step,
                steps=config.steps,
                warmup=config.warmup,
                peak=config.lr,
                decay=config.decay,
                every=config.decay_every,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            named, pictures = gradients(step)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            optimizer.step()
            if not math.isfinite(norm):
                # Before the update reaches the average or a checkpoint.
                raise ModelError(
                    f"the gradient is not finite at step {step + 1}; lower --lr and start again: "
                    f"the last checkpoint in {out} is from before"
                )
            average.update(model)
            seen += pictures
            done = step + 1
            if done % config.log_every == 0 or done == last:
                losses = parallel.add({name: float(value) for name, value in named.items()})
                speed = seen / (time.perf_counter() - clock)
                write({"step": done, **losses, "lr": lr, "grad_norm": norm, "images_per_s": round(speed, 1)})
                if report and first:
                    report(Progress(done, last, losses, lr, speed))
            if first and config.checkpoint_every and done % config.checkpoint_every == 0 and done < last:
                _save(out / STATE, config, done, model, optimizer, average)
            due = done == last or (config.evaluate_every and done % config.evaluate_every == 0)
            if evaluate and due and first:
                found = evaluate(average.model)
                # JSON has no NaN: a figure that does not exist is null.
                figures = {name: value if math.isfinite(value) else None for name, value in found.items()}
                write({"step": done, "evaluation": figures})
        if first:
            _save(out / STATE, config, last, model, optimizer, average)
    return average.model.to("cpu").eval()


def _thaw(model: nn.Module, only: tuple[str, ...]) -> None:
    """Set the parts to train to train, and freeze the rest."""
    parts = dict(model.named_children())
    unknown = sorted(set(only) - set(parts))
    if unknown:
        raise UsageError(f"the model has no part {unknown[0]!r} to train; it has {', '.join(parts)}")
    model.train(not only).requires_grad_(not only)
    # Layers that a part to train shares with a frozen one are trained.
    for name in only:
        parts[name].train().requires_grad_(True)


def _gradients(
    model: Recognizer, batch: Batch, objective: Objective, config: LoopConfig, *, look: Look, step: int
) -> dict[str, Tensor]:
    """Leave the gradients of a batch in the model; its losses by name."""
    device = next(model.parameters()).device
    whole = Asked.of(batch, device=device)
    summed: dict[str, Tensor] = {}
    for rows in parallel.parts(len(batch.targets), accumulate=config.accumulate):
        # One generator a step, made from the seed and the step's number: a resumed run draws what the first would
        # have, and every part draws what the whole would have.
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            tokens = look(model, batch, rows, generator)
            named = objective.losses(
                model, tokens, whole.part(torch.from_numpy(rows).to(device)), generator=generator
            )
            if not named and len(rows) < len(batch.targets):
                # A part without captions where nothing else is asked; the others speak for it.
                continue
            total = objective.total(named)
        if not total.requires_grad:
            raise UsageError(
                f"nothing to learn: no loss of weight depends on what is trained ({', '.join(config.only)}); "
                "train another part or weigh another loss"
            )
        total.backward()  # type: ignore[no-untyped-call]
        for name, value in named.items():
            summed[name] = summed.get(name, 0.0) + value.detach()
    parallel.add_gradients(model.parameters())
    return summed


def _see(config: LoopConfig) -> Look:
    """Pictures, augmented and encoded."""

    def see(
        model: Recognizer, batch: Batch, rows: npt.NDArray[np.intp], generator: torch.Generator
    ) -> Tensor:
        pixels = torch.from_numpy(batch.pixels[rows]).to(next(model.parameters()).device)
        images = augment(
            pixels,
            config.side,
            config.augment,
            generator=generator,
            rows=torch.from_numpy(rows),
            of=len(batch.pixels),
        )
        return model.tokens(images.contiguous(memory_format=torch.channels_last))

    return see


def _settings(config: LoopConfig) -> str:
    # Where to stop, logging and checkpoint intervals do not change what is learned.
    row = asdict(config) | {"only": list(config.only)}
    for free in ("until", "log_every", "checkpoint_every", "evaluate_every"):
        row.pop(free)
    return json.dumps(row, sort_keys=True)


def _save(
    path: Path,
    config: LoopConfig,
    step: int,
    model: Model,
    optimizer: torch.optim.Optimizer,
    average: Average[Model],
) -> None:
    beside = path.with_name(path.name + ".part")
    torch.save(
        {
            "settings": _settings(config),
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.model.state_dict(),
            "updates": average.updates,
        },
        beside,
    )
    beside.replace(path)


def _resume(
    path: Path,
    config: LoopConfig,
    model: Model,
    optimizer: torch.optim.Optimizer,
    average: Average[Model],
) -> int:
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        # Its text, which advises to load the file unsafely, stays with the cause.
        raise ModelError(f"{path} is damaged or no run's state; delete it to start the run anew") from error
    if not isinstance(state, dict) or "settings" not in state:
        raise ModelError(f"{path} is no run's state; delete it to start the run anew")
    if state["settings"] != _settings(config):
        raise MismatchError(
            f"{path} belongs to a run with other settings",
            expected=_settings(config),
            found=str(state["settings"]),
            cure="Give the same settings to resume it, or another --out to start anew.",
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.model.load_state_dict(state["average"])
    except (RuntimeError, ValueError) as error:
        raise MismatchError(
            f"{path} belongs to a run with another model",
            expected=f"the weights of {getattr(model, 'config', type(model).__name__)}",
            found=str(error),
            cure="Give the same encoder and shards to resume it, or another --out to start anew.",
        ) from None
    average.updates = state["updates"]
    return int(state["step"])
