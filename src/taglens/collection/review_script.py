"""The behaviour of a vocabulary's review page, as the text that the page's security policy is hashed over.

Knows the data that `taglens.collection.review_page` embeds and the decisions file; lists, keys and files are
`taglens.collection.review_paging`'s. Names and captions reach the page as text nodes only. What
`taglens.language.vocabulary_decisions` would refuse (merges that go round or end in a denied tag, a name that is
taken) is refused here when it is decided.
"""

from __future__ import annotations

from taglens.collection.review_paging import script

SCRIPT = script(
    r"""
  const PER_PAGE = 40;
  const ITEM = ".tag";
  const tags = data.tags.map((row, column) => ({
    ...row, column, s: row.s || [], p: row.p || [], x: row.x || [], r: row.r || [],
    found: [row.n, ...(row.s || [])].join("\n").toLowerCase(),
  }));
  const byId = new Map(tags.map((tag) => [tag.i, tag]));
  const SLOT = "taglens-review:" + data.vocabulary.fingerprint;
  const decisions = new Map();
  // What decisions do to other tags, kept by put and drop, so that one is checked without reading all of them.
  const sources = new Map();  // id -> ids of the tags that are merged into it
  const moved = new Map();  // id of a tag whose name or kind changes -> the id that it gets
  const kinds = [...document.querySelectorAll("button.kind")];
  const normal = (name) => name.normalize("NFC").replace(/\s+/g, " ").trim().toLowerCase();
  // A tag of the same name and another kind needs its kind to be told apart.
  const homographs = new Set();
  const seen = new Set();
  for (const tag of tags) (seen.has(normal(tag.n)) ? homographs : seen).add(normal(tag.n));
  const called = (tag) => (homographs.has(normal(tag.n)) ? tag.n + " (" + tag.k + ")" : tag.n);

  // -- decisions -----------------------------------------------------------------------------------

  function put(row) {
    release(row.id);
    decisions.set(row.id, row);
    if (row.decision === "merge") {
      if (!sources.has(row.into)) sources.set(row.into, new Set());
      sources.get(row.into).add(row.id);
    } else if (row.decision === "rename" || row.decision === "kind") {
      moved.set(row.id, identity(byId.get(row.id), row));
    }
  }
  function drop(id) {
    release(id);
    return decisions.delete(id);
  }
  function release(id) {
    const row = decisions.get(id);
    if (row && row.decision === "merge") sources.get(row.into).delete(id);
    moved.delete(id);
  }
  function forget() {
    for (const known of [decisions, sources, moved]) known.clear();
  }

  // Why a decision cannot be, or "".
  function objection(tag, row) {
    const [into] = sources.get(tag.i) || [];
    if (row.decision === "deny" && into) {
      return "“" + tag.n + "” cannot be denied: “" + byId.get(into).n + "” is merged into it. Undo that first.";
    }
    if (row.decision === "merge") {
      const target = byId.get(row.into);
      if (!target) return "There is no such tag to merge into.";
      let here = target;
      for (let steps = 0; here && steps <= tags.length; steps += 1) {
        if (here === tag) return "“" + tag.n + "” cannot be merged into itself, not even by way of others.";
        const next = decisions.get(here.i);
        if (next && next.decision === "deny") {
          return "“" + tag.n + "” cannot be merged into “" + here.n + "”, which is denied. Undo that first.";
        }
        here = next && next.decision === "merge" ? byId.get(next.into) : null;
      }
    }
    if (row.decision !== "deny" && row.decision !== "merge") {
      if (row.decision === "rename" && !normal(row.name)) return "A tag needs a name.";
      const id = identity(tag, row);
      const taken = holder(tag, id);
      if (taken) return "“" + taken.n + "” is " + id + " already: merge the two instead.";
    }
    return "";
  }
  const alive = (tag) => !["deny", "merge"].includes((decisions.get(tag.i) || {}).decision);
  // The id that a decision gives a tag; the part after the kind is the name as the vocabulary compares it.
  function identity(tag, row) {
    if (row.decision === "kind") return row.kind + tag.i.slice(tag.k.length);
    return row.decision === "rename" ? tag.k + ":" + normal(row.name) : tag.i;
  }
  // The other tag that has an id after all decisions, if any.
  function holder(tag, id) {
    const other = byId.get(id);
    if (other && other !== tag && alive(other) && !moved.has(id)) return other;
    for (const [from, now] of moved) if (now === id && from !== tag.i) return byId.get(from);
    return null;
  }

  function decide(tag, row) {
    const why = objection(tag, row);
    if (why) {
      complain(why);
      return false;
    }
    put({ id: tag.i, ...row });
    keep();
    refresh(tag);
    return true;
  }
  function undo(tag) {
    const why = decisions.has(tag.i) ? objection(tag, { decision: "keep" }) : "";
    if (why) {
      complain(why);
    } else if (drop(tag.i)) {
      keep();
      refresh(tag);
    }
  }
  function advised(tag) {
    const [decision, , target] = tag.a;
    if (decision === "merge") return { decision, into: tags[target].i };
    return decision === "kind" ? { decision, kind: target } : { decision };
  }

  const file = () => ({
    taglens_decisions: data.format,
    vocabulary: data.vocabulary,
    decisions: tags.filter((tag) => decisions.has(tag.i)).map((tag) => decisions.get(tag.i)),
  });
  // Rows that fit this vocabulary; what does not fit is counted and left out.
  function take(content) {
    if (!content || content.taglens_decisions !== data.format || !Array.isArray(content.decisions)) {
      throw new Error("this is no decisions file");
    }
    const of = (content.vocabulary || {}).fingerprint;
    if (of !== data.vocabulary.fingerprint) {
      throw new Error("these decisions are about another vocabulary (" + of + ")");
    }
    forget();
    let left = 0;
    for (const row of content.decisions) {
      const tag = row && byId.get(row.id);
      const fields = { keep: [], deny: [], merge: ["into"], rename: ["name"], kind: ["kind"] }[row && row.decision];
      const plain = fields && fields.every((field) => typeof row[field] === "string") && row.kind !== "typed";
      if (!tag || !plain || (row.decision === "kind" && !data.kinds.includes(row.kind))) { left += 1; continue; }
      const clean = { id: row.id, decision: row.decision };
      for (const field of fields) clean[field] = row[field];
      put(clean);
    }
    for (const row of [...decisions.values()]) {
      if (objection(byId.get(row.id), row)) left += Number(drop(row.id));
    }
    return left;
  }
  const name = () => data.vocabulary.name.replace(/[^\w.-]+/g, "-") + "-decisions.json";
  const decided = () => decisions.size;

  // -- one card ------------------------------------------------------------------------------------

  function sentence(tag, row) {
    if (row.decision === "merge") return ["Merged into ", named(called(byId.get(row.into)))];
    if (row.decision === "rename") return ["Renamed to ", named(row.name)];
    if (row.decision === "kind") return ["Kind changed to " + row.kind];
    return [row.decision === "deny" ? "Denied" : "Kept"];
  }
  function advice(tag) {
    const [decision, why, target] = tag.a;
    const what = { merge: "merge into ", deny: "deny", kind: "change kind to " + target }[decision];
    const parts = ["Proposed: " + what, ...(decision === "merge" ? [named(called(tags[target]))] : [])];
    const text = make("span", "", ...parts, " (", named(why), ")");
    return make("div", "advice", text, button("Accept", () => decide(tag, advised(tag))));
  }
  function head(tag) {
    const often = make("span", "often", make("b", "", number(tag.f)), tag.f === 1 ? " caption" : " captions");
    if (tag.c) often.append(" · count " + number(tag.c));
    const element = make("div", "head", make("h2", "", named(tag.n)), make("span", "chip", tag.k), often);
    const also = [];
    if (tag.h) also.push("hidden");
    if (tag.s.length) also.push("also: " + tag.s.join(", "));
    if (tag.p.length) also.push("implies: " + tag.p.join(", "));
    if (also.length) element.append(make("p", "also", named(also.join(" · "))));
    return element;
  }
  function says(tag) {
    if (!tag.x.length) return make("p", "none", "no caption names it");
    return make("ul", "says", ...tag.x.map(([before, word, after]) =>
      make("li", "", make("bdi", "", before, ...(word ? [make("mark", "", word)] : []), after))));
  }
  function near(tag) {
    const rows = tag.r.map(([column, why]) => {
      const other = tags[column];
      const merge = button("Merge into", () => decide(tag, { decision: "merge", into: other.i }));
      merge.setAttribute("aria-label", "Merge " + tag.n + " into " + called(other));
      const text = make("span", "", make("b", "", named(called(other))), " " + number(other.f) + " · ", named(why));
      return make("li", "", merge, text);
    });
    return make("div", "side", make("h3", "", "Near it"), make("ul", "near", ...rows));
  }
  function acts(tag) {
    const row = decisions.get(tag.i);
    const choices = [
      ["keep", "Keep", () => decide(tag, { decision: "keep" })],
      ["deny", "Deny", () => decide(tag, { decision: "deny" })],
      ["merge", "Merge…", () => ask(tag, "merge")],
      ["rename", "Rename…", () => ask(tag, "rename")],
      ["kind", "Change kind…", () => ask(tag, "kind")],
    ];
    const element = make("div", "acts");
    for (const [decision, text, action] of choices) {
      const choice = button(text, action);
      choice.setAttribute("aria-pressed", String(Boolean(row && row.decision === decision)));
      element.append(choice);
    }
    if (row) element.append(button("Undo", () => undo(tag), "undo"));
    return element;
  }
  function fill(card, tag) {
    const row = decisions.get(tag.i);
    card.className = "tag " + tag.k + (alive(tag) ? "" : " gone");
    card.setAttribute("aria-label", called(tag) + ", " + (row ? row.decision : "undecided"));
    card.replaceChildren(head(tag));
    card.append(make("div", "side", make("h3", "", "In captions"), says(tag)));
    if (tag.r.length) card.append(near(tag));
    if (tag.a && !row) card.append(advice(tag));
    if (row) card.append(make("p", "done", ...sentence(tag, row)));
    card.append(acts(tag));
  }
  function cardOf(tag) {
    const card = make("article");
    card.dataset.c = tag.column;
    card.tabIndex = -1;
    fill(card, tag);
    return card;
  }
  const placed = (tag) => document.querySelector('.tag[data-c="' + tag.column + '"]');
  function refresh(tag) {
    const card = placed(tag);
    if (!card) return;
    const inside = card.contains(document.activeElement);
    fill(card, tag);
    if (inside) card.focus({ preventScroll: true });
  }

  // A line below the card in which the rest of a decision is typed.
  function ask(tag, decision) {
    const card = placed(tag);
    for (const old of document.querySelectorAll(".form")) old.remove();
    const field = make(decision === "kind" ? "select" : "input");
    if (decision === "kind") {
      for (const kind of data.kinds) if (kind !== tag.k) field.append(make("option", "", kind));
    } else if (decision === "rename") {
      field.value = tag.n;
    } else {
      names();
      field.setAttribute("list", "names");
      field.placeholder = "name or id of a tag";
    }
    field.id = "answer";
    const text = { merge: "Merge into", rename: "New name", kind: "New kind" }[decision];
    const label = make("label", "", text);
    label.htmlFor = "answer";
    const close = () => { form.remove(); card.focus({ preventScroll: true }); };
    const form = make("form", "form", label, field, make("button", "main", "Set"), button("Cancel", close));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const row = answer(tag, decision, field.value);
      if (row && decide(tag, row)) card.focus({ preventScroll: true });
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      // In a text field Enter submits by itself.
      if (event.key === "Enter" && event.target === field && decision === "kind") form.requestSubmit();
    });
    card.append(form);
    field.focus();
    if (field.select) field.select();
  }
  function answer(tag, decision, text) {
    if (decision === "kind") return { decision, kind: text };
    if (decision === "rename") return { decision, name: text.replace(/\s+/g, " ").trim() };
    const key = normal(text);
    const fits = byId.has(text.trim())
      ? [byId.get(text.trim())]
      : tags.filter((other) => other !== tag && (normal(other.n) === key || normal(called(other)) === key));
    const same = fits.filter((other) => other.k === tag.k);
    const found = same.length === 1 ? same : fits;
    if (found.length === 1) return { decision, into: found[0].i };
    complain(found.length
      ? "“" + text + "” is several tags: type an id, such as " + found.map((other) => other.i).join(" or ") + "."
      : "There is no tag “" + text + "”: choose a name from the list.");
    return null;
  }
  function names() {
    if (at("names").childElementCount) return;
    at("names").append(...tags.map((tag) => {
      const option = make("option");
      option.value = called(tag);
      return option;
    }));
  }

  // -- the list ------------------------------------------------------------------------------------

  const orders = {
    often: (a, b) => b.f - a.f || b.c - a.c || a.column - b.column,
    rare: (a, b) => a.f - b.f || a.c - b.c || a.column - b.column,
    name: (a, b) => (a.n < b.n ? -1 : a.n > b.n ? 1 : a.column - b.column),
    open: (a, b) => decisions.has(a.i) - decisions.has(b.i) || orders.often(a, b),
    advice: (a, b) => Boolean(b.a) - Boolean(a.a) || orders.often(a, b),
  };
  const views = {
    all: () => true,
    open: (tag) => !decisions.has(tag.i),
    done: (tag) => decisions.has(tag.i),
    advice: (tag) => Boolean(tag.a),
    near: (tag) => tag.r.some(([, , close]) => close),
    never: (tag) => tag.f === 0,
  };
  const isOff = (one) => one.getAttribute("aria-pressed") === "false";

  function list() {
    const word = normal(at("find").value);
    const off = new Set(kinds.filter(isOff).map((one) => one.dataset.k));
    const fits = views[at("show").value];
    shown = tags.filter((tag) => !off.has(tag.k) && fits(tag) && (tag.found.includes(word) || tag.i === word));
    shown.sort(orders[at("sort").value]);
    turn(0);
  }
  function count() {
    figures(decisions.size, tags.length);
    at("count").textContent = shown.length === tags.length ? number(tags.length) + " tags"
      : number(shown.length) + " of " + number(tags.length) + " tags";
    const waiting = proposals();
    at("accept").hidden = waiting.length === 0;
    at("accept").textContent = "Accept proposals shown (" + number(waiting.length) + ")…";
  }
  const proposals = () => shown.filter((tag) => tag.a && !decisions.has(tag.i));

  // -- events --------------------------------------------------------------------------------------

  at("sort").addEventListener("change", list);
  for (const one of kinds) {
    one.addEventListener("click", () => {
      one.setAttribute("aria-pressed", String(isOff(one)));
      list();
    });
  }
  at("accept").addEventListener("click", () => {
    const waiting = proposals();
    if (!confirm("Accept " + waiting.length + " proposals, on all pages of this view?")) return;
    const refused = waiting.filter((tag) => {
      const row = advised(tag);
      if (objection(tag, row)) return true;
      put({ id: tag.i, ...row });
      return false;
    });
    keep();
    turn(page);
    if (refused.length) complain(refused.length + " proposals do not fit what you decided, and were left open.");
  });
  function keysOf(card) {
    const tag = tags[Number(card.dataset.c)];
    const onward = (done) => { if (done) step(card, 1); };
    return {
      k: () => onward(decide(tag, { decision: "keep" })),
      d: () => onward(decide(tag, { decision: "deny" })),
      a: () => { if (tag.a && !decisions.has(tag.i)) onward(decide(tag, advised(tag))); },
      m: () => ask(tag, "merge"),
      r: () => ask(tag, "rename"),
      c: () => ask(tag, "kind"),
      u: () => undo(tag),
    };
  }
  const said = {
    clear: (all) => "Forget all " + all + " decisions?",
    replace: (all) => "Replace your " + all + " decisions by those of the file?",
    left: (rows) => rows + " rows of the file do not fit this vocabulary and were left out.",
    kept: (rows) => rows + " of the decisions that this browser kept do not fit each other and were left out.",
  };
  begin();
"""
)
