"""A live bar on a terminal, plain lines elsewhere; nothing of a message is lost or coloured in."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llama_recipes.monitoring.screen import Screen, duration


def screen(**settings) -> tuple[Screen, io.StringIO]:
    output = io.StringIO()
    return Screen(Console(file=output, highlight=False, **settings)), output


def train(shown: Screen, steps: int, *, done: int = 0) -> None:
    with shown.training(steps, done=done):
        for step in range(done + 1, steps + 1):
            shown.step(epoch=1, epochs=2, step=step, loss=1 / step, tokens_per_second=12345.6)


def test_without_a_terminal_there_are_plain_lines():
    shown, output = screen()
    train(shown, 3)
    first, last = output.getvalue().splitlines()  # those between come too fast
    assert first.startswith(
        "Training Epoch: 1/2, step 1/3 completed (loss: 1.0000, 12,346 tokens/s, 0:00 left)"
    )
    assert last.startswith("Training Epoch: 1/2, step 3/3 completed (loss: 0.3333, ")
    assert "\x1b" not in output.getvalue()


def test_a_slow_run_has_a_line_a_step_and_says_how_long_it_takes(monkeypatch):
    clock = iter([0.0, *range(100, 500, 100)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    shown, output = screen()
    train(shown, 4)
    left = [line.rpartition(", ")[2] for line in output.getvalue().splitlines()]
    assert left == ["5:00 left)", "3:20 left)", "1:40 left)", "0:00 left)"]


def test_the_time_left_after_a_resume_is_that_of_this_process_s_steps(monkeypatch):
    clock = iter([0.0, *range(100, 300, 100)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    shown, output = screen()
    train(shown, 1002, done=1000)
    left = [line.rpartition(", ")[2] for line in output.getvalue().splitlines()]
    assert left == ["1:40 left)", "0:00 left)"]


def test_a_long_line_is_not_folded():
    shown, output = screen(width=40)
    shown.line("x " * 100)
    shown.warn("y " * 100)
    assert len(output.getvalue().splitlines()) == 2
    assert output.getvalue().splitlines()[1].startswith("Warning: y")


@pytest.mark.parametrize("text", ["[bold]a[/bold]", "[/]", "a [red] b", ":smile:", "\\[x]"])
def test_text_is_shown_as_it_is(text):
    shown, output = screen()
    shown.line(text)
    shown.warn(text)
    assert output.getvalue() == f"{text}\nWarning: {text}\n"


def test_a_terminal_gets_a_bar_with_epoch_loss_speed_and_steps():
    shown, output = screen(force_terminal=True, width=160)
    with shown.training(2):
        shown.step(epoch=1, epochs=2, step=1, loss=0.5, tokens_per_second=1000)
        shown.line("said in between")
        shown.step(epoch=1, epochs=2, step=2, loss=0.25, tokens_per_second=1000)
    said = output.getvalue()
    assert "Training Epoch: 1/2" in said
    assert "2/2" in said
    assert "loss: 0.2500" in said
    assert "1,000 tokens/s" in said
    assert "said in between\n" in said


def test_the_bar_is_closed_whatever_happens():
    shown, output = screen(force_terminal=True, width=160)
    with pytest.raises(ZeroDivisionError), shown.training(2):
        raise ZeroDivisionError
    assert output.getvalue().endswith("\x1b[?25h")  # the cursor is back
    before = len(output.getvalue())
    shown.line("after")
    assert output.getvalue()[before:] == "after\n"


def test_durations():
    assert [duration(s) for s in (0, 59.6, 61, 3600, 3723.4)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "1:02:03",
    ]
