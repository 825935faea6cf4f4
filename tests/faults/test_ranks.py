"""Several processes of which one fails: all end soon, the culprit is named, nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.ranks import environment, rendezvous, run_jobs
from support.tiny_folder import jsonl, sums
from support.torchrun import content, flags_for, launched, make_inputs, ranks_of, steps, wait_until


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def test_killed_in_either_rank_torchrun_starts_again_and_it_ends_equal(inputs, tmp_path):
    whole = tmp_path / "whole"
    run_jobs(tmp_path / "logs", [flags_for(inputs, whole, epochs=12)], size=2)
    killed = tmp_path / "killed"
    command = flags_for(inputs, killed, "--resume=auto", epochs=12)
    with launched("--max_restarts=3", "-m", "llama_recipes.finetuning", *command) as process:
        for rank, step in ((1, 5), (0, 25)):
            wait_until(lambda step=step: steps(killed) >= step)
            os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said[-3000:]
        assert ranks_of(process.pid) == {}
    assert said.count("Going on after step") == 2
    metrics, weights = content(whole)
    again, resumed = content(killed)
    assert again == metrics
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.faults
def test_a_rank_that_hangs_ends_the_run_and_is_named(inputs, tmp_path):
    folder = tmp_path / "hangs"
    command = flags_for(inputs, folder, "--timeout_seconds=5", epochs=1000)
    with launched("-m", "llama_recipes.finetuning", *command) as process:
        wait_until(lambda: steps(folder) >= 5)
        stopped = ranks_of(process.pid)[1]
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: 0 not in ranks_of(process.pid), 40)
        os.kill(stopped, signal.SIGKILL)  # torchrun would do so after its 30 seconds
        said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(r"Rank 0 waited for rank 1, which has ended or has not answered for 5 s", said)
    assert "most recent call last" in said  # where rank 0 stood
    assert any((folder / "checkpoints").glob("step-*"))


@pytest.mark.faults
def test_a_signal_to_torchrun_saves_and_the_next_start_goes_on(inputs, tmp_path):
    folder = tmp_path / "stopped"
    command = flags_for(inputs, folder, "--resume=auto", epochs=40)
    with launched("-m", "llama_recipes.finetuning", *command) as process:
        wait_until(lambda: steps(folder) >= 5)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert said.count("Stopped by SIGTERM after step") == 1, said[-2000:]
    saved = max(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))
    assert saved == steps(folder)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_where_torchrun_is_killed_its_ranks_save_and_end(inputs, tmp_path):
    folder = tmp_path / "orphans"
    with launched("-m", "llama_recipes.finetuning", *flags_for(inputs, folder)) as process:
        wait_until(lambda: steps(folder) >= 4)
        ranks = ranks_of(process.pid).values()
        process.kill()
        try:
            wait_until(lambda: not any(map(alive, ranks)), 60)
        finally:
            for rank in filter(alive, ranks):
                os.kill(rank, signal.SIGKILL)
        said, _ = process.communicate()
    saved = max(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))
    assert saved == steps(folder) < 150
    assert said.count("Stopped by SIGTERM after step") == 1, said[-2000:]


@pytest.fixture
def jobs(inputs, tmp_path):
    def run(*flags: str, size: int = 2, **more: object) -> list[str]:
        job = {"flags": flags_for(inputs, tmp_path / "result", *flags, epochs=1), **more}
        run_jobs(tmp_path / "logs", [job], size=size)
        return [(tmp_path / "logs" / f"0-{rank}.log").read_text() for rank in range(size)]

    return run


def test_a_number_that_is_none_in_one_rank_stops_all_before_the_weights(jobs, tmp_path):
    texts = jobs(code=5, nan={"rank": 1, "micro_batch": 3})
    assert sum("The loss is nan" in text for text in texts) == 1
    assert steps(tmp_path / "result") == 2
    saved = load_file(tmp_path / "result" / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["stop_reason"] == "stopped by NonFiniteError"
    assert re.search(r"These are (train\.jsonl, line \d+(; )?)+\.$", results["stop_message"])


@pytest.mark.parametrize(
    "documents", [1, *(pytest.param(n, marks=pytest.mark.faults) for n in (2, 5))]
)
def test_fewer_documents_than_ranks_are_no_hang(jobs, documents, inputs, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", sums(documents))
    flags = [f"--train_file={few}", "--batching_strategy=padding", "--run_validation"]
    flags_of_job = [*flags, f"--validation_file={few}"]
    job = {
        "flags": [
            flag
            for flag in flags_for(inputs, tmp_path / "result", *flags_of_job, epochs=2)
            if flag not in ("--no_run_validation", f"--train_file={inputs / 'train.jsonl'}")
        ]
    }
    run_jobs(tmp_path / "logs", [job], size=4)
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["steps"] == 2 * -(-documents // 4)


SLOW = """
import os
import time
from pathlib import Path


