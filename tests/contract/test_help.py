"""--help: instant, complete, without torch. And the page of settings, which says the same."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llama_recipes.configs.parser import COMMAND_FLAGS, build_parser
from llama_recipes.configs.settings import SECTIONS, SETTINGS
from llama_recipes.configs.table import settings_table

LIMIT_SECONDS = 0.3
TRIES = 60

COMMANDS = {
    "llama-recipes --help": "from llama_recipes.cli.main import main; sys.exit(main(['--help']))",
    "llama-recipes train --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['train', '--help']))"
    ),
    "llama-recipes chat --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['chat', '--help']))"
    ),
    "llama-recipes evaluate --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['evaluate', '--help']))"
    ),
    "llama-recipes inspect --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['inspect', '--help']))"
    ),
    "llama-recipes report --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['report', '--help']))"
    ),
    "llama-recipes quickstart --help": (
        "from llama_recipes.cli.main import main; sys.exit(main(['quickstart', '--help']))"
    ),
    "python -m llama_recipes.finetuning --help": (
        "from llama_recipes.finetuning import main; sys.exit(main(['--help']))"
    ),
    "a mistyped flag": (
        "from llama_recipes.finetuning import main; sys.exit(0 if main(['--zzz']) == 2 else 1)"
    ),
}
HEAVY = ("torch", "transformers", "numpy", "pyarrow", "datasets", "rich")


def children_seconds() -> float:
    """Processor time of all finished children: what an answer takes where nothing else runs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_answers_before_one_notices(command: str) -> None:
    fastest = float("inf")
    for _ in range(TRIES):
        before = children_seconds()
        answer = run(f"import sys; {COMMANDS[command]}")
        fastest = min(fastest, children_seconds() - before)
        assert answer.returncode == 0, answer.stderr
        if fastest < LIMIT_SECONDS:  # the others of a busy machine's tries say nothing about us
            break
    assert fastest < LIMIT_SECONDS


@pytest.mark.parametrize("command", COMMANDS)
def test_it_imports_nothing_heavy(command: str) -> None:
    watched = (
        "import atexit, sys; atexit.register(lambda: print('loaded:', "
        f"[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)); "
    )
    answer = run(watched + COMMANDS[command])
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.endswith("loaded: []\n")


def test_it_names_every_setting_with_its_default_and_meaning() -> None:
    text = " ".join(build_parser("train").format_help().split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in text
        assert f"{setting.meaning} (default: {setting.default_text})" in text
    for section, model in SECTIONS.items():
        assert f"{section}: {' '.join(str(model.__doc__).split())}" in text
    for meaning in COMMAND_FLAGS.values():
        assert meaning in text


def test_the_page_of_settings_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_table(), (
        "made anew with: python -m llama_recipes.configs.table > docs/settings.md"
    )
