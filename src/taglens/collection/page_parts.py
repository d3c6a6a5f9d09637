"""The page's style and script, as the text that the page's security policy is hashed over.

Knows looks and filtering. Refuses to know predictions: it sees only the classes and data attributes that
`taglens.collection.page` writes. No inline styles anywhere (the policy forbids them), so a score's bar has
one class for each per cent, ``p0`` to ``p100``.
"""

from __future__ import annotations

_PER_CENT = "".join(f".p{n}{{--p:{n}%}}" for n in range(101))

STYLE = (
    """
:root {
  color-scheme: light dark;
  --back: #f6f5f2; --card: #fff; --text: #1d1c1a; --soft: #66625b; --line: #e3e0d9; --stage: #eceae4;
  --focus: #1f5fd1; --bad: #b3261e; --bad-back: #fdecea;
  --object: #bcd7fb; --scene: #bfe5c5; --attribute: #f8dca0; --action: #f3c5e1; --typed: #d3d3da;
  --object-line: #3f7fd6; --scene-line: #2f8f48; --attribute-line: #a8740a; --action-line: #b9448c;
  --typed-line: #6d6d7a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #151617; --card: #1f2123; --text: #eceae6; --soft: #a5a29b; --line: #34373a; --stage: #0f1011;
    --focus: #8ab4ff; --bad: #ff9d94; --bad-back: #3b1d1b;
    --object: #1f4677; --scene: #1f5530; --attribute: #604409; --action: #6b2853; --typed: #474750;
    --object-line: #6ea6f0; --scene-line: #63bb79; --attribute-line: #d9a440; --action-line: #e07fba;
    --typed-line: #a3a3b0;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
header { padding: 28px clamp(16px, 3vw, 40px) 14px; }
h1 { font-size: 26px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 4px; font-weight: 680; }
.title p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.bad { color: var(--bad); font-weight: 600; }
#count, output { font-variant-numeric: tabular-nums; }

.tools { display: flex; flex-wrap: wrap; gap: 14px 22px; align-items: end; margin-top: 20px; }
.tools label { display: grid; gap: 5px; }
.tools label span { font-size: 13px; color: var(--soft); }
.tools output { color: var(--text); }
.find { flex: 0 1 300px; }
.find input {
  font: inherit; color: inherit; background: var(--card); width: 100%;
  border: 1px solid var(--line); border-radius: 10px; padding: 8px 12px;
}
.least { flex: 0 1 220px; }
.least input { width: 100%; accent-color: var(--focus); height: 38px; margin: 0; }
.kinds, .frequent { display: flex; flex-wrap: wrap; gap: 7px; }
.frequent { margin-top: 16px; }
button {
  font: inherit; font-size: 14px; color: var(--text); cursor: pointer;
  border: 1px solid var(--k-line); border-radius: 999px; padding: 5px 12px; background: var(--k);
}
button span { opacity: .75; font-variant-numeric: tabular-nums; }
.kind[aria-pressed=false] { background: transparent; border-style: dashed; color: var(--soft); }
.often { background: transparent; border-color: var(--line); padding: 3px 11px; }
.often:hover, .often.on { background: var(--k); border-color: var(--k-line); }

.object { --k: var(--object); --k-line: var(--object-line); }
.scene { --k: var(--scene); --k-line: var(--scene-line); }
.attribute { --k: var(--attribute); --k-line: var(--attribute-line); }
.action { --k: var(--action); --k-line: var(--action-line); }
.typed { --k: var(--typed); --k-line: var(--typed-line); }

main {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 20px;
  padding: 10px clamp(16px, 3vw, 40px) 48px;
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 16px; overflow: hidden;
  content-visibility: auto; contain-intrinsic-size: auto 420px; box-shadow: 0 1px 2px rgb(0 0 0 / .05);
}
.stage { background: var(--stage); aspect-ratio: 4 / 3; position: relative; overflow: hidden; }
.stage > * { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.missing { display: grid; place-items: center; color: var(--soft); }
.text { padding: 14px 16px 17px; }
h2 { font-size: 15px; font-weight: 620; margin: 0; overflow-wrap: anywhere; line-height: 1.35; }
.size, .none { margin: 2px 0 0; color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.none { margin-top: 12px; font-style: italic; }
.caption { margin: 8px 0 0; }
.tags { list-style: none; margin: 12px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 6px; }
.tag {
  display: inline-flex; align-items: baseline; gap: 7px; max-width: 100%; padding: 3px 10px;
  border: 1px solid color-mix(in srgb, var(--k-line) 45%, transparent); border-radius: 8px;
  background: linear-gradient(to right, var(--k) var(--p), transparent var(--p));
}
.tag .n { overflow-wrap: anywhere; }
.tag .s { font-size: 12px; font-variant-numeric: tabular-nums; opacity: .82; }
.vh {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
.failed { border-color: var(--bad); }
.failed .missing { background: var(--bad-back); color: var(--bad); font-size: 17px; }
.failed .missing b::before { content: "\\2715\\a0\\a0"; }
.why { margin: 6px 0 0; color: var(--bad); overflow-wrap: anywhere; }
.empty { text-align: center; color: var(--soft); padding: 40px 16px; }
@media print {
  .tools, .frequent { display: none; }
  .card { break-inside: avoid; content-visibility: visible; }
}
"""
    + _PER_CENT
    + "\n"
)

SCRIPT = """
"use strict";
(() => {
  const find = document.getElementById("find");
  const least = document.getElementById("least");
  const shown = document.getElementById("shown");
  const count = document.getElementById("count");
  const every = count.textContent;
  const empty = document.getElementById("empty");
  const kinds = [...document.querySelectorAll("button.kind")];
  const often = [...document.querySelectorAll("button.often")];
  const cards = [...document.querySelectorAll(".card")].map((card) => ({
    card,
    name: card.querySelector("h2 bdi").title.toLowerCase(),
    tags: [...card.querySelectorAll(".tag")].map((tag) => ({
      tag,
      name: tag.dataset.n,
      score: Number(tag.dataset.s),
      kind: tag.classList[1],
    })),
  }));

  const isOff = (button) => button.getAttribute("aria-pressed") === "false";
  const wanted = () => find.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);

  function filter() {
    const words = wanted();
    const from = Number(least.value);
    const off = new Set(kinds.filter(isOff).map((button) => button.dataset.k));
    const narrowed = words.length > 0 || from > 0;
    let left = 0;
    for (const { card, name, tags } of cards) {
      const seen = tags.filter(({ tag, score, kind }) => {
        const keep = score >= from && !off.has(kind);
        tag.hidden = !keep;
        return keep;
      });
      const fits = words.length
        ? words.every((word) => seen.some((tag) => tag.name.includes(word)) || name.includes(word))
        : !(narrowed && seen.length === 0);
      card.hidden = !fits;
      left += fits;
    }
    shown.value = from.toFixed(2);
    count.textContent = left === cards.length ? every : left + " of " + every;
    empty.hidden = left > 0 || cards.length === 0;
    for (const button of often) button.classList.toggle("on", words.includes(button.dataset.n));
  }

  let waiting = 0;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, cards.length > 500 ? 150 : 0);
  };
  find.addEventListener("input", soon);
  least.addEventListener("input", soon);
  document.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    filter();
  });
  for (const button of kinds) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(isOff(button)));
      filter();
    });
  }
  for (const button of often) {
    button.addEventListener("click", () => {
      const words = wanted();
      const name = button.dataset.n;
      const others = words.filter((word) => word !== name);
      find.value = (others.length < words.length ? others : [...words, name]).join(", ");
      filter();
    });
  }
  filter();
})();
"""