def get_custom_dataset(config, tokenizer, split):
    with Path(config.data_path).open("a") as calls:
        calls.write(split + "\\n")
    if int(os.environ["GROUP_RANK"]) == int(os.environ["GROUP_WORLD_SIZE"]) - 1:
        time.sleep(8)
    ids = tokenizer("12 + 3 = 15")["input_ids"]
    return [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}] * 6
"""


@pytest.mark.parametrize("hosts", [1, 2])
def test_data_may_take_longer_than_any_timeout_and_are_prepared_once(hosts, inputs, tmp_path):
    """Of two hosts by the second alone, as where the first one has them in its cache."""
    (tmp_path / "slow.py").write_text(SLOW)
    calls = tmp_path / "calls"
    job = [
        flag.replace("file_dataset", "custom_dataset")
        for flag in flags_for(inputs, tmp_path / "result", epochs=1)
        if "train_file" not in flag
    ]
    job += [f"--custom_dataset.file={tmp_path / 'slow.py'}", f"--data_path={calls}"]
    run_jobs(tmp_path / "logs", [[*job, "--timeout_seconds=3"]], size=2, hosts=hosts)
    assert calls.read_text() == "train\n" * hosts


def test_the_others_wait_for_rank_0_to_check_a_checkpoint_and_to_tell_the_trackers(
    inputs, tmp_path
):
    flags = flags_for(inputs, tmp_path / "result", "--resume=auto", epochs=2)
    signalled = {"rank": 1, "name": "SIGTERM", "micro_batch": 2}
    stops = {"flags": flags, "code": 75, "signal": signalled, "slow": {"telling the trackers": 2}}
    goes_on = {"flags": [*flags, "--timeout_seconds=3"], "slow": {"finding a checkpoint": 6}}
    first, second = tmp_path / "first", tmp_path / "second"
    run_jobs(first, [stops], size=2)
    told = re.search(r"finish ended at ([\d.]+)", (first / "0-0.log").read_text())
    assert told
    for rank in (0, 1):  # one that leaves earlier is followed by a signal from torchrun
        assert (first / f"0-{rank}.facts").stat().st_mtime >= float(told[1])
    run_jobs(second, [goes_on], size=2)
    assert "Going on after step" in (second / "0-0.log").read_text()


def test_bad_data_end_all_ranks_and_are_explained_once(jobs, inputs, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "1 + 1 =", "completion": " 2"}\nnot JSON\n')
    job = {
        "code": 3,
        "flags": [
            flag.replace(str(inputs / "train.jsonl"), str(bad))
            for flag in flags_for(inputs, tmp_path / "result")
        ],
    }
    run_jobs(tmp_path / "logs", [job], size=2)
    texts = [(tmp_path / "logs" / f"0-{rank}.log").read_text() for rank in range(2)]
    assert sum("line 2" in text for text in texts) == 1
    assert "Traceback" not in "".join(texts)


def test_a_mistyped_flag_is_explained_once(jobs):
    texts = jobs("--lerning_rate=1", code=2)
    assert "--lerning_rate" in texts[0]
    assert texts[1] == ""


def test_groups_that_do_not_fit_are_explained_once(jobs):
    texts = jobs("--hsdp", "--sharding_group_size=3", code=2)
    assert (
        sum("Groups by --sharding_group_size 3 do not make up all" in text for text in texts) == 1
    )
    assert "of which torchrun started 2: make --sharding_group_size times" in "".join(texts)


ASKS_LATE = """
import sys, time
from llama_recipes.finetuning import main
from llama_recipes.parallel.processes import ManyProcesses
from llama_recipes.parallel.ranks import end, rank

asks = ManyProcesses.is_first_to_say


def late(world, text):
    if rank() == 1:
        time.sleep(3)  # rank 0, which keeps the store, is gone by then
    return asks(world, text)


ManyProcesses.is_first_to_say = late
end(main(sys.argv[1:]))
"""


def test_a_rank_that_asks_a_store_that_is_gone_follows(inputs, tmp_path):
    flags = [*flags_for(inputs, tmp_path / "result"), f"--model_name={tmp_path / 'nowhere'}"]
    port = rendezvous().port  # free again at once
    command, ranks = [sys.executable, "-c", ASKS_LATE, *flags], []
    for rank in range(2):
        variables = environment(rank, 2, port=port)
        del variables["TORCHELASTIC_USE_AGENT_STORE"]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        ranks.append(subprocess.Popen(command, env=variables, **out))
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert "nowhere" in said[0]
    assert "Traceback" not in "".join(said)
