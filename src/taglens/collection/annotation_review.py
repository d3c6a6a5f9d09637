"""An annotation to HTML pages in which a person accepts and rejects labels, offline.

Knows which pictures and which of their tags are shown, and their small copies. File names and tag names are hostile
text: they stand in the page as JSON only (`taglens.collection.review_frame`), and the script shows them as text.
Refuses to know what a decision does (`taglens.collection.annotation_decisions`) and why a label is suspected
(`taglens.evaluation.annotation_report` says it).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from taglens.collection.annotated import Annotated, Mark, State
from taglens.collection.annotation_decisions import FORMAT_VERSION
from taglens.collection.annotation_review_script import SCRIPT, STYLE
from taglens.collection.page import Picture, thumbnail
from taglens.collection.review_frame import Frame, put_page
from taglens.collection.store import digest
from taglens.errors import ImageError, UsageError
from taglens.vocabulary import normalise

STATES: tuple[State, ...] = tuple(state for state in get_args(State) if state != "absent")
SUSPECTED = "suspected"
THUMBNAIL = 320
PICTURES = 300  # a page: about 10 MB with their small copies
MOST_MARKS = 80  # shown of one picture


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A label about which the annotator and people disagree; who is wrong is not known.

    Attributes:
        mark: as the annotator names it, or people.
        said: whether the annotator gives it and people do not; else people give it and the annotator does not.
        rank: the higher the surer it is that the people's label is wrong, from 0 to 1; no probability.
        why: for a reader.
    """

    mark: Mark
    state: State
    said: bool
    rank: float
    why: str


Suspicions = Mapping[str, Sequence[Suspicion]]


