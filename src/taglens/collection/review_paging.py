"""What the scripts of review pages share: a list that is turned page by page, keys, and decisions in and out.

Knows ids of `taglens.collection.review_frame` and the browser. Refuses to know what is decided about: that is the
page's own script, which `script` puts behind this. It defines

    PER_PAGE, ITEM      cards to a page; what selects an element that keys move to
    SLOT                the name under which the browser keeps decisions
    file(), name()      all decisions, and what their file is called
    take(content)       decisions from such a file; returns how many do not fit, or throws
    decided()           how many decisions there are
    forget()            takes all of them back
    list()              fills ``shown``, and turns to its first page
    cardOf(row)         the element of one of ``shown``
    count()             shows the figures
    keysOf(element)     key -> what it does to an element that ITEM selects
    said                the sentences of the page, see the last lines

and ends with ``begin()``. Texts reach the page as text nodes only. Cards are made for one page of the list at a time,
so that thousands stay quick.
"""

from __future__ import annotations


def script(own: str) -> str:
    """A page's whole script around its own part."""
    return _OPENING + own + "})();\n"


_OPENING = r"""
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const room = document.querySelector("main");
  let shown = [];
  let page = 0;

  function make(name, className, ...parts) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...parts);
    return element;
  }
  function button(text, action, className) {
    const element = make("button", className, text);
    element.type = "button";
    element.addEventListener("click", action);
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

  // -- decisions, kept and saved -------------------------------------------------------------------

  function keep() {
    try {
      localStorage.setItem(SLOT, JSON.stringify(file()));
    } catch (error) {
      complain("This browser keeps nothing for this page: download the decisions before you close it.");
    }
    count();
  }
  function save() {
    const link = make("a");
    const text = JSON.stringify(file(), null, 1) + "\n";
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // -- pages ---------------------------------------------------------------------------------------

  function turn(to) {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    page = Math.min(Math.max(to, 0), pages - 1);
    room.replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(cardOf));
    const first = document.querySelector(ITEM);
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
    const first = document.querySelector(ITEM);
    if (first) first.focus({ preventScroll: true });
  }
  function figures(done, all) {
    at("decided").textContent = number(done);
    at("all").textContent = number(all);
    at("bar").max = Math.max(all, 1);
    at("bar").value = done;
  }
  function step(item, way) {
    const all = [...document.querySelectorAll(ITEM)];
    const next = all[all.indexOf(item) + way];
    if (!next) return;
    item.tabIndex = -1;
    next.tabIndex = 0;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }

  // -- events --------------------------------------------------------------------------------------

  function begin() {
    at("find").addEventListener("input", list);
    at("show").addEventListener("change", list);
    document.querySelector("form.tools").addEventListener("submit", (event) => event.preventDefault());
    at("back").addEventListener("click", () => turnAndShow(page - 1));
    at("next").addEventListener("click", () => turnAndShow(page + 1));
    at("save").addEventListener("click", save);
    at("open").addEventListener("click", () => at("pick").click());
    at("clear").addEventListener("click", () => {
      if (!decided() || !confirm(said.clear(decided()))) return;
      forget();
      keep();
      list();
    });
    at("pick").addEventListener("change", async () => {
      const chosen = at("pick").files[0];
      at("pick").value = "";
      if (!chosen || (decided() && !confirm(said.replace(decided())))) return;
      try {
        const left = take(JSON.parse(await chosen.text()));
        if (left) complain(said.left(left));
        keep();
        list();
      } catch (error) {
        complain("Cannot open " + chosen.name + ": " + error.message + ".");
      }
    });
    document.addEventListener("focusin", (event) => {
      const item = event.target.closest(ITEM);
      if (item) for (const other of document.querySelectorAll(ITEM)) other.tabIndex = other === item ? 0 : -1;
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, summary")) return;
      const item = event.target.closest(ITEM) || document.querySelector(ITEM + '[tabindex="0"]');
      const keys = {
        "/": () => at("find").focus(),
        ArrowLeft: () => { if (page > 0) turnAndShow(page - 1); },
        ArrowRight: () => { if ((page + 1) * PER_PAGE < shown.length) turnAndShow(page + 1); },
      };
      if (item) Object.assign(keys, {
        ArrowDown: () => (item.contains(document.activeElement) ? step(item, 1) : item.focus()),
        ArrowUp: () => step(item, -1),
      }, keysOf(item));
      const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    });
    try {
      const stored = localStorage.getItem(SLOT);
      const left = stored ? take(JSON.parse(stored)) : 0;
      if (left) complain(said.kept(left));
    } catch (error) {
      complain("What this browser kept of earlier decisions cannot be read: " + error.message + ".");
    }
    list();
  }

  // -- this page: said.clear(n), .replace(n), .left(n) of a file, .kept(n) of the browser's --------

"""
