"""ViZer: a captioner improved with pictures alone. Mapper, losses and the two stages, over any `Host`.

First a small mapper learns to tell, from a language model's hidden states over a caption, what the frozen encoder saw
of the picture; then, with the mapper frozen, adapters learn to write what maps onto it. Knows tensors; what a picture
or a caption is, hosts know (`taglens.training.zero_label_hosts`), and what a run is made of
`taglens.training.zero_label_recipe`.
Shapes: N pictures, B of a batch, P pairs, L pieces of a text, D width of hidden states, C width of features, K drawn
captions a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import UsageError
from taglens.training.collapse import CollapseError
from taglens.training.loop import LoopConfig, Progress, run_steps
from taglens.training.zero_label_hosts import Drawn, Host, S, Texts

# What similarities are divided by where pictures of a batch are told apart.
TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True)
class MapperConfig:
    """A mapper's size.

    Attributes:
        width: of the one layer between (ViZer: 256 was best of those tried).
        last: read the caption's last piece instead of the mean over all of them (V1).
    """

    width: int = 256
    last: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"a mapper's width must be 1 or more, found {self.width}")


class Mapper(nn.Module):
    """Hidden states of a caption, pooled [B, D], to the encoder's features [B, C]."""

    def __init__(self, hidden_width: int, vision_width: int, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(hidden_width, config.width), nn.GELU(), nn.Linear(config.width, vision_width)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        mapped: Tensor = self.layers(pooled)
        return mapped

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, L, D] to [B, D], those of the caption's own pieces; see `pool`."""
        return pool(hidden, mask, last=self.config.last)


def pool(hidden: Tensor, mask: Tensor, *, last: bool = False) -> Tensor:
    """[B, D] of hidden states [B, L, D]: their mean where ``mask`` [B, L] says so; zeros for a row without any.

    Args:
        last: the state of the last of these pieces instead.
    """
    if last:
        place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        mask = mask & (place == place.masked_fill(~mask, -1).amax(1, keepdim=True))
    chosen = torch.where(mask[:, :, None], hidden, 0.0)
    return chosen.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def latent_losses(mapped: Tensor, features: Tensor) -> Tensor:
    """1 - cos of what captions map to [B, C] and what the encoder saw [B, C]: [B]."""
    return 1.0 - F.cosine_similarity(mapped, features, dim=-1)


def contrast_losses(mapped: Tensor, features: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """How hard each caption is to tell from those of the batch's other pictures, and the reverse (InfoNCE): [B]."""
    similar = F.normalize(mapped, dim=-1) @ F.normalize(features, dim=-1).T / temperature
    own = torch.arange(len(similar), device=similar.device)
    there, back = (F.cross_entropy(each, own, reduction="none") for each in (similar, similar.T))
    return (there + back) / 2


# -- stage 1 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """What a mapper learns from: captions' pooled hidden states [P, D] and the features [P, C] to be met."""

    hidden: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.hidden)


def batch_of(step: int, *, count: int, size: int, seed: int) -> Tensor:
    """The numbers [B] of step ``step``: each of ``count`` once an epoch, in an order of that epoch's own.

    What an epoch leaves over, fewer than ``size``, waits for the next.
    """
    each = max(count // size, 1)
    epoch, place = divmod(step, each)
    chance = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=chance)[place * size : (place + 1) * size]


