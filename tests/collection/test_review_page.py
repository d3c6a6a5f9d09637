"""The review page: nothing leaves it or gets into it, and what it decides can be applied."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from taglens.collection.review_page import page_data, write_review
from taglens.errors import UsageError
from taglens.language.near_tags import Near, Proposal
from taglens.language.vocabulary_decisions import apply, read_decisions
from taglens.language.vocabulary_review import Example, Review, ReviewedTag
from taglens.vocabulary import Entry, Vocabulary

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&amp;",
    "\u2028\u2029\u202e\u0000x",
    '"><img src=x onerror=alert(2)>',
    "__proto__",
    "{title} {0} %s",
]


def reviewed(*names: str, title: str = "mine") -> Review:
    words = Vocabulary([Entry(name, "object", synonyms=(name + "s",), count=3) for name in names], name=title)
    return Review(
        words,
        9,
        tuple(
            ReviewedTag(
                entry,
                3,
                (Example("half \ud83d ", entry.name, " on a table"),),
                (Near(0, f"like {names[0]}", close=True),) if column else (),
                Proposal("merge", "alike", into=0) if column == 1 else None,
            )
            for column, entry in enumerate(words)
        ),
    )


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def test_hostile_names_and_captions_stay_data(tmp_path: Path) -> None:
    review = reviewed(*HOSTILE, title="</title><b>&")
    text = write_review(review, tmp_path / "p.html").read_text(encoding="utf-8")
    assert embedded(tmp_path / "p.html") == page_data(review)
    # Only the page's own elements: two scripts, no image, no comment.
    assert len(re.findall(r"<script\b", text)) == len(re.findall(r"</script", text)) == 2
    assert "<img" not in text and "<!--" not in text and "<b>&" not in text
    assert "\u2028" not in text and "\u202e" in text  # the browser's bdi holds it
    assert "&lt;/title&gt;&lt;b&gt;&amp;: review" in text


def test_the_page_forbids_everything_but_itself(tmp_path: Path) -> None:
    text = write_review(reviewed("dog"), tmp_path / "p.html").read_text(encoding="utf-8")
    policy = re.findall(r'Content-Security-Policy" content="(.*?)"', text)[0]
    assert policy.startswith("default-src 'none'")
    for element, part in ((r"<style>(.*?)</style>", "style-src"), (r"<script>(.*?)</script>", "script-src")):
        (inside,) = re.findall(element, text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}'" in policy
    assert not re.findall(r"""https?://|\bsrc=|\bstyle=|\bon[a-z]+=|innerHTML|\beval\b""", text)


