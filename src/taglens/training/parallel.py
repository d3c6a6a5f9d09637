"""One update by several processes, or in several parts: who takes which pictures, and how gradients come together.

Every process knows the whole batch (a batch is a function of its number), takes its own rows of it, and divides its
losses by the totals of the whole; summed over processes, gradients are then those of one process. An encoder with
batch statistics is the exception: it sees only its own rows.

Started by ``torchrun --nproc-per-node N --no-python taglens train …``, which sets the environment read here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed as dist
from torch import nn

from taglens.errors import UsageError


def start(device: str) -> str:
    """Join the other processes where torchrun started several; returns this process's device.

    Raises:
        UsageError: the environment speaks of several processes and is not complete.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set and {missing[0]} is not; start with torchrun, or unset WORLD_SIZE"
        )
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def leave(status: int) -> None:
    """End this process for good where it is one of several; else do nothing.

    Gloo's threads abort about half of all orderly exits (terminate called without an active exception), which would
    turn a finished run into a failed one.
    """
    if size() > 1:
        dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def parts(pictures: int, *, accumulate: int) -> list[npt.NDArray[np.intp]]:
    """This process's rows of a batch, in ``accumulate`` parts; those that got none are left out.

    Raises:
        UsageError: fewer pictures than processes: one would have nothing to do.
    """
    if pictures < size():
        raise UsageError(
            f"a batch of {pictures} cannot be shared by {size()} processes; give a larger --batch-size"
        )
    own = np.array_split(np.arange(pictures), size())[rank()]
    return [rows for rows in np.array_split(own, accumulate) if len(rows)]


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes."""
    if size() < 2:
        return
    # One message instead of hundreds. A parameter that one process did not use still counts for it, with 0.
    trained = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    used = torch.tensor([float(p.grad is not None) for p in trained], device=flat.device)
    dist.all_reduce(flat)
    dist.all_reduce(used)
    for p, summed, by in zip(
        trained, torch.split(flat, [p.numel() for p in trained]), used.tolist(), strict=True
    ):
        p.grad = summed.view_as(p) if by else None


def add(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses by name, summed over the processes; a name that one of them lacks counts 0 there."""
    if size() < 2:
        return dict(losses)
    each: list[Mapping[str, float]] = [{}] * size()
    dist.all_gather_object(each, dict(losses))
    return {name: sum(found.get(name, 0.0) for found in each) for found in each for name in found}
