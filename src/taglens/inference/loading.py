"""From a model's folder to the parts that a `Tagger` is made of, whatever the folder was written for.

Knows which engine runs what, and that everything but tagging waits until it is asked for. Refuses to know pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from taglens.errors import UsageError
from taglens.inference.bundle import Bundle, is_trained, tag_weight, trained_ref
from taglens.inference.engines import (
    Engine,
    LabelEngine,
    OnnxEngine,
    TableEngine,
    TorchEngine,
    require_torch,
)
from taglens.inference.typed import OpenVocabulary, Texts
from taglens.vocabulary import DEFAULT_THRESHOLD, Vocabulary

if TYPE_CHECKING:
    from taglens.inference.alignment import Alignment
    from taglens.inference.captioning import CaptionWriter

ENGINES = ("auto", "onnx", "torch")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What `taglens.inference.tagger.Tagger` takes, under the same names."""

    engine: Engine
    vocabulary: Vocabulary
    ref: str
    side: int
    open_vocabulary: OpenVocabulary | None
    load_writer: Callable[[], CaptionWriter] | None
    load_alignment: Callable[[Callable[[], CaptionWriter]], Alignment] | None
    tag_weight: float | None


def load_parts(
    folder: Path, *, engine: str, device: str, threads: int | None, adapter: Path | None = None
) -> Parts:
    """The parts in a folder. Arguments and errors: see `taglens.inference.tagger.Tagger.from_pretrained`."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}; use {', '.join(ENGINES)}")
    trained = is_trained(folder)
    if engine == "auto":
        engine = "torch" if trained else "onnx"
    if engine == "torch":
        if not trained:
            raise UsageError(
                f"engine torch needs a trained model folder; {folder} is an exported bundle: use onnx"
            )
        return _trained(folder, device=device, adapter=adapter)
    if adapter is not None and not trained:
        raise UsageError(
            f"{folder} is an exported bundle, which takes no adapter; merge it into the model folder and export "
            "that: taglens train merge --model MODEL --adapter DIR --out MERGED, then taglens bundle MERGED --out DIR"
        )
    return _bundled(Bundle.open(folder), device=device, threads=threads)


def _bundled(bundle: Bundle, *, device: str, threads: int | None) -> Parts:
    typed = None
    if bundle.typed_threshold is not None:
        typed = OpenVocabulary(
            lambda: LabelEngine(bundle.labels, device=device, threads=threads, lean=bundle.has_table),
            partial(bundle.text_encoder, device=device, threads=threads),
            bundle.typed_threshold,
        )
    writer, alignment = None, None
    if bundle.captioner is not None:
        writer = partial(_bundled_writer, bundle, device=device, threads=threads)
    if bundle.aligner is not None:
        alignment = partial(_bundled_alignment, bundle, device=device, threads=threads)
    runs: Engine
    if bundle.has_table:
        runs = TableEngine(bundle.graph, bundle.labels, bundle.table, device=device, threads=threads)
    else:
        runs = OnnxEngine(bundle.graph, device=device, threads=threads)
    return Parts(
        runs,
        bundle.vocabulary,
        ref=bundle.ref,
        side=bundle.side,
        open_vocabulary=typed,
        load_writer=writer,
        load_alignment=alignment,
        tag_weight=bundle.tag_weight,
    )


def _bundled_writer(bundle: Bundle, *, device: str, threads: int | None) -> CaptionWriter:
    from taglens.inference.captioning import bundled_writer

    return bundled_writer(bundle, device=device, threads=threads)


def _bundled_alignment(
    bundle: Bundle, load_writer: Callable[[], CaptionWriter], *, device: str, threads: int | None
) -> Alignment:
    from taglens.inference.alignment import bundled_alignment

    return bundled_alignment(bundle, load_writer, device=device, threads=threads)


def _trained(folder: Path, *, device: str, adapter: Path | None) -> Parts:
    require_torch("the torch engine")
    from taglens.models.checkpoint import aligns, from_pretrained, read_config, reads_text, writes_captions

    model, vocabulary, name = from_pretrained(folder)
    ref = trained_ref(folder, name)
    engine = TorchEngine(model, device=device)
    typed, alignment = None, None
    writer: Callable[..., CaptionWriter] | None = None
    if reads_text(folder):
        load = partial(_trained_texts, folder, device=device)
        typed = OpenVocabulary(lambda: engine.ask, load, DEFAULT_THRESHOLD)
    if writes_captions(folder):
        from taglens.inference.captioning import trained_writer

        writer = partial(trained_writer, folder, model, device=device)
    if aligns(folder):
        from taglens.inference.alignment import trained_alignment

        alignment = partial(trained_alignment, folder, model, ref=ref, device=device)
    shown = ref
    if adapter is not None:
        if writer is None:
            raise UsageError(f"{ref} writes no captions: there is nothing that an adapter could change")
        plain = writer
        writer, shown = _adapted(plain, adapter, ref)
        if alignment is not None:
            alignment = partial(_unadapted, alignment, cache(plain))
    return Parts(
        engine,
        vocabulary,
        ref=shown,
        side=model.config.side,
        open_vocabulary=typed,
        load_writer=writer,
        load_alignment=alignment,
        tag_weight=tag_weight(read_config(folder)),
    )


def _adapted(
    plain: Callable[..., CaptionWriter], adapter: Path, ref: str
) -> tuple[Callable[[], CaptionWriter], str]:
    """What writes with an adapter, read at once so that one of another model is refused, and the name for it."""
    from taglens.models.lora import load_adapter

    found = load_adapter(adapter)
    name, _, fingerprint = ref.rpartition("@")
    found.require(fingerprint, what=ref)
    return partial(plain, adapter=found), f"{name}+enhanced@{found.fingerprint}"


def _unadapted(
    load_alignment: Callable[[Callable[[], CaptionWriter]], Alignment],
    plain: Callable[[], CaptionWriter],
    _: Callable[[], CaptionWriter],
) -> Alignment:
    """Texts are matched by the layers that were learned with them."""
    return load_alignment(plain)


def _trained_texts(folder: Path, *, device: str) -> Texts:
    """What embeds typed tags for the weights in a folder that reads text."""
    from taglens.inference.clip_texts import TextParts
    from taglens.inference.export import texts_of

    texts = texts_of(folder)
    assert texts is not None
    return texts.encoder(device=device) if isinstance(texts, TextParts) else texts
