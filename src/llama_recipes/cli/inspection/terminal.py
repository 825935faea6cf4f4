"""An inspection on a terminal: in colours, and with marks for one that has none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llama_recipes.cli.inspection import facts
from llama_recipes.cli.inspection.facts import Inspection
from llama_recipes.cli.inspection.samples import Piece, Sample, pieces
from llama_recipes.data.spread import Spread

_BARS = " ▁▂▃▄▅▆▇█"
_TRAINED = ("bold green", "green")
_MASKED = ("dim", "none")
"""Neighbours differ, so that one sees where a token ends; on light and dark alike."""
_CONTROL = "reverse"
_OPENS, _CLOSES = "⟦", "⟧"
_HEAD, _TAIL = 90, 60
"""Tokens shown of a long stretch that is trained, or not, at its beginning and at its end."""


def show(shown: Inspection, console: Console) -> None:
    console.print()
    console.print(_figures(shown))
    console.print(_spreads(shown))
    for title, lines in (
        ("Steps", facts.steps(shown)),
        ("Prompts and labels", facts.prompts(shown)),
    ):
        console.print(_lines(title, lines))
    if shown.samples:
        _show_samples(shown, console)
    _show_findings(shown, console)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    return table


def _figures(shown: Inspection) -> Table:
    table = _table("Documents", "", *(part.name for part in shown.parts))
    for name, values in facts.figures(shown):
        table.add_row(Text(name), *map(Text, values))
    return table


def _spreads(shown: Inspection) -> Table:
    table = _table("\nTokens of a document", "", *facts.SPREAD_COLUMNS, "histogram")
    for part in shown.parts:
        for name, values in facts.spreads(part).items():
            label = f"{part.name}, {name}" if part.name != "training" else name
            table.add_row(Text(label), *map(Text, facts.spread_cells(values)), _bars(values))
    return table


def _bars(values: Spread) -> Text:
    """The histogram from the smallest to the largest, a column a bin."""
    high = max(values.counts)
    heights = [-(-count * (len(_BARS) - 1) // high) for count in values.counts]
    return Text("".join(_BARS[height] for height in heights), style="cyan")


def _lines(title: str, lines: list[tuple[str, str]]) -> Table:
    table = Table(
        title=Text(f"\n{title}", style="bold"), title_justify="left", box=None, show_header=False,
        pad_edge=False,
    )  # fmt: skip
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(Text(name), Text(value))
    return table


def _show_samples(shown: Inspection, console: Console) -> None:
    console.print(Text("\nSamples, from the first batches of the training", style="bold"))
    legend = Text.assemble(
        ("trained", _TRAINED[0]), f" stands in {_OPENS} {_CLOSES}, ", ("masked", _MASKED[0]),
        " does not, ", ("control", _CONTROL), " tokens are written out, ⏎ is a line's end. ",
        facts.HOW_TO_READ,
    )  # fmt: skip
    console.print(legend)
    for sample in shown.samples:
        console.print()
        console.rule(
            Text(facts.sample_title(shown, sample), style="cyan"), align="left", style="cyan"
        )
        console.print(_sample(shown, sample))
        console.print(Text(facts.sample_note(sample), style="italic"))


def _sample(shown: Inspection, sample: Sample) -> Text:
    text = Text()
    for is_trained, group in groupby(
        pieces(sample, shown.tokenizer), key=lambda piece: piece.is_trained
    ):
        stretch = list(group)
        text.append(_OPENS if is_trained else "", style=_TRAINED[0])
        for part in _shortened(stretch):
            text.append_text(part if isinstance(part, Text) else _piece(*part))
        text.append(_CLOSES if is_trained else "", style=_TRAINED[0])
    if sample.padding:
        text.append(f" [{sample.padding:,} × padding]", style="yellow")
    return text


def _shortened(stretch: list[Piece]) -> Iterator[Text | tuple[int, Piece]]:
    left_out = len(stretch) - _HEAD - _TAIL
    for number, piece in enumerate(stretch):
        if left_out <= 1 or number < _HEAD or number >= len(stretch) - _TAIL:
            yield number, piece
        elif number == _HEAD:
            yield Text(f" … {left_out:,} tokens … ", style="yellow")


def _piece(number: int, piece: Piece) -> Text:
    style = (_TRAINED if piece.is_trained else _MASKED)[number % 2]
    if piece.is_control:
        style = f"{style} {_CONTROL}"
    learns = f"(learns {', '.join(map(str, piece.learns))})" if piece.learns else ""
    return Text(facts.visible(piece.text) + learns, style=style)


def _show_findings(shown: Inspection, console: Console) -> None:
    console.print()
    if not shown.findings:
        console.print(Text("No findings.", style="bold green"))
        return
    count = len(shown.findings)
    console.print(Text(f"{count} finding{'s' if count > 1 else ''}", style="bold yellow"))
    for finding in shown.findings:
        part = "" if finding.part == "run" else f" ({finding.part})"
        console.print(
            Text.assemble(("! ", "bold yellow"), (f"{finding.name}{part}: ", "bold yellow"),
                          facts.visible(facts.headline(finding)))
        )  # fmt: skip
        if finding.rows:
            console.print(Text(f"  {'; '.join(facts.examples(shown, finding))}", style="cyan"))
        console.print(Text(f"  → {finding.fix}"))
