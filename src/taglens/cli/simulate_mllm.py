"""``taglens simulate-mllm``: the simulated annotator as a server on this machine.

Thin: reads a truth, starts `taglens.server.simulated`, and says what it is and what it is not.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from taglens.cli.console import OK, ProgressLine, say
from taglens.language.annotation_prompts import MOST_ENUM
from taglens.results import to_line

_LOOPBACK = ("127.0.0.1", "localhost")


def run(
    *,
    truth: Annotated[
        Path, typer.Option("--truth", help="labels.jsonl, or its folder: the pictures it will recognise.")
    ],
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="Tags, synonyms and parents.", show_default="the file's labels"),
    ] = None,
    senses: Annotated[
        Path | None,
        typer.Option("--senses", help="Ambiguous names, a line each: 'train: school bus, bridal train'."),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="0: any free one.")] = 8766,
    host: Annotated[str, typer.Option("--host", help="Who may ask: by default this machine.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other errors.")] = 0,
    refuse: Annotated[float, typer.Option("--refuse", help="Share of questions that are refused.")] = 0.0,
    off_list: Annotated[
        float,
        typer.Option(
            "--off-list",
            help="Share of lists with a name that was not asked for; with --no-schema, or in lists of more than "
            f"{MOST_ENUM} names: a shorter one stands in the schema, which leaves no room for others.",
        ),
    ] = 0.0,
    broken: Annotated[
        float, typer.Option("--broken", help="Share of answers in no form that was asked for.")
    ] = 0.0,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema/--no-schema",
            help="Whether answers follow a JSON schema; without, a schema is refused and answers are free text.",
        ),
    ] = True,
    delay: Annotated[float, typer.Option("--delay", help="Seconds that each answer takes.")] = 0.0,
    json: Annotated[
        bool,
        typer.Option("--json", help="On standard output: the address when ready, the counts at the end."),
    ] = False,
) -> int:
    """Simulate a multimodal language model that annotates pictures: no model runs, every error is made up.

    For trying `taglens annotate` without one. It recognises the pictures of a label file, knows what is true of them
    and errs in ways invented after a paper's analysis. What is measured with it is the mechanism, never a model.
    Speaks OpenAI's chat protocol: POST /v1/chat/completions, GET /v1/models; GET /counts tells what was asked.
    """
    from taglens.server.simulated import MODEL, SimulatedServer
    from taglens.server.simulated_answers import Annotator, Faults, read_senses
    from taglens.server.simulated_truth import Truth
    from taglens.vocabulary import Vocabulary

    faults = Faults(refuse=refuse, off_list=off_list, broken=broken)
    words = None if vocabulary is None else Vocabulary.load(vocabulary)
    told = {} if senses is None else read_senses(senses)
    line = ProgressLine(None)
    try:
        known = Truth.read(truth, vocabulary=words, progress=lambda done, _: line.reach(done))
    finally:
        line.clear()
    annotator = Annotator(known, seed=seed, faults=faults, senses=told)
    with SimulatedServer(annotator, host=host, port=port, delay=delay, structured=schema) as server:
        kind = (
            "complete by construction"
            if known.complete
            else "not known to be complete: what is not labelled counts as absent"
        )
        say(
            f"{MODEL}, a simulation with invented errors: its figures are no model's. {len(known):,} pictures, "
            f"{len(known.vocabulary):,} names; the truth is {kind}"
        )
        if known.unmatched:
            rows = sum(known.unmatched.values())
            say(f"{len(known.unmatched):,} labels ({rows:,} times) are no tag of {known.vocabulary.ref}")
        if host not in _LOOPBACK:
            say(f"anybody who reaches {host} may ask; there is no password")
        if off_list and schema:
            say(
                f"note: lists of up to {MOST_ENUM} names stand in the schema that taglens asks with, which leaves no "
                "room for --off-list; add --no-schema"
            )
        say(f"listening on {server.url}; stop with Ctrl-C")
        if json:
            typer.echo(to_line({"url": server.url, "model": MODEL, "simulated": True}))
        _serve(server)
        if json:
            typer.echo(to_line(server.told()))
    return OK


def _serve(server: Any) -> None:
    """Until somebody interrupts or ends the process."""
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        asked = server.told()["requests"]
        say(f"stopped after {asked['total']:,} requests")
    finally:
        signal.signal(signal.SIGTERM, ended)
