"""Options that several commands share: one spelling, one default, one line of help.

Knows how an option is declared; what it means is each command's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE", help="Pictures, folders (recursive) and patterns ('*.jpg')."),
]
Model = Annotated[str, typer.Option("--model", help="A model's name, or its folder.")]
Tags = Annotated[
    str | None,
    typer.Option("--tags", metavar='"A,B"', help="Choose among these tags only; any words, also new ones."),
]
AddTags = Annotated[
    bool, typer.Option("--add-tags", help="--tags join the vocabulary instead of replacing it.")
]
VocabularyFile = Annotated[
    Path | None, typer.Option("--vocabulary", help="A vocabulary file to choose tags and thresholds from.")
]
Language = Annotated[
    str | None,
    typer.Option("--language", metavar="CODE", help="Tags by their names in it, such as zh; --tags too."),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Lowest score, 0 to 1, for every tag.", show_default="each tag's own"),
]
Top = Annotated[
    int | None, typer.Option("--top", help="At most this many tags; 0: no limit.", show_default="no limit")
]
Caption = Annotated[
    bool, typer.Option("--caption", help="Also a sentence, from a model that writes captions.")
]
RecognisedThreshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="Lowest score of a recognised tag, 0 to 1.", show_default="each tag's own"
    ),
]
JoinRecognised = Annotated[
    bool, typer.Option("--add-tags", help="--tags join the recognised tags instead of replacing them.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Pictures per step.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Engine = Annotated[str, typer.Option("--engine", help="auto, onnx or torch.")]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", help="Refuse larger pictures.", show_default="178 million")
]
AsRows = Annotated[bool, typer.Option("--json", help="JSON Lines on standard output, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
