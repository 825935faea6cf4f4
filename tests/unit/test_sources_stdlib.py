"""stdlib_docstrings: code without its docstring, and no module in both parts."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from pathlib import Path

import pytest
import tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llama_recipes.configs.datasets import StdlibDocstringsDataset
from llama_recipes.data.example import Chat, Message, PromptAnswer
from llama_recipes.data.sources import open_source
from llama_recipes.data.sources.stdlib_docstrings import (
    Pair,
    modules,
    pairs,
    prompt,
    validation_modules,
)
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError

STDLIB = Path(sysconfig.get_path("stdlib"))


def tokenizer(chat_template: str | None) -> Tokenizer:
    words = tokenizers.Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    hf = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    hf.chat_template = chat_template
    return Tokenizer(hf)


def opened(split, template="{{ messages }}"):
    return open_source(StdlibDocstringsDataset(), split, tokenizer=tokenizer(template))


@pytest.fixture
def library(tmp_path):
    """A library of its own for each test: file name → source."""

    def write(**files: str) -> Path:
        for name, source in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return tmp_path

    return write


def test_a_pair_is_the_code_without_its_docstring_and_the_first_line(library):
    root = library(
        pkg__shapes='''
            class Square:
                @property
                def area(self):
                    """Return the area of the square.

                    In square metres.
                    """

                    # never negative
                    side = abs(self.side)
                    return side * side
        '''
    )
    code = (
        "@property\ndef area(self):\n    # never negative\n    side = abs(self.side)\n"
        "    return side * side"
    )
    where = "pkg/shapes.py, line 4"
    assert pairs(root) == (Pair("pkg", code, "Return the area of the square.", where),)


@pytest.mark.parametrize(
    "docstring",
    [
        "Two words.",
        "return what is asked.",
        "Return what is asked",
        "Return what" + " is" * 40 + ".",
    ],
)
def test_a_first_line_that_is_no_sentence_of_middling_length_is_left_out(library, docstring):
    root = library(a=f'def f(x):\n    """{docstring}"""\n    x += 1\n    return x\n')
    assert pairs(root) == ()


def test_a_string_that_begins_further_left_does_not_keep_the_code_indented(library):
    root = library(
        a='''
            class Page:
                def head(self):
                    """Return the head of the page."""
                    text = \'\'\'
            <head>
                    \'\'\'
                    return text
        '''
    )
    (pair,) = pairs(root)
    assert pair.code == ("def head(self):\n    text = '''\n<head>\n    '''\n    return text")


@pytest.mark.parametrize(
    "body",
    ["return 1", "x = 1\n    return '" + "x" * 1200 + "'"],
    ids=["one statement", "too long"],
)
def test_code_that_says_too_little_or_too_much_is_left_out(library, body):
    root = library(a=f'def f():\n    """Return what is asked."""\n    {body}\n')
    assert pairs(root) == ()


@pytest.mark.parametrize("start", ["def f():", "def f():\n    "])
def test_a_docstring_that_shares_its_line_with_code_is_left_out(library, start):
    assert pairs(library(a=f'{start} "Return what is asked."; x = 1; return x\n')) == ()


def test_the_same_code_is_taken_once_and_a_broken_file_has_none(library):
    source = 'def f(x):\n    """Return what is asked."""\n    x += 1\n    return x\n'
    root = library(a=source, b=source, broken="def f(:", test__c=source.replace("x", "y"))
    assert [pair.module for pair in pairs(root)] == ["a"]


def test_the_prompt():
    assert prompt("def f():\n    pass") == (
        "Write the first line of the docstring of this Python function.\n\n"
        "```python\ndef f():\n    pass\n```"
    )


def test_each_reading_has_the_same_order(library):
    source = 'def f(x):\n    """Return what is asked."""\n    x += NUMBER\n    return x\n'
    root = library(**{name: source.replace("NUMBER", name[1]) for name in ("m3", "m1", "m2__m4")})
    first = pairs(root)
    pairs.cache_clear()
    assert pairs(root) == first
    assert [pair.module for pair in first] == ["m1", "m2", "m3"]


def test_no_module_and_no_code_is_in_both_parts():
    train, validation = opened("train"), opened("validation")
    in_train = {example.messages[0].content for example in train.examples()}
    in_validation = {example.messages[0].content for example in validation.examples()}
    assert in_train
    assert in_validation
    assert not in_train & in_validation
    everything = pairs(STDLIB)
    held_out = validation_modules(everything)
    assert in_train == {prompt(p.code) for p in everything if p.module not in held_out}
    assert in_validation == {prompt(p.code) for p in everything if p.module in held_out}
    assert 0.1 <= len(in_validation) / len(everything) <= 0.2
    assert train.fingerprint != validation.fingerprint


def test_the_library_of_this_machine_gives_enough_to_learn_from():
    everything = pairs(STDLIB)
    assert len(everything) > 1000
    for pair in everything:
        assert 10 <= len(pair.summary) <= 100
        assert len(pair.code) <= 1200
        (function,) = ast.parse(pair.code).body
        assert ast.get_docstring(function) is None
    assert not any({"test", "site-packages"} & set(file.parts) for file in modules(STDLIB))


def test_through_the_chat_template_where_there_is_one():
    with_template, without = opened("validation"), opened("validation", None)
    assert (with_template.format, without.format) == ("chat", "prompt_completion")
    chat, plain = next(with_template.examples()), next(without.examples())
    held_out = validation_modules(pairs(STDLIB))
    pair = next(pair for pair in pairs(STDLIB) if pair.module in held_out)
    assert chat == Chat((Message("user", prompt(pair.code)), Message("assistant", pair.summary)))
    assert plain == PromptAnswer(prompt(pair.code) + "\n", pair.summary)
    assert with_template.fingerprint != without.fingerprint


def test_what_the_template_cannot_write_is_skipped_for_nobody_can_mend_it():
    source = opened("validation")
    assert source.on_bad_row == "skip"
    assert all(row.where.endswith(f", line {row.where.split()[-1]}") for row in source.rows())


def test_a_python_without_the_sources_of_its_library(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError) as error:
        opened("train")
    assert str(error.value).startswith(
        f"The source of the Python standard library is not in {tmp_path}; install it, or use a"
    )
