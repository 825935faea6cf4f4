"""What a command ends with, and what a user reads when it ends badly."""

from __future__ import annotations

import pytest

from llama_recipes import errors
from llama_recipes.cli.main import COMMANDS, main
from llama_recipes.errors import guard


def raising(error: BaseException):
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("Mend this."), 2),
        (errors.DataError("Mend this."), 3),
        (errors.CheckpointError("Mend this."), 4),
        (errors.NonFiniteError("Mend this."), 5),
        (errors.Interrupted("Mend this."), 75),
    ],
)
def test_a_user_s_error_is_a_sentence(error, code: int, capsys: pytest.CaptureFixture) -> None:
    assert guard(raising(error), debug=False) == code
    assert capsys.readouterr() == ("", "Error: Mend this.\n")


def test_several_problems_are_a_list(capsys: pytest.CaptureFixture) -> None:
    guard(raising(errors.ConfigError("One.", "Two.")), debug=False)
    assert capsys.readouterr().err == "2 errors:\n  - One.\n  - Two.\n"


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture) -> None:
    assert guard(raising(errors.DataError("Mend this.")), debug=True) == 3
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("Error: Mend this.\n")


def test_a_bug_of_ours_says_so_and_shows_where(capsys: pytest.CaptureFixture) -> None:
    assert guard(raising(ZeroDivisionError("oh")), debug=False) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in said
    assert "This is a bug in llama-recipes" in said


def test_an_interrupt_is_no_bug(capsys: pytest.CaptureFixture) -> None:
    assert guard(raising(KeyboardInterrupt()), debug=False) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_body_that_ends_well_keeps_its_code() -> None:
    assert guard(lambda: 0, debug=False) == 0


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "Error: llama-recipes has no command 'trian'. Did you mean train?\n"
    )
    assert main(["zzz"]) == 2
    assert f"Choose from {', '.join(COMMANDS)}." in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture) -> None:
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        said = capsys.readouterr().out
        assert all(f"  {command} " in said for command in COMMANDS)
    assert main(["--version"]) == 0


def test_all_problems_of_a_run_reach_the_user(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--lr=0", "--zzz"]) == 2
    said = capsys.readouterr().err
    assert "--lr is 0.0, but must be a number, above 0." in said
    assert "--zzz is no setting." in said
    assert "--model_name is not given" in said
    assert "Traceback" not in said
