"""How a report looks: light and dark, on a phone, on a wide screen and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f4; --card: #ffffff; --ink: #1c1e21;
  --soft: #565c66; --line: #dddfe3; --grid: #ebecef; --blue: #1d5fd1; --faint: #a9c5f3;
  --orange: #b8480b; --code: #f2f3f5; --good: #166534; --good-bg: #dcf5e3; --warn: #8a4b00;
  --warn-bg: #fdefd3; --bad: #a11919; --bad-bg: #fde3e1; --info: #1b4fa8; --info-bg: #e0ebfc; }
@media (prefers-color-scheme: dark) { :root { --page: #131518; --card: #1b1e23; --ink: #e7e9ec;
  --soft: #a3abb7; --line: #333840; --grid: #2a2e35; --blue: #7fb0ff; --faint: #365687;
  --orange: #ffa066; --code: #24282f; --good: #8be0a6; --good-bg: #16331f; --warn: #f5c77a;
  --warn-bg: #3a2c10; --bad: #ff9d97; --bad-bg: #421b1a; --info: #a9caff; --info-bg: #1a2c4b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: .95rem; margin: 0; }
p { margin: 0 0 8px; }
a { color: var(--blue); }
.soft, .unit, .axis, .nothing, dt, th, .note { color: var(--soft); }
.state { display: inline-block; padding: 1px 12px; border-radius: 999px; font-weight: 600;
  margin-right: 8px; background: var(--info-bg); color: var(--info); }
.state.done { background: var(--good-bg); color: var(--good); }
.state.interrupted { background: var(--warn-bg); color: var(--warn); }
.state.failed { background: var(--bad-bg); color: var(--bad); }
.why { white-space: pre-line; overflow-wrap: anywhere; }
.card, .figures > div { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 16px; }
.figures { display: grid; gap: 12px; margin: 20px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(215px, 1fr)); }
.figures dt { font-size: .85rem; }
.figures dd { margin: 0; }
.figures .value { font-size: 1.45rem; font-weight: 650; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.figures .before { color: var(--soft); font-weight: 450; }
.note { font-size: .82rem; line-height: 1.4; }
.note.below { margin: 10px 0 0; }
.charts { display: grid; gap: 12px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
.chart { margin: 0; min-width: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 16px 8px; }
.chart.wide { grid-column: 1 / -1; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline;
  margin-bottom: 12px; }
.unit, .legend, .axis { font-size: .82rem; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-left: auto; }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px;
  margin-right: 6px; vertical-align: middle; background: var(--blue); }
.key.faint::before { background: var(--faint); }
.key.evaluation::before { background: var(--orange); }
.key.best::before { width: 10px; height: 10px; border-radius: 50%; background: none;
  border: 2px solid var(--orange); }
.plot { display: grid; grid-template: minmax(0, 1fr) 22px / 52px minmax(0, 1fr); height: 190px; }
.wide .plot { height: 330px; }
.y, .x { position: relative; font-size: .75rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.y span { position: absolute; right: 8px; transform: translateY(50%); white-space: nowrap; }
.x { grid-column: 2; }
.x span { position: absolute; top: 4px; transform: translateX(-50%); }
.axis { margin: 0; text-align: right; }
svg { width: 100%; height: 100%; display: block; overflow: visible; }
svg path { fill: none; stroke: var(--blue); stroke-width: 2; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; stroke-linecap: round; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .base { stroke: var(--line); stroke-width: 1; }
svg .epoch { stroke: var(--line); stroke-width: 1; stroke-dasharray: 3 4; }
svg .faint { stroke: var(--faint); stroke-width: 1.25; }
svg .evaluation { stroke: var(--orange); stroke-width: 1.5; }
svg .evaluation.dots { stroke-width: 8; }
svg .best.dots { stroke: var(--orange); stroke-width: 15; stroke-opacity: .45; }
svg rect { fill: transparent; }
svg rect:hover { fill: var(--soft); fill-opacity: .22; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 550; white-space: nowrap; overflow-wrap: break-word; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr:last-child > * { border-bottom: 0; }
code, pre { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; background: var(--code);
  border-radius: 6px; padding: 9px 12px; }
.sample { margin-bottom: 12px; }
.sample pre.prompt { max-height: 260px; overflow-y: auto; }
.answers { display: grid; gap: 10px; margin-top: 10px;
  grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
.answers h4 { margin: 0 0 3px; font-size: .82rem; color: var(--soft); font-weight: 550; }
.answers .after h4 { color: var(--blue); }
.answers .after pre { box-shadow: inset 3px 0 0 var(--blue); }
.answers pre { font-family: inherit; font-size: .92rem; }
.recipes { display: grid; gap: 12px; grid-template-columns: minmax(0, 1fr); }
.recipes pre { margin-top: 6px; user-select: all; }
.recipes .note { margin: 6px 0 0; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--blue); }
details h3 { margin: 14px 0 4px; }
ul.warnings { margin: 0; padding-left: 1.2em; overflow-wrap: anywhere; }
footer { margin-top: 40px; padding-top: 14px; border-top: 1px solid var(--line); }
@media (max-width: 760px) { .charts { grid-template-columns: minmax(0, 1fr); }
  main { padding: 18px 12px 36px; } h1 { font-size: 1.35rem; }
  .figures { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px; }
  .figures > div { padding: 10px 12px; } .figures .value { font-size: 1.2rem; }
  .wide .plot { height: 230px; } .chart { padding: 12px 12px 6px; }
  .plot { grid-template-columns: 44px minmax(0, 1fr); }
  th { white-space: normal; } th, td { padding-right: 8px; }
  .stacked thead { display: none; } .stacked :is(tr, th, td) { display: block; border: 0; }
  .stacked tr { padding: 8px 0; border-bottom: 1px solid var(--grid); }
  .stacked :is(th, td) { padding: 0; } .stacked th { color: var(--ink); }
  .stacked td::before { content: attr(data-head) ": "; color: var(--soft); } }
@media print { :root { --page: #fff; } body { font-size: 12px; }
  main { max-width: none; padding: 0; }
  .card, .chart, .figures > div, tr { break-inside: avoid; } h2 { break-after: avoid; }
  pre.prompt { max-height: none !important; } }
"""
