"""A vocabulary to one HTML file in which a person decides about its tags, offline.

Knows what the page's script is given. Tag names and captions are hostile text: they stand in the page as JSON only
(`taglens.collection.review_frame`), and the script shows them as text. Refuses to know what a
decision does (`taglens.language.vocabulary_decisions` applies the file that the page gives).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taglens.collection.review_frame import Frame, put_page, require_page
from taglens.collection.review_script import SCRIPT
from taglens.collection.review_style import STYLE
from taglens.language.vocabulary_decisions import FORMAT_VERSION
from taglens.language.vocabulary_review import Review, ReviewedTag
from taglens.language.word_lists import PARSED_KINDS


def write_review(review: Review, out: Path) -> Path:
    """Write the page; equal reviews give equal bytes.

    Returns:
        ``out``, replaced only when the page is complete.

    Raises:
        UsageError: ``out`` is a folder, or lies in one that does not exist.
    """
    require_page(out)
    put_page(_page(review), out)
    return out


def page_data(review: Review) -> dict[str, Any]:
    """What the script is given; rows of ``tags`` stand in the vocabulary's order.

    Keys of a tag are one letter or two, since there are thousands of them: ``i`` id, ``n`` name, ``k`` kind, ``f``
    captions that name it, ``c`` the vocabulary's count; and where there are any ``s`` synonyms, ``p`` parents, ``h``
    hidden, ``x`` examples [before, word, after], ``r`` near tags [column, why, close], ``a`` advice [decision, why,
    column or kind].
    """
    return {
        "format": FORMAT_VERSION,
        "vocabulary": {"name": review.vocabulary.name, "fingerprint": review.vocabulary.fingerprint},
        "texts": review.texts,
        "kinds": list(PARSED_KINDS),
        "tags": [_tag(tag) for tag in review.tags],
    }


def _tag(tag: ReviewedTag) -> dict[str, Any]:
    entry, proposal = tag.entry, tag.proposal
    row: dict[str, Any] = {
        "i": entry.id,
        "n": entry.name,
        "k": entry.kind,
        "f": tag.frequency,
        "c": entry.count,
        "s": list(entry.synonyms),
        "p": [parent.partition(":")[2] for parent in entry.parents],
        "h": int(entry.hidden),
        "x": [[example.before, example.word, example.after] for example in tag.examples],
        "r": [[near.column, near.why, int(near.close)] for near in tag.near],
        "a": None,
    }
    if proposal is not None:
        target = proposal.kind if proposal.into is None else proposal.into
        row["a"] = [proposal.decision, proposal.why, target]
    return {key: value for key, value in row.items() if value or key in "infkc"}


def _page(review: Review) -> str:
    kinds = "".join(
        f'<button type="button" class="kind {kind}" data-k="{kind}" aria-pressed="true">{kind}</button>'
        for kind in sorted({tag.entry.kind for tag in review.tags}, key=_kind_order)
    )
    frame = Frame(
        one="tag",
        of="",
        list="tags",
        listed="Tags",
        find="name or synonym",
        tools=_TOOLS.format(kinds=kinds),
        style=STYLE,
        script=SCRIPT,
    )
    said = f"{review.vocabulary.ref} · {len(review.tags):,} tags · {review.texts:,} captions"
    return frame.page(f"{review.vocabulary.name}: review", said, page_data(review))


def _kind_order(kind: str) -> tuple[int, str]:
    return (PARSED_KINDS.index(kind) if kind in PARSED_KINDS else len(PARSED_KINDS), kind)


_TOOLS = """\
<label><span>Sort by</span><select id="sort">
<option value="often">frequency, falling</option><option value="rare">frequency, rising</option>
<option value="name">name</option><option value="open">undecided first</option>
<option value="advice">proposals first</option></select></label>
<label><span>Show</span><select id="show">
<option value="all">all tags</option><option value="open">undecided</option><option value="done">decided</option>
<option value="advice">with a proposal</option><option value="near">with near-duplicates</option>
<option value="never">named by no caption</option></select></label>
<div class="kinds" role="group" aria-label="Kinds of tags">{kinds}</div>
</form>
<div class="bar"><p id="count" role="status"></p>
<button type="button" id="accept" hidden></button>
<details class="keys"><summary>Keys</summary><p><kbd>↓</kbd> <kbd>↑</kbd> next, previous tag · <kbd>K</kbd> keep · \
<kbd>D</kbd> deny · <kbd>A</kbd> accept the proposal · <kbd>M</kbd> merge · <kbd>R</kbd> rename · <kbd>C</kbd> \
change kind · <kbd>U</kbd> undo · <kbd>←</kbd> <kbd>→</kbd> page · <kbd>/</kbd> filter</p></details></div>
<datalist id="names"></datalist>"""
