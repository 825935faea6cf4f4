"""Which step is counted, what times it, and what is made of both."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from llama_recipes.monitoring import matrix_rate as rates
from llama_recipes.monitoring.flop_counter import FlopCounter
from llama_recipes.monitoring.matrix_rate import MatrixRate, data_sheet, measured_tflops
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.world import CPU_ALONE, OneProcess
from llama_recipes.training.windows import windows
from support.documents import random_documents, untrained
from support.flops import computed
from support.trained import Trained

CPU = torch.device("cpu")
RATE = MatrixRate(2.0, "a test")


class Watched:
    """A counter, and what it showed. A step is a product of 1000 operations; made with `tokens`."""

    def __init__(self, *, start=3, world=CPU_ALONE, model=None, rate=RATE, **more) -> None:
        self.shown = io.StringIO()
        screen = Screen(Console(file=self.shown, width=400))
        self.counter = FlopCounter(
            nn.Module() if model is None else model,
            start=start, rate=rate, world=world, screen=screen, **more,
        )  # fmt: skip

    def step(self, number: int, tokens: int = 100, seconds: float = 1.0) -> None:
        with self.counter.around(number):
            torch.ones(5, 10) @ torch.ones(10, 10)
        if tokens:
            self.counter.made(number, tokens=tokens, seconds=seconds)

    def steps(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.step(number)

    @property
    def found(self) -> dict:
        return self.counter.figures()["flop_counter"]


def test_a_run_counts_the_step_after_the_first_ones_with_all_of_its_micro_batches(
    tmp_path, either_path
):
    trained = Trained(tmp_path, num_epochs=2, gradient_accumulation_steps=3)
    watched = Watched(start=4, model=trained.model)
    trained.run.instrument = watched.counter
    trained.train()
    of_steps = list(windows(trained.run.train_loader, epochs=2, accumulation=3))
    counted = [computed(trained.model, window.batches) for window in of_steps]
    assert watched.found["step"] == 5
    assert watched.found["model_tflop"] * 1e12 == pytest.approx(counted[4], rel=1e-12)
    assert len(set(counted)) == len(counted)  # no other step has as many
    timed = [line for line in trained.steps if line["step"] == 6]
    assert watched.found["timed_steps"] == [6]
    tokens = [line["tokens"] for line in trained.steps]
    rate = (tokens[5] - tokens[4]) / sum(line["step_seconds"] for line in timed)
    assert watched.found["tokens_per_second_per_device"] == pytest.approx(rate)


def test_a_step_is_timed_by_those_behind_it():
    watched = Watched(start=2)
    watched.step(1, 100, seconds=1000)
    watched.step(2, 100, seconds=100)  # still warming up
    watched.step(3, 50, seconds=500)  # counting slows it down
    assert "per device" not in watched.shown.getvalue()
    watched.step(4, 300, seconds=3)
    watched.step(5, 200, seconds=2)
    watched.step(6, 900, seconds=1)
    found = watched.found
    assert (found["step"], found["tokens"], found["timed_steps"]) == (3, 50, [4, 5])
    assert found["tokens_per_second_per_device"] == 100
    assert found["model_tflop"] == pytest.approx(1e-9)
    tflops = 1e-9 / 50 * 100
    assert watched.counter.figures()["model_tflops"] == pytest.approx(tflops)
    assert found["share_of_matrix_rate"] == pytest.approx(tflops / 2)
    said = watched.shown.getvalue()
    assert "Floating-point operations of optimizer step 3:" in said
    assert "2e-09 TFLOP/s per device, 0.0% of its matrix rate of 2 TFLOP/s (a test); 100" in said
    assert said.count("per device") == 2


def test_rates_are_those_of_one_of_several_devices():
    class Two(OneProcess):
        size = 2

        def texts(self, text):
            return [text, text]

    watched = Watched(start=1, world=Two(CPU))
    watched.steps(1, 4)
    found = watched.found
    assert found["devices"] == 2
    assert found["model_tflop"] == pytest.approx(2e-9)
    assert found["tokens_per_second_per_device"] == 50
    assert watched.counter.figures()["model_tflops"] == pytest.approx(2e-9 / 100 * 50)
    assert "step 2, of 2 devices together:" in watched.shown.getvalue()


def test_where_a_run_goes_on_the_first_steps_are_those_of_the_process():
    watched = Watched(start=1)
    watched.steps(41, 44)
    assert (watched.found["step"], watched.found["timed_steps"]) == (42, [43, 44])


def test_a_step_that_fp16_computes_twice_is_not_the_one():
    scales = iter([8.0, 4.0, 4.0, 4.0])
    watched = Watched(start=1, scale=lambda: next(scales))
    watched.steps(1, 5)
    assert watched.found["step"] == 3
    assert watched.found["model_tflop"] == pytest.approx(1e-9)


def test_a_step_without_a_label_is_not_the_one(tmp_path):
    trained = Trained(tmp_path, documents=[untrained(6), *random_documents([9, 4, 8])])
    watched = Watched(start=0, model=trained.model)
    trained.run.instrument = watched.counter
    trained.train()
    assert "has no supervised token" in trained.shown.getvalue()
    made = [line["step"] for line in trained.steps]
    assert watched.found["step"] == made[0]
    assert watched.found["model_tflop"] > 0


def test_a_step_that_fails_is_not_counted_and_the_run_ends_as_it_would():
    watched = Watched(start=0)
    with pytest.raises(KeyboardInterrupt), watched.counter.around(1):
        raise KeyboardInterrupt
    watched.counter.end()
    assert watched.counter.figures() == {}
    assert "ended before the step that --flop_counter was to count" in watched.shown.getvalue()


def test_a_run_that_ends_soon_after_is_reported_with_what_there_is():
    watched = Watched(start=3)
    watched.steps(1, 4)
    assert "per device" not in watched.shown.getvalue()
    watched.counter.end()
    watched.counter.end()
    assert watched.shown.getvalue().count("Timed by steps 2, 3:") == 1


def test_a_run_of_one_step_has_a_count_and_no_time():
    watched = Watched(start=0)
    watched.step(1)
    watched.counter.end()
    assert watched.counter.figures()["model_tflops"] is None
    assert watched.found["share_of_matrix_rate"] is None
    assert watched.found["model_tflop"] == pytest.approx(1e-9)
    assert "There is no other step to time" in watched.shown.getvalue()


def test_the_only_other_step_is_taken_even_if_it_is_the_first():
    watched = Watched(start=1)
    watched.steps(1, 2)
    assert watched.found["timed_steps"] == [1]
    watched.counter.end()
    assert "Timed by step 1: counting slows its own down." in watched.shown.getvalue()


# The rate that it is held against


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.5),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756.0),
        ("NVIDIA A100-SXM4-80GB", torch.float16, 312.0),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 19.5),
        ("NVIDIA L4", torch.bfloat16, 121.0),
        ("NVIDIA L40S", torch.bfloat16, 362.0),
        ("Tesla T4", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", torch.bfloat16, None),
        ("NVIDIA A10G", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 3060", torch.float16, None),
    ],
)
def test_known_gpus_have_the_rate_of_their_data_sheet(name, dtype, tflops, monkeypatch):
    assert (data_sheet(name, dtype) or MatrixRate(None, "")).tflops == tflops
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(rates, "_measured", lambda device, dtype: MatrixRate(1.5, "measured"))
    found = rates.matrix_rate(torch.device("cuda", 0), dtype)
    assert found.tflops == (tflops or 1.5)
    assert ("NVIDIA's data sheet" in found.source) == (tflops is not None)


def test_a_rate_is_the_product_s_operations_over_the_shortest_time(monkeypatch):
    clock = iter([0.0, 0.5, 1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock))
    rate = measured_tflops(64, 3, device=CPU, dtype=torch.float32)
    assert rate == pytest.approx(2 * 64**3 / 0.25 / 1e12)


def test_measuring_draws_nothing_of_the_run_s(monkeypatch):
    monkeypatch.setattr(rates, "_LARGEST", 512)
    rates._measured.cache_clear()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = rates.matrix_rate(CPU, torch.float32)
    assert torch.equal(torch.rand(3), expected)
    assert found.tflops > 0
    assert found.source == "measured with products of 512 x 512 in float32"
    rates._measured.cache_clear()
