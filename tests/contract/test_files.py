"""Settings in a YAML file: what it may hold, what is said about the rest, and what is printed."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_recipes.configs.document import to_yaml
from llama_recipes.configs.flags import parse, read
from llama_recipes.configs.needs import warnings
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.wandb import WandbConfig
from support.settings import RUNNABLE, configured, problems_of, written


def test_default_then_file_then_flag(tmp_path: Path) -> None:
    file = written(tmp_path, "train_config:\n  lr: 1e-5\n  num_epochs: 7\nlora_config:\n")
    config = configured(file, "--num_epochs=9")
    assert config.train_config.lr == 1e-5
    assert config.train_config.num_epochs == 9
    assert config.train_config.seed == 42


def test_a_bare_flag_wins_over_the_file_in_every_section(tmp_path: Path) -> None:
    file = written(tmp_path, "fsdp_config: {mixed_precision: true}")
    config = configured(file, "--no_mixed_precision")
    assert not config.fsdp_config.mixed_precision


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert configured(written(tmp_path, "# only a remark\n")) == configured()


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.e-4", ".1e-3", "1.0e-4", "0.0001"])
def test_numbers_as_everybody_writes_them(number: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"train_config: {{lr: {number}, weight_decay: 0}}")
    assert configured(file).train_config.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train_config:\n  lr: [1\n", ", line 3: not valid YAML: "),
        (
            "train_config:\n  lr: 1\n  lr: 2\n",
            ", line 3: not valid YAML: the key 'lr' stands twice",
        ),
        ("a: \x00", "not valid YAML"),
        ("train_config: {notes: 2024-13-54}", "not valid YAML: month must be in 1..12"),
        ("- train_config\n", "is no mapping of sections"),
        ("lr: 1\n", "'lr' is no section. lr stands under train_config."),
        ("lora_confg: {r: 1}\n", "'lora_confg' is no section. Did you mean lora_config?"),
        ("train_config: 3\n", "train_config is 3, but must be a mapping of settings."),
        (
            "train_config: {sede: 1}\n",
            "train_config has no setting 'sede'. Did you mean seed?",
        ),
        ("train_config: {seed: '1'}\n", "train_config.seed is '1', but must be a whole number"),
        ("train_config: {use_peft: 1}\n", "train_config.use_peft is 1, but must be True or False"),
        ("train_config: {run_validation: 1}\n", "run_validation is 1, but must be True or False"),
        ("train_config: {seed: null}\n", "train_config.seed is None, but must be a whole number"),
        ("train_config: {model_name: 3}\n", "is 3, but must be text. Quotes make it text."),
    ],
)
def test_what_is_said_about_anything_else(text: str, problem: str, tmp_path: Path) -> None:
    flag = written(tmp_path, text)
    problems = problems_of(flag)
    assert problem in "\n".join(problems)
    assert str(tmp_path / "run.yaml") in problems[0]


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    (problem,) = problems_of(f"--config={tmp_path / 'no.yaml'}")
    assert "there is no such file" in problem
    (problem,) = problems_of(f"--config={tmp_path}")
    assert "cannot be read" in problem
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    (problem,) = problems_of(f"--config={tmp_path / 'latin.yaml'}")
    assert "cannot be read" in problem


def test_what_is_printed_does_not_count_as_given(tmp_path: Path) -> None:
    config = configured("--use_peft", "--r=16")
    again = parse([written(tmp_path, to_yaml(config))], prog="train").config
    assert again == config
    assert again.given() == config.given()
    assert warnings(again) == []


@pytest.mark.parametrize("flags", [[], ["--context_length=4096"], ["--context_length=512"]])
def test_whether_a_context_length_was_asked_for_survives_printing(
    flags: list[str], tmp_path: Path
) -> None:
    config = configured(*flags)
    again = parse([written(tmp_path, to_yaml(config))], prog="train").config
    assert config.was_set("train_config.context_length") == bool(flags)
    assert again.was_set("train_config.context_length") == bool(flags)
    assert again == config


def test_every_setting_is_printed_on_one_line() -> None:
    lines = to_yaml(RunConfig()).splitlines()
    assert "  lr: 0.0001" in lines
    assert "  target_modules: [q_proj, v_proj]" in lines
    assert "  # context_length: 4096  (not given: at most the model's own limit)" in lines


def test_a_file_to_fill_in_can_be_printed_before_any_path_is_known() -> None:
    assert problems_of("--print_config") == ()
    (problem,) = problems_of("--print_config", "--quantization")
    assert "--quantization needs --use_peft" in problem


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@hypothesis.settings(deadline=None, max_examples=100)
@given(notes=TEXT, tags=st.lists(TEXT))
@hypothesis.example(notes="\x85", tags=["a\u2028", "\n", " \r"])
def test_any_text_survives_printing(
    notes: str, tags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = RunConfig(wandb_config=WandbConfig(notes=notes, tags=tags))
    file = written(tmp_path_factory.getbasetemp(), to_yaml(config))
    assert read([file], prog="train").config == config


@pytest.mark.parametrize("text", ["1e5", "yes", "3", "a: b", "[x]", "2024-01-01", "~", "-"])
def test_text_that_looks_like_something_else_stays_text(text: str, tmp_path: Path) -> None:
    config = configured("--notes", text)
    assert configured(written(tmp_path, to_yaml(config))).wandb_config.notes == text


def test_the_flags_that_make_a_run_are_enough() -> None:
    assert problems_of(*RUNNABLE) == ()
