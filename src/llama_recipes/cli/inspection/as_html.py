"""An inspection as one page that needs nothing else: no script, no font, no picture."""

from __future__ import annotations

from html import escape

from llama_recipes.cli.inspection import facts
from llama_recipes.cli.inspection.facts import Inspection
from llama_recipes.cli.inspection.files import MADE_BY
from llama_recipes.cli.inspection.samples import Piece, Sample, pieces
from llama_recipes.data.finding import Finding
from llama_recipes.data.spread import Spread

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --soft: #666; --line: #ddd;
  --trained: #b7e4c0; --trained2: #93d3a2; --masked: #efefef; --masked2: #e2e2e2;
  --control: #0b4f9e; --pad: #f6e3b4; --warn: #8a5a00; --warnpaper: #fff6e0; --bar: #4a90c2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --soft: #a0a0a0;
  --line: #3a3d42; --trained: #1f5a2f; --trained2: #2a7340; --masked: #26292e; --masked2: #31353b;
  --control: #8cc0ff; --pad: #5c4a1c; --warn: #f0c060; --warnpaper: #2c2515; --bar: #5aa0d8; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1rem; max-width: 72rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; overflow-wrap: normal; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
td:first-child { white-space: normal; min-width: 9rem; }
.facts td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.finding { border-left: 4px solid var(--warn); background: var(--warnpaper); padding: .5rem .8rem;
  margin: .6rem 0; } .finding b { color: var(--warn); } .finding p { margin: .2rem 0; }
.text { font: 14px/1.9 ui-monospace, monospace; white-space: pre-wrap; border: 1px solid
  var(--line); padding: .6rem; border-radius: 4px; }
.text span { padding: .1em 0; background: var(--masked); } .text span:nth-child(even) {
  background: var(--masked2); }
.text .t { background: var(--trained); border-bottom: 2px solid currentColor; }
.text .t:nth-child(even) { background: var(--trained2); }
.text .c { color: var(--control); font-weight: bold; }
.text .p, .text .p:nth-child(even) { background: var(--pad); }
.key span { padding: 0 .3em; }
svg rect { fill: var(--bar); }
"""


def page(shown: Inspection) -> str:
    """The whole page. All text of the data is escaped."""
    train = shown.config.train_config
    title = f"What a run of {escape(train.model_name)} on {escape(train.dataset)} would train"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="generator" content="{MADE_BY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
{_findings(shown)}
<h2>Documents</h2>
{_figures(shown)}
<h2>Tokens of a document</h2>
{_spreads(shown)}
<h2>Steps</h2>
{_facts(facts.steps(shown))}
<h2>Prompts and labels</h2>
{_facts(facts.prompts(shown))}
{_samples(shown)}
</html>
"""


def _findings(shown: Inspection) -> str:
    if not shown.findings:
        return "<p>No findings.</p>"
    return "<h2>Findings</h2>\n" + "\n".join(_finding(shown, each) for each in shown.findings)


def _finding(shown: Inspection, finding: Finding) -> str:
    part = "" if finding.part == "run" else f" ({finding.part})"
    where = "; ".join(facts.examples(shown, finding))
    return (
        f'<div class="finding"><p><b>{finding.name}{part}</b> {escape(facts.headline(finding))}</p>'
        + (f'<p class="soft">{escape(where)}</p>' if where else "")
        + f"<p>→ {escape(finding.fix)}</p></div>"
    )


def _figures(shown: Inspection) -> str:
    head = ["", *(part.name for part in shown.parts)]
    return _table(head, [[name, *values] for name, values in facts.figures(shown)])


def _table(head: list[str], rows: list[list[str]], last: list[str] | None = None) -> str:
    """last: ready HTML for one more column."""
    extra = [f"<td>{cell}</td>" for cell in last] if last else [""] * len(rows)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + more + "</tr>"
        for row, more in zip(rows, extra, strict=True)
    )
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head) + ("<th></th>" if last else "")
    return f'<div class="scroll"><table><tr>{header}</tr>\n{body}</table></div>'


def _spreads(shown: Inspection) -> str:
    rows, bars = [], []
    for part in shown.parts:
        for name, values in facts.spreads(part).items():
            rows.append([f"{part.name}, {name}", *facts.spread_cells(values)])
            bars.append(_histogram(values))
    return _table(["", *facts.SPREAD_COLUMNS], rows, bars)


def _histogram(values: Spread) -> str:
    high, width = max(values.counts), 10
    bars = [
        f'<rect x="{width * number}" y="{32 - height:.1f}" width="{width - 1}"'
        f' height="{height:.1f}"><title>{low:,} to {following - 1:,}: {count:,}</title></rect>'
        for number, (low, following, count) in enumerate(
            zip(values.borders, values.borders[1:], values.counts, strict=False)
        )
        for height in [32 * count / high]
    ]
    size = f'width="{width * len(values.counts)}" height="32"'
    return f'<svg {size} role="img" aria-label="histogram">{"".join(bars)}</svg>'


def _facts(lines: list[tuple[str, str]]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in lines
    )
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def _samples(shown: Inspection) -> str:
    if not shown.samples:
        return ""
    key = (
        '<p class="key text"><span class="t">trained</span> <span>masked</span> <span class="c">'
        'control token</span> <span class="p">padding</span> ⏎ a line\'s end</p>'
    )
    return "\n".join(
        [
            "<h2>Samples, from the first batches of the training</h2>",
            f'<p class="soft">{escape(facts.HOW_TO_READ)} A pointer on a token shows its id.</p>',
            key,
            *(_sample(shown, sample) for sample in shown.samples),
        ]
    )


def _sample(shown: Inspection, sample: Sample) -> str:
    spans = [_span(piece) for piece in pieces(sample, shown.tokenizer)]
    padding = f'<span class="p">{sample.padding:,} × padding</span>' if sample.padding else ""
    return (
        f"<h3>{escape(facts.sample_title(shown, sample))}</h3>\n"
        f'<div class="text">{"".join(spans)}{padding}</div>\n'
        f'<p class="soft">{escape(facts.sample_note(sample))}</p>'
    )


def _span(piece: Piece) -> str:
    names = "t" * piece.is_trained + " c" * piece.is_control
    state = "trained" if piece.is_trained else "masked"
    learns = f", learns {piece.learns}" if piece.learns else ""
    about = f"{', '.join(map(str, piece.ids))}: {state}{learns}"
    text = escape(facts.visible(piece.text))
    named = f' class="{names.strip()}"' if names else ""
    return f'<span{named} title="{about}">{text}</span>'
