"""Invariant 8 for everything that works on several processes: the table of docs/distributed.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_recipes.finetuning import main
from llama_recipes.training import step
from support.combinations import CELLS, PAGE, ROWS, Cell, Row, filled
from support.ranks import run_jobs
from support.side_by_side import BF16, FP16, FP32, MOMENTS, check_same, make_inputs, metrics
from support.sixteen_bits import told_of_bf16

RUN = [cell for cell in CELLS if not cell.refusal]
REFUSED = [cell for cell in CELLS if cell.refusal]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def ran(inputs, tmp_path_factory, request):
    """Where a cell's results are; all that was selected for as many processes is run with it."""
    folder = tmp_path_factory.mktemp("ranks")
    tests = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [test["cell"] for test in tests if test.get("cell") in RUN]
    begun: set[int] = set()

    def run(cell: Cell) -> Path:
        size = cell.size
        if size not in begun:
            begun.add(size)
            jobs = [
                {"flags": each.flags(inputs, folder / str(each)), "has_bf16": True}
                for each in wanted
                if each.size == size
            ]
            run_jobs(folder / f"logs-{size}", jobs, size=size, hosts=size // 2, timeout=600)
        return folder / str(cell)

    return run


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """Results of one process, each made once."""
    folder = tmp_path_factory.mktemp("alone")
    made: dict[Row, Path] = {}

    def run(cell: Cell) -> Path:
        if cell.row not in made:
            output = folder / str(len(made))
            with told_of_bf16():
                assert main(cell.flags(inputs, output, alone=True)) == 0
            made[cell.row] = output
        return made[cell.row]

    return run


@pytest.mark.parametrize(
    "cell",
    [pytest.param(c, marks=[pytest.mark.faults] if c.is_long else [], id=str(c)) for c in RUN],
)
def test_a_combination_trains_as_one_process_does(cell, ran, alone):
    check_same(ran(cell), alone(cell), cell.row.bound)


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_a_combination_that_cannot_work_says_why(cell, inputs, tmp_path, capsys):
    assert main(cell.flags(inputs, tmp_path / "result")) == 2
    assert cell.refusal in capsys.readouterr().err
    assert not (tmp_path / "result").exists()


def test_the_default_computes_in_bf16(alone):
    """And so its bound is not that of fp32 with a wider name."""
    of = {cell.row.name: cell for cell in RUN}
    rounded, exact = (
        metrics(alone(of[name])) for name in ("all weights, mixed bf16, the default", "all weights")
    )
    assert abs(rounded[0]["loss"] - exact[0]["loss"]) > 1e-5


@pytest.mark.parametrize("bound", [FP32, MOMENTS, FP16, BF16], ids=lambda bound: bound.name)
def test_half_the_gradient_of_a_micro_batch_is_beyond_every_bound(
    bound, inputs, alone, tmp_path, monkeypatch
):
    cell = next(cell for cell in RUN if cell.row.bound is bound)
    batch_loss, calls = step.batch_loss, []

    def halved(*arguments):
        calls.append(batch_loss(*arguments))
        here = len(calls) == 6
        return (calls[-1] + calls[-1].detach()) / 2 if here else calls[-1]

    expected = alone(cell)
    monkeypatch.setattr(step, "batch_loss", halved)
    with told_of_bf16():
        assert main(cell.flags(inputs, tmp_path / "other", alone=True)) == 0
    with pytest.raises(AssertionError):
        check_same(tmp_path / "other", expected, bound)


def test_the_page_is_what_the_table_makes_of_it():
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "made anew with: make docs"


def test_no_two_cells_are_the_same():
    assert len({str(cell) for cell in CELLS}) == len(CELLS)
    assert len({row.name for row in ROWS}) == len(ROWS)
