"""Low-rank adapters (LoRA) beside the matrices of a caption decoder, which stay as they are.

An adapted matrix W answers x with W x + alpha / rank * up (down x); switched off, or before it has learned, it
answers as the original does. Knows one captioner and files; knows nothing of why something is adapted
(`taglens.training.zero_label`).
Shapes: D width, R rank.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from taglens.errors import MismatchError, ModelError, UsageError
from taglens.models.captioner import Captioner
from taglens.staging import staged

CONFIG, WEIGHTS = "config.json", "adapter.safetensors"
FORMAT_VERSION = 1

# Of a decoder's layer. An aligner reads with the decoder's cross-attention and feed-forward; self-attention is the
# decoder's own.
PARTS = ("self_attention", "attention", "ffn")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Sizes of the adapters; defaults are those of ViZer.

    Attributes:
        rank: R, width of the way through; alpha: what answers are multiplied by, times the rank.
        parts: whose matrices are adapted, of `PARTS`.
    """

    rank: int = 32
    alpha: float = 64.0
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"the rank of adapters must be 1 or more, found {self.rank}")
        if not 0.0 < self.alpha < float("inf"):
            raise UsageError(f"alpha must be above 0 and finite, found {self.alpha}")
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise UsageError(f"a decoder has no part {unknown[0]!r} to adapt; it has {', '.join(PARTS)}")
        if not self.parts:
            raise UsageError(f"nothing to adapt: name at least one of {', '.join(PARTS)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LowRank(nn.Module):
    """What is added to one matrix's answer, without the scale: [..., D in] to [..., D out]."""

    def __init__(self, inner: int, outer: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inner, rank, bias=False)
        self.up = nn.Linear(rank, outer, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x))
        return y


class Lora(nn.Module):
    """Adapters of a captioner's decoder, at work from the moment they are made; the captioner gets no new tensors.

    Args:
        seed: of the first values; what they add is zero all the same.
    """

    def __init__(self, captioner: Captioner, config: LoraConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._on = True
        adapted = _adapted(captioner, config.parts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = {
                name: LowRank(linear.in_features, linear.out_features, config.rank)
                for name, linear in adapted.items()
            }
        # A module's name holds no dots.
        self.pairs = nn.ModuleDict({name.replace(".", "/"): pair for name, pair in made.items()})
        for name, linear in adapted.items():
            pair = made[name].to(linear.weight.device)
            linear.register_forward_hook(self._beside(pair))

    def _beside(self, pair: LowRank) -> Any:
        def add(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor | None:
            return answer + self.config.scale * pair(given[0]) if self._on else None

        return add

    @contextmanager
    def off(self) -> Iterator[None]:
        """While it lasts, the captioner is the original to the last bit."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def named(self) -> dict[str, nn.Parameter]:
        """The adapters' tensors by the matrix that they stand beside: ``layers.0.ffn.0.down.weight``."""
        return {
            f"{name.replace('/', '.')}.{leaf}": value
            for name, pair in self.pairs.items()
            for leaf, value in pair.named_parameters()
        }


def merge(captioner: Captioner, state: Mapping[str, Tensor], config: LoraConfig) -> Captioner:
    """Add adapters to the matrices themselves; the captioner, which then answers as an adapted one does.

    Args:
        captioner: plain, without adapters at work; changed in place.
        state: as `Lora.named` has it.

    Raises:
        MismatchError: adapters of other matrices, or of other shapes.
    """
    adapted = _adapted(captioner, config.parts)
    wanted = {
        f"{name}.{leaf}.weight": shape
        for name, linear in adapted.items()
        for leaf, shape in (
            ("down", (config.rank, linear.in_features)),
            ("up", (linear.out_features, config.rank)),
        )
    }
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        unlike = sorted(dict(wanted.items() ^ found.items()))[0]
        raise MismatchError(
            "the adapter does not fit the captioner",
            expected=f"{unlike} {wanted.get(unlike, 'absent')}",
            found=str(found.get(unlike, "absent")),
            cure="Give the model that it was trained for.",
        )
    with torch.no_grad():
        for name, linear in adapted.items():
            up, down = (state[f"{name}.{leaf}.weight"].double() for leaf in ("up", "down"))
            more = config.scale * (up @ down)
            linear.weight.copy_((linear.weight.double() + more.to(linear.weight.device)).float())
    return captioner


def _adapted(captioner: Captioner, parts: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The decoder's matrices that adapters stand beside, by name."""
    return {
        name: module
        for name, module in captioner.decoder.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith("layers.")
        and name.split(".")[2] in parts  # layers, number, part
    }


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter read from its folder.

    Attributes:
        config: its sizes.
        state: as `Lora.named` has it.
        base: fingerprint of the weights that it was trained for.
        fingerprint: its own: of its tensors, its sizes and ``base``.
        trained: what it was trained with.
    """

    config: LoraConfig
    state: dict[str, Tensor]
    base: str
    fingerprint: str
    trained: Mapping[str, Any]

    def require(self, base: str, *, what: str) -> None:
        """Raises MismatchError, naming both fingerprints, where it was trained for other weights."""
        if base != self.base:
            raise MismatchError(
                f"the adapter was trained for another model than {what}",
                expected=self.base,
                found=base,
                cure="Give the model it was trained with, or train an adapter for this one: taglens train enhance.",
            )


def save_adapter(
    folder: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    config: LoraConfig,
    *,
    base: str,
    about: Mapping[str, Any],
) -> None:
    """Write an adapter's folder, whole or not at all."""
    row = {
        "taglens_adapter": FORMAT_VERSION,
        "base": base,
        **asdict(config),
        "trained": dict(about),
    }
    with staged(Path(folder), last=CONFIG) as stage:
        try:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in state.items()}, stage / WEIGHTS
            )
        except SafetensorError as error:
            raise OSError(str(error)) from None
        (stage / CONFIG).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read an adapter's folder back, to the last bit.

    Raises:
        ModelError: a file is missing, damaged, of another format or not finite.
    """
    folder = Path(folder)
    try:
        row = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no adapter: {CONFIG} is missing; give the folder that taglens train enhance wrote, "
            "OUT/adapter"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / CONFIG}: {error}") from None
    if not isinstance(row, dict) or row.get("taglens_adapter") != FORMAT_VERSION:
        raise ModelError(f"{folder / CONFIG} is no taglens adapter of format {FORMAT_VERSION}")
    try:
        config = LoraConfig(int(row["rank"]), float(row["alpha"]), tuple(row["parts"]))
        base, trained = str(row["base"]), dict(row["trained"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise ModelError(
            f"{folder / CONFIG} is incomplete or damaged ({error}); copy the adapter again"
        ) from None
    try:
        content = (folder / WEIGHTS).read_bytes()
        state = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no whole adapter: {WEIGHTS} is missing; copy the adapter again"
        ) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged: {error}") from None
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{folder / WEIGHTS}: {name} holds values that are not finite; train it again")
    # Adapters that have learned nothing are alike for all models of one shape, and what they do hangs on alpha.
    told = json.dumps([base, asdict(config)], sort_keys=True).encode()
    return Adapter(config, state, base, hashlib.sha256(told + content).hexdigest()[:12], trained)
