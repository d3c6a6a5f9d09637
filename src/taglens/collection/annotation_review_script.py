"""The behaviour and the looks of an annotation's review page, as the texts that its security policy is hashed over.

Knows the data that `taglens.collection.annotation_review` embeds and the decisions file; lists, keys and files are
`taglens.collection.review_paging`'s. Names reach the page as text nodes only, pictures as addresses made of base64.
"""

from __future__ import annotations

from taglens.collection.review_paging import script
from taglens.collection.review_style import STYLE as _BASE

STYLE = (
    _BASE
    + """
#count { align-self: center; }
.tools { align-items: end; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px;
  display: grid; gap: 8px 22px; grid-template-columns: 320px minmax(0, 1fr); scroll-margin: 160px 0 30px;
}
.card h2 { grid-column: 1 / -1; font-size: 15px; font-weight: 620; }
.card img { max-width: 100%; height: auto; display: block; border-radius: 8px; }
.stage { align-self: start; position: sticky; top: 160px; }
.missing {
  border: 1px dashed var(--line); border-radius: 8px; color: var(--soft); padding: 40px 10px; text-align: center;
}
.marks { list-style: none; margin: 0; padding: 0; display: grid; gap: 3px; align-content: start; }
.mark {
  display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; padding: 3px 8px; border-radius: 9px;
  border-left: 5px solid var(--line); scroll-margin: 170px 0 30px;
}
.mark:focus { outline: 2px solid var(--focus); outline-offset: 1px; background: var(--hover); }
.mark b { font-weight: 640; overflow-wrap: anywhere; }
.mark .how { color: var(--soft); font-size: 13px; flex: 1 1 150px; overflow-wrap: anywhere; }
.mark.accept { border-left-color: var(--good); } .mark.reject { border-left-color: var(--bad); }
.mark.reject b { text-decoration: line-through; color: var(--soft); }
.mark button { padding: 1px 11px; min-height: 28px; font-size: 13px; }
.mark [aria-pressed=true] { background: var(--text); color: var(--card); border-color: var(--text); }
.mark .doubt { flex-basis: 100%; font-size: 13px; background: var(--advice); border-radius: 6px; padding: 2px 8px; }
.also { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; padding-left: 13px; }
@media (max-width: 760px) { .card { grid-template-columns: minmax(0, 1fr); } .stage { position: static; } }
"""
)

