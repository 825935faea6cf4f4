"""Every command in every document: run as it stands, or marked, and then at least read.

A shell block is marked behind its fence where it cannot run here: ```bash gpu, hosts (several of
them) or long. The text says so as well. Unmarked commands of this project run word for word in a
folder where small things stand in for large ones (support/workplace.py); those of a marked block
are read by the parser that would read them. Other programs' commands are in OTHERS, with what is
checked of each instead. A command that is none of these fails.

Commands within sentences are looked at too: their programs are those of the same tables, and their
flags are there.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from benchmarks import __main__ as benchmarks
from llama_recipes import finetuning
from llama_recipes.cli import main as cli
from llama_recipes.cli.flags import read_flags
from llama_recipes.cli.quickstart import QuickstartFlags
from llama_recipes.configs import table
from llama_recipes.configs.flags import parse
from support.pages import PAGES, ROOT, Block, Command, blocks, commands, inline
from support.workplace import at_work, furnish, make_package

MARKS = {"gpu": r"GPU", "hosts": r"\bhosts\b", "long": r"\bminutes\b|\bhours\b"}
"""Mark → what the block, or the text before it, says to who reads it."""

_QUICKSTART = "tests/end_to_end/test_quickstart.py::test_the_command_that_it_shows_asks_the_result"
_BENCHMARK = "tests/unit/test_benchmarks.py::test_our_command_is_one_that_is_accepted"
PROVEN = {
    "make quickstart": _QUICKSTART,
    "make test": ".ci/run",
    "make lint": ".ci/run",
    "make test-faults": "tests/faults/test_kill.py::test_a_hundred_kills",
    "make bench": _BENCHMARK,
    "make golden": "tests/golden/test_golden.py::test_the_loss_curves_are_those_on_file",
    "make docs": "tests/documents/test_tables.py::test_make_docs_fills_every_page_that_has_a_table",
    "make format": "Makefile",
    "make .venv/llama_cpp": "Makefile",
    "llama-recipes quickstart": _QUICKSTART,
    "python -m benchmarks --help": _BENCHMARK,
    "python -m benchmarks --quick": _BENCHMARK,
    "python -m benchmarks --only lora": _BENCHMARK,
}
"""What takes long, or would run these tests within themselves, and the test that runs it or its
parts."""

TORCHRUN_SECONDS = 240

NOWHERE = Block(ROOT / "README.md", 1, "bash", (), "", "")
SHELLS = {"bash", "sh", "console", "shell"}
EVERY = [
    command
    for page in PAGES
    for block in blocks(page)
    if block.language in SHELLS
    for command in commands(block)
]


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The program, `python -m MODULE` being one, and its arguments.

    Variables set for it and the folder of .venv are left away.
    """
    rest = list(words)
    while re.fullmatch(r"[A-Z_]+=.*", rest[0]):
        rest.pop(0)
    program = rest.pop(0).removeprefix(".venv/bin/")
    if program in ("python", "python3") and rest[:1] == ["-m"]:
        return f"{program} -m {rest[1]}", rest[2:]
    return program, rest


