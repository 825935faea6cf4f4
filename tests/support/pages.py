"""The documents of this repository, taken apart: fenced blocks, shell commands, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
]

_FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"`+[^`\n]*`+")
_INLINE = re.compile(r"(?<!`)(`+)(?!`)(?P<text>(?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """language, marks: the words behind the fence. before: the text since the block before it."""

    page: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """words: the program and its arguments, as a shell would hand them over.

    output: the file that `>` sends what it prints to; empty where there is none.
    """

    block: Block
    words: tuple[str, ...]
    output: str = ""

    def __str__(self) -> str:
        return f"{self.block}: {shlex.join(self.words)}"


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8") if text is None else text
    end = 0
    for found in _FENCE.finditer(text):
        language, *marks = found["info"].split() or [""]
        line = text.count("\n", 0, found.start()) + 1
        before = text[end : found.start()]
        yield Block(page, line, language, tuple(marks), found["text"], before)
        end = found.end()


def inline(page: Path, text: str | None = None) -> Iterator[Block]:
    """Every piece of code within the sentences of a page, in order, on one line each."""
    text = page.read_text(encoding="utf-8") if text is None else text
    text = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in _INLINE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, "", (), " ".join(found["text"].split()), "")


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block. Raises ValueError for what only a real shell could run."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command = Command(block, ())
        words = list(lexer)
        while words:
            word = words.pop(0)
            if word == ">":
                command = replace(command, output=words.pop(0))
            elif word == "&&":
                yield command
                command = Command(block, ())
            elif set(word) <= set("();<>|&"):
                raise ValueError(f"{block}: {word!r} is not understood; write the command plainly")
            else:
                command = replace(command, words=(*command.words, word))
        if command.words:
            yield command


def links(text: str) -> list[str]:
    """The targets of all links; what stands in code is none."""
    return [found["target"] for found in _LINK.finditer(_CODE.sub("", _FENCE.sub("", text)))]


def anchors(text: str) -> set[str]:
    """What a `#` can name, made of the headings as GitHub makes it."""
    found: set[str] = set()
    for heading in _HEADING.finditer(_FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"].strip()).lower()
        base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name := f"{base}-{number}" if number else base) in found:
            number += 1
        found.add(name)
    return found


def with_part(page: str, name: str, made: str) -> str:
    """A page with what stands between `<!-- name -->` and `<!-- /name -->` made anew."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    assert found and end in rest, f"{begin} ... {end} is missing"
    return f"{before}{begin}\n\n{made}\n\n{end}{rest.partition(end)[2]}"
