"""A vocabulary's tags to visual descriptions: five questions asked several times each, or templates (RAM++ 3.2).

Knows what is asked about which tag, in what order, and what a row of the file of descriptions holds. Refuses to know
the wording (`description_prompts`), what makes a text usable (`description_text`), who answers (`chat`) and what it
costs (`ledger`), and where rows are written (`description_rows`).

Rows come in the vocabulary's order and hold nothing that depends on time or threads: the same replies give the same
rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from taglens.errors import BudgetError, ChatError, UsageError
from taglens.language.chat import Ask, Chat, Reply, Usage, ask_all, prompt_tokens_at_most
from taglens.language.description_prompts import INTENTS, SPECIFIC, SYSTEM, Subject, question, subjects
from taglens.language.description_prompts import fingerprint as wording
from taglens.language.description_rows import Described
from taglens.language.description_templates import from_templates
from taglens.language.description_text import Limits, Sieve
from taglens.vocabulary import Vocabulary, normalise

MOST_PER_TAG = 1_000
# Twice what the words that are asked for take, so that an answer ends by itself.
_TOKENS_ONE, _TOKENS_EACH, _TOKENS_OPENING = 120, 60, 60
# What an answer takes as a rule: the words asked for, at four tokens to three words.
_USUAL_ONE, _USUAL_EACH = 40, 27
# So many questions in a row, or all those of so many tags, without one answer: there is nobody who answers.
_LOST_ASKS, _LOST_TAGS = 10, 3
_NO_ENTRY = (401, 403, 404)
_NEVER_THE_TAG = (None, 401, 404, 429)
_BROKEN = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked about each tag.

    Attributes:
        count: descriptions wanted; the five intents are asked in turn until there are as many.
        per_query: descriptions wanted of one answer. 1 is the paper's way, each drawn by itself; more cost less,
            and a model that sees what it wrote before repeats itself less. None: 1, or all with ``specific``.
        specific: ask for different appearances instead of the five intents. Parity: the paper's variant, which is
            more diverse and measured worse.
        temperature: how freely answers are drawn.
        seed: of the first sample of an intent; the next ones have the following numbers.
        max_tokens: where an answer is cut; None: twice what was asked for takes. Models that think first need more.

    Raises:
        UsageError: for numbers that cannot be meant.
    """

    count: int = 50
    per_query: int | None = None
    specific: bool = False
    temperature: float = 0.99
    seed: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_PER_TAG:
            raise UsageError(f"a tag has 1 to {MOST_PER_TAG:,} descriptions, found count={self.count}")
        if self.per_query is not None and self.per_query < 1:
            raise UsageError(f"an answer holds 1 description or more, found per_query={self.per_query}")
        questions = list(self.questions())
        if self.temperature == 0 and any(each.sample for each in questions):
            most = len(INTENTS) * self.lines if not self.specific else self.lines
            raise UsageError(
                f"temperature 0 gives the same answer to the same question, and {self.count} descriptions ask each "
                f"several times: want at most {most}, more per query, or a temperature above 0"
            )

    @property
    def lines(self) -> int:
        """Descriptions wanted of one answer."""
        return self.per_query or (self.count if self.specific else 1)

    def questions(self) -> Iterator[Question]:
        """What is asked about every tag, in order."""
        intents = (SPECIFIC,) if self.specific else INTENTS
        for number, start in enumerate(range(0, self.count, self.lines)):
            sample, intent = divmod(number, len(intents))
            yield Question(intents[intent], sample, min(self.lines, self.count - start))

    def ask(self, subject: Subject, asked: Question) -> Ask:
        """The question about a tag as it is sent; its samples differ in the seed, and so in their key."""
        one = _TOKENS_ONE if asked.lines == 1 else _TOKENS_OPENING + _TOKENS_EACH * asked.lines
        return Ask(
            question(subject, asked.intent, lines=asked.lines),
            SYSTEM,
            max_tokens=one if self.max_tokens is None else self.max_tokens,
            temperature=self.temperature,
            seed=self.seed + asked.sample,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a plan: its intent, which of its samples this is, and how many descriptions it wants."""

    intent: str
    sample: int
    lines: int


# -- by a language model -------------------------------------------------------------------------------------


def describe_tags(
    chosen: Sequence[Subject],
    chat: Chat,
    plan: Plan,
    *,
    limits: Limits | None = None,
    at_once: int = 8,
    templates: bool = False,
    told: Callable[[Reply | ChatError], None] | None = None,
) -> Generator[Described, None, None]:
    """Ask about each tag, and give its row when its last answer is there.

    A question without an answer costs its tag that description alone. When the money ends, what has been paid for
    counts, and the rows of the other tags say so.

    Args:
        templates: tags of which no answer is usable are described by templates instead, and say so.
        told: hears of every answer, or of what came instead, in order.

    Raises:
        ChatError: when many questions in a row, of several tags, have no answer: there is nobody who answers.
    """
    questions = list(plan.questions())

    def asks() -> Iterator[Ask]:
        return (plan.ask(subject, asked) for subject in chosen for asked in questions)

    answers = _answers(chat, asks, at_once=at_once, told=told, per_tag=len(questions))
    with_limits = limits or Limits()
    model = chat.model
    try:
        for subject in chosen:
            collected = _Collected(Sieve(subject.names, with_limits))
            for asked, answer in zip(questions, itertools.islice(answers, len(questions)), strict=True):
                collected.add(asked, answer)
            row = collected.row(subject, model=model)
            if templates and not row.descriptions:
                row = _filled(row, subject, count=plan.count)
            yield row
    finally:
        answers.close()


def _answers(
    chat: Chat,
    asks: Callable[[], Iterator[Ask]],
    *,
    at_once: int,
    told: Callable[[Reply | ChatError], None] | None,
    per_tag: int,
) -> Generator[Reply | ChatError | BudgetError, None, None]:
    """What came of each question, in order.

    Raises:
        ChatError: nobody answers.
    """
    given = 0
    lost: list[ChatError] = []
    answered = False
    replies = ask_all(chat, asks(), at_once=at_once)
    try:
        for reply in replies:
            if isinstance(reply, ChatError):
                lost.append(reply)
            else:
                answered = True
                lost.clear()
            given += 1
            if told is not None:
                told(reply)
            yield reply
            if lost and _is_hopeless(lost, answered=answered, per_tag=per_tag):
                raise ChatError(
                    f"the last {len(lost)} questions have no answer, so no more are asked; the last one: {lost[-1]}",
                    status=lost[-1].status,
                )
        return
    except BudgetError:
        pass
    finally:
        replies.close()
    # Answers that are kept cost nothing, and those that were in flight just now are among them.
    for ask in itertools.islice(asks(), given, None):
        late = _late(chat, ask)
        if told is not None and not isinstance(late, BudgetError):
            told(late)
        yield late


def _late(chat: Chat, ask: Ask) -> Reply | ChatError | BudgetError:
    try:
        return chat(ask)
    except (ChatError, BudgetError) as error:
        return error


def _is_hopeless(lost: Sequence[ChatError], *, answered: bool, per_tag: int) -> bool:
    """Whether it is the server that fails, and not a tag: all questions about one may be refused for its name."""
    if not answered and lost[-1].status in _NO_ENTRY:
        return True
    if len(lost) >= max(_LOST_ASKS, _LOST_TAGS * per_tag):
        return True
    last = lost[-_LOST_ASKS:]
    return len(last) == _LOST_ASKS and all(
        error.status in _NEVER_THE_TAG or (error.status or 0) >= _BROKEN for error in last
    )


class _Collected:
    """What the answers about one tag come to."""

    def __init__(self, sieve: Sieve) -> None:
        self._sieve = sieve
        self._intents: list[str] = []
        self._models: dict[str, None] = {}
        self._asked = 0
        self._unanswered: list[ChatError | BudgetError] = []

    def add(self, asked: Question, answer: Reply | ChatError | BudgetError) -> None:
        if not isinstance(answer, BudgetError):
            self._asked += 1
        if isinstance(answer, Reply):
            self._intents += [asked.intent] * self._sieve.take(answer, wanted=asked.lines)
            self._models[answer.model] = None
        else:
            self._unanswered.append(answer)

    def row(self, subject: Subject, *, model: str) -> Described:
        return Described(
            subject.entry.id,
            subject.entry.name,
            tuple(self._sieve.kept),
            "llm",
            model=", ".join(sorted(name for name in self._models if name)) or model,
            prompts=wording(),
            intents=tuple(self._intents),
            asked=self._asked,
            dropped=dict(self._sieve.dropped),
            shortened=self._sieve.shortened,
            error=self._error(),
        )

    def _error(self) -> dict[str, str] | None:
        if self._unanswered:
            last = self._unanswered[-1]
            return {
                "type": "budget" if isinstance(last, BudgetError) else "unanswered",
                "message": f"{len(self._unanswered)} questions without an answer: {last}",
            }
        if not self._sieve.kept:
            return {"type": "unusable", "message": f"none of {self._asked} answers could be used"}
        return None


def _filled(row: Described, subject: Subject, *, count: int) -> Described:
    """The row of a tag that the model did not describe, described by templates."""
    return Described(
        row.id,
        row.name,
        from_templates(subject, count=count),
        "template",
        model=row.model,
        prompts=row.prompts,
        asked=row.asked,
        dropped=row.dropped,
        error=row.error,
    )


# -- by templates --------------------------------------------------------------------------------------------


def describe_by_templates(chosen: Iterable[Subject], *, count: int) -> Iterator[Described]:
    """A row for each tag without asking anybody; fewer than ``count`` descriptions where there is no more to say."""
    for subject in chosen:
        yield Described(
            subject.entry.id, subject.entry.name, from_templates(subject, count=count), "template"
        )


# -- before and after ----------------------------------------------------------------------------------------


def choose(vocabulary: Vocabulary, names: Sequence[str] | None = None) -> list[Subject]:
    """All tags, or those of these ids, names or synonyms, in the vocabulary's order; a name means all its senses.

    Raises:
        UsageError: for a name that is no tag.
    """
    everything = list(subjects(vocabulary))
    if not names:
        return everything
    wanted: set[str] = set()
    for name in names:
        key = normalise(name)
        found = (
            {s.entry.id for s in everything if name == s.entry.id}
            or {s.entry.id for s in everything if key == normalise(s.entry.name)}
            or {s.entry.id for s in everything if key in map(normalise, s.entry.synonyms)}
        )
        if not found:
            raise UsageError(
                f"{vocabulary.ref} has no tag {name!r}; expected an id, a name or a synonym, as listed by: taglens "
                "vocabulary show"
            )
        wanted |= found
    return [subject for subject in everything if subject.entry.id in wanted]


@dataclass(frozen=True, slots=True)
class Projected:
    """What describing would take.

    Attributes:
        tags, queries: how many, answers that are kept left out.
        kept: answers that are there already.
        usual, most: tokens of the queries as a rule, and at most.
        spent: tokens that the kept answers took; at most, where their server did not say.
    """

    tags: int
    queries: int
    kept: int
    usual: Usage
    most: Usage
    spent: Usage


def project(chosen: Sequence[Subject], plan: Plan, *, kept: Callable[[Ask], Reply | None]) -> Projected:
    """Reckon from the questions' lengths, without asking anything.

    Args:
        kept: the answer that a question has already.
    """
    queries = known = 0
    usual = most = spent = Usage()
    for subject in chosen:
        for asked in plan.questions():
            ask = plan.ask(subject, asked)
            if (reply := kept(ask)) is not None:
                known += 1
                # As the ledger charged it: what nobody counted, from above.
                spent += (
                    reply.usage if reply.usage.known else Usage(prompt_tokens_at_most(ask), ask.max_tokens)
                )
                continue
            queries += 1
            answer = _USUAL_ONE if asked.lines == 1 else _USUAL_EACH * asked.lines
            usual += Usage(-(-len(ask.text.encode() + ask.system.encode()) // 4), min(answer, ask.max_tokens))
            most += Usage(prompt_tokens_at_most(ask), ask.max_tokens)
    return Projected(len(chosen), queries, known, usual, most, spent)
