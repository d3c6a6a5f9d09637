"""What a captioner must offer to be improved with pictures alone (ViZer): the one interface between the two.

Knows tensors: what an encoder sees, what a language model writes and what it thinks while it reads. Refuses to know
how any of it is computed; `taglens.training.captioner_host` has our captioner behind it.
Shapes: B pictures, C width of the encoder's features, L pieces of a text (prompt, end mark and padding included), D
width of the language model's hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from taglens.errors import MismatchError, UsageError

# A picture as `taglens.images.load` gives its pixels: uint8 [h, w, 3].
Pixels = npt.NDArray[np.uint8]


class Seen(Protocol):
    """Pictures as a host's frozen parts see them, computed once: what is in it needs no gradient."""

    @property
    def features(self) -> Tensor:
        """[B, C], the frozen encoder's own tokens of each picture, averaged (V1)."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory of all its tensors."""
        ...

    def __len__(self) -> int: ...

    def at(self, rows: Tensor) -> Self:
        """The pictures at ``rows`` [R], in that order, repeated where a row stands twice."""
        ...


S = TypeVar("S", bound=Seen)


@dataclass(frozen=True, slots=True)
class Drawn:
    """How pieces are drawn instead of taking the likeliest.

    Attributes:
        seed: the same seed, pictures and weights give the same texts.
        top_p: only from the likeliest pieces that together have this probability; 1: from all, as a policy's gradient
            needs it.
        temperature: below 1 sharpens, above 1 flattens.
    """

    seed: int
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"Drawn.seed must be 0 or more, found {self.seed}")
        if not 0.0 < self.top_p <= 1.0 or not 0.0 < self.temperature < float("inf"):
            raise UsageError(
                f"top_p {self.top_p} must be in (0, 1] and temperature {self.temperature} above 0 and finite"
            )


# Pieces that a nucleus has at most: sorting all of them would take longer than all else.
NUCLEUS = 256


def chooser(drawn: Drawn | None) -> Callable[[Tensor], Tensor]:
    """Logits [B, V] to pieces [B]: the likeliest, or drawn by one stream of chance for the whole text."""
    if drawn is None:
        return lambda logits: logits.argmax(-1)
    # On the processor, so that a run on another device draws alike.
    chance = torch.Generator().manual_seed(drawn.seed)

    def choose(logits: Tensor) -> Tensor:
        likely = (logits.float().cpu() / drawn.temperature).softmax(-1)
        if drawn.top_p == 1.0:
            return torch.multinomial(likely, 1, generator=chance)[:, 0].to(logits.device)
        most, pieces = likely.topk(min(NUCLEUS, likely.shape[-1]))
        # The piece that reaches the share still belongs to it.
        inside = most * (most.cumsum(-1) - most < drawn.top_p)
        return pieces.gather(1, torch.multinomial(inside, 1, generator=chance))[:, 0].to(logits.device)

    return choose


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Captions in a host's pieces.

    Attributes:
        ids: int64 [B, L], prompt and end mark included, filled up with padding.
        mask: bool [B, L], where the caption's own pieces stand: neither prompt, end mark nor padding.
        ends: bool [B, L], where the end mark stands; nowhere in a row that was cut at the greatest length.
        strings: the captions' words, without the prompt.
    """

    ids: Tensor
    mask: Tensor
    ends: Tensor
    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        shapes = {tuple(each.shape) for each in (self.ids, self.mask, self.ends)}
        if len(shapes) != 1 or len(self.strings) != len(self.ids):
            raise MismatchError(
                "texts do not fit together",
                expected=f"ids, mask and ends of one shape [{len(self.strings)}, L]",
                found=", ".join(map(str, sorted(shapes))),
                cure="Make them from the same captions.",
            )

    def __len__(self) -> int:
        return len(self.strings)

    def at(self, rows: Tensor) -> Texts:
        """The texts at ``rows`` [R], in that order, repeated where a row stands twice."""
        chosen = [self.strings[row] for row in rows.tolist()]
        return Texts(self.ids[rows], self.mask[rows], self.ends[rows], tuple(chosen))

    @property
    def written(self) -> Tensor:
        """bool [B, L]: the pieces that were chosen one by one, the end mark among them."""
        return self.mask | self.ends


class Host(Protocol[S]):
    """A captioner with a frozen encoder, and adapters (LoRA) on its language model.

    Nothing in it drops activations at random: the same input gives the same numbers, in training, too.

    Attributes:
        name: for messages and files.
        fingerprint: of the weights without adapters.
        hidden_width: D; vision_width: C.
        adapter_scale: what the adapters' answers are multiplied by, alpha over rank.
        least_side: pictures may come scaled down to no less than twice this; None: as they are.
        device: where its tensors are.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def hidden_width(self) -> int: ...
    @property
    def vision_width(self) -> int: ...
    @property
    def adapter_scale(self) -> float: ...
    @property
    def least_side(self) -> int | None: ...
    @property
    def device(self) -> torch.device: ...

    def see(self, pictures: Sequence[Pixels]) -> S:
        """What the frozen parts see of pictures; without gradient."""
        ...

    def joined(self, parts: Sequence[S]) -> S:
        """Pictures seen apart as if they had been seen together, in order."""
        ...

    def write(self, seen: S, *, drawn: Drawn | None = None) -> Texts:
        """A caption of each picture with the adapters as they stand, without gradient.

        Args:
            drawn: None: the likeliest piece, again and again.
        """
        ...

    def texts(self, captions: Sequence[str]) -> Texts:
        """Given captions as if they had been written: behind the prompt, ended."""
        ...

    def hidden(self, seen: S | None, texts: Texts) -> Tensor:
        """The last layer's states [B, L, D], before the head, of texts read piece by piece behind their pictures.

        The gradient reaches the adapters alone.

        Args:
            seen: None: the texts by themselves, without a picture (V3).
        """
        ...

    def log_probs(self, seen: S, texts: Texts) -> Tensor:
        """[B, L], of each piece after those before it; 0 where none was written. Gradient as for `hidden`."""
        ...

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The adapters' own; a matrix's name ends with "weight"."""
        ...

    def adapters_off(self) -> AbstractContextManager[None]:
        """While it lasts, the host is the original to the last bit."""
        ...

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapters."""
        ...

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the adapters of another moment. Raises MismatchError where names or shapes do not fit."""
        ...

    def save_adapter(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write the adapters apart from the weights that they belong to, whole or not at all.

        Args:
            about: what they were trained with, kept beside them.
        """
        ...


def state_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """`Host.adapter_state` of its `parameters`."""
    return {name: value.detach().clone() for name, value in parameters.items()}


def load_state(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """`Host.load_adapter_state` into its `parameters`; all or nothing."""
    wanted, found = ({k: tuple(v.shape) for k, v in each.items()} for each in (parameters, state))
    if wanted != found:
        unlike = sorted(dict(wanted.items() ^ found.items()))
        raise MismatchError(
            "adapters do not fit",
            expected=f"{unlike[0]} {wanted.get(unlike[0], 'absent')}",
            found=f"{found.get(unlike[0], 'absent')}",
            cure="Take adapters of the same rank and parts, trained for this model.",
        )
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(state[name])