@dataclass(frozen=True, slots=True)
class Only:
    """What of an annotation is shown: these states, or these tags, or those of these tags that have these states.

    Attributes:
        states: none: all.
        names: as typed, or ids; none: all.
        suspected: only labels that are suspected.
    """

    states: frozenset[State] = frozenset()
    names: frozenset[str] = frozenset()
    suspected: bool = False

    @classmethod
    def of(cls, words: Iterable[str]) -> Only:
        """From what was typed; a tag that is called like a state is named by its id."""
        states, names, suspected = set[State](), set[str](), False
        for word in words:
            known = next((state for state in STATES if state == word.strip().casefold()), None)
            if known is not None:
                states.add(known)
            elif word.strip().casefold() == SUSPECTED:
                suspected = True
            else:
                names.add(normalise(word))
        return cls(frozenset(states), frozenset(names), suspected)

    def fits(self, state: State, mark: Mark, suspicion: Suspicion | None) -> bool:
        named = not self.names or mark.id in self.names or normalise(mark.name) in self.names
        return (
            named
            and (not self.states or state in self.states)
            and (suspicion is not None or not self.suspected)
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """One tag of a picture as its reviewer sees it."""

    state: State
    mark: Mark
    suspicion: Suspicion | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One picture: the tags to decide about, how many more there are, and those that are only named."""

    row: Annotated
    shown: tuple[Shown, ...]
    cut: int
    others: tuple[Mark, ...]

    @property
    def rank(self) -> float:
        return max((one.suspicion.rank for one in self.shown if one.suspicion is not None), default=0.0)


def cards(rows: Iterable[Annotated], only: Only, *, suspicions: Suspicions | None = None) -> list[Card]:
    """Pictures with something to decide, in order; with suspicions those of the highest rank first.

    Raises:
        UsageError: a name that is shown by is no tag of any picture.
    """
    found = []
    met: set[str] = set()
    for row in rows:
        if row.given is None:
            continue
        by_id = {one.mark.id: one for one in (suspicions or {}).get(row.key, ())}
        shown, others = [], []
        marks = list(row.marks())
        here = {mark.id for _, mark in marks}
        marks += [(one.state, one.mark) for one in by_id.values() if one.mark.id not in here]
        for state, mark in marks:
            met |= {mark.id, normalise(mark.name)}
            if only.fits(state, mark, by_id.get(mark.id)):
                shown.append(Shown(state, mark, by_id.get(mark.id)))
            elif state == "given":
                others.append(mark)
        if shown:
            shown.sort(key=lambda one: -(one.suspicion.rank if one.suspicion else 0.0))
            cut = max(len(shown) - MOST_MARKS, 0)
            found.append(Card(row, tuple(shown[:MOST_MARKS]), cut, tuple(others)))
    if strange := sorted(only.names - met):
        raise UsageError(
            f"--only {strange[0]}: no picture has such a tag, given, dropped or unsettled; expected "
            f"{', '.join(STATES)}, {SUSPECTED} or a tag"
        )
    return sorted(found, key=lambda card: -card.rank) if suspicions is not None else found


@dataclass(frozen=True, slots=True)
class Written:
    """What a page holds.

    Attributes:
        unseen: pictures of it that could not be read, and have no small copy.
    """

    pictures: int
    marks: int
    unseen: int
    bytes: int


def write_annotation_review(
    chosen: Sequence[Card], out: Path, *, title: str, note: str = "", side: int = THUMBNAIL
) -> Written:
    """Write one page of these cards.

    Args:
        note: a sentence about the page, such as which of several it is.
        side: of the small copies, the longer one, in pixels.

    Raises:
        UsageError: ``out`` is a folder, or lies in one that does not exist.
    """
    unseen = 0
    rows = []
    for card in chosen:
        row = card_data(card)
        try:
            row["p"] = _small(Path(card.row.path), side)
        except ImageError:
            unseen += 1
        rows.append(row)
    shown = [[card.row.key, card.row.state] for card in chosen]
    data = {"format": FORMAT_VERSION, "title": title, "id": digest(shown)[:16], "cards": rows}
    page = _FRAME.page(f"{title}: review", note, data)
    put_page(page, out)
    return Written(len(rows), sum(len(card.shown) for card in chosen), unseen, out.stat().st_size)


def card_data(card: Card) -> dict[str, Any]:
    """What the script is given: ``s`` source, ``h`` state of the row, ``t`` tags, ``c`` tags cut off, ``o`` others.

    ``b``: the source's bytes in base64, where ``s`` had to replace some.
    A tag: ``n`` name, ``k`` kind or null, ``w`` its state, ``y`` how it came about, and ``d`` why it is suspected.
    """
    row: dict[str, Any] = {
        "s": card.row.source,
        "h": card.row.state,
        "t": [_tag(one) for one in card.shown],
        "c": card.cut,
        "o": [mark.name for mark in card.others],
    }
    if card.row.source_bytes is not None:
        row["b"] = card.row.source_bytes
    return row


def _tag(one: Shown) -> dict[str, Any]:
    row: dict[str, Any] = {"n": one.mark.name, "k": one.mark.kind, "w": one.state, "y": _how(one.mark)}
    if one.suspicion is not None:
        row["d"] = one.suspicion.why
    return row


def _how(mark: Mark) -> str:
    parts = list(_origin(mark))
    return ", ".join(parts)


def _origin(mark: Mark) -> Iterator[str]:
    if mark.stage is not None:
        yield mark.stage.replace("_", " or ")
    if mark.votes is not None and mark.votes[1] > 1:
        yield f"{mark.votes[0]} of {mark.votes[1]} votes"
    if mark.tagger_score is not None:
        yield f"tagger {mark.tagger_score:.2f}"


def _small(picture: Picture, side: int) -> str:
    from PIL import Image

    data, _, _ = thumbnail(picture, side=side)
    if len(data) > side * side // 4:
        # Noise does not compress: such a copy is made coarser, so that pages stay within their size.
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).save(file, "JPEG", quality=40, optimize=True)
        data = file.getvalue()
    return base64.b64encode(data).decode("ascii")


_TOOLS = """\
<label><span>Show</span><select id="show">
<option value="all">all labels</option><option value="open">undecided</option><option value="done">decided</option>
<option value="given">given</option><option value="dropped">dropped</option>
<option value="unsettled">unsettled</option><option value="suspected">suspected</option></select></label>
<p id="count" role="status"></p>
<details class="keys"><summary>Keys</summary>
<p><kbd>↓</kbd> <kbd>↑</kbd> next, previous label · <kbd>A</kbd> accept, \
it is there · <kbd>R</kbd> reject, it is not · <kbd>U</kbd> undo · <kbd>G</kbd> accept what is given and undecided \
in this picture · <kbd>←</kbd> <kbd>→</kbd> page · <kbd>/</kbd> filter</p></details>
</form>"""
_FRAME = Frame(
    one="label",
    of=" labels",
    list="cards",
    listed="Pictures",
    find="tag or file name",
    tools=_TOOLS,
    style=STYLE,
    script=SCRIPT,
    pictures=True,
)
