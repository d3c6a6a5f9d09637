"""``taglens demo``: something to look at within a minute, without a picture of one's own.

Knows which photographs the wheel of scikit-image carries and where. Refuses to import scikit-image: finding
its folder is enough, and importing it takes longer than tagging.
"""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.console import OK, SOME_FAILED, ProgressLine, say
from taglens.cli.listing import MOST_TAGS, Listing
from taglens.cli.rows import Tally, deliver, show_json
from taglens.cli.tag import TagOptions, card, load_tagger, predictions
from taglens.errors import DataError, MissingExtraError
from taglens.inference.sources import Source

# Public-domain and CC0 photographs; colour first, then grey and one that no everyday vocabulary fits.
PHOTOGRAPHS = (
    "chelsea.png",
    "coffee.png",
    "astronaut.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "camera.png",
    "coins.png",
    "hubble_deep_field.jpg",
)


def photographs() -> list[Path]:
    """The photographs that the installed scikit-image carries, in the order above.

    Raises:
        MissingExtraError: scikit-image is not installed.
        DataError: it is, and carries none of them.
    """
    spec = find_spec("skimage")
    if spec is None:
        raise MissingExtraError("scikit-image", extra="demo", purpose="taglens demo")
    folders = [Path(place) / "data" for place in spec.submodule_search_locations or ()]
    # Newer releases keep the same files in a sister package.
    folders += [folder.parent.with_name("_skimage2") / "data" for folder in folders]
    found: dict[str, Path] = {}
    for folder in folders:
        for name in PHOTOGRAPHS:
            if (folder / name).is_file():
                found.setdefault(name, folder / name)
    if not found:
        raise DataError(
            f"expected photographs such as {PHOTOGRAPHS[0]} in {folders[0] if folders else 'scikit-image'}, "
            "found none; reinstall it (pip install --force-reinstall scikit-image), or tag a picture of your "
            "own: taglens tag your-photo.jpg"
        )
    return [found[name] for name in PHOTOGRAPHS if name in found]


def run(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page goes.")] = Path(
        "taglens-demo.html"
    ),
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    model: Annotated[str, typer.Option("--model", help="A model's name, or its folder.")] = "starter",
    json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, nothing else there.")
    ] = False,
) -> int:
    """Tag the photographs inside scikit-image and write a page to look at."""
    from taglens.collection.page import write_page

    options = TagOptions(model=model, top=MOST_TAGS)
    paths = photographs()
    tagger = load_tagger(options)
    tally = Tally()

    def sources() -> Iterator[Source]:
        for path in paths:
            yield Source(path, path.name)

    stream = deliver(
        predictions(tagger, sources(), options, tally=tally),
        show_json if json else Listing(sys.stdout).show,
        tally=tally,
        progress=ProgressLine(0),
    )
    write_page(stream, out, title="taglens demo", card=card(tagger))
    if tally.interrupted:
        raise KeyboardInterrupt
    say(f"{tally.text()}; the page is {out.resolve()}")
    say("next: taglens tag your-photo.jpg    or a folder: taglens tag photos/ --page photos.html")
    if open_page and not webbrowser.open(out.resolve().as_uri()):
        say("no browser could be started; open the page by hand")
    return SOME_FAILED if tally.failed else OK