def test_equal_reviews_give_equal_pages(tmp_path: Path) -> None:
    one = write_review(reviewed("dog", "cat"), tmp_path / "a.html").read_bytes()
    assert one == write_review(reviewed("dog", "cat"), tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
    assert b"\r" not in one


def test_a_large_vocabulary_gives_a_small_page(tmp_path: Path) -> None:
    review = reviewed(*(f"tag number {number}" for number in range(5000)))
    long = tuple(Example("x" * 110, "word", "y" * 110) for _ in range(5))
    tags = tuple(ReviewedTag(tag.entry, 3, long, tag.near * 8, tag.proposal) for tag in review.tags)
    page = write_review(Review(review.vocabulary, 9, tags), tmp_path / "p.html")
    assert page.stat().st_size < 10e6
    # Cards are made in the browser, one page of them at a time.
    assert page.read_text(encoding="utf-8").count("<article") == 0


# The page's script on its own: elements that only remember, earlier decisions in the browser's storage, then a
# click on "Download decisions". Says what the page complains of and what the file holds.
STAGE = r"""
const [, script, data, stored] = require("fs").readFileSync(0, "utf8").split("\u0000");
const on = {};
const element = () => ({
  append() {}, replaceChildren() {}, setAttribute() {}, getAttribute: () => "true", click() {}, focus() {},
  remove() {}, contains: () => false, dataset: {}, value: "", childElementCount: 0,
  addEventListener(event, action) { this[event] = action; },
});
const at = (id) => on[id] || (on[id] = element());
Object.assign(at("data"), { textContent: data });
Object.assign(at("show"), { value: "all" });
Object.assign(at("sort"), { value: "often" });
let file = "";
require("vm").runInNewContext(script, {
  document: { getElementById: at, createElement: element, querySelector: element, querySelectorAll: () => [],
    addEventListener() {} },
  localStorage: { getItem: () => stored, setItem() {} }, window: { scrollTo() {} },
  setTimeout: () => 0, clearTimeout() {}, URL: { createObjectURL: () => "", revokeObjectURL() {} },
  Blob: class { constructor([text]) { file = text; } },
});
at("save").click();
console.log(JSON.stringify({ said: at("note").textContent, decisions: JSON.parse(file).decisions }));
"""


def loaded(review: Review, page: Path, decisions: list[dict[str, str]]) -> dict[str, Any]:
    """What the page makes of decisions that the browser kept."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    text = write_review(review, page).read_text(encoding="utf-8")
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    vocabulary = {"name": review.vocabulary.name, "fingerprint": review.vocabulary.fingerprint}
    stored = json.dumps({"taglens_decisions": 1, "vocabulary": vocabulary, "decisions": decisions})
    given = "\0".join(["", script, data, stored])
    done = subprocess.run(
        [node, "-e", STAGE], input=given, capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("decision", ["keep", "deny"])
def test_thousands_of_decisions_load_at_once(tmp_path: Path, decision: str) -> None:
    """By the minute where each decision reads all others."""
    review = reviewed(*(f"tag number {number}" for number in range(8000)))
    decisions = [{"id": id, "decision": decision} for id in review.vocabulary.ids]
    assert loaded(review, tmp_path / "p.html", decisions)["decisions"] == decisions


def test_decisions_that_do_not_fit_each_other_are_left_out(tmp_path: Path) -> None:
    review = reviewed("dog", "hound", "cat", "kitty", "lion")
    fit = [
        {"id": "object:dog", "decision": "rename", "name": "Hound"},
        {"id": "object:hound", "decision": "kind", "kind": "scene"},
        {"id": "object:cat", "decision": "keep"},
    ]
    for wrong in (
        {"id": "object:kitty", "decision": "rename", "name": "Lion"},
        {"id": "object:kitty", "decision": "merge", "into": "object:kitty"},
        {"id": "object:kitty", "decision": "merge", "into": "object:puma"},
    ):
        found = loaded(review, tmp_path / "p.html", [*fit, wrong])
        assert found["decisions"] == fit
        assert found["said"].startswith("1 of the decisions")


def test_from_page_to_decisions_to_vocabulary(tmp_path: Path) -> None:
    review = reviewed("dog", "dgo", "cat", HOSTILE[0])
    data = embedded(write_review(review, tmp_path / "p.html"))
    decisions = []
    for tag in data["tags"]:
        if advice := tag.get("a"):  # what the page's button "Accept" writes
            assert advice[0] == "merge"
            decisions.append({"id": tag["i"], "decision": "merge", "into": data["tags"][advice[2]]["i"]})
        elif tag["n"] == HOSTILE[0]:
            decisions.append({"id": tag["i"], "decision": "deny"})
    content = {
        "taglens_decisions": data["format"],
        "vocabulary": data["vocabulary"],
        "decisions": decisions,
    }
    (tmp_path / "d.json").write_text(json.dumps(content), encoding="utf-8")
    words = apply(review.vocabulary, read_decisions(tmp_path / "d.json")).vocabulary
    assert words.ids == ["object:dog", "object:cat"]
    assert (words[0].synonyms, words[0].count) == (("dogs", "dgo", "dgos"), 6)


def test_a_page_needs_a_place(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none" / "p.html"):
        with pytest.raises(UsageError, match="folder that exists"):
            write_review(reviewed("dog"), out)
