"""The program ``taglens``: which commands there are, and where each one lives.

Knows names and one-line helps. Refuses to know options: a command's own function declares them, and its
module is imported only when the command is called, so that ``taglens --help`` loads no numpy, onnxruntime or
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from taglens import __version__
from taglens.cli.console import guarded, prepare_streams


@dataclass(frozen=True, slots=True)
class Home:
    """Where a command lives.

    Attributes:
        help: one line.
        function: in the module; where ``commands`` names several, what is run when none of them is named.
        commands: sub-command -> function; ``module:function`` where it lives in a module of its own.
    """

    module: str
    help: str
    function: str | None = "run"
    commands: Mapping[str, str] = field(default_factory=dict)

    def load(self, name: str, arguments: Sequence[str]) -> Any:
        """Import the module, or modules, and turn the function, or functions, into a command.

        Args:
            arguments: what follows the command's name.
        """
        group = bool(self.commands) and (
            self.function is None or arguments[:1] in [[c] for c in self.commands]
        )
        app = typer.Typer(name=name, help=self.help, add_completion=False, no_args_is_help=group)
        homes = self.commands if group else {name: str(self.function)}
        for command, home in homes.items():
            module, _, function = home.rpartition(":")
            app.command(command)(guarded(getattr(import_module(module or self.module), function)))
        if group:
            app.callback()(_nothing)
        return get_command(app)


def _nothing() -> None:
    """Makes typer keep a group even where it holds one command."""


HOMES: dict[str, Home] = {
    "tag": Home("taglens.cli.tag", "Say what is in pictures."),
    "caption": Home("taglens.cli.caption", "Write sentences about pictures, guided by tags."),
    "ask": Home("taglens.cli.ask", "Answer questions about pictures, guided by tags."),
    "run": Home("taglens.cli.run", "Tag a whole collection into a store; stopped runs go on."),
    "retag": Home("taglens.cli.run", "Ask a store about other tags, without reading a picture.", "retag"),
    "export": Home("taglens.cli.export", "Write tags where other programs read them."),
    "untag": Home("taglens.cli.untag", "Take back the tags that exports wrote beside or into pictures."),
    "evaluate": Home("taglens.cli.evaluate", "Measure a model on labelled pictures.", "command"),
    "search": Home("taglens.cli.search", "Find pictures by a text, by keywords, or by another picture."),
    "parse": Home("taglens.cli.parse", "Turn captions into objects, attributes, actions and relations."),
    "questions": Home("taglens.cli.questions", "Make questions about pictures from their captions."),
    "vocabulary": Home(
        "taglens.cli.vocabulary",
        "Build, show, check, compare, export and import vocabularies.",
        function=None,
        commands={
            "build": "build",
            "show": "show",
            "check": "check",
            "diff": "diff",
            "export": "taglens.cli.vocabulary_files:export_file",
            "import": "taglens.cli.vocabulary_files:import_file",
            "stats": "taglens.cli.vocabulary_stats:stats",
            "review": "taglens.cli.vocabulary_review:review",
            "apply": "taglens.cli.vocabulary_review:apply",
        },
    ),
    "annotate": Home(
        "taglens.cli.annotate",
        "Label pictures with a language model that sees; or, with a word of its own, prepare what it is told.",
        commands={
            "concepts": "taglens.cli.annotate_concepts:run",
            "band": "taglens.cli.annotate_band:run",
            "compare": "taglens.cli.annotate_compare:run",
            "cost": "taglens.cli.annotate_cost:run",
            "downstream": "taglens.cli.annotate_downstream:run",
            "report": "taglens.cli.annotate_report:run",
            "review": "taglens.cli.annotate_review:review",
            "apply": "taglens.cli.annotate_review:apply",
        },
    ),
    "describe": Home("taglens.cli.describe", "Write how tags look, by a language model or from templates."),
    "shards": Home(
        "taglens.cli.shards",
        "Pack captioned or labelled pictures for training.",
        function=None,
        commands={"build": "build", "show": "show"},
    ),
    "engine": Home(
        "taglens.cli.engine",
        "Generate labels that a corpus lacks and remove those that look wrong; all of it can be taken back.",
        function=None,
        commands={"run": "run", "undo": "undo", "redo": "redo"},
    ),
    "mosaics": Home("taglens.cli.mosaics", "Make pictures whose truth is complete, from labelled pictures."),
    "train": Home(
        "taglens.cli.train",
        "Train a tagger from shards; or, with a word of its own, what stands beside one.",
        commands={
            "captions": "taglens.cli.train_captions:run",
            "enhance": "taglens.cli.train_enhance:run",
            "merge": "taglens.cli.train_enhance:merge",
        },
    ),
    "bundle": Home("taglens.cli.bundle", "Export a trained model so that it tags without torch."),
    "convert": Home("taglens.cli.convert", "Turn published weights into a model folder."),
    "pull": Home("taglens.cli.pull", "Fetch a published model, verify it and make it a model folder."),
    "simulate-mllm": Home(
        "taglens.cli.simulate_mllm", "Answer an annotation's questions from a known truth: no model runs."
    ),
    "demo": Home("taglens.cli.demo", "Tag the photographs inside scikit-image and write a page to look at."),
    "doctor": Home("taglens.cli.doctor", "Check that everything taglens needs is here and works."),
}


class LazyGroup(TyperGroup):
    """Lists commands from the table and imports only the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, home in HOMES.items():
            self.add_command(TyperCommand(name, help=home.help), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else HOMES[name].load(name, rest), rest


app = typer.Typer(
    cls=LazyGroup,
    name="taglens",
    help="Says what is in a picture: open image tagging, offline, without torch.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"taglens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Options of the program itself."""


def start(arguments: list[str] | None = None) -> None:
    """Run a command line (None: the process's own) and exit with its status."""
    prepare_streams()
    app(args=sys.argv[1:] if arguments is None else arguments, prog_name="taglens")
