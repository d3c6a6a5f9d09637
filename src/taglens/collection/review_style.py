"""The looks of the review page, as the text that the page's security policy is hashed over.

Knows classes and ids of `taglens.collection.review_page` and `taglens.collection.review_script`; no inline styles
anywhere, which the policy forbids.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --back: #f6f5f2; --card: #fff; --text: #1d1c1a; --soft: #66625b; --line: #dedad2; --hover: #f0eee9;
  --focus: #1f5fd1; --bad: #b3261e; --good: #23733a; --mark: #ffe48a; --mark-text: #1d1c1a; --advice: #eef4ff;
  --object: #2f6fc9; --scene: #23733a; --attribute: #8f5f06; --action: #a3357a; --typed: #61616d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #151617; --card: #1f2123; --text: #eceae6; --soft: #a9a69f; --line: #3a3d41; --hover: #2a2d30;
    --focus: #8ab4ff; --bad: #ff9d94; --good: #7fd095; --mark: #6b5306; --mark-text: #fff3c9; --advice: #1c2a40;
    --object: #7fb0f5; --scene: #7fd095; --attribute: #e0b255; --action: #ea93c8; --typed: #b0b0bc;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
p { margin: 0; }
header, main, nav, #empty, #note, noscript p { padding-inline: clamp(14px, 3vw, 40px); }
header {
  position: sticky; top: 0; z-index: 2; background: var(--back); border-bottom: 1px solid var(--line);
  padding-block: 16px 10px;
}
.top { display: flex; flex-wrap: wrap; gap: 10px 28px; align-items: center; }
.title { flex: 1 1 260px; min-width: 0; }
h1 { font-size: 22px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 2px; font-weight: 680; }
h1, .title p { overflow-wrap: anywhere; }
.title p, .score p, label span, #count, .keys { color: var(--soft); font-size: 13.5px; }
.score b { color: var(--text); font-size: 17px; }
.score, #count { font-variant-numeric: tabular-nums; }
progress { width: 190px; height: 8px; accent-color: var(--good); display: block; margin-top: 3px; }
.file { display: flex; flex-wrap: wrap; gap: 7px; }
.tools { display: flex; flex-wrap: wrap; gap: 10px 16px; align-items: end; margin-top: 12px; }
.tools label { display: grid; gap: 3px; }
.find { flex: 0 1 260px; }
input, select {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 9px;
  padding: 6px 10px; min-height: 36px; min-width: 0;
}
.find input { width: 100%; }
button {
  font: inherit; font-size: 14px; color: var(--text); cursor: pointer; background: var(--card);
  border: 1px solid var(--line); border-radius: 9px; padding: 5px 12px; min-height: 34px;
}
button:hover:not(:disabled) { background: var(--hover); }
button:disabled { opacity: .45; cursor: default; }
button.main { border-color: var(--focus); color: var(--focus); font-weight: 600; }
.kinds { display: flex; flex-wrap: wrap; gap: 6px; }
.object { --k: var(--object); } .scene { --k: var(--scene); } .attribute { --k: var(--attribute); }
.action { --k: var(--action); } .typed { --k: var(--typed); }
.kind { color: var(--k); border-color: var(--k); border-radius: 999px; }
.kind[aria-pressed=false] { opacity: .5; border-style: dashed; text-decoration: line-through; }
.bar { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: center; margin-top: 10px; min-height: 34px; }
.keys { margin-left: auto; }
.keys summary { cursor: pointer; text-align: right; }
.keys p { max-width: 74ch; padding-top: 4px; }
kbd {
  font: 12px/1.3 ui-monospace, Menlo, Consolas, monospace; border: 1px solid var(--line); border-radius: 4px;
  padding: 0 4px; background: var(--card); color: var(--soft);
}
#note { background: var(--bad); color: var(--back); padding-block: 9px; font-weight: 600; overflow-wrap: anywhere; }

main { display: grid; gap: 12px; padding-block: 16px; max-width: 1280px; margin-inline: auto; }
.tag {
  background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--k); border-radius: 12px;
  padding: 12px 16px 13px; display: grid; gap: 9px 26px; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr);
  scroll-margin: 220px 0 30px;
}
.tag:focus { outline: 2px solid var(--focus); outline-offset: 1px; }
.head, .acts, .form, .advice, .done { grid-column: 1 / -1; }
.head { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; }
h2 { font-size: 18px; font-weight: 660; margin: 0; overflow-wrap: anywhere; line-height: 1.3; }
.chip { color: var(--k); font-size: 13px; font-weight: 600; }
.often { margin-left: auto; font-size: 13.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
.often b { color: var(--text); font-size: 15px; }
.also { color: var(--soft); font-size: 13.5px; overflow-wrap: anywhere; flex-basis: 100%; }
.side h3 { font-size: 12.5px; font-weight: 600; color: var(--soft); margin: 0 0 3px; }
.says, .near { list-style: none; margin: 0; padding: 0; }
.says li { font-size: 14px; overflow-wrap: anywhere; padding: 1px 0; }
mark { background: var(--mark); color: var(--mark-text); border-radius: 3px; padding: 0 2px; }
.none { color: var(--soft); font-size: 14px; font-style: italic; }
.near { display: grid; gap: 4px; }
.near li { display: flex; gap: 9px; align-items: center; font-size: 13.5px; color: var(--soft); }
.near li > span { overflow-wrap: anywhere; min-width: 0; }
.near b { color: var(--text); font-weight: 600; }
.near button { padding: 1px 9px; min-height: 26px; font-size: 13px; flex: none; }
.advice {
  display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; background: var(--advice);
  border-radius: 9px; padding: 6px 8px 6px 12px; overflow-wrap: anywhere;
}
.advice button { margin-left: auto; }
.acts { display: flex; flex-wrap: wrap; gap: 6px; }
.acts [aria-pressed=true] { background: var(--text); color: var(--card); border-color: var(--text); }
.acts .undo { margin-left: auto; }
.form { display: flex; flex-wrap: wrap; gap: 7px; align-items: center; }
.form label { color: var(--soft); font-size: 14px; }
.form input { flex: 0 1 300px; }
.done { font-weight: 600; color: var(--good); overflow-wrap: anywhere; }
.tag.gone { border-style: dashed; border-left-style: solid; }
.tag.gone h2 { text-decoration: line-through; text-decoration-thickness: 1px; color: var(--soft); }
.tag.gone .done { color: var(--bad); }
nav { display: flex; gap: 14px; justify-content: center; align-items: center; padding-bottom: 40px; }
#empty { text-align: center; color: var(--soft); padding-block: 40px; }
@media (max-width: 760px) {
  header { position: static; }
  .tag { grid-template-columns: minmax(0, 1fr); scroll-margin: 12px; }
  .often { margin-left: 0; }
}
"""
