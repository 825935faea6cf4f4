"""What the documents say of tools, libraries and versions, against the files that decide it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from llama_recipes import __version__
from support.pages import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(target: str) -> list[str]:
    """The commands of a target, with its variables read."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert found, target
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def test_the_hooks_are_the_commands_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("lint")
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
        assert {"id", "name"} <= hook.keys()


def test_every_target_of_make_is_explained():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    explained = re.findall(r"^\| `([\w-]+)` \| ", TEXT, flags=re.MULTILINE)
    assert phony
    assert sorted(explained) == sorted(phony[1].split())


def test_every_path_of_the_page_is_there():
    paths = re.findall(r"`((?:tests|src|docs|recipes|\.ci)/[\w/.]+)`", TEXT)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


CALLED = ["apt-get update", "apt-get install --yes --no-install-recommends chromium"]


@pytest.mark.parametrize(
    ("user", "browser", "fails", "called"),
    [
        (0, "", False, CALLED),
        (0, "", True, CALLED[:1]),
        (0, "google-chrome", False, []),
        (1000, "", False, []),
    ],
    ids=["installs", "cannot install", "has one", "is not root"],
)
def test_the_check_of_a_change_installs_a_browser_where_it_can(
    user, browser, fails, called, tmp_path
):
    """With programs that only say what they were asked for, and no others."""
    programs = {"make": "", "apt-get": "exit 100" if fails else "", browser: ""}
    (tmp_path / "bin").mkdir()
    for name, ends in programs.items():
        said = f'echo {name} "$@" >> {tmp_path / "called"}'
        make_program(tmp_path / "bin" / (name or "nothing"), f"{said}\n{ends}")
    make_program(tmp_path / "bin" / "id", f"echo {user}")
    (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname"))
    command = [shutil.which("bash"), ROOT / ".ci" / "run"]
    done = subprocess.run(
        command, env={"PATH": str(tmp_path / "bin")}, check=True, capture_output=True, text=True
    )
    lines = (tmp_path / "called").read_text().splitlines()
    assert lines == [*called, "make lint", "make test"]
    assert ("could not be installed" in done.stdout) == fails


def make_program(path: Path, body: str) -> None:
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


def test_the_changelog_has_the_form_that_it_names():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\](?: - \d{4}-\d\d-\d\d)?$", text, flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert __version__ in versions or f"What becomes {__version__}" in text
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE))
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert "Added" in kinds
    assert kinds <= known


def test_every_library_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        name = re.split(r"[>=]", requirement)[0]
        assert re.search(rf"^\| [^|]*\b{name}\b", page, flags=re.MULTILINE), name
    for extra, requirements in project["optional-dependencies"].items():
        row = re.search(rf"^\| `{extra}` \|.*$", page, flags=re.MULTILINE)
        assert row, extra
        names = [re.split(r"[>=]", requirement)[0] for requirement in requirements]
        assert [name for name in names if name not in row[0]] == []
