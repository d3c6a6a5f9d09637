"""Pictures of a vocabulary: how often its tags are named, as a rank plot and as a cloud of words.

Needs the ``plots`` extra (matplotlib, wordcloud). Knows drawing; refuses to know where counts come from. Equal
input gives equal bytes, as long as the two packages stay the same: nothing here depends on the clock, the display or
the user's own matplotlib settings.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taglens.errors import MissingExtraError, UsageError
from taglens.results import Kind
from taglens.vocabulary import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[Kind, str] = {
    "object": "#2f6fc9",
    "scene": "#2b8a45",
    "attribute": "#b3780a",
    "action": "#b23c86",
    "typed": "#6d6d7a",
}
_INK, _SOFT, _GRID, _REST = "#22211f", "#66625b", "#e3e0d9", "#a7a39b"
_CLOUD_WORDS = 300
_CLOUD_SIZE = (1600, 900)
# Each point of a rank plot that is named, counted from the most frequent tag of its kind.
_NAMED_RANKS = (1, 10, 100, 1000)
# Of two points at one rank, the rarer gets its name when it is this much rarer: else the names would overlap.
_LABEL_STEP = 2.0


@dataclass(frozen=True, slots=True)
class Named:
    """A tag and how often it is named, at least once."""

    name: str
    kind: Kind
    count: int


def require_plots(purpose: str) -> None:
    """Raise MissingExtraError, with the pip line, where matplotlib or wordcloud is not installed."""
    for package in ("matplotlib", "wordcloud"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, extra="plots", purpose=purpose) from None


def draw_zipf(
    tags: Sequence[Named],
    out: Path,
    *,
    title: str,
    unit: str,
    uncovered: Sequence[int] = (),
    curve: Sequence[tuple[int, float]] = (),
) -> None:
    """Write a PNG of frequency by rank, both logarithmic, a line for each kind.

    Args:
        uncovered: counts of the words that no tag covers, drawn as a line of their own.
        curve: (N, share of mentions that the N most named tags cover); with it comes a second panel.

    Raises:
        MissingExtraError: the ``plots`` extra is not installed.
        UsageError: no tag has a count.
    """
    require_plots("drawing a rank plot")
    _refuse_empty(tags)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_settings()):
        figure = Figure(figsize=(12.0, 6.4 if not curve else 5.9), dpi=150, layout="constrained")
        if curve:
            ranks, covered = figure.subplots(1, 2, width_ratios=(1.75, 1))
            _draw_coverage(covered, curve)
        else:
            ranks = figure.subplots()
        _draw_ranks(ranks, tags, uncovered, unit)
        figure.suptitle(title, x=0.012, ha="left", fontsize=14.5, fontweight="bold", color=_INK)
        _write(out, _png(figure))


def _settings() -> Any:
    """Over matplotlib's own defaults, so that a person's settings file changes nothing."""
    import matplotlib as mpl

    return {
        **{name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")},
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "axes.edgecolor": _SOFT,
        "axes.labelcolor": _INK,
        "axes.titlecolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": _GRID,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "legend.frameon": False,
        # What looks like a formula in a tag's name is a tag's name.
        "text.parse_math": False,
    }


def _draw_ranks(axes: Axes, tags: Sequence[Named], uncovered: Sequence[int], unit: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.set(xscale="log", yscale="log", xlabel="rank within its kind", ylabel=unit)
    axes.set_title("Frequency by rank", loc="left", fontsize=11.5)
    rest = sorted((count for count in uncovered if count > 0), reverse=True)
    if rest:
        label = f"words without a tag ({len(rest):,})"
        axes.plot(range(1, len(rest) + 1), rest, color=_REST, lw=1.6, ls=(0, (4, 2)), label=label)
    for kind in KINDS:
        own = sorted((tag for tag in tags if tag.kind == kind), key=lambda tag: (-tag.count, tag.name))
        if own:
            counts = [tag.count for tag in own]
            style = {"color": COLOURS[kind], "lw": 1.8, "marker": "o", "ms": 3.2, "mew": 0}
            axes.plot(range(1, len(own) + 1), counts, label=f"{kind} ({len(own):,})", **style)  # type: ignore[arg-type]
    for tag, rank in _labelled(tags):
        axes.annotate(
            _shown(tag.name),
            (rank, tag.count),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=9,
            color=COLOURS[tag.kind],
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_thousands)
    axes.margins(x=0.06, y=0.08)
    # The legend stands where a falling line leaves room.
    axes.legend(loc="lower left", fontsize=9.5, handlelength=1.8)


def _labelled(tags: Sequence[Named]) -> list[tuple[Named, int]]:
    """(tag, rank) of the points that get a name: no two of them close to each other."""
    found: list[tuple[Named, int]] = []
    for wanted in _NAMED_RANKS:
        points = []
        for kind in KINDS:
            own = sorted((tag for tag in tags if tag.kind == kind), key=lambda tag: (-tag.count, tag.name))
            if len(own) >= wanted:
                points.append(own[wanted - 1])
        points.sort(key=lambda tag: -tag.count)
        last: int | None = None
        for tag in points:
            if last is None or tag.count * _LABEL_STEP < last:
                found.append((tag, wanted))
                last = tag.count
    return found


def _draw_coverage(axes: Axes, curve: Sequence[tuple[int, float]]) -> None:
    numbers, shares = [point[0] for point in curve], [100 * point[1] for point in curve]
    axes.set(xscale="log", ylim=(0, 100), xlabel="most named tags", ylabel="mentions covered, %")
    axes.set_title("Covered share of what captions name", loc="left", fontsize=11.5)
    axes.fill_between(numbers, shares, color=COLOURS["object"], alpha=0.12, lw=0)
    axes.plot(numbers, shares, color=COLOURS["object"], lw=2, marker="o", ms=3.5)
    axes.axhline(shares[-1], color=_SOFT, lw=1, ls=(0, (4, 3)))
    axes.annotate(
        f"{shares[-1]:.1f} % by {numbers[-1]:,} tags",
        (numbers[0], shares[-1]),
        xytext=(2, 5),
        textcoords="offset points",
        fontsize=9.5,
        fontweight="bold",
        color=_INK,
        # Where nearly all is covered there is no room above the line.
        va="bottom" if shares[-1] < 93 else "top",
    )
    axes.xaxis.set_major_formatter(_thousands)


def _thousands(value: float, position: float) -> str:
    return f"{value:,.0f}" if value >= 1 else ""


def _shown(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


# -- cloud ---------------------------------------------------------------------------------------------


def draw_cloud(tags: Sequence[Named], out: Path) -> None:
    """Write a PNG of the most frequent names, larger where more frequent, in the colour of their kind.

    Raises:
        MissingExtraError: the ``plots`` extra is not installed.
        UsageError: no tag has a count.
    """
    require_plots("drawing a word cloud")
    _refuse_empty(tags)
    import matplotlib as mpl
    from PIL import Image
    from wordcloud import WordCloud

    chosen = sorted(tags, key=lambda tag: (-tag.count, tag.kind, tag.name))[:_CLOUD_WORDS]
    # Two tags of one name are two words: what tells their keys apart is not seen.
    keys: dict[str, Named] = {}
    for tag in chosen:
        key = _shown(tag.name)
        while key in keys:
            key += " "
        keys[key] = tag
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    width, height = _CLOUD_SIZE
    cloud = WordCloud(
        width=width,
        height=height,
        background_color="white",
        font_path=str(fonts / "DejaVuSans-Bold.ttf"),
        color_func=lambda word, **_: COLOURS[keys[word].kind],
        max_words=len(keys),
        max_font_size=170,
        min_font_size=11,
        prefer_horizontal=1.0,
        relative_scaling=0.45,
        margin=5,
        random_state=0,
    )
    cloud.generate_from_frequencies({key: tag.count for key, tag in keys.items()})
    picture = Image.new("RGB", (width, height + 64), "white")
    picture.paste(cloud.to_image(), (0, 0))
    _draw_legend(picture, [kind for kind in KINDS if any(tag.kind == kind for tag in chosen)], fonts)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    _write(out, buffer.getvalue())


def _draw_legend(picture: Any, kinds: Sequence[Kind], fonts: Path) -> None:
    """A dot and a name for each kind, centred in the strip below the cloud."""
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), 24)
    widths = [30 + draw.textlength(kind, font=font) + 40 for kind in kinds]
    x, y = (picture.width - sum(widths) + 40) / 2, picture.height - 34
    for kind, width in zip(kinds, widths, strict=True):
        draw.ellipse((x, y - 9, x + 18, y + 9), fill=COLOURS[kind])
        draw.text((x + 30, y), kind, font=font, fill=_INK, anchor="lm")
        x += width


# -- files ---------------------------------------------------------------------------------------------


def _refuse_empty(tags: Sequence[Named]) -> None:
    if not tags:
        raise UsageError(
            "there is nothing to draw: no tag of this vocabulary has a count; give captions that name its tags"
        )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def _write(out: Path, data: bytes) -> None:
    """Beside and renamed."""
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)
