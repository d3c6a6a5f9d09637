"""``taglens train enhance``: better captions from pictures alone (ViZer); ``taglens train merge`` keeps them.

Thin: reads options, calls `taglens.training.zero_label_recipe` and `taglens.training.merging`, draws progress. Needs
the ``train`` extra (torch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.captions import require_files
from taglens.cli.console import OK, ProgressLine, say
from taglens.cli.train import device_for
from taglens.errors import MissingExtraError, UsageError
from taglens.inference.bundle import STARTER
from taglens.inference.sources import Skipped, Unopened, expand

if TYPE_CHECKING:
    from taglens.evaluation.datasets import CaptionedImage
    from taglens.inference.tagger import Tagger
    from taglens.models.lora import LoraConfig
    from taglens.training.loop import Progress
    from taglens.training.zero_label_hosts import Host
    from taglens.training.zero_label_judges import Looked
    from taglens.training.zero_label_pictures import Album
    from taglens.training.zero_label_settings import EnhanceConfig, Enhanced

STOPPED = 1


class Lines:
    """Progress lines, one after another, each with its own unit."""

    def __init__(self) -> None:
        self._name = ""
        self._line: ProgressLine | None = None

    def of(self, name: str, total: int) -> ProgressLine:
        if self._line is None or self._name != name:
            self.clear()
            self._name, self._line = name, ProgressLine(total, unit=name)
        return self._line

    def looked(self, name: str, total: int) -> Callable[[int], None]:
        return lambda done: self.of(name, total).move(done, failed=0)

    def report(self, progress: Progress) -> None:
        what = "mapper steps" if "mapper" in progress.losses else "steps"
        losses = "  ".join(f"{key} {value:.4f}" for key, value in progress.losses.items())
        self.of(what, progress.steps).reach(
            progress.step, f"{progress.images_per_s:.0f} pictures/s  {losses}"
        )

    def clear(self) -> None:
        if self._line is not None:
            self._line.clear()


def run(
    *,
    model: Annotated[Path, typer.Option("--model", help="The folder of a model that writes captions.")],
    images: Annotated[
        list[str], typer.Option("--images", help="Pictures: a folder, a file, a pattern; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; the same one resumes a run.")],
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            help="captions.jsonl of other pictures, to teach the mapper with (ViZer_GT); by default the model's "
            "own captions do (ViZer_G).",
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Updates to make; 0: as --epochs says.")] = 0,
    epochs: Annotated[float, typer.Option("--epochs", help="Times through the pictures.")] = 1.0,
    until: Annotated[int, typer.Option("--until", min=0, help="Stop after so many of them; 0: all.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate of the adapters.")] = 1e-4,
    mapper_lr: Annotated[float, typer.Option("--mapper-lr", help="Peak learning rate of the mapper.")] = 1e-3,
    mapper_epochs: Annotated[
        int, typer.Option("--mapper-epochs", min=1, help="Times through what the mapper learns from.")
    ] = 4,
    mapper_width: Annotated[int, typer.Option("--mapper-width", min=1)] = 256,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapters.")] = 32,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Of the adapters; their scale times the rank.")
    ] = 64.0,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What a model of transformers is asked for.", show_default="a caption"),
    ] = None,
    adapt: Annotated[
        list[str] | None,
        typer.Option(
            "--adapt",
            help="Part of the decoder's layers to adapt: self_attention, attention (to the picture) or ffn; may be "
            "repeated. By default all; with self_attention alone a merged model keeps its aligner.",
        ),
    ] = None,
    latent: Annotated[
        float, typer.Option("--latent-signal", min=0.0, help="Weight of the latent alignment; 0: without.")
    ] = 1.0,
    contrast: Annotated[
        float, typer.Option("--contrast", min=0.0, help="Weight of telling a batch's pictures apart.")
    ] = 0.0,
    tags: Annotated[
        float,
        typer.Option(
            "--tags-signal",
            min=0.0,
            help="Weight of learning from those of the model's own captions that agree best with the tagger.",
        ),
    ] = 0.0,
    reward: Annotated[
        float,
        typer.Option(
            "--reward-signal", min=0.0, help="Weight of reinforcement by --scorer's aligner, for comparison."
        ),
    ] = 0.0,
    tagger: Annotated[
        str | None,
        typer.Option(
            "--tagger",
            help="Model whose tags guide captions and judge them, with its thresholds: the bundle that will be "
            "used; by default --model, or the starter.",
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help="Model whose aligner scores held-out captions; by default the tagger, by its tags where it has "
            "none.",
        ),
    ] = None,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Learn from drawn captions instead of the likeliest ones.")
    ] = False,
    centred: Annotated[
        bool, typer.Option("--centred", help="Count pictures' features from their mean on.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many pictures.")
    ] = None,
    held: Annotated[
        int, typer.Option("--held", min=1, help="Pictures that are only looked at; at most a tenth.")
    ] = 200,
    keep_last: Annotated[
        bool,
        typer.Option("--keep-last", help="Keep the last adapters, not those with the best held-out score."),
    ] = False,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=0, help="Steps.")] = 100,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", min=0, help="Steps; 0: five times a run.")
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> int:
    """Improve a captioner with pictures that nobody captioned.

    A small mapper learns what a caption's hidden states tell of the picture; then adapters learn to write so that
    they tell more. The model stays as it is: use the adapters with taglens caption --adapter OUT/adapter, or put them
    into a copy of it with taglens train merge. Training stops when captions collapse; the best adapters so far are
    kept, and the exit status is 1.
    """
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="train", purpose="training")
    from taglens.models.lora import LoraConfig
    from taglens.training.zero_label import MapperConfig
    from taglens.training.zero_label_settings import EnhanceConfig

    require_files("--captions", [] if captions is None else [captions])
    config = EnhanceConfig(
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        until=until,
        lr=lr,
        mapper_lr=mapper_lr,
        mapper_epochs=mapper_epochs,
        mapper=MapperConfig(width=mapper_width),
        latent=latent,
        contrast=contrast,
        tags=tags,
        reward=reward,
        sampled=sampled,
        centred=centred,
        held=held,
        seed=seed,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
        keep_last=keep_last,
    )
    lora = LoraConfig(rank, alpha, tuple(dict.fromkeys(adapt)) if adapt else LoraConfig().parts)
    paths = pictures_of(images)[:limit]
    told = [] if captions is None else _told(captions)
    from taglens.inference.tagger import Tagger

    guide = None if tagger is None else Tagger.from_pretrained(tagger)
    host, judge = _host(model, device=device_for(device), lora=lora, seed=seed, prompt=prompt, guide=guide)
    lines = Lines()
    try:
        found = _enhance(
            host,
            paths,
            told,
            config,
            out=out,
            tagger=guide or Tagger.from_pretrained(judge),
            scorer=scorer,
            lines=lines,
        )
    finally:
        lines.clear()
    base, kept = found.base.captions, found.kept.captions
    say(
        f"{found.pictures:,} pictures learned from, {found.held} held out: score {base.score:.4f} before, "
        f"{kept.score:.4f} after step {found.kept.step}"
        + ("; nothing was better than the model as it was" if not found.kept.step else "")
    )
    use = (
        f"taglens caption --model {model} --adapter {found.adapter} PICTURES"
        if judge == str(model)
        else "taglens.training.vlm_host.open_host(MODEL).load_adapter(ADAPTER), or peft"
    )
    say(f"adapter: {found.adapter}; use it: {use}")
    if found.stopped is not None:
        say(found.stopped)
        return STOPPED
    return OK


def _enhance(
    host: Host[Any],
    paths: Sequence[Path],
    told: Sequence[CaptionedImage],
    config: EnhanceConfig,
    *,
    out: Path,
    tagger: Tagger,
    scorer: str | None,
    lines: Lines,
) -> Enhanced:
    from taglens.inference.tagger import Tagger
    from taglens.training.zero_label_judges import judges_of
    from taglens.training.zero_label_pictures import Album
    from taglens.training.zero_label_recipe import require_pictures
    from taglens.training.zero_label_recipe import run as enhance

    album = Album(host, paths, progress=lines.looked("pictures seen", len(paths)))
    require_pictures(album, config)
    captioned = None
    if told:
        captioned = Album(
            host,
            [image.path for image in told],
            kept_bytes=0,
            progress=lines.looked("captioned pictures seen", len(told)),
        )
    other = tagger if scorer is None else Tagger.from_pretrained(scorer)
    if config.reward and not other.aligns:
        raise UsageError(
            f"{other.ref} has no aligner to reward captions by; name a model that has: --scorer MODEL"
        )
    looked = _looked(host, album, tagger, lines)
    scored = looked if other.ref == tagger.ref else _looked(host, album, other, lines)
    judges = judges_of(tagger, looked, other, scored)
    lines.clear()
    for looked_at in (album, captioned):
        _say_unread(looked_at)
    say(f"{len(album):,} pictures; held-out captions are scored by {judges.name}")
    return enhance(
        host,
        album,
        judges,
        config,
        out=out,
        captioned=captioned,
        captions=[] if captioned is None else _of_read(told, captioned),
        report=lines.report,
    )


def _looked(host: Host[Any], album: Album[Any], tagger: Tagger, lines: Lines) -> Looked:
    """What a model makes of the pictures, which a host of the same weights has looked at already."""
    from taglens.training.captioner_host import CaptionerHost
    from taglens.training.zero_label_judges import look_at

    if isinstance(host, CaptionerHost) and album.keeps and tagger.ref == host.guided_by:
        return host.looked(album.all(), tagger)
    return look_at(tagger, album.paths, progress=lines.looked("pictures tagged", len(album)))


def _say_unread(album: Album[Any] | None) -> None:
    if album is not None and album.unread:
        say(f"{len(album.unread)} pictures cannot be read and are left out, the first: {album.unread[0].why}")


def _of_read(told: Sequence[CaptionedImage], album: Album[Any]) -> list[tuple[str, ...]]:
    """The captions of those pictures that could be read."""
    unread = {each.path for each in album.unread}
    return [image.captions for image in told if image.path not in unread]


def _host(
    model: Path, *, device: str, lora: LoraConfig, seed: int, prompt: str | None, guide: Tagger | None
) -> tuple[Host[Any], str]:
    """What is to be improved, and the model whose tags judge it by default: itself, or the starter."""
    from taglens.models.lora import LoraConfig
    from taglens.training import vlm_host
    from taglens.training.captioner_host import CaptionerHost

    if vlm_host.opens(model):
        if lora.parts != LoraConfig().parts:
            raise UsageError(
                f"--adapt names parts of our own captioner, and {model} is a model of transformers"
            )
        asked = vlm_host.PROMPT if prompt is None else prompt
        host = vlm_host.open_host(
            model, device=device, rank=lora.rank, alpha=lora.alpha, prompt=asked, seed=seed
        )
        return host, STARTER
    if prompt is not None:
        raise UsageError(f"--prompt belongs to a model of transformers; {model} has a prompt of its own")
    return CaptionerHost.open(model, device=device, lora=lora, tagger=guide, seed=seed), str(model)


def pictures_of(arguments: Sequence[str]) -> list[Path]:
    """The pictures that arguments name, in order; what is passed over is counted on standard error.

    Raises:
        UsageError: a folder that cannot be listed, a name that leads to nothing, or no picture at all.
    """
    found: list[Path] = []
    skipped = 0
    for item in expand(arguments):
        if isinstance(item, Unopened):
            raise UsageError(f"--images {item.source.shown}: {item.failure.message}")
        if isinstance(item, Skipped):
            skipped += 1
        else:
            found.append(item.path)
    if skipped:
        say(f"no picture, or hidden, and passed over: {skipped:,} of the files")
    if not found:
        raise UsageError(f"no picture in {', '.join(arguments)}; give a folder that holds some")
    return found


def _told(path: Path) -> list[CaptionedImage]:
    """The captioned pictures of a file: of its training split where it has one, else all."""
    from taglens.evaluation.datasets import read_captions

    found = read_captions(path, default_split=None)
    train = [image for image in found if image.split == "train"]
    return train or found


def merge(
    *,
    model: Annotated[Path, typer.Option("--model", help="The model folder the adapter was trained for.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="OUT/adapter of taglens train enhance.")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="The new model's name; by default the old one, +enhanced.")
    ] = None,
) -> int:
    """Put an adapter into a copy of its model: a plain model folder, which taglens bundle exports."""
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="train", purpose="merging an adapter")
    from taglens.training.merging import merge_folder

    found = merge_folder(model, adapter, out, name=name)
    if found.left_aligner:
        say(
            f"{model} compares pictures with texts by layers that the adapter changed; {out} does without that: keep "
            f"{model} for search by texts, or adapt only self_attention: taglens train enhance --adapt self_attention"
        )
    say(f"model: {found.folder}; export it with: taglens bundle {found.folder} --out DIR")
    return OK
