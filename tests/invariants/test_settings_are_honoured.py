"""Invariant 10: every setting changes what a run does, or the run refuses it, or warns of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_recipes.configs.section import flag_of
from llama_recipes.configs.settings import SETTINGS
from llama_recipes.kernels import build
from support.inputs import make_inputs
from support.on_ranks import SEEN_ON_RANKS
from support.outcome import Outcome, run
from support.setting_cases import CASES, LORA, USUAL, Case, code
from support.settings import another_value

WITHOUT_ALTERNATIVE = {
    "train_config.one_gpu": "every run of this version uses one device",
    "lora_config.task_type": "has one value, which adapter_config.json is written with",
}

OWN_TEST = {"train_config.use_fast_kernels"}
"""It matters on machines without a compiler alone: test_fast_kernels_are_insisted_on."""

Runner = Callable[..., Outcome]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs with the usual flags, changed by these; `again` for a run that was made before."""
    inputs = make_inputs(tmp_path_factory.mktemp("inputs"))
    begun = " ".join((USUAL, "--max_train_step=2 --checkpoint_every=1")).format(**inputs)
    first = run(tmp_path_factory.mktemp("run") / "begun", *begun.split())
    inputs["checkpoint"] = str(first.folder / "checkpoints" / "step-00000002")
    made: dict[tuple[str, ...], Outcome] = {}

    def of(*flags: str, again: bool = False) -> Outcome:
        words = tuple(" ".join((USUAL, *flags)).format(**inputs).split())
        if again or words not in made:
            made[words] = run(tmp_path_factory.mktemp("run") / "of", *words)
        return made[words]

    return of


def test_every_setting_has_its_place_here() -> None:
    changed = {case.key for case in CASES}
    places = [changed, set(WITHOUT_ALTERNATIVE), OWN_TEST]
    places.append(SEEN_ON_RANKS)
    assert set().union(*places) == set(SETTINGS)
    assert sum(map(len, places)) == len(SETTINGS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_another_value_changes_what_is_seen(case: Case, outcome: Runner) -> None:
    usual = outcome(case.flags)
    other = outcome(case.flags, f"{flag_of(case.key)}={case.value}")
    assert code in case.sees or usual.code == other.code == 0, usual.err + other.err
    seen = [(see(usual), see(other)) for see in case.sees]
    assert all(default != changed for default, changed in seen), seen
    if case.shows:
        assert seen[0] == case.shows


@pytest.mark.parametrize("flags", ["", LORA, "--use_peft"])
def test_what_is_seen_is_no_accident(flags: str, outcome: Runner) -> None:
    """A run that is made twice shows the same, so that a difference comes from the setting."""
    first, second = outcome(flags), outcome(flags, again=True)
    for see in [see for case in CASES if case.flags == flags for see in case.sees]:
        assert see(first) == see(second)


def test_threads_change_nothing_but_the_time(outcome: Runner) -> None:
    several, none = outcome("--num_workers_dataloader=3"), outcome()
    assert several.steps("loss") == none.steps("loss")
    assert several.evaluations("eval_loss") == none.evaluations("eval_loss")


def test_one_device_is_what_every_run_uses(outcome: Runner) -> None:
    asked, usual = outcome("--one_gpu"), outcome()
    assert asked.steps("loss") == usual.steps("loss")
    assert "no effect" not in asked.out


def test_the_only_kind_of_task_stands_in_the_adapter(outcome: Runner) -> None:
    assert outcome(LORA).json("adapter_config.json")["task_type"] == "CAUSAL_LM"
    assert outcome(LORA, "--lora_config.task_type=SEQ_CLS").code == 2


# What only a feature that is not built reads


def asking(key: str) -> str:
    return f"--{key}={another_value(SETTINGS[key])[0].replace(' ', '')}"


def test_what_nothing_reads_is_warned_of_and_changes_nothing(outcome: Runner) -> None:
    """Without bf16, because a value that train_config.mixed_precision has too counts as heard."""
    mixed, idle = "--mixed_precision", sorted(SEEN_ON_RANKS - {"train_config.enable_fsdp"})
    asked, usual = outcome(mixed, *map(asking, idle)), outcome(mixed)
    warned = [
        flag
        for line in asked.out.splitlines()
        if line.startswith("Warning: ") and " no effect in this run without " in line
        for flag in line.removeprefix("Warning: ").split(" ha")[0].split(", ")
    ]
    assert sorted(warned) == sorted(map(flag_of, idle))
    assert asked.steps("loss") == usual.steps("loss")


def test_fast_kernels_are_insisted_on(outcome: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler a run goes on and says so in one line; with the flag it is refused."""
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    usual = outcome("", again=True)
    said = " ".join(usual.out.split())  # lines are broken where the terminal ends
    assert usual.code == 0
    assert said.count("no C++ compiler was found (tried g++, c++; install g++).") == 1, said
    insisted = outcome("--use_fast_kernels", again=True)
    assert insisted.code == 2
    assert "--use_fast_kernels" in insisted.err
    assert "no C++ compiler was found (tried g++, c++; install g++)" in insisted.err
