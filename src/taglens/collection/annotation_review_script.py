"""The behaviour and the looks of an annotation's review page, as the texts that its security policy is hashed over.

Knows the data that `taglens.collection.annotation_review` embeds and the decisions file. Names reach the page as text
nodes only, pictures as addresses made of base64 alone. Cards are made for some pictures at a time.
"""

from __future__ import annotations

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

SCRIPT = r"""
"use strict";
(() => {
  const PER_PAGE = 20;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const cards = data.cards;
  const marks = [];
  cards.forEach((card, place) => {
    card.marks = card.t.map((row) => {
      const mark = { ...row, card, column: marks.length, place, verdict: "" };
      marks.push(mark);
      return mark;
    });
  });
  const slot = "taglens-annotation:" + data.id;
  let shown = [];
  let page = 0;

  function make(name, className, ...parts) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...parts);
    return element;
  }
  const named = (text) => make("bdi", "", text);
  const number = (value) => value.toLocaleString("en");

  let silence = 0;
  function complain(text) {
    at("note").textContent = text;
    at("note").hidden = false;
    clearTimeout(silence);
    silence = setTimeout(() => { at("note").hidden = true; }, 9000);
  }

  // -- decisions -----------------------------------------------------------------------------------

  function file() {
    const decisions = [];
    for (const card of cards) {
      const of = (verdict) => card.marks.filter((mark) => mark.verdict === verdict)
        .map((mark) => ({ name: mark.n, kind: mark.k }));
      const [accept, reject] = [of("accept"), of("reject")];
      if (accept.length || reject.length) decisions.push({ source: card.s, state: card.h, accept, reject });
    }
    return { taglens_review: data.format, decisions };
  }
  function keep() {
    try {
      localStorage.setItem(slot, JSON.stringify(file()));
    } catch (error) {
      complain("This browser keeps nothing for this page: download the decisions before you close it.");
    }
    count();
  }
  // Decisions that fit these pictures as they are shown; how many do not is told.
  function take(content) {
    if (!content || content.taglens_review !== data.format || !Array.isArray(content.decisions)) {
      throw new Error("this is no decisions file");
    }
    for (const mark of marks) mark.verdict = "";
    const bySource = new Map(cards.map((card) => [card.s, card]));
    let left = 0;
    for (const row of content.decisions) {
      const card = row && bySource.get(row.source);
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
  function save() {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file(), null, 1) + "\n"], { type: "application/json" }));
    link.download = data.title.replace(/[^\w.-]+/g, "-") + "-review.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
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
  function cardFor([card, some]) {
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
  function turn(to) {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    page = Math.min(Math.max(to, 0), pages - 1);
    at("cards").replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(cardFor));
    const first = document.querySelector(".mark");
    if (first) first.tabIndex = 0;
    at("page").textContent = "page " + number(page + 1) + " of " + number(pages);
    at("back").disabled = page === 0;
    at("next").disabled = page === pages - 1;
    at("pages").hidden = pages === 1;
    at("empty").hidden = shown.length > 0;
    count();
  }
  function turnAndShow(to) {
    turn(to);
    window.scrollTo(0, 0);
    const first = document.querySelector(".mark");
    if (first) first.focus({ preventScroll: true });
  }
  function count() {
    const done = marks.filter((mark) => mark.verdict).length;
    at("decided").textContent = number(done);
    at("all").textContent = number(marks.length);
    at("bar").max = Math.max(marks.length, 1);
    at("bar").value = done;
    at("count").textContent = number(shown.reduce((sum, [, some]) => sum + some.length, 0)) + " labels of "
      + number(shown.length) + (shown.length === 1 ? " picture" : " pictures");
  }

  // -- events --------------------------------------------------------------------------------------

  at("find").addEventListener("input", list);
  at("show").addEventListener("change", list);
  document.querySelector("form.tools").addEventListener("submit", (event) => event.preventDefault());
  at("back").addEventListener("click", () => turnAndShow(page - 1));
  at("next").addEventListener("click", () => turnAndShow(page + 1));
  at("save").addEventListener("click", save);
  at("open").addEventListener("click", () => at("pick").click());
  at("clear").addEventListener("click", () => {
    if (!confirm("Forget all decisions of this page?")) return;
    for (const mark of marks) mark.verdict = "";
    keep();
    turn(page);
  });
  at("pick").addEventListener("change", async () => {
    const chosen = at("pick").files[0];
    at("pick").value = "";
    if (!chosen || (marks.some((mark) => mark.verdict) && !confirm("Replace your decisions by the file's?"))) return;
    try {
      const left = take(JSON.parse(await chosen.text()));
      if (left) complain(left + " decisions of the file are about other labels than these, and were left out.");
      keep();
      list();
    } catch (error) {
      complain("Cannot open " + chosen.name + ": " + error.message + ".");
    }
  });

  function step(line, way) {
    const all = [...document.querySelectorAll(".mark")];
    const next = all[all.indexOf(line) + way];
    if (!next) return;
    line.tabIndex = -1;
    next.tabIndex = 0;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("focusin", (event) => {
    const line = event.target.closest(".mark");
    if (line) for (const other of document.querySelectorAll(".mark")) other.tabIndex = other === line ? 0 : -1;
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, summary")) return;
    const line = event.target.closest(".mark") || document.querySelector('.mark[tabindex="0"]');
    const mark = line && marks[Number(line.dataset.c)];
    const keys = {
      "/": () => at("find").focus(),
      ArrowLeft: () => { if (page > 0) turnAndShow(page - 1); },
      ArrowRight: () => { if ((page + 1) * PER_PAGE < shown.length) turnAndShow(page + 1); },
    };
    if (line) Object.assign(keys, {
      ArrowDown: () => (line.contains(document.activeElement) ? step(line, 1) : line.focus()),
      ArrowUp: () => step(line, -1),
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
    });
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });

  try {
    const stored = localStorage.getItem(slot);
    if (stored) take(JSON.parse(stored));
  } catch (error) {
    complain("What this browser kept of earlier decisions cannot be read: " + error.message + ".");
  }
  list();
})();
"""
