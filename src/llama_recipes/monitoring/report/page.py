"""report.html: one file for a person who wants to understand a run, made of its files alone.

No script, no font and no picture from elsewhere; every text of a run is escaped.
"""

from __future__ import annotations

import shlex

import llama_recipes
from llama_recipes.monitoring.report import sections, summary
from llama_recipes.monitoring.report.curves import charts
from llama_recipes.monitoring.report.files import RunFiles
from llama_recipes.monitoring.report.markup import paragraph, section, text
from llama_recipes.monitoring.report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Tells a browser to ask nobody for anything, whatever stands in the page."""


def report_page(run: RunFiles) -> str:
    """The page of a run: the same files and folder give the same page."""
    title = f"{run.setting('train_config.model_name')} on {run.setting('train_config.dataset')}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in _parts(run, title) if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _parts(run: RunFiles, title: str) -> list[str]:
    return [
        _head(run, title),
        _figures(run),
        sections.warnings(run),
        section("Curves", f'<div class="charts">{charts(run)}</div>'),
        sections.samples(run),
        sections.next_steps(run),
        sections.data(run),
        sections.settings(run),
        sections.machine(run),
        _foot(run),
    ]


def _head(run: RunFiles, title: str) -> str:
    kind, ending = summary.state(run)
    started = summary.when(run)
    about = f"{summary.method(run)}{f'; begun on {started}' if started else ''}."
    about = about[0].upper() + about[1:]
    return (
        f'<header><h1>{text(title)}</h1><p class="soft">{text(about)}</p>'
        f'<p><span class="state {kind.replace(" ", "-")}">{kind.capitalize()}</span>'
        f"{text(ending)}</p>{paragraph(summary.why(run), 'why')}</header>"
    )


def _figures(run: RunFiles) -> str:
    shown = "".join(_figure(figure) for figure in summary.figures(run))
    return f'<dl class="figures">{shown}</dl>' if shown else ""


def _figure(figure: summary.Figure) -> str:
    arrow = '<span aria-hidden="true"> → </span>'
    before = f'<span class="before">{text(figure.before)}{arrow}</span>' if figure.before else ""
    note = f'<dd class="note">{text(figure.note)}</dd>' if figure.note else ""
    return (
        f"<div><dt>{text(figure.name)}</dt>"
        f'<dd class="value">{before}{text(figure.value)}</dd>{note}</div>'
    )


def _foot(run: RunFiles) -> str:
    command = shlex.join(["llama-recipes", "report", str(run.folder)])
    return (
        f'<footer class="note"><p>Made by llama-recipes {text(llama_recipes.__version__)} of the'
        f" files in <code>{text(run.folder)}</code>. Make it anew with"
        f" <code>{text(command)}</code>.</p></footer>"
    )
