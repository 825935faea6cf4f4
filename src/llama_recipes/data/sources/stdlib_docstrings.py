"""Functions of the Python standard library and the first line of what their docstrings say.

Real pairs that every machine has: the code of a function without its docstring, and the sentence
that its author wrote for it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_recipes.data.example import Chat, Example, Located, Message, PromptAnswer, Source, Split
from llama_recipes.data.sources import fingerprint
from llama_recipes.errors import DataError

if TYPE_CHECKING:
    from llama_recipes.data.tokenizer import Tokenizer

_VALIDATION_SHARE = 0.1
_LINE_CHARACTERS = range(10, 101)
_LINE_WORDS = 3
_CODE_CHARACTERS = 1200
_STATEMENTS = 2
# Tests and their data, and what is not there on every system.
_LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Pair:
    """`module` is the top-level module or package, as `import` names it; `where` file and line."""

    module: str
    code: str
    summary: str
    where: str


def prompt(code: str) -> str:
    return (
        f"Write the first line of the docstring of this Python function.\n\n```python\n{code}\n```"
    )


def open_stdlib_docstrings(split: Split, tokenizer: Tokenizer) -> Source:
    """Through the chat template where the tokenizer has one, as prompt and answer where not."""
    root = Path(sysconfig.get_path("stdlib"))
    files = modules(root)
    if not files:
        raise DataError(
            f"The source of the Python standard library is not in {root}; install it, or use a "
            "Python that has it (python.org, uv, pyenv, conda and most systems' own do)."
        )
    chat = tokenizer.chat_template is not None
    return Source(
        name="stdlib_docstrings_dataset",
        format="chat" if chat else "prompt_completion",
        rows=lambda: _rows(root, split, chat=chat),
        fingerprint=fingerprint.combined(
            "stdlib_docstrings", split, str(chat), *map(fingerprint.of_file, files)
        ),
        description=f"docstrings of Python {sys.version.split()[0]}'s own library, for {split}",
        on_bad_row="skip",  # nobody is to mend the standard library
    )


def modules(root: Path) -> list[Path]:
    """The source files under `root` that are read, always in the same order."""
    return sorted(
        file
        for file in root.rglob("*.py")
        if not any(
            part in _LEFT_OUT or part.startswith("config-") for part in file.relative_to(root).parts
        )
    )


@functools.lru_cache(maxsize=1)
def pairs(root: Path) -> tuple[Pair, ...]:
    """All pairs under `root` (about 2,500, 2 MiB), no code twice; kept, for both parts need all."""
    found: dict[str, Pair] = {}
    for file in modules(root):
        module = file.relative_to(root).parts[0].removesuffix(".py")
        for line, code, summary in _pairs_of_file(file):
            where = f"{file.relative_to(root).as_posix()}, line {line}"
            found.setdefault(code, Pair(module, code, summary, where))
    return tuple(found.values())


def validation_modules(everything: tuple[Pair, ...]) -> frozenset[str]:
    """Whole modules for validation, in the order of a hash, until they make up a tenth."""
    sizes = Counter(pair.module for pair in everything)
    chosen: set[str] = set()
    held_out = 0
    for module in sorted(sizes, key=lambda name: hashlib.blake2b(name.encode()).digest()):
        if held_out >= _VALIDATION_SHARE * len(everything):
            break
        chosen.add(module)
        held_out += sizes[module]
    return frozenset(chosen)


def _rows(root: Path, split: Split, *, chat: bool) -> Iterator[Located]:
    everything = pairs(root)
    held_out = validation_modules(everything)
    for pair in everything:
        if (pair.module in held_out) != (split == "validation"):
            continue
        asked = prompt(pair.code)
        example: Example = (
            Chat((Message("user", asked), Message("assistant", pair.summary)))
            if chat
            else PromptAnswer(asked + "\n", pair.summary)
        )
        yield Located(pair.where, example)


def _pairs_of_file(file: Path) -> Iterator[tuple[int, str, str]]:
    """Line, code and summary of each function worth learning; a file that is no Python has none."""
    try:
        with tokenize.open(file) as handle:
            source = handle.read()
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates and test data of some distributions
        return
    lines = source.split("\n")  # as ast counts them; splitlines() knows more line ends
    for function in _functions(tree):
        summary = _summary(function)
        code = _code(function, lines) if summary else ""
        if code and len(code) <= _CODE_CHARACTERS:
            yield function.lineno, code, summary


def _functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Functions and methods at any depth of classes and blocks, but none inside another."""
    for block in ("body", "handlers", "orelse", "finalbody"):
        for node in getattr(tree, block, ()):
            if isinstance(node, FunctionNode):
                yield node
            else:
                yield from _functions(node)


def _summary(function: FunctionNode) -> str:
    """The first line of the docstring where it is a whole sentence, else ""."""
    line = (ast.get_docstring(function) or "").partition("\n")[0].strip()
    whole = line[:1].isupper() and line.endswith(".") and len(line.split()) >= _LINE_WORDS
    return line if whole and len(line) in _LINE_CHARACTERS else ""


def _code(function: FunctionNode, lines: list[str]) -> str:
    """The source without the docstring; "" where too little is left to say what it does."""
    docstring, *body = function.body
    statements = sum(isinstance(node, ast.stmt) for part in body for node in ast.walk(part))
    if statements < _STATEMENTS:
        return ""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    end_of_docstring = docstring.end_lineno or docstring.lineno
    if lines[docstring.lineno - 1][: docstring.col_offset].strip():
        return ""  # code stands before the docstring on its line
    if body[0].lineno <= end_of_docstring:
        return ""  # or behind it
    after = lines[end_of_docstring : function.end_lineno]
    while not after[0].strip():
        del after[0]
    code = [*lines[first - 1 : docstring.lineno - 1], *after]
    return "\n".join(_moved_left(line, function.col_offset) for line in code)


def _moved_left(line: str, columns: int) -> str:
    """Unlike textwrap.dedent not held back by a line of a string that begins further left."""
    return line if line[:columns].strip() else line[columns:].rstrip()
