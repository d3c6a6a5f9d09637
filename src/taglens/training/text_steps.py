"""A step of a run that teaches captions, and how well its model does on captions that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from taglens.data.batches import PictureSet
from taglens.training.augment import augment
from taglens.training.augment import plain as plain_pictures
from taglens.training.text_data import NO_PICTURE, AnswerStream, GuideMix, TextBatch, TextStream
from taglens.training.text_reading import Corpus, Reader
from taglens.training.text_tasks import Tag2Text, TextObjective, TextTensors

_AT_ONCE = 100


class Trainer:
    """Gradients of a step, and how well a model does on held-out pictures."""

    def __init__(
        self,
        model: Tag2Text,
        reader: Reader,
        streams: Sequence[TextStream | AnswerStream],
        views: Sequence[PictureSet],
    ) -> None:
        config = reader.config
        self._model = model
        self._reader = reader
        self._streams = streams
        self._views = views
        self._objective = TextObjective(
            weights=config.weights, matched=config.matched, tagging=config.tagging
        )

    def gradients(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Of all streams together; plain captions teach writing only."""
        loop, device = self._reader.config.loop, next(self._model.parameters()).device
        number = loop.seed * 1_000_003 + step
        # Dropout draws from torch's own generator: a resumed run must draw as the first would have.
        torch.manual_seed(number % 2**63)
        named: dict[str, Tensor] = {}
        batches = [stream.batch(step) for stream in self._streams]
        whole = sum(map(len, batches))
        for place, batch in enumerate(batches):
            generator = torch.Generator().manual_seed((number * 2 + place) % 2**63)
            with torch.autocast(device.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                tokens = self._tokens(batch, generator)
                given = self._with_tags(TextTensors.of(batch, device=device), batch)
                found = self._objective.losses(self._model, tokens, given, generator=generator)
                total = self._objective.total(found) * (len(batch) / whole)
            total.backward()  # type: ignore[no-untyped-call]
            prefix = "plain_" if _about_nothing(batch) else "answer_" if batch.read is None else ""
            named |= {prefix + name: value.detach() for name, value in found.items()}
        return named, whole

    def judge(self, model: Tag2Text, held: Corpus) -> dict[str, float]:
        """How well a model does on a thousand held-out captions.

        Returns:
            "lm": the writing loss, guided by recognised tags; "lm_said": by the tags that each caption says;
            "lm_none": by none. Where the three are alike, tags are not read. "R@10": how often a caption's picture is
            among the ten most similar ones of all; only where the model aligns.
        """
        with torch.inference_mode():
            tokens = self._plain_tokens(model, held)
            mixes = {"lm": GuideMix(0.0, 0.0), "lm_said": GuideMix(1.0, 0.0), "lm_none": GuideMix(0.0, 1.0)}
            found = {name: self._held_out(model, held, tokens, mix) for name, mix in mixes.items()}
            return found | ({"R@10": self._recalled(model, held, tokens)} if model.aligns else {})

    def _held_stream(self, held: Corpus, mix: GuideMix) -> TextStream:
        size = min(_AT_ONCE, len(held.captions))
        return TextStream(held.captions, self._reader.text, self._reader.names, batch_size=size, mix=mix)

    def _plain_tokens(self, model: Tag2Text, held: Corpus) -> Tensor:
        """Of the held-out pictures as they are [N, P, K]."""
        device = next(model.parameters()).device
        pixels, side = held.views[0].pixels, self._reader.config.loop.side
        parts = [
            model.recognizer.tokens(
                plain_pictures(torch.from_numpy(pixels[at : at + _AT_ONCE]).to(device), side)
            )
            for at in range(0, len(pixels), _AT_ONCE)
        ]
        return torch.cat(parts)

    def _held_out(self, model: Tag2Text, held: Corpus, tokens: Tensor, mix: GuideMix) -> float:
        stream = self._held_stream(held, mix)
        losses = []
        for number in range(_judged(stream)):
            batch = stream.batch(number)
            given = TextTensors.of(batch, device=tokens.device)
            shown = tokens[torch.from_numpy(batch.pictures).to(tokens.device)]
            memory = model.captioner.encode(given.guides, given.guide_mask, shown)
            losses.append(float(self._objective.writing(model, memory, given)))
        return sum(losses) / len(losses)

    def _recalled(self, model: Tag2Text, held: Corpus, tokens: Tensor) -> float:
        stream = self._held_stream(held, GuideMix(0.0, 1.0))
        pictures = model.aligner.pictures(tokens)
        found = []
        for number in range(_judged(stream)):
            batch = stream.batch(number)
            given = TextTensors.of(batch, device=tokens.device)
            assert given.read is not None
            assert given.read_mask is not None
            own = torch.from_numpy(batch.pictures).to(tokens.device)
            similar = model.aligner.texts(given.read, given.read_mask) @ pictures.T
            better = (similar > similar.gather(1, own[:, None])).sum(1)
            found.append(float((better < 10).float().mean()))
        return sum(found) / len(found)

    def _tokens(self, batch: TextBatch, generator: torch.Generator) -> Tensor:
        """Tokens [B, P, K] of the pictures; zeros [B, 1, K] where captions are about none."""
        recognizer, config = self._model.recognizer, self._reader.config
        device = next(recognizer.parameters()).device
        if _about_nothing(batch):
            return torch.zeros(len(batch), 1, recognizer.config.token_width, device=device)
        if not config.views:
            pixels = torch.from_numpy(self._views[0].pixels[batch.pictures]).to(device)
            images = augment(pixels, config.loop.side, config.loop.augment, generator=generator)
            return recognizer.tokens(images.contiguous(memory_format=torch.channels_last))
        views = torch.randint(len(self._views), (len(batch),), generator=generator).tolist()
        chosen = [self._views[view].pixels[n] for view, n in zip(views, batch.pictures, strict=True)]
        projected: Tensor = recognizer.project(torch.from_numpy(np.stack(chosen)).to(device).float())
        return projected

    def _with_tags(self, given: TextTensors, batch: TextBatch) -> TextTensors:
        """With the pictures' tags, where tagging is learned, too."""
        if not self._reader.config.weights.get("tag") or _about_nothing(batch) or batch.read is None:
            return given
        pictures = self._views[0]
        present = pictures.present[batch.pictures].astype(np.float32)
        weights = np.where(present > 0, np.float32(1), pictures.absent_weight)
        device = given.own.device
        return replace(
            given, targets=torch.from_numpy(present).to(device), weights=torch.from_numpy(weights).to(device)
        )


def _judged(stream: TextStream) -> int:
    """How many batches of held-out captions a model is judged by."""
    return max(1, min(1000, len(stream)) // stream.batch_size)


def _about_nothing(batch: TextBatch) -> bool:
    return bool((batch.pictures == NO_PICTURE).all())
