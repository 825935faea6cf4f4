"""Commands of `llama-recipes`, run as a user runs them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_recipes.cli.main import main


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a command that has to end with `code`: what it wrote as its output, and as errors."""

    def ran(*argv: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = main([str(word) for word in argv])
        output = capsys.readouterr()
        assert found == code, output.err
        assert "Traceback" not in output.err
        return output.out, output.err

    return ran


@pytest.fixture
def said(ran: Callable[..., tuple[str, str]]) -> Callable[..., str]:
    """The same: of a command that succeeds its output, of another what it says is wrong."""

    def said(*argv: object, code: int = 0) -> str:
        output, errors = ran(*argv, code=code)
        return errors if code else output

    return said