SCRIPT = script(
    r"""
  const PER_PAGE = 20;
  const ITEM = ".mark";
  const cards = data.cards;
  const marks = [];
  cards.forEach((card, place) => {
    card.marks = card.t.map((row) => {
      const mark = { ...row, card, column: marks.length, place, verdict: "" };
      marks.push(mark);
      return mark;
    });
  });
  const SLOT = "taglens-annotation:" + data.id;
  // Names that are no UTF-8 are shown alike; their bytes tell them apart.
  const key = (source, bytes) => (bytes ? source + "\0" + bytes : source);

  // -- decisions -----------------------------------------------------------------------------------

  function file() {
    const decisions = [];
    for (const card of cards) {
      const of = (verdict) => card.marks.filter((mark) => mark.verdict === verdict)
        .map((mark) => ({ name: mark.n, kind: mark.k }));
      const [accept, reject] = [of("accept"), of("reject")];
      if (accept.length || reject.length) {
        decisions.push({ source: card.s, source_bytes: card.b, state: card.h, accept, reject });
      }
    }
    return { taglens_review: data.format, decisions };
  }

  // Decisions that fit these pictures as they are shown; how many do not is told.
  function take(content) {
    if (!content || content.taglens_review !== data.format || !Array.isArray(content.decisions)) {
      throw new Error("this is no decisions file");
    }
    forget();
    const byKey = new Map(cards.map((card) => [key(card.s, card.b), card]));
    let left = 0;
    for (const row of content.decisions) {
      const card = row && byKey.get(key(row.source, row.source_bytes));
      for (const verdict of ["accept", "reject"]) {
        for (const named of (row && Array.isArray(row[verdict]) ? row[verdict] : [])) {
          const mark = card && card.h === row.state && named
            && card.marks.find((one) => one.n === named.name && one.k === named.kind);
          if (mark) mark.verdict = verdict; else left += 1;
        }
      }
    }
    return left;
  }
  const name = () => data.title.replace(/[^\w.-]+/g, "-") + "-review.json";
  const decided = () => marks.filter((mark) => mark.verdict).length;
  function forget() {
    for (const mark of marks) mark.verdict = "";
  }
  function decide(mark, verdict) {
    mark.verdict = verdict;
    keep();
    refresh(mark);
  }

  // -- one card ------------------------------------------------------------------------------------

  const states = { given: "given", dropped: "dropped", unsettled: "not settled", absent: "not said" };

  function fill(line, mark) {
    line.className = "mark " + mark.verdict;
    const about = [states[mark.w] || mark.w, mark.y].filter(Boolean).join(": ");
    line.setAttribute("aria-label", mark.n + ", " + about + ", " + (mark.verdict || "undecided"));
    line.replaceChildren(make("b", "", named(mark.n)));
    if (mark.k) line.append(make("span", "chip " + mark.k, mark.k));
    line.append(make("span", "how", about));
    for (const [verdict, text] of [["accept", "Accept"], ["reject", "Reject"]]) {
      const choice = make("button", "", text);
      choice.type = "button";
      choice.tabIndex = -1;
      choice.setAttribute("aria-pressed", String(mark.verdict === verdict));
      choice.addEventListener("click", () => decide(mark, mark.verdict === verdict ? "" : verdict));
      line.append(choice);
    }
    if (mark.d) line.append(make("p", "doubt", named(mark.d)));
  }
  const lineOf = (mark) => document.querySelector('.mark[data-c="' + mark.column + '"]');
  function refresh(mark) {
    const line = lineOf(mark);
    if (!line) return;
    const inside = line.contains(document.activeElement);
    fill(line, mark);
    if (inside) line.focus({ preventScroll: true });
  }
  function cardOf([card, some]) {
    const stage = make("div", "stage");
    if (card.p && /^[A-Za-z0-9+/=]+$/.test(card.p)) {
      const image = make("img");
      image.src = "data:image/jpeg;base64," + card.p;
      image.alt = "";
      stage.append(image);
    } else {
      stage.append(make("p", "missing", "no preview"));
    }
    const list = make("ul", "marks", ...some.map((mark) => {
      const line = make("li");
      line.dataset.c = mark.column;
      line.tabIndex = -1;
      fill(line, mark);
      return line;
    }));
    const right = make("div", "", list);
    if (card.o.length) right.append(make("p", "also", "also given: ", named(card.o.join(", "))));
    if (card.c) right.append(make("p", "also", number(card.c) + " more are not on this page"));
    return make("article", "card", make("h2", "", named(card.s)), stage, right);
  }

  // -- the list ------------------------------------------------------------------------------------

  const views = {
    all: () => true,
    open: (mark) => !mark.verdict,
    done: (mark) => Boolean(mark.verdict),
    suspected: (mark) => Boolean(mark.d),
  };
  function list() {
    const word = at("find").value.trim().toLowerCase();
    const view = at("show").value;
    const fits = views[view] || ((mark) => mark.w === view);
    shown = [];
    for (const card of cards) {
      const whole = card.s.toLowerCase().includes(word);
      const some = card.marks.filter((mark) => fits(mark) && (whole || mark.n.toLowerCase().includes(word)));
      if (some.length) shown.push([card, some]);
    }
    turn(0);
  }
  function count() {
    figures(decided(), marks.length);
    at("count").textContent = number(shown.reduce((sum, [, some]) => sum + some.length, 0)) + " labels of "
      + number(shown.length) + (shown.length === 1 ? " picture" : " pictures");
  }

  // -- events --------------------------------------------------------------------------------------

  function keysOf(line) {
    const mark = marks[Number(line.dataset.c)];
    return {
      a: () => { decide(mark, "accept"); step(line, 1); },
      r: () => { decide(mark, "reject"); step(line, 1); },
      u: () => decide(mark, ""),
      g: () => {
        for (const one of mark.card.marks.filter((each) => each.w === "given" && !each.verdict)) {
          one.verdict = "accept";
          refresh(one);
        }
        keep();
      },
    };
  }
  const said = {
    clear: () => "Forget all decisions of this page?",
    replace: () => "Replace your decisions by the file's?",
    left: (rows) => rows + " decisions of the file are about other labels than these, and were left out.",
    kept: (rows) => rows + " of the decisions that this browser kept are about other labels, and were left out.",
  };
  begin();
"""
)