def teach_mapper(
    pairs: Pairs,
    shape: tuple[int, int],
    mapper: MapperConfig,
    loop: LoopConfig,
    *,
    batch_size: int,
    out: Path,
    evaluate: Callable[[Mapper], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Mapper:
    """Stage 1, going on from ``out`` where it was begun: the mapper, frozen, on the CPU.

    Args:
        pairs: on the CPU; shape: D and C.

    Raises:
        ModelError: the loss stopped being finite, or what is in ``out`` is damaged.
        MismatchError: ``out`` holds a run with other settings.
    """
    torch.manual_seed(loop.seed)
    model = Mapper(*shape, mapper)

    def gradients(step: int) -> tuple[dict[str, Tensor], int]:
        rows = batch_of(step, count=len(pairs), size=min(batch_size, len(pairs)), seed=loop.seed)
        loss = latent_losses(model(pairs.hidden[rows]), pairs.features[rows]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"mapper": loss.detach()}, len(rows)

    return run_steps(model, gradients, loop, out=out, evaluate=evaluate, report=report).requires_grad_(False)


# -- stage 2 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Shown(Generic[S]):
    """The pictures of one step.

    Attributes:
        seen: B pictures; numbers: which of all they are, [B].
        features: [B, C], what captions of them are to map onto.
        own: what the host writes about them as it now is.
        seed: the step's own; nothing else may decide what is drawn.
    """

    seen: S
    numbers: Tensor
    features: Tensor
    own: Texts
    seed: int


class Signal(Protocol[S]):
    """Something to learn from pictures without labels."""

    def losses(self, host: Host[S], shown: Shown[S]) -> dict[str, Tensor]:
        """Losses by name, each to be weighed; those that start with "_" are only told."""
        ...


class Latent(Generic[S]):
    """The paper's signal: hidden states of the host's own captions, teacher-forced, map onto what was seen (V2).

    Args:
        mapper: frozen; it must stay so, or both sides would agree on nothing (V4).
        contrast: also "contrast", which tells the batch's pictures apart.
    """

    def __init__(self, mapper: Mapper, *, contrast: bool = False) -> None:
        self._mapper = mapper.eval().requires_grad_(False)
        self._contrast = contrast

    def losses(self, host: Host[S], shown: Shown[S]) -> dict[str, Tensor]:
        pooled = self._mapper.pooled(host.hidden(shown.seen, shown.own), shown.own.mask)
        # What says nothing has nothing to be mapped.
        said = shown.own.mask.any(1)
        mapped, features = self._mapper(pooled)[said], shown.features[said]
        found = {"latent": latent_losses(mapped, features).mean()}
        if self._contrast:
            found["contrast"] = contrast_losses(mapped, features).mean()
        return found


# Of pictures by their numbers and a caption of each, how well they agree [B]; higher is better.
Judge = Callable[[Sequence[int], Sequence[str]], "np.ndarray[Any, np.dtype[np.float32]]"]


class BestOfDrawn(Generic[S]):
    """Self-training: of ``count`` drawn captions, the one that a judge likes best becomes likelier.

    Where none is better than the host's own, the picture teaches nothing. No gradient passes through the judge.

    Args:
        count: K; top_p: how freely they are drawn.
    """

    def __init__(self, judge: Judge, *, name: str = "tags", count: int = 4, top_p: float = 0.9) -> None:
        if count < 1:
            raise UsageError(f"at least one caption must be drawn, found {count}")
        self._judge = judge
        self._name = name
        self._count = count
        self._top_p = top_p

    def losses(self, host: Host[S], shown: Shown[S]) -> dict[str, Tensor]:
        pictures = len(shown.own)
        each = torch.arange(pictures).repeat_interleave(self._count)
        drawn = host.write(shown.seen.at(each), drawn=Drawn(shown.seed, top_p=self._top_p))
        numbers = shown.numbers.tolist()
        own = torch.from_numpy(self._judge(numbers, shown.own.strings))
        liked = torch.from_numpy(self._judge([numbers[row] for row in each], drawn.strings))
        best, which = liked.view(pictures, self._count).max(1)
        better = torch.nonzero(best > own)[:, 0]
        told = {f"_{self._name}_own": own.mean(), f"_{self._name}_better": (best > own).float().mean()}
        if not len(better):
            return {self._name: _nothing(host), **told}
        chosen = drawn.at(better * self._count + which[better])
        likely = host.log_probs(shown.seen.at(better), chosen).sum(1)
        losses = -likely / chosen.written.sum(1).clamp(min=1)
        return {self._name: losses.sum() / pictures, **told}


class SelfCritical(Generic[S]):
    """The paper's rival: a drawn caption becomes likelier where a judge likes it better than the host's own (V8).

    Args:
        keep: weight of the distance (KL, estimated from what was drawn) to the host without its adapters.
    """

    def __init__(self, judge: Judge, *, keep: float = 0.1) -> None:
        if keep < 0:
            raise UsageError(f"the weight of what is kept must be 0 or more, found {keep}")
        self._judge = judge
        self._keep = keep

    def losses(self, host: Host[S], shown: Shown[S]) -> dict[str, Tensor]:
        drawn = host.write(shown.seen, drawn=Drawn(shown.seed))
        numbers = shown.numbers.tolist()
        own, other = (
            torch.from_numpy(self._judge(numbers, texts.strings)).to(host.device)
            for texts in (shown.own, drawn)
        )
        gained = other - own
        # A judge's scale is its own: without this its rewards and the distance could not be weighed.
        advantage = gained / gained.std(correction=0).clamp(min=1e-6)
        likely = host.log_probs(shown.seen, drawn)
        with torch.no_grad(), host.adapters_off():
            before = host.log_probs(shown.seen, drawn)
        pieces = drawn.written.sum(1).clamp(min=1)
        # Never below 0, and right on average over what the host itself draws.
        away = before - likely
        distance = (away.exp() - away - 1.0).sum(1) / pieces
        reward = -(advantage * likely.sum(1) / pieces).mean()
        return {
            "reward": reward + self._keep * distance.mean(),
            "_judged": own.mean(),
            "_distance": distance.detach().mean(),
        }


def _nothing(host: Host[Any]) -> Tensor:
    """Zero, with a gradient of zeros."""
    parts = [value.sum() for value in host.parameters().values()]
    return torch.stack(parts).sum() * 0.0


class Adapters(nn.Module):
    """A host's adapters as a module that the loop trains: the very tensors, so that the host learns with them."""

    def __init__(self, host: Host[Any]) -> None:
        super().__init__()
        for name, value in host.parameters().items():
            self.register_parameter(name.replace(".", "/"), value)


def tune(
    host: Host[S],
    show: Callable[[int], Shown[S]],
    signals: Sequence[tuple[Mapping[str, float], Signal[S]]],
    loop: LoopConfig,
    *,
    out: Path,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Stage 2, going on from ``out`` where it was begun: leaves the adapters in the host as the last step made them.

    Args:
        show: the pictures of a step.
        signals: each with the weights of its losses by name, 1 where a name is not among them.
        loop: its ``average`` must be 0: the host itself is evaluated.
        evaluate: figures of the host as it then is; may raise to stop the run.

    Raises:
        CollapseError: no caption of a step says anything.
        ModelError: the gradient stopped being finite, or what is in ``out`` is damaged.
        MismatchError: ``out`` holds a run with other settings.
    """
    if loop.average:
        raise UsageError(f"adapters are not averaged; expected average 0, found {loop.average}")
    if not signals:
        raise UsageError("nothing to learn from: weigh at least one signal above 0")

    def gradients(step: int) -> tuple[dict[str, Tensor], int]:
        shown = show(step)
        if not shown.own.mask.any():
            raise CollapseError(
                f"captions collapsed: at step {step + 1} every one of {len(shown.own)} is empty; lower --lr"
            )
        named: dict[str, Tensor] = {}
        total = torch.zeros((), device=host.device)
        for weights, signal in signals:
            found = signal.losses(host, shown)
            named |= {name.removeprefix("_"): value.detach() for name, value in found.items()}
            for name, value in found.items():
                if not name.startswith("_"):
                    total = total + weights.get(name, 1.0) * value
        total.backward()  # type: ignore[no-untyped-call]
        return named, len(shown.own)

    watched = None if evaluate is None else lambda _: evaluate()
    run_steps(Adapters(host), gradients, loop, out=out, evaluate=watched, report=report)