def after_module(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """torchrun's own arguments, and those of the module that it starts."""
    at = list(arguments).index("-m")
    assert arguments[at + 1] == "llama_recipes.finetuning"
    return list(arguments[: at + 2]), list(arguments[at + 2 :])


def torchrun(arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TORCHRUN_SECONDS, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode


def table_main(arguments: Sequence[str]) -> int:
    table.main(arguments)
    return 0


RUNS: dict[str, Callable[[list[str]], int]] = {
    "python -m llama_recipes.finetuning": finetuning.main,
    "python -m llama_recipes.configs.table": table_main,
    "llama-recipes": cli.main,
    "torchrun": torchrun,
}
"""How an unmarked command is run: in this process where that is possible, for the sake of time."""


def read_training(arguments: Sequence[str]) -> None:
    parse(arguments, prog="train")


def read_torchrun(arguments: Sequence[str]) -> None:
    own, flags = after_module(arguments)
    get_args_parser().parse_args(own)
    assert "--enable_fsdp" in flags
    read_training(flags)


def read_sbatch(arguments: Sequence[str]) -> None:
    script, *flags = arguments
    assert '--enable_fsdp --resume auto "$@"' in (ROOT / script).read_text()
    read_training(["--enable_fsdp", "--resume=auto", *flags])


def read_command(arguments: Sequence[str]) -> None:
    name, *flags = arguments
    assert name == "quickstart", "only what takes minutes is marked long"
    read_flags(flags, QuickstartFlags, prog=name)


READS: dict[str, Callable[[list[str]], object]] = {
    "python -m llama_recipes.finetuning": read_training,
    "torchrun": read_torchrun,
    "sbatch": read_sbatch,
    "llama-recipes": read_command,
    "python -m benchmarks": benchmarks._arguments().parse_args,
}
"""How a marked command is read: raises for what the program itself would refuse."""


def targets() -> set[str]:
    return set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def check_make(arguments: Sequence[str]) -> None:
    assert set(arguments) <= targets()
    assert f"make {' '.join(arguments)}" in PROVEN


def check_pip(arguments: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in arguments:
        if found := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(found[1].split(",")) <= extras["optional-dependencies"].keys()
        assert not word.endswith(".txt") or (ROOT / word).is_file()


def check_pytest(arguments: Sequence[str]) -> None:
    for word in arguments:
        if word.startswith("tests"):
            path, _, name = word.partition("::")
            assert (ROOT / path).exists(), word
            assert not name or f"def {name}(" in (ROOT / path).read_text(), word


def check_tensorboard(arguments: Sequence[str]) -> None:
    """Whether the folder is there is seen once the commands of the page have run."""
    assert log_folder(arguments)


def log_folder(arguments: Sequence[str]) -> str:
    flag, folder = arguments
    assert flag == "--logdir"
    return folder


def check_wandb(arguments: Sequence[str]) -> None:
    from wandb.cli.cli import cli as commands_of_wandb

    assert arguments[0] in commands_of_wandb.commands


def nothing(arguments: Sequence[str]) -> None:
    """There is nothing of ours in it."""


OTHERS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "make": (check_make, "its target is there, and PROVEN says what runs it"),
    "pip": (check_pip, "installs, which tests never do; the extras and files are there"),
    "pytest": (check_pytest, "would be these tests in themselves; the paths are there"),
    "ruff": (nothing, "make lint, which the check of every change runs"),
    "mypy": (nothing, "make lint, which the check of every change runs"),
    "python3 -m venv": (nothing, "makes what the tests run in"),
    "tensorboard": (check_tensorboard, "serves until it is stopped; a command makes its folder"),
    "wandb": (check_wandb, "asks a server; the command is one of its own"),
    "apt-get": (nothing, "installs, which tests never do; test_contributing.py holds who calls it"),
    "git": (nothing, "changes the repository that the tests are in"),
    "pre-commit": (nothing, "changes the repository; test_contributing.py holds its hooks"),
}
"""Programs that are not run here: what is checked instead, and why."""


def is_command(block: Block) -> bool:
    """Whether a piece of code in a sentence is a command of a program that is known here.

    A single word is the program's name and no command.
    """
    words = block.text.split()
    program, rest = split(words) if len(words) > 1 else ("", [])
    return program in KNOWN and (program.startswith("python") or bool(rest))


KNOWN = {*RUNS, *READS, *OTHERS}
INLINE = [
    command
    for page in PAGES
    for block in inline(page)
    if is_command(block)
    for command in commands(block)
]


def check_mention(command: Command) -> None:
    """Nothing is run: the program's own words for what it takes are looked through."""
    program, arguments = split(command.words)
    if program in OTHERS or program == "sbatch":
        check = OTHERS[program][0] if program in OTHERS else read_sbatch
        check(arguments)
        return
    taken = help_of(program, arguments[0] if program == "llama-recipes" else "")
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert [flag for flag in flags if not re.search(rf"{flag}\b", taken)] == []


@cache
def help_of(program: str, command: str) -> str:
    if program == "torchrun":
        return get_args_parser().format_help()
    if program == "python -m benchmarks":
        return benchmarks._arguments().format_help()
    if not program.startswith("python -m llama_recipes.configs"):
        return run(Command(NOWHERE, (*program.split(), *filter(None, [command]), "--help")))
    return ""


def line_of(command: Command) -> str:
    program, arguments = split(command.words)
    return shlex.join([*program.split(), *arguments])


def runs(command: Command) -> bool:
    return not command.block.marks and split(command.words)[0] in RUNS


def test_every_command_is_run_or_marked():
    unknown = [
        str(command)
        for command in EVERY
        for program in [split(command.words)[0]]
        if program not in OTHERS and program not in (READS if command.block.marks else RUNS)
    ]
    assert unknown == []
    assert sum(map(runs, EVERY)) > 15


RUN_PAGES = sorted({command.block.page for command in EVERY if runs(command)})


STARTED: set[tuple[str, ...]] = set()
"""torchrun's command lines so far: each takes seconds, and several pages have the same."""


def is_again(command: Command) -> bool:
    if split(command.words)[0] != "torchrun":
        return False
    again = command.words in STARTED
    STARTED.add(command.words)
    return again


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_one_after_the_other(page, package, tmp_path, monkeypatch):
    furnish(tmp_path)
    with at_work(tmp_path, package):
        for command in EVERY:
            if command.block.page == page and runs(command) and not is_again(command):
                monkeypatch.setattr(sys, "stdin", io.StringIO("7 + 3 ="))
                said = run(command)
                assert said or command.output, command
                if command.output:
                    assert Path(command.output).stat().st_size
        assert [str(each) for each in LOOKS if each.block.page == page and not is_made(each)] == []


LOOKS = [each for each in (*EVERY, *INLINE) if split(each.words)[0] == "tensorboard"]
"""They show what the commands of their page have made."""


def is_made(command: Command) -> bool:
    """Whether the folder that it names is there; a tiny run may be too short to fill it."""
    return Path(log_folder(split(command.words)[1])).is_dir()


def test_every_page_that_looks_at_logs_makes_some():
    assert {each.block.page for each in LOOKS} <= set(RUN_PAGES)
    assert len(LOOKS) > 2


def run(command: Command) -> str:
    """Run it; returns what it printed."""
    program, arguments = split(command.words)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = RUNS[program](arguments)
        except SystemExit as end:  # --help
            code = end.code or 0
    assert code == 0, f"{command}\n{out.getvalue()[-3000:]}\n{err.getvalue()}"
    if command.output:
        Path(command.output).parent.mkdir(parents=True, exist_ok=True)
        Path(command.output).write_text(out.getvalue())
    return out.getvalue()


MARKED = [c for c in EVERY if c.block.marks and split(c.words)[0] in READS]


@pytest.mark.parametrize("command", MARKED, ids=str)
def test_a_marked_command_is_read(command):
    program, arguments = split(command.words)
    try:
        READS[program](arguments)
    except SystemExit as end:  # --help
        assert not end.code
    if "long" in command.block.marks:
        assert line_of(command) in PROVEN


@pytest.mark.parametrize("command", INLINE, ids=str)
def test_a_command_within_a_sentence_is_one(command):
    check_mention(command)


@pytest.mark.parametrize("command", [c for c in EVERY if split(c.words)[0] in OTHERS], ids=str)
def test_a_command_of_another_program_is_checked(command):
    program, arguments = split(command.words)
    OTHERS[program][0](arguments)


def test_a_mark_is_said_to_who_reads():
    wrong = [str(block) for block in marked_blocks() if not says(block)]
    assert wrong == []


def marked_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.marks]


def says(block: Block) -> bool:
    """Whether every mark is one, and is in the words of the block or of what stands before it."""
    text = block.before + block.text
    return all(mark in MARKS and re.search(MARKS[mark], text) for mark in block.marks)


def test_what_proves_a_long_command_is_there():
    for line, proof in PROVEN.items():
        file, _, test = proof.partition("::")
        shown = (ROOT / file).read_text()
        assert not line.startswith("make ") or line.split()[1] in targets()
        if file.startswith("tests/"):
            assert re.search(rf"^def {test}\(", shown, flags=re.MULTILINE), proof
        else:
            assert line.removeprefix("make ") in shown, proof


def test_commands_are_found_as_a_shell_would():
    text = "A=1 x --a 'b c' \\\n  --d e > f.txt   # not this\n\ny '#' && .venv/bin/z\n"
    block = Block(ROOT / "README.md", 1, "bash", (), text, "")
    assert [(c.words, c.output) for c in commands(block)] == [
        (("A=1", "x", "--a", "b c", "--d", "e"), "f.txt"),
        (("y", "#"), ""),
        ((".venv/bin/z",), ""),
    ]
    assert split(("A=1", ".venv/bin/python", "-m", "m", "x")) == ("python -m m", ["x"])
    with pytest.raises(ValueError, match=r"'\|'"):
        list(commands(Block(ROOT / "README.md", 1, "bash", (), "a | b\n", "")))
    page = "text\n```bash gpu\nx\n```\nmore\n```json\n1\n```\n"
    assert [(b.language, b.marks, b.line, b.before) for b in blocks(ROOT / "README.md", page)] == [
        ("bash", ("gpu",), 2, "text\n"),
        ("json", (), 6, "\nmore\n"),
    ]


def test_commands_are_found_within_sentences():
    page = "See `make\n  x y` or ``a `b` c``, `make`,\n\n```bash\nmake z\n```\nor `A=1 git b`.\n"
    found = list(inline(ROOT / "README.md", page))
    assert [(block.line, block.text) for block in found] == [
        (1, "make x y"), (2, "a `b` c"), (2, "make"), (7, "A=1 git b"),
    ]  # fmt: skip
    assert [is_command(block) for block in found] == [True, False, False, True]
    assert len(INLINE) > 30


@pytest.mark.parametrize(
    "text",
    [
        "make nothing", "llama-recipes inspcet", "llama-recipes report --nothing",
        "python -m llama_recipes.finetuning --batch_size 2", "torchrun --restarts 3",
        "wandb snyc", "tensorboard --dir x", "pip install -e '.[nothing]'",
    ],
)  # fmt: skip
def test_a_wrong_command_within_a_sentence_is_noticed(text):
    (block,) = inline(ROOT / "README.md", f"As `{text}` does.")
    assert is_command(block)
    (command,) = commands(block)
    with pytest.raises(AssertionError):
        check_mention(command)


def test_a_wrong_command_is_noticed(tmp_path, package):
    furnish(tmp_path)
    with (
        at_work(tmp_path, package),
        pytest.raises(AssertionError, match="--batch_size is no setting"),
    ):
        run(Command(NOWHERE, ("python", "-m", "llama_recipes.finetuning", "--batch_size", "2")))
    assert Path.cwd() != tmp_path
