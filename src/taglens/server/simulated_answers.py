"""A simulated annotator: answers about pictures whose truth it is told, with errors that are made up.

Knows an error model and how an answer is worded. Refuses to know pixels, HTTP, and any real model. **Every number in
`ErrorModel` is invented.** They follow what TagLLM (arXiv 2602.20972, sections on prompting, grouping and
disambiguation) says of large multimodal models, so that the mechanism built around one can be tested from end to
end; no figure obtained with it says anything about a real model.

For a picture p and a tag t there is one evidence, the same whatever is asked:

    e(p, t) = signal, if t is true of p, + a standard normal draw from (seed, p, t)

- *One of many* (several): the names are gone through in their order, and one is written where

      e + doubt + confusion + pull * together + lean - rivalry > threshold_several.

  ``together``: the strongest company that a false tag has among the true ones. ``lean`` grows with the place in the
  list, with how many names were written before, and with the company that the tag has among these. ``rivalry``: in
  the same list stands a tag of its company with stronger evidence; a long list dilutes it. ``doubt`` is normal and
  wider for long lists. Hence many true names and many false ones, more of these in long lists; groups help, and
  groups of what occurs together more.
- *Yes or no*: ``e + doubt + confusion + little * pull * together > threshold_yes_no``, a higher threshold; nothing
  depends on other names. Hence few false names, and some true ones lost.
- *Confusion* befalls an ambiguous name where another thing of that name, or one that looks like it, is there. A
  question that tells the concept takes most of it away.
- *Open*: the tags of highest evidence, some of them under a synonym or a word that is no tag at all.

All draws come from hashes: the same question gets the same answer, in any order and from any process.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, UsageError
from taglens.language.annotation_prompts import AskedFor
from taglens.server.simulated_truth import Truth
from taglens.vocabulary import KINDS, normalise

_NORMAL = NormalDist()
_MOST_NAMES = 100_000  # remembered: anybody may ask for anything
_MOST_ROWS = 256
_WORD = re.compile(r"\w+")
# Words that people say of pictures and that are seldom tags.
_ASIDES = ("photo collage", "natural light", "close-up", "background", "outdoor scene", "wildlife", "indoors")
_FORMS = ("a {}", "large {}", "{}s", "{} in view", "small {}")
_REFUSALS = ("I'm sorry, but I can't help with this picture.", "I cannot answer questions about this image.")


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """How the simulated annotator errs. Every number is invented; see the module.

    Attributes:
        signal: evidence of a true tag; that of a false one is 0, and both spread by 1.
        threshold_several, threshold_yes_no, threshold_open: what evidence has to exceed.
        doubt: spread of what a question adds to the evidence; ``doubt_length`` names more double it in a list.
        pull: of company among the true tags; ``little`` of it in a yes-or-no question.
        lean, lean_length: of company among the names written before; half of it is reached at that place of the list.
        drift: lean without company, from the mere number of names written before, full at eight.
        rivalry, rivalry_length: of a stronger name of its company in the same list; half at that length.
        confusion: of an ambiguous name; ``aligned`` of it is left where the question tells the concept.
        other_sense: how often something outside the vocabulary gives rise to it.
        most_open: names in an open answer; ``open_off`` of them are worded in ways that are no tag.
    """

    signal: float = 4.0
    threshold_several: float = 2.1
    threshold_yes_no: float = 2.45
    threshold_open: float = 2.6
    doubt: float = 0.4
    doubt_length: float = 60.0
    pull: float = 0.5
    little: float = 0.2
    lean: float = 1.0
    lean_length: float = 20.0
    drift: float = 0.6
    rivalry: float = 0.5
    rivalry_length: float = 20.0
    confusion: float = 1.8
    aligned: float = 0.1
    other_sense: float = 0.15
    most_open: int = 12
    open_off: float = 0.35


@dataclass(frozen=True, slots=True)
class Faults:
    """How often an answer goes wrong as a whole: shares of the questions, from 0 to 1."""

    refuse: float = 0.0
    off_list: float = 0.0
    broken: float = 0.0

    def __post_init__(self) -> None:
        for name in ("refuse", "off_list", "broken"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: expected a share from 0 to 1"
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said.

    Attributes:
        text: as the message's content.
        refusal: in the place of the content, where structured output was asked for and refused.
        refused, off_list, broken: which faults the answer has.
    """

    text: str
    refusal: str | None = None
    refused: bool = False
    off_list: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Annotator:
    """Answers questions about the pictures of a `Truth`.

    Args:
        senses: name -> what else it is taken for, tags or not; beside what names give away themselves: "mask" stands
            in "gas mask", and a synonym of one tag is another's name.
    """

    truth: Truth
    seed: int = 0
    faults: Faults = Faults()
    errors: ErrorModel = ErrorModel()
    senses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _look_alikes: dict[int, tuple[tuple[int, ...], bool]] = field(init=False, default_factory=dict)
    _names: dict[str, tuple[int | None, str]] = field(init=False, default_factory=dict)
    _pulls: dict[int, list[float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._look_alikes.update(look_alikes(self.truth, self.senses))

    def answer(
        self, row: int, asked: AskedFor, *, schema: Mapping[str, Any] | None = None, draw: str = ""
    ) -> Answer:
        """The answer to a question about a picture.

        Args:
            row: of the truth.
            schema: of the JSON that is wanted.
            draw: another text, other doubts and faults: for questions at a temperature above 0.

        Raises:
            UsageError: a schema that none of these answers fits.
        """
        question = "\n".join([asked.kind, str(asked.aligned), *asked.names, draw])
        if self._share("refuse", row, question) < self.faults.refuse:
            text = _REFUSALS[int(self._share("how", row, question) * len(_REFUSALS))]
            return Answer("" if schema else text, refusal=text if schema else None, refused=True)
        off: tuple[str, ...] = ()
        if asked.kind == "yes_no":
            says = self.says_yes(row, asked.names[0], aligned=asked.aligned, draw=draw)
            names: tuple[str, ...] = ()
            text = "yes" if says else "no"
        else:
            if asked.kind == "several":
                names = self.present(row, asked.names, draw=draw)
                if self._share("off", row, question) < self.faults.off_list:
                    off = (self._off_list(row, asked.names, question),)
            else:
                names = self.free(row, draw=draw)
            names += off
            says = bool(names)
            text = "\n".join(names) or "NO"
        if schema is not None:
            text = json.dumps(_fill(schema, names, says), ensure_ascii=False)
        if self._share("broken", row, question) < self.faults.broken:
            return Answer(_break(text, names, as_json=schema is not None), broken=True)
        # A schema that lists the choices leaves no room for what is off the list.
        told = names if schema is None else tuple(_named(json.loads(text)))
        return Answer(text, off_list=bool(off) and off[0] in told)

    def evidence(self, row: int, name: str) -> float:
        """e(p, t); a name that is no tag has that of a false one."""
        column = self._column(name)
        true = column is not None and bool(self.truth.true[row, column])
        return self.errors.signal * true + self._normal("evidence", row, self._key(name))

    def present(self, row: int, names: Sequence[str], *, draw: str = "") -> tuple[str, ...]:
        """The names that are written when all of these are asked for at once, in their order."""
        e = self.errors
        columns = [self._column(name) for name in names]
        pairs = self._pairs(columns)
        evidence = np.array([self.evidence(row, name) for name in names])
        doubt = e.doubt * (1 + len(names) / e.doubt_length)
        rivalry = e.rivalry / (1 + len(names) / e.rivalry_length)
        stronger = np.maximum(evidence[None, :] - evidence[:, None], 0.0)
        rival = (pairs * stronger).max(axis=1, initial=0.0)
        heard = np.zeros(len(names), np.float32)
        written: list[int] = []
        for at, (name, column) in enumerate(zip(names, columns, strict=True)):
            depth = at / (at + e.lean_length)
            score = (
                evidence[at]
                + doubt * self._normal("several", row, self._key(name), str(len(names)), draw)
                + self._confusion(row, name)
                + e.pull * self._pulled(row, column)
                + e.lean * depth * (float(heard[at]) + e.drift * min(len(written), 8) / 8)
                - rivalry * rival[at]
            )
            if score > e.threshold_several:
                written.append(at)
                np.maximum(heard, pairs[at], out=heard)
        return tuple(names[at] for at in written)

    def says_yes(self, row: int, name: str, *, aligned: bool = False, draw: str = "") -> bool:
        """Whether it says yes to one name."""
        e = self.errors
        score = (
            self.evidence(row, name)
            + e.doubt * self._normal("yes_no", row, self._key(name), draw)
            + self._confusion(row, name) * (e.aligned if aligned else 1.0)
            + e.little * e.pull * self._pulled(row, self._column(name))
        )
        return score > e.threshold_yes_no

    def free(self, row: int, *, draw: str = "") -> tuple[str, ...]:
        """What it says when nothing is listed, the most evident first; partly in words that are no tags."""
        e = self.errors
        said: list[tuple[float, str]] = []
        for column, entry in enumerate(self.truth.vocabulary):
            score = self.evidence(row, entry.name) + e.pull * self._pulled(row, column)
            if score <= e.threshold_open:
                continue
            word = entry.name
            if self._share("open", row, word + draw) < e.open_off:
                forms = entry.synonyms or tuple(form.format(word) for form in _FORMS)
                word = forms[int(self._share("form", row, word) * len(forms))]
            said.append((score, word))
        words = [word for _, word in sorted(said, key=lambda one: (-one[0], one[1]))[: e.most_open - 1]]
        if self._share("aside", row, draw) < e.open_off:
            words.append(_ASIDES[int(self._share("which", row, draw) * len(_ASIDES))])
        return tuple(dict.fromkeys(words))

    # -- what is added to the evidence ---------------------------------------------------------------

    def _pulled(self, row: int, column: int | None) -> float:
        """The strongest company of a false tag among the true ones."""
        if column is None:
            return 0.0
        pulled = self._pulls.get(row)
        if pulled is None:
            true = self.truth.true[row]
            pulled = np.where(true, 0.0, self.truth.together[:, true].max(axis=1, initial=0.0)).tolist()
            if len(self._pulls) >= _MOST_ROWS:
                self._pulls.clear()
            self._pulls[row] = pulled
        return pulled[column]

    def _pairs(self, columns: Sequence[int | None]) -> npt.NDArray[np.float32]:
        """How much every two of some columns are true together; nothing is known of what is no tag."""
        known = np.array([column is not None for column in columns], np.float32)
        some = np.array([column or 0 for column in columns], np.intp)
        pairs: npt.NDArray[np.float32] = self.truth.together[np.ix_(some, some)] * np.outer(known, known)
        return pairs

    def _confusion(self, row: int, name: str) -> float:
        column = self._column(name)
        if column is None or column not in self._look_alikes or self.truth.true[row, column]:
            return 0.0
        alike, elsewhere = self._look_alikes[column]
        there = any(self.truth.true[row, other] for other in alike) or (
            elsewhere and self._share("sense", row, self._key(name)) < self.errors.other_sense
        )
        return self.errors.confusion if there else 0.0

    def _off_list(self, row: int, names: Sequence[str], question: str) -> str:
        """A name that was not asked for: a tag of its own vocabulary, or a word beside it."""
        asked = {normalise(name) for name in names}
        others = [entry.name for entry in self.truth.vocabulary if normalise(entry.name) not in asked]
        words = others if others and self._share("tag", row, question) < 0.5 else list(_ASIDES)
        return words[int(self._share("word", row, question) * len(words))]

    # -- names and draws -----------------------------------------------------------------------------

    def _column(self, name: str) -> int | None:
        return self._resolved(name)[0]

    def _key(self, name: str) -> str:
        """A tag draws by its id, so that a synonym has its evidence."""
        return self._resolved(name)[1]

    def _resolved(self, name: str) -> tuple[int | None, str]:
        found = self._names.get(name)
        if found is None:
            column = self._find(name)
            found = (column, normalise(name) if column is None else self.truth.vocabulary[column].id)
            if len(self._names) < _MOST_NAMES:
                self._names[name] = found
        return found

    def _find(self, name: str) -> int | None:
        """The column of a name; "orange (attribute)" is how one of two tags of a name is asked for."""
        found = self.truth.vocabulary.find(name)
        bare, _, kind = name.rpartition(" (")
        if found is None and bare and kind.endswith(")"):
            kinds = [each for each in KINDS if f"{each})" == kind]
            found = self.truth.vocabulary.find(bare, kinds=kinds)
        return found

    def _share(self, what: str, row: int, *parts: str) -> float:
        """A number in (0, 1) that follows from the arguments, the seed and the picture's name."""
        told = "\0".join((str(self.seed), what, self.truth.images[row], *parts))
        digest = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        return (number + 0.5) / 2**64

    def _normal(self, what: str, row: int, *parts: str) -> float:
        return _NORMAL.inv_cdf(min(max(self._share(what, row, *parts), 1e-12), 1 - 1e-12))


def look_alikes(truth: Truth, senses: Mapping[str, Sequence[str]]) -> dict[int, tuple[tuple[int, ...], bool]]:
    """Column of an ambiguous tag -> the columns it is taken for, and whether by things outside the vocabulary too.

    Beside the senses that are told: a name whose words all stand in another name or one of its synonyms ("mask" in
    "gas mask"), unless that other tag implies it, and a synonym that is another tag's name.
    """
    vocabulary = truth.vocabulary
    found: dict[int, tuple[set[int], bool]] = {}
    words = [set(_WORD.findall(normalise(entry.name))) for entry in vocabulary]
    holders: dict[str, set[int]] = {}
    for column, entry in enumerate(vocabulary):
        for text in (entry.name, *entry.synonyms):
            for word in _WORD.findall(normalise(text)):
                holders.setdefault(word, set()).add(column)
    for column, own in enumerate(words):
        others = set.intersection(*(holders[word] for word in own)) - {column} if own else set()
        others = {other for other in others if column not in vocabulary.with_parents([other])}
        if others:
            found[column] = (others, False)
    for name, told in senses.items():
        ambiguous = vocabulary.find(name)
        if ambiguous is None:
            continue
        columns = [vocabulary.find(other) for other in told]
        alike, elsewhere = found.get(ambiguous, (set(), False))
        alike = alike | {other for other in columns if other is not None and other != ambiguous}
        found[ambiguous] = (alike, elsewhere or None in columns)
    return {column: (tuple(sorted(alike)), elsewhere) for column, (alike, elsewhere) in found.items()}


def read_senses(path: Path) -> dict[str, tuple[str, ...]]:
    """A file of ambiguous names: ``name: what else it is taken for, ...``, one a line; # opens a comment.

    Raises:
        DataError: the file cannot be read, or a line has no colon or nothing after it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    senses: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, told = line.partition(":")
        others = tuple(part.strip() for part in told.split(",") if part.strip())
        if not name.strip() or not others:
            raise DataError(f"{path}, line {number}: expected 'name: other, other', found {line!r}")
        senses[name.strip()] = others
    return senses


def _fill(schema: Mapping[str, Any], names: Sequence[str], yes: bool) -> Any:
    """JSON that fits a schema: lists take the names (of the schema's own choices, if it has any), the rest yes or no.

    Raises:
        UsageError: a schema of anything else.
    """
    choices = schema.get("enum")
    if isinstance(choices, list):
        fitting = [
            one
            for one in choices
            if one in (("yes", "Yes", "YES", True) if yes else ("no", "No", "NO", False))
        ]
        if fitting:
            return fitting[0]
    kind = schema.get("type")
    if kind == "object" and isinstance(schema.get("properties"), Mapping):
        return {key: _fill(inner, names, yes) for key, inner in schema["properties"].items()}
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        allowed = schema["items"].get("enum")
        return [name for name in names if allowed is None or name in allowed]
    if kind == "boolean":
        return yes
    if kind == "string" and choices is None:
        return ", ".join(names) if names else "yes" if yes else "no"
    raise UsageError(
        "the simulated annotator answers with objects, lists of names, booleans, strings and yes or no; the schema "
        f"asks for {json.dumps(schema)[:120]}"
    )


def _named(value: Any) -> Iterator[str]:
    """The names that an answer of `_fill` holds."""
    if isinstance(value, str):
        yield from value.split(", ")
    elif isinstance(value, list | dict):
        for one in value if isinstance(value, list) else value.values():
            yield from _named(one)


def _break(text: str, names: Sequence[str], *, as_json: bool) -> str:
    """An answer that breaks its form: JSON cut in the middle, or a sentence."""
    if as_json:
        return text[: max(1, len(text) // 2)]
    if names:
        return f"Looking closely at the picture, it seems to me that {' and '.join(names)} may well be shown there"
    return "It is hard to say with certainty from this picture alone whether that is the case or not"
