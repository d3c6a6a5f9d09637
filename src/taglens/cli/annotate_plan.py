"""From the name of a strategy to its parts, for ``taglens annotate``: here the names end.

Knows which options belong to which strategy, and where groups and concepts come from. Refuses to know servers and
pictures.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taglens.cli.console import say
from taglens.errors import DataError, UsageError

if TYPE_CHECKING:
    from taglens.inference.tagger import Tagger
    from taglens.language.annotate import Strategy
    from taglens.language.annotation_prompts import Concept
    from taglens.language.chat import Chat
    from taglens.language.grouping import Grouping
    from taglens.vocabulary import Vocabulary

STRATEGIES = ("open", "options", "binary", "two-stage", "grouped", "full", "hybrid")
GROUPINGS = ("random", "together", "apart", "llm", "llm-apart")
_GROUPED = ("grouped", "full")
_ALIGNED = ("full", "hybrid")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A strategy, and the files that say what it was made from."""

    strategy: Strategy
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was typed of the strategy; refuses what cannot be meant."""

    strategy: str
    grouping: str | None
    statistics: Path | None
    group_size: int
    seed: int
    concepts: tuple[Path, ...]
    votes: int
    careful: bool
    below: float
    above: float

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UsageError(f"--strategy {self.strategy}: expected one of {', '.join(STRATEGIES)}")
        if self.grouping not in (None, *GROUPINGS) and not Path(str(self.grouping)).is_file():
            raise UsageError(
                f"--grouping {self.grouping}: expected {', '.join(GROUPINGS)}, or a file of groups"
            )
        if self.grouping in ("together", "apart") and self.statistics is None:
            raise UsageError(
                f"--grouping {self.grouping} counts which tags occur together: give captions or labels to count in "
                "(--statistics FILE), or take --grouping random or llm"
            )
        if self.statistics is not None and self.grouping not in (None, "together", "apart"):
            raise UsageError(f"--statistics is for --grouping together and apart, not {self.grouping}")
        if (self.grouping is not None or self.statistics is not None) and self.strategy not in _GROUPED:
            raise UsageError(
                f"--grouping and --statistics are for --strategy {' and '.join(_GROUPED)}, not {self.strategy}"
            )
        if self.concepts and self.strategy not in _ALIGNED:
            raise UsageError(f"--concepts is for --strategy {' and '.join(_ALIGNED)}, not {self.strategy}")

    @property
    def how(self) -> str:
        """The grouping that is meant."""
        return self.grouping or ("random" if self.statistics is None else "together")

    def configuration(self, tags: Vocabulary, tagger: Tagger | None) -> dict[str, Any]:
        """Everything of it that a row depends on."""
        row: dict[str, Any] = {"strategy": self.strategy, "careful": self.careful, "votes": self.votes}
        if self.strategy in _GROUPED:
            file = self.statistics if self.how not in ("random", "llm", "llm-apart") else None
            if self.how not in GROUPINGS:
                file = Path(self.how)
            row["grouping"] = {
                "how": self.how if self.how in GROUPINGS else "file",
                "group_size": self.group_size,
                "seed": self.seed,
                "file": None if file is None else _digest(file),
            }
        if self.strategy in _ALIGNED:
            row["concepts"] = _sum(json.dumps([_told(each) for each in self.meanings(tags)]).encode())
        if tagger is not None:
            row |= {
                "tagger": tagger.ref,
                "thresholds": _sum(tagger.vocabulary.thresholds().tobytes()),
                "group_size": self.group_size,
                "below": self.below,
                "above": self.above,
            }
        return row

    def meanings(self, tags: Vocabulary) -> tuple[Concept, ...]:
        """[T]."""
        from taglens.language.annotate import concepts_in_order

        return concepts_in_order(tags.ids, concepts_from(tags, self.concepts))

    def groups(self, tags: Vocabulary, names: tuple[str, ...], chat: Chat | None) -> Grouping:
        """Without a chat, what it would be asked for is drawn at random: only the number of groups is right."""
        from taglens.language import grouping

        if self.how not in GROUPINGS:
            return read_groups_file(Path(self.how), names)
        if self.how in ("llm", "llm-apart") and chat is not None:
            return grouping.ask_groups(chat, names, together=self.how == "llm", at_most=self.group_size)
        if self.statistics is None:
            return grouping.random_groups(len(tags), at_most=self.group_size, seed=self.seed)
        rows = list(grouping.tags_of_rows(self.statistics, tags, _sentence_tags(tags)))
        near = grouping.affinity(grouping.count_together(rows, len(tags)), len(rows))
        make = grouping.together_groups if self.how == "together" else grouping.apart_groups
        return make(near, at_most=self.group_size)

    def prepared(
        self, tags: Vocabulary, tagger: Tagger | None, chat: Chat | None, *, quiet: bool
    ) -> Prepared:
        """The strategy, from parts."""
        from taglens.collection.annotation_store import CONCEPTS, GROUPS
        from taglens.language.annotate import Everything, FromTagger, OpenEnded, Options, Strategy, YesNo
        from taglens.language.bands import Band
        from taglens.language.concepts import concept_lines, shown_names
        from taglens.language.grouping import one_group

        names = shown_names(tags)
        files: dict[str, bytes] = {}
        settle = YesNo(names, votes=self.votes, careful=self.careful)
        if self.strategy in _ALIGNED:
            meant = self.meanings(tags)
            settle = YesNo(names, meant, votes=self.votes, careful=self.careful)
            files[CONCEPTS] = concept_lines(tags, dict(zip(tags.ids, meant, strict=True))).encode()
            if not quiet:
                _say_concepts(meant)
        if self.strategy == "open":
            return Prepared(Strategy("open", OpenEnded(tags.find, careful=self.careful)), files)
        if self.strategy == "binary":
            return Prepared(Strategy("binary", Everything(len(tags)), settle, most_candidates=None), files)
        if tagger is not None:
            band = Band.around(tagger.vocabulary.thresholds(), below=self.below, above=self.above)
            return Prepared(
                Strategy(
                    "hybrid",
                    FromTagger(names, band, at_most=self.group_size, careful=self.careful),
                    settle,
                    most_candidates=None,
                ),
                files,
            )
        if self.strategy not in _GROUPED:
            options = Options(names, one_group(len(tags)), careful=self.careful)
            return Prepared(
                Strategy(self.strategy, options, None if self.strategy == "options" else settle), files
            )
        groups = self.groups(tags, names, chat)
        for note in groups.notes:
            say(f"groups: {note}; put right")
        if not quiet:
            say(f"{len(groups.groups)} groups of up to {max(map(len, groups.groups))} tags: {groups.how}")
        content = {
            "how": groups.how,
            "notes": groups.notes,
            "groups": [[names[c] for c in g] for g in groups.groups],
        }
        files[GROUPS] = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
        return Prepared(Strategy(self.strategy, Options(names, groups, careful=self.careful), settle), files)


def askable_tags(path: Path) -> Vocabulary:
    """The tags of a vocabulary file that are asked for: all that are not hidden.

    Raises:
        UsageError: all are hidden.
        VocabularyError: a name or a synonym holds what nobody sees.
    """
    from taglens.language.annotation_prompts import require_visible
    from taglens.vocabulary import Vocabulary

    whole = Vocabulary.load(path)
    tags = whole.with_entries([entry for entry in whole if not entry.hidden])
    if not len(tags):
        raise UsageError(f"every tag of {path} is hidden, so that there is none to ask for")
    for entry in tags:
        require_visible(entry.name)
        for synonym in entry.synonyms:
            require_visible(synonym, of=entry.name)
    return tags


def concepts_from(tags: Vocabulary, paths: tuple[Path, ...]) -> dict[str, Concept]:
    """What the vocabulary says, with files laid over it, later ones last."""
    from taglens.language.concepts import from_vocabulary, overridden, read_concepts

    found = from_vocabulary(tags)
    for path in paths:
        found = overridden(found, read_concepts(path, tags))
    return found


def read_groups_file(path: Path, names: tuple[str, ...]) -> Grouping:
    """Groups that a person wrote or an earlier run left: ``{"groups": [[name, …], …]}``, an exact partition.

    Raises:
        DataError: it is none; the first names that are wrong are told.
    """
    from taglens.language.grouping import checked_groups

    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        groups = row["groups"]
        return checked_groups(
            [[str(name) for name in group] for group in groups], names, how=f"from {path.name}"
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'cannot read groups from {path}: {error}; expected {{"groups": [["name", …], …]}}'
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _sentence_tags(tags: Vocabulary) -> Any:
    from taglens.language.parser import parse_lines
    from taglens.language.text_tags import TextTags
    from taglens.language.word_lists import packaged

    return TextTags(tags, packaged(), parse_lines)


def _say_concepts(meant: tuple[Concept, ...]) -> None:
    told = [concept for concept in meant if concept]
    sources = [
        f"{sum(concept.source == source for concept in told):,} {words}"
        for source, words in (
            ("llm", "by a language model"),
            ("vocabulary", "by the vocabulary"),
            ("user", "by hand"),
        )
        if any(concept.source == source for concept in told)
    ]
    of = f" ({', '.join(sources)})" if sources else ""
    say(
        f"concepts say more than the name of {len(told):,} of {len(meant):,} tags{of}"
        + ("" if len(told) * 2 > len(meant) else "; prepare more: taglens annotate concepts --help")
    )


def _told(concept: Concept) -> list[Any]:
    return [concept.super_category, concept.look_alikes, concept.phrases]


def _digest(path: Path) -> str:
    try:
        return _sum(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
