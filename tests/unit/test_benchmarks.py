"""What the benchmark makes of its measurements; the measurements themselves are `make bench`."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command
from benchmarks import measure, memory, memory_table, ours, packed, table
from benchmarks.contenders import DEFAULT, searched
from benchmarks.documents import chat, numbered, short
from benchmarks.flops import Shape, Work, full_flops, lora_flops
from benchmarks.measure import BenchmarkError, OutOfMemoryError, Spread, ratios, spawn, spread
from benchmarks.run import Run
from llama_recipes.data.loader import make_batch
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE
from support.tiny import tiny_llama, transformers_twin

TOKENS, SUPERVISED, RANK = 24, 7, 4


def test_a_spread_is_the_median_and_the_borders():
    assert spread([5, 1, 4, 2, 3]) == Spread(median=3, low=1, high=5)


def test_ratios_are_taken_round_by_round():
    """Not of the medians: here every round says 2, whatever the machine did in it."""
    assert ratios([20, 2, 200], [10, 1, 100]) == Spread(2, 2, 2)


def test_a_rate_leaves_the_first_steps_out():
    run = Run(tokens=[100, 30, 50], seconds=[9.0, 1.0, 3.0], peak_gib=1.0)
    assert run.rate(warmup=1) == 20


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, RANK, bias=False)
        self.b = nn.Linear(RANK, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_flops_are_those_that_pytorch_counts(adapter):
    """Of transformers' model; its attention computes the whole square, of which ours is a half."""
    model = tiny_llama()
    shape = Shape.from_hf(model.config.to_hf())
    twin = transformers_twin(model).train()
    twin.set_attn_implementation("eager")
    if adapter:
        twin.requires_grad_(False)
        for layer in twin.model.layers:
            for name in ("q_proj", "v_proj"):
                setattr(layer.self_attn, name, LowRank(getattr(layer.self_attn, name)))
    ids = torch.randint(shape.vocabulary, (1, TOKENS))
    with FlopCounterMode(display=False) as counter:
        hidden = twin.model(input_ids=ids, use_cache=False).last_hidden_state
        twin.lm_head(hidden[:, -SUPERVISED:]).sum().backward()

    work = Work(TOKENS, SUPERVISED, pairs=TOKENS**2)
    flops = lora_flops(shape, work, rank=RANK) if adapter else full_flops(shape, work)
    assert flops.total == counter.get_total_flops()
    causal = Work(TOKENS, SUPERVISED, pairs=TOKENS * (TOKENS + 1) // 2)
    less = lora_flops(shape, causal, rank=RANK) if adapter else full_flops(shape, causal)
    assert less.attention < 0.6 * flops.attention
    assert less.linear == flops.linear


def test_metrics_give_each_step_its_own_tokens(tmp_path):
    path = tmp_path / "metrics.jsonl"
    steps = [{"loss": 1.0, "tokens": 10}, {"eval_loss": 1.0}, {"loss": 1.0, "tokens": 25}]
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert [step["tokens"] for step in ours.read_metrics(path)] == [10, 15]


def test_our_command_is_one_that_is_accepted(tmp_path):
    from llama_recipes.configs.flags import parse

    job = ours.Job(file=tmp_path / "rows.jsonl", adapter=True, steps=4, rows=4, accumulation=2)
    _, _, module, *flags = ours.command(job, model="m", folder=tmp_path)
    config = parse(flags, prog=module).config
    assert config.train_config.batch_size_training == 4
    assert config.train_config.max_train_step == 4
    assert config.lora_config.target_modules == ["q_proj", "v_proj"]
    assert (config.lora_config.r, config.lora_config.lora_dropout) == (8, 0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", memory.KINDS, ids=lambda kind: kind.name)
def test_the_command_whose_memory_is_measured_asks_for_what_it_is_called(
    tmp_path, kind, checkpointing
):
    from llama_recipes.configs.flags import parse

    job = memory._our_job(tmp_path / "rows.jsonl", kind, 4096, checkpointing=checkpointing)
    _, _, module, *flags = ours.command(job, model="m", folder=tmp_path)
    config = parse(flags, prog=module).config
    assert config.train_config.use_peft == (kind.name != "full")
    assert config.train_config.quantization == ("4bit" if kind.name == "qlora" else False)
    assert config.quantization_config.quant_type == "nf4"
    assert config.was_set("fsdp_config.fsdp_activation_checkpointing") == checkpointing
    assert config.train_config.batching_strategy == "packing"
    assert (config.train_config.context_length, config.train_config.batch_size_training) == (
        4096,
        1,
    )


def test_the_row_that_trl_gets_trains_the_tokens_that_ours_does():
    """TRL takes no loss on the first token of a document, and shifts labels through the row."""
    ids = np.arange(10, 18, dtype=np.int32)
    labels = ids.copy()
    labels[[0, 1, 5]] = IGNORE
    store = TokenStore(ids, labels, np.array([0, 3, 5, 8]), np.array([1, 1, 2]), {"digest": ""})
    row = packed._row(store, [2, 0])
    assert row["seq_lengths"] == [3, 3]

    documents = [store.document(number) for number in (2, 0)]
    batch = make_batch(documents, numbers=[2, 0], pad_id=0, padded=False)
    assert row["input_ids"] == batch.tokens.tolist()
    starts = np.cumsum([0, *row["seq_lengths"][:-1]])
    trained = np.array(row["labels"])
    trained[starts] = IGNORE
    assert np.flatnonzero(trained != IGNORE).tolist() == (batch.supervised + 1).tolist()
    assert trained[trained != IGNORE].tolist() == batch.targets.tolist()


def test_trls_default_is_always_searched_first():
    assert all(
        searched(adapter=adapter, bf16=bf16)[0] == DEFAULT
        for adapter in (True, False)
        for bf16 in (True, False)
    )


def test_numbered_rows_are_all_different():
    rows = [chat("a", "1"), chat("b", "2")]
    found = [json.dumps(row) for row in numbered(rows, 5, mark="x")]
    assert len(set(found)) == 5


def test_fewer_generated_rows_are_the_first_of_more():
    assert list(short(20))[:7] == list(short(7))


def test_a_process_is_timed_and_its_memory_is_its_own(tmp_path):
    watched = tmp_path / "watched"
    code = (
        "import pathlib, sys, time\n"
        "held = bytearray(b'x') * 2**27\n"
        "pathlib.Path(sys.argv[1]).write_text('line')\n"
        "time.sleep(0.2)\n"
        "print('ignored'); print('last')"
    )
    started = time.perf_counter()
    ended = spawn(
        [sys.executable, "-c", code, str(watched)],
        environment={},
        log=tmp_path / "a.log",
        watch=watched,
    )
    assert ended.output == "last"
    assert 0 < ended.first_seconds <= time.perf_counter() - started - 0.1
    assert ended.peak_gib >= 0.125


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(BenchmarkError, match=r"exit code 3:\n  because"):
        spawn(
            [sys.executable, "-c", "import sys; print('because', file=sys.stderr); sys.exit(3)"],
            environment={},
            log=tmp_path / "b.log",
        )


@pytest.mark.parametrize(
    "code",
    ["raise MemoryError", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
    ids=["says so", "killed"],
)
def test_too_little_memory_is_a_result(tmp_path, code):
    code = f"held = bytearray(b'x') * 2**27\n{code}"

    def run():
        spawn([sys.executable, "-c", code], environment={}, log=tmp_path / "c.log")

    found = memory._tried(run)
    assert memory.is_bound(found)
    assert found["peak_gib"] >= 0.125


def test_a_process_that_would_take_all_memory_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SPARED_GIB", float("inf"))
    monkeypatch.setattr(measure, "available_gib", lambda: 1.0)
    with pytest.raises(OutOfMemoryError):
        spawn(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            environment={},
            log=tmp_path / "d.log",
        )


def run_json(tokens_per_second: float, peak_gib: float) -> dict:
    return Run([1, round(tokens_per_second)], [1.0, 1.0], peak_gib).as_json()


def small_results() -> dict:
    lora = {
        "date": "2026-01-02",
        "precision": "fp32",
        "warmup": 1,
        "search": {"default": run_json(100, 4)},
        "fastest": "grouped by length",
        "rounds": [
            {
                "matrix_gflops": {"fp32": 200.0},
                "ours": run_json(1000 * factor, 1.5),
                "default": run_json(100 * factor, 4),
                "fastest": run_json(200, 5),
            }
            for factor in (1, 2, 3)
        ],
        "work": {"tokens": 10, "supervised": 5, "pairs": 20},
        "flops": {"linear": 500_000_000, "head": 300_000_000, "attention": 200_000_000},
    }
    return {
        "machine": {"processor": "P", "threads": 2, "bf16": False, "versions": {"torch": "2.0"}},
        "sections": {
            "lora": lora,
            "start": {"date": "2026-01-03", "precision": "fp32", "seconds": [14, 16, 15]},
        },
    }


def test_the_table_is_made_of_medians_and_spreads():
    lines = table.render(small_results()).splitlines()
    assert lines[0] == "2026-01-02 to 2026-01-03, P, 2 threads; torch 2.0."
    assert "“grouped by length”" in lines[1]

    def cells(start: str) -> list[str]:
        (line,) = [line for line in lines if line.startswith(f"| {start} |")]
        return [cell.strip() for cell in line.strip("|").split("|")][1:]

    default = "LoRA: tokens per second, ours ÷ TRL's default"
    assert cells(default) == ["10×", "", "≥ 10×", "met"]
    fastest = "LoRA: tokens per second, ours ÷ TRL's fastest"
    assert cells(fastest) == ["10×", "5 to 15", "≥ 6×", "met"]
    # 200 GFLOP/s at 0.1 GFLOP a token are 2,000 tokens/s.
    limit = "… the most that is possible here: the matrix rate's tokens per second ÷ TRL's fastest"
    assert cells(limit) == ["10×", "", "", ""]
    used = "LoRA: model FLOPs per second ÷ the fp32 matrix rate"
    assert cells(used) == ["100%", "50 to 150", "≥ 40%", "met"]
    memory = "LoRA: peak memory, ours ÷ TRL's default"
    assert cells(memory) == ["0.375×", "", "≤ 0.5×", "met"]
    started = "From the command to the first step, everything cached"
    assert cells(started) == ["15 s", "14 to 16", "≤ 15 s", "met"]


def test_an_aim_that_is_missed_is_called_so():
    results = small_results()
    results["sections"]["start"]["seconds"] = [15.1]
    assert "| 15.1 s |  | ≤ 15 s | missed |" in table.render(results)


def memory_section() -> dict:
    def contest(kind: str, context: int, *rounds: tuple) -> dict:
        return {
            "kind": kind,
            "checkpointing": context == 4096,
            "context": context,
            "tokens": [context, context],
            "rounds": [{"ours": ours, "theirs": theirs} for ours, theirs in rounds],
        }

    def run(gib: float) -> dict:
        return run_json(10, gib)

    held = {
        "ours": {"libraries_gib": 0.25, "weights_gib": 0.5, "training_gib": 0.125},
        "theirs": {"libraries_gib": 0.75},
    }
    return {
        "date": "2026-01-04",
        "precision": "fp32",
        "bitsandbytes": "0.50",
        "held": {kind.name: held for kind in memory.KINDS},
        "contests": [
            contest("full", 1024, (run(3), run(4)), (run(3), run(5))),
            contest("lora", 1024, (run(1), run(2)), (run(1), run(2))),
            contest("lora", 4096, (run(3), {"peak_gib": 8.0})),
            contest("qlora", 1024, ({"peak_gib": 8.0}, run(8))),
            contest("qlora", 4096, ({"peak_gib": 8.0}, {"peak_gib": 8.0})),
            contest("qlora", 4096, (run(6), {"peak_gib": 8.0})),
        ],
    }


def test_the_table_of_memory_says_what_was_met_missed_or_did_not_fit():
    found = list(memory_table.lines(memory_section()))
    assert found[4:10] == [
        "| Full, 1,024 tokens | 3 | 4.5 | 0.675× | 0.6 to 0.75 | ≤ 0.7× | met |",
        "| LoRA, 1,024 tokens | 1 | 2 | 0.5× |  | ≤ 0.5× | met |",
        "| LoRA, 4,096 tokens, checkpointing | 3 | > 8 | < 0.375× |  | ≤ 0.5× | met |",
        "| QLoRA, 1,024 tokens | > 8 | 8 | > 1× |  | ≤ 0.5× | missed |",
        "| QLoRA, 4,096 tokens, checkpointing | > 8 | > 8 |  |  | ≤ 0.5× | neither fits |",
        "| QLoRA, 4,096 tokens, checkpointing | 6 | > 8 | < 0.75× |  | ≤ 0.5× | not known |",
    ]
    assert "holds 0.25 GiB of ours and 0.75 GiB of TRL's" in found[-1]
    assert "LoRA 0.5 + 0.125 + 0.125 to 2.12 GiB" in found[-1]


def test_the_table_of_memory_stands_between_the_others():
    results = small_results()
    results["sections"]["memory"] = memory_section()
    rendered = table.render(results)
    assert "\n\n".join(["", "\n".join(memory_table.lines(memory_section())), ""]) in rendered
    assert "to 2026-01-04" in rendered


def test_a_table_is_put_between_its_markers():
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter"
    assert table.put_into(text, "new") == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter"
    with pytest.raises(ValueError, match="markers"):
        table.put_into("no markers", "new")


def test_the_readme_holds_what_results_json_renders():
    if not table.RESULTS.exists():
        pytest.skip("benchmarks/results.json is missing: nothing has been measured yet")
    readme = table.README.read_text(encoding="utf-8")
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert table.put_into(readme, table.render(results)) == readme


def test_missing_gsm8k_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    assert command.main(["--only", "start", "--gsm8k", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == f"GSM8K is not at {tmp_path}/train.jsonl: name its folder with --gsm8k."


def test_results_of_two_machines_are_not_mixed(tmp_path):
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"machine": {"processor": "A"}, "sections": {}}))
    with pytest.raises(BenchmarkError, match="another machine"):
        command._results(output, {"processor": "B"})


def test_a_package_that_a_section_needs_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.main(["--only", "memory"]) == 2
    assert "Not installed: trl, bitsandbytes. pip install" in capsys.readouterr().err
