"""Pieces of HTML. What comes in as text is escaped; what is called html is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What HTML does not allow, or UTF-8 cannot hold."""
_UNKNOWN = "�"


def text(value: object) -> str:
    """Any text, so that it can stand between tags and in an attribute."""
    return escape(_UNSEEN.sub(_UNKNOWN, str(value)), quote=True)


def excerpt(value: object, characters: int) -> str:
    """The begin of a text, and how much was left out."""
    whole = str(value)
    more = len(whole) - characters
    return text(whole) if more <= 0 else f"{text(whole[:characters])}\n… {more:,} characters more"


def section(title: str, *html: str) -> str:
    return f"<section><h2>{text(title)}</h2>{''.join(html)}</section>"


def card(*html: str) -> str:
    return f'<div class="card">{"".join(html)}</div>'


def paragraph(value: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{text(value)}</p>" if value else ""


def block(value: str, kind: str = "") -> str:
    """Text whose line breaks count, such as code; a right-to-left script runs as it should."""
    return f'<pre{_class(kind)} dir="auto">{value}</pre>'


def table(
    rows: Iterable[Sequence[object]],
    *,
    heads: Sequence[str] = (),
    numbers: Sequence[int] = (),
    stacked: bool = False,
) -> str:
    """The first cell of a row is its head. numbers: columns that are set to the right.

    stacked: on a phone the cells of a row stand below each other, each behind its column's head.
    """

    def cell(tag: str, column: int, value: object, more: str = "") -> str:
        kind = ' class="number"' if column in numbers else ""
        head = f' data-head="{text(heads[column])}"' if stacked and tag == "td" else ""
        return f"<{tag}{more}{kind}{head}>{text(value)}</{tag}>"

    top = "".join(cell("th", column, head, ' scope="col"') for column, head in enumerate(heads))
    lines = [
        "<tr>"
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", column, value) for column, value in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    ]
    head = f"<thead><tr>{top}</tr></thead>" if top else ""
    how = ' class="stacked"' if stacked else ""
    return f'<div class="scroll"><table{how}>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def folded(title: str, *html: str) -> str:
    return f"<details><summary>{text(title)}</summary>{''.join(html)}</details>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
