"""Tags and captions for a person's eyes: with colours and bars on a terminal, as plain columns everywhere else.

Knows how one picture's row is laid out. Refuses to know where rows come from.
"""

from __future__ import annotations

from typing import TextIO

from taglens.cli.console import bar, is_terminal, printable
from taglens.results import Captioned, Kind, Prediction

BAR_WIDTH = 20
WIDEST_NAME = 32
MOST_TAGS = 15
NO_TAGS = "no tag reaches its threshold; the best guesses: --threshold 0 --top 5"

STYLES: dict[Kind, str] = {
    "object": "cyan",
    "scene": "green",
    "attribute": "yellow",
    "action": "magenta",
    "typed": "blue",
}


class Listing:
    """Writes predictions to a stream, each complete before the next begins."""

    def __init__(self, stream: TextIO, *, most: int | None = None) -> None:
        """On a terminal at most ``most`` tags a picture are listed, and the rest counted; None: all."""
        self._stream = stream
        self._most = most
        self._coloured = is_terminal(stream)

    def show(self, prediction: Prediction) -> None:
        if self._coloured:
            self._show_coloured(prediction)
        else:
            self._stream.write(plain(prediction))
        self._stream.flush()

    def _show_coloured(self, prediction: Prediction) -> None:
        from rich.cells import cell_len
        from rich.console import Console
        from rich.text import Text

        lines = [Text.assemble((printable(prediction.source), "bold"), (size(prediction), "dim"))]
        if prediction.error is not None:
            kind = prediction.error.type.replace("_", " ")
            lines.append(
                Text.assemble(("  ✗ ", "bold red"), (f"{kind}: {printable(prediction.error.message)}", "red"))
            )
        tags = (prediction.tags or ())[: self._most]
        names = [printable(tag.name) for tag in tags]
        width = min(max(map(cell_len, names), default=0), WIDEST_NAME)
        for name, tag in zip(names, tags, strict=True):
            lines.append(
                Text.assemble(
                    "  " + name + " " * max(width - cell_len(name), 0) + "  ",
                    (f"{bar(tag.score, width=BAR_WIDTH):<{BAR_WIDTH}}", STYLES[tag.kind]),
                    f"  {tag.score:.2f}  ",
                    (tag.kind, "dim " + STYLES[tag.kind]),
                )
            )
        more = len(prediction.tags or ()) - len(tags)
        if more:
            lines.append(Text(f"  … and {more} more: --top 0 lists all", "dim"))
        if prediction.tags == ():
            lines.append(Text("  " + NO_TAGS, "dim"))
        if prediction.caption is not None:
            lines.append(Text("  “" + printable(prediction.caption) + "”", "italic"))
        lines.extend(Text("  · " + printable(note), "dim italic") for note in prediction.notes)
        console = Console(file=self._stream, highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
        console.print()


class CaptionListing:
    """Writes captions to a stream: the sentence, what guided it, and which of the user's tags it does not say."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = is_terminal(stream)

    def show(self, row: Captioned) -> None:
        lines = [(printable(row.source) + size(row), "bold")]
        if row.error is not None:
            lines.append((f"  error: {row.error.type}: {printable(row.error.message)}", "red"))
        for one in row.captions or ():
            lines.append((f"  {printable(one.text) or '(no words)'}", "green"))
            if one.unmet:
                lines.append((f"    not said: {printable(', '.join(one.unmet))}", "yellow"))
        if row.guide_tags is not None:
            guide = ", ".join(row.guide_tags) or "no tag reaches its threshold; guide it: --tags"
            lines.append((f"  guided by: {printable(guide)}", "dim"))
        lines += [(f"  note: {printable(note)}", "dim italic") for note in row.notes]
        self._write(lines)

    def _write(self, lines: list[tuple[str, str]]) -> None:
        if self._coloured:
            from rich.console import Console
            from rich.text import Text

            console = Console(file=self._stream, highlight=False)
            for line, style in lines:
                console.print(Text(line, style), soft_wrap=True)
            console.print()
        else:
            self._stream.write("\n".join(line for line, _ in lines) + "\n\n")
        self._stream.flush()


def size(prediction: Prediction | Captioned) -> str:
    """``"  640 × 427"``, or nothing for a picture that could not be read."""
    return "" if prediction.width is None else f"  {prediction.width} × {prediction.height}"


def plain(prediction: Prediction) -> str:
    """The lines for a file or a pipe: the picture's name, then indented score, kind and name."""
    lines = [printable(prediction.source) + size(prediction)]
    if prediction.error is not None:
        lines.append(f"  error: {prediction.error.type}: {printable(prediction.error.message)}")
    lines.extend(f"  {tag.score:.4f}  {tag.kind:<9}  {printable(tag.name)}" for tag in prediction.tags or ())
    if prediction.tags == ():
        lines.append("  " + NO_TAGS)
    if prediction.caption is not None:
        lines.append(f"  caption: {printable(prediction.caption)}")
    lines.extend(f"  note: {printable(note)}" for note in prediction.notes)
    return "\n".join(lines) + "\n\n"
