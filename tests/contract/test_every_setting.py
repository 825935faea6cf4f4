"""What holds for each setting of the schema, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llama_recipes.configs.document import to_yaml
from llama_recipes.configs.flags import Reading, read
from llama_recipes.configs.needs import warnings
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.settings import BY_BARE_NAME, SECTIONS, SETTINGS, Setting
from support.settings import RUNNABLE, another_value, written

EVERY = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))

ORIGINAL = {
    "model_name": "PATH/to/Model",
    "tokenizer_name": None,
    "enable_fsdp": False,
    "low_cpu_fsdp": False,
    "run_validation": True,
    "batch_size_training": 4,
    "batching_strategy": "packing",
    "context_length": 4096,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": False,
    "gradient_clipping_threshold": 1.0,
    "num_epochs": 3,
    "max_train_step": 0,
    "max_eval_step": 0,
    "num_workers_dataloader": 1,
    "lr": 1e-4,
    "weight_decay": 0.0,
    "gamma": 0.85,
    "seed": 42,
    "use_fp16": False,
    "mixed_precision": True,
    "val_batch_size": 1,
    "dataset": "samsum_dataset",
    "peft_method": "lora",
    "use_peft": False,
    "from_peft_checkpoint": "",
    "output_dir": "PATH/to/save/PEFT/model",
    "freeze_layers": False,
    "num_freeze_layers": 1,
    "quantization": False,
    "one_gpu": False,
    "save_model": True,
    "dist_checkpoint_root_folder": "PATH/to/save/FSDP/model",
    "dist_checkpoint_folder": "fine-tuned",
    "save_optimizer": False,
    "use_fast_kernels": False,
    "use_wandb": False,
    "save_metrics": False,
    "flop_counter": False,
    "flop_counter_start": 3,
    "use_profiler": False,
    "profiler_dir": "PATH/to/save/profiler/results",
}


def read_clean(*flags: str) -> Reading:
    reading = read(flags, prog="train")
    assert reading.problems == []
    return reading


def changed(config: RunConfig) -> dict[str, object]:
    return {
        key: config.value(key) for key in SETTINGS if config.value(key) != SETTINGS[key].default
    }


def test_the_original_s_settings_keep_their_names_and_defaults() -> None:
    ours = {name: SETTINGS[f"train_config.{name}"].default for name in ORIGINAL}
    assert ours == ORIGINAL


@EVERY
def test_it_says_what_it_means(setting: Setting) -> None:
    assert len(setting.meaning.split()) >= 3
    assert setting.rule


@EVERY
def test_its_flag_changes_it_and_nothing_else(setting: Setting) -> None:
    text, value = another_value(setting)
    config = read_clean(f"--{setting.key}", text).config
    assert config.value(setting.key) == value
    assert changed(config) == ({} if value == setting.default else {setting.key: value})
    assert config.given() == [setting.key]


@EVERY
def test_its_bare_name_sets_every_section_that_has_it(setting: Setting) -> None:
    text, value = another_value(setting)
    config = read_clean(f"--{setting.name.replace('_', '-')}={text}").config
    keys = [namesake.key for namesake in BY_BARE_NAME[setting.name]]
    assert sorted(config.given()) == sorted(keys)
    assert all(config.value(key) == value for key in keys)


@EVERY
def test_a_file_gives_it_the_same_value_as_its_flag(setting: Setting, tmp_path: Path) -> None:
    text, value = another_value(setting)
    file = written(tmp_path, yaml.safe_dump({setting.section: {setting.name: value}}))
    assert changed(read_clean(file).config) == changed(read_clean(f"--{setting.key}", text).config)


@EVERY
def test_a_flag_wins_over_the_file(setting: Setting, tmp_path: Path) -> None:
    _, value = another_value(setting)
    file = written(tmp_path, yaml.safe_dump({setting.section: {setting.name: value}}))
    default = setting.default
    text = ",".join(default) if isinstance(default, list) else str(default)
    config = read_clean(file, f"--{setting.key}={text}").config
    assert config.value(setting.key) == default
    assert config.was_set(setting.key)


@EVERY
def test_printed_and_read_back_it_is_the_same_run(setting: Setting, tmp_path: Path) -> None:
    text, value = another_value(setting)
    others = [flag for flag in RUNNABLE if not flag.startswith(f"--{setting.name}=")]
    config = read_clean(*others, f"--{setting.key}={text}").config
    again = read_clean(written(tmp_path, to_yaml(config))).config
    assert again == config
    if value != setting.default:  # a file that gives a default says nothing by it
        assert warnings(again) == warnings(config)
    for limited in ("train_config.context_length", "llama_adapter_config.adapter_layers"):
        assert again.was_set(limited) == config.was_set(limited)


@EVERY
def test_a_value_of_another_kind_is_refused_with_the_value_and_the_rule(
    setting: Setting, tmp_path: Path
) -> None:
    file = written(tmp_path, yaml.safe_dump({setting.section: {setting.name: {"a": "mapping"}}}))
    reading = read([file], prog="train")
    assert reading.refused == {setting.key}
    assert reading.config == RunConfig()
    (problem,) = reading.problems
    assert setting.key in problem
    assert "{'a': 'mapping'}" in problem
    assert setting.rule in problem


def test_every_section_has_a_meaning_and_no_setting_hides_a_flag_of_the_command() -> None:
    assert all(section.__doc__ for section in SECTIONS.values())
    assert not set(BY_BARE_NAME) & {"config", "print_config", "debug", "help", *SECTIONS}
    assert not [name for name in BY_BARE_NAME if name.startswith("no_")]


def test_namesakes_take_the_same_values() -> None:
    for namesakes in BY_BARE_NAME.values():
        assert len({setting.rule for setting in namesakes}) == 1
