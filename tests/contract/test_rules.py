"""What may stand together: every row of every table is triggered, and shown not to cry wolf."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_recipes.configs.flags import read
from llama_recipes.configs.needs import NEEDS, Need, warnings, without_effect
from llama_recipes.configs.rules import CONFLICTS, REQUIRED, contradictions, missing
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of
from llama_recipes.configs.settings import SETTINGS
from llama_recipes.configs.training import TrainConfig
from support.settings import RUNNABLE, another_value, configured, problems_of


def described_by(*flags: str) -> RunConfig:
    """The run whatever is not built or contradicts itself in it."""
    reading = read(flags, prog="train")
    assert reading.problems == []
    return reading.config


NEEDED_WITH = [
    ("train_config.model_name", []),
    ("train_config.output_dir", []),
    ("train_config.output_dir", ["--use_tensorboard", "--no_save_model"]),
    ("train_config.dist_checkpoint_root_folder", ["--enable_fsdp"]),
    ("train_config.profiler_dir", ["--use_profiler"]),
    ("samsum_dataset.data_path", []),
    ("grammar_dataset.train_split", ["--dataset=grammar_dataset"]),
    ("grammar_dataset.test_split", ["--dataset=grammar_dataset"]),
    ("alpaca_dataset.data_path", ["--dataset=alpaca_dataset"]),
    ("custom_dataset.file", ["--dataset=custom_dataset"]),
    ("file_dataset.train_file", ["--dataset=file_dataset"]),
]


@pytest.mark.parametrize(
    ("required", "needed_with"),
    zip(REQUIRED, NEEDED_WITH, strict=True),
    ids=lambda value: getattr(value, "setting", ""),
)
def test_a_path_that_is_needed_and_not_given_is_named(required, needed_with) -> None:
    setting, flags = needed_with
    assert setting == required.setting
    sentence = f"{flag_of(required.setting)} is not given: {required.fix}."
    assert sentence in missing(described_by(*flags))
    assert sentence not in missing(described_by(*flags, f"--{required.setting}=x"))


def test_a_path_is_not_asked_for_where_nothing_needs_it() -> None:
    assert missing(described_by(*RUNNABLE)) == []
    grammar = ["--model_name=m", "--dataset=grammar_dataset", "--grammar_dataset.train_split=x"]
    assert missing(described_by(*grammar, "--no_run_validation", "--no_save_model")) == []
    assert missing(described_by(*RUNNABLE, "--enable_fsdp", "--use_peft")) == []
    assert missing(described_by(*RUNNABLE, "--use_tensorboard", "--save_metrics")) == []


def test_a_folder_that_is_needed_for_two_reasons_is_asked_for_once() -> None:
    flags = [flag for flag in RUNNABLE if "output_dir" not in flag]
    assert len(missing(described_by(*flags, "--use_tensorboard"))) == 1
    (problem,) = missing(described_by(*flags, "--no_save_model", "--save_metrics"))
    assert problem.startswith("--output_dir is not given: name a folder for the files of ")
    assert missing(described_by(*flags, "--no_save_model", "--use_wandb")) == []


def test_the_place_of_a_path_counts_as_not_given() -> None:
    assert len(problems_of("--model_name=PATH/to/Model", *RUNNABLE[1:])) == 1


QERA = ["--use_peft", "--quantization=4bit", "--init_lora_weights=qera"]

IN_CONFLICT = [
    (["--enable_fsdp", "--one_gpu"], "--enable_fsdp and --one_gpu exclude each other"),
    (
        ["--enable_fsdp", "--hsdp", "--sharding_strategy=NO_SHARD"],
        "--hsdp and --sharding_strategy NO_SHARD",
    ),
    (
        ["--enable_fsdp", "--fsdp_config.use_fp16"],
        "--fsdp_config.use_fp16 needs --train_config.use_fp16",
    ),
    (["--flop_counter", "--use_profiler"], "--flop_counter and --use_profiler exclude each other"),
    (["--use_profiler", "--max_train_step=6"], "--max_train_step is 6, but --use_profiler"),
    (["--flop_counter", "--max_train_step=3"], "--max_train_step is 3, but --flop_counter counts"),
    (["--use_fp16", "--no_mixed_precision"], "--use_fp16 and --no_mixed_precision exclude"),
    (["--pure_bf16", "--no_mixed_precision"], "--fsdp_config.pure_bf16 and --no_mixed_precision"),
    (["--pure_bf16", "--use_fp16"], "--fsdp_config.pure_bf16 and --use_fp16 exclude each other"),
    (["--quantization"], "--quantization needs --use_peft"),
    (
        [*QERA, "--from_peft_checkpoint=."],
        "--lora_config.init_lora_weights qera starts an adapter, and --from_peft_checkpoint",
    ),
    ([*QERA, "--lora_config.r=1"], "--lora_config.r is 1, of which"),
    ([*QERA, "--weight_decay=0.1"], "--weight_decay would take away what"),
    (
        [*QERA, "--enable_fsdp"],
        "--lora_config.init_lora_weights qera is computed on whole layers",
    ),
    (["--from_peft_checkpoint=."], "--from_peft_checkpoint needs --use_peft"),
    (
        ["--from_peft_checkpoint=no/folder", "--use_peft"],
        "--from_peft_checkpoint is 'no/folder', which is no folder",
    ),
    (
        ["--early_stopping_patience=2", "--no_run_validation"],
        "--early_stopping_patience needs --run_validation",
    ),
    (
        ["--early_stopping_patience=2", "--dataset=file_dataset"],
        "--early_stopping_patience needs validation data",
    ),
    (
        ["--validation_file=x", "--validation_fraction=0.1"],
        "--file_dataset.validation_file and --file_dataset.validation_fraction exclude each other",
    ),
]


@pytest.mark.parametrize(("flags", "problem"), IN_CONFLICT)
def test_a_contradiction_is_refused(flags: list[str], problem: str) -> None:
    config = described_by(*flags)
    assert sum(conflict.when(config) for conflict in CONFLICTS) == 1
    assert contradictions(config)[0].startswith(problem)
    if "exclude" in problem:
        for alone in flags:
            assert not any(conflict.when(described_by(alone)) for conflict in CONFLICTS)


def test_every_contradiction_is_tested() -> None:
    seen = {
        conflict.problem
        for flags, _ in IN_CONFLICT
        for conflict in CONFLICTS
        if conflict.when(described_by(*flags))
    }
    assert seen == {conflict.problem for conflict in CONFLICTS}


@pytest.mark.parametrize("idle", ["--no_quantization", "--peft_method=prefix", "--no_use_peft"])
def test_a_start_that_does_not_come_about_excludes_nothing(idle: str) -> None:
    kept = [flag for flag in QERA if flag.split("=")[0].strip("-") not in idle]
    kept = [flag for flag in kept if idle != "--no_use_peft" or "quantization" not in flag]
    config = described_by(*kept, idle, "--weight_decay=0.1", "--enable_fsdp")
    assert not any(conflict.when(config) for conflict in CONFLICTS)
    assert any("--lora_config.init_lora_weights" in warning for warning in warnings(config))


@pytest.mark.parametrize("steps", [0, 7])
def test_a_profiler_with_enough_steps_is_no_contradiction(steps: int) -> None:
    config = described_by("--use_profiler", f"--max_train_step={steps}")
    assert not any(conflict.when(config) for conflict in CONFLICTS)


@pytest.mark.parametrize("flag", ["--max_train_step=0", "--max_train_step=4"])
def test_a_step_that_comes_may_be_counted(flag: str) -> None:
    config = described_by("--flop_counter", flag)
    assert not any(conflict.when(config) for conflict in CONFLICTS)


def test_an_adapter_that_is_there_is_no_problem(tmp_path: Path) -> None:
    assert problems_of(*RUNNABLE, "--use_peft", f"--from_peft_checkpoint={tmp_path}") == ()


def test_a_method_of_adapters_is_no_matter_without_them() -> None:
    assert warnings(configured("--peft_method=prefix")) == [
        "--peft_method has no effect in this run without --use_peft."
    ]


# The end of the warning → flags with which it comes, flags with which it does not.
COMES_AND_GOES = {
    "without --use_peft": ([], ["--use_peft"]),
    "without --save_model": (["--no_save_model"], ["--save_model", "--enable_fsdp"]),
    "without --resume": ([], ["--resume=auto"]),
    "without --quantization": (["--use_peft"], ["--use_peft", "--quantization"]),
    "without --use_peft and --peft_method lora": ([], ["--use_peft", "--quantization"]),
    "without --use_peft and --peft_method llama_adapter": ([], ["--use_peft"]),
    "without --use_peft and --peft_method prefix": ([], ["--use_peft"]),
    **{
        f"without --dataset {dataset}": ([f"--dataset={other}"], [f"--dataset={dataset}"])
        for dataset, other in [
            ("samsum_dataset", "file_dataset"),
            ("grammar_dataset", "file_dataset"),
            ("alpaca_dataset", "file_dataset"),
            ("custom_dataset", "file_dataset"),
            ("file_dataset", "samsum_dataset"),
        ]
    },
    "without --run_validation": (["--no_run_validation"], []),
    "without --file_dataset.validation_file or --file_dataset.validation_fraction": (
        ["--dataset=file_dataset"],
        ["--dataset=file_dataset", "--validation_fraction=0.1"],
    ),
    "because a custom_dataset makes its own labels": (["--dataset=custom_dataset"], []),
    "without --lr_scheduler gamma": (["--lr_scheduler=cosine"], []),
    "because there is no second epoch": (["--num_epochs=1"], []),
    "without --gradient_clipping": ([], ["--gradient_clipping"]),
    "without --freeze_layers": ([], ["--freeze_layers"]),
    "without --flop_counter": ([], ["--flop_counter"]),
    "without --use_profiler": ([], ["--use_profiler"]),
    "without --quantization 4bit": (["--quantization=8bit"], ["--quantization=4bit"]),
    "without --fsdp_config.optimizer anyprecision and --fsdp_config.pure_bf16": (
        [],
        ["--optimizer=anyprecision", "--pure_bf16"],
    ),
    "without --use_wandb": ([], ["--use_wandb"]),
    "without --enable_fsdp": ([], ["--enable_fsdp", "--hsdp"]),
    "without --hsdp or --sharding_strategy HYBRID_SHARD": (
        ["--enable_fsdp"],
        ["--enable_fsdp", "--hsdp"],
    ),
    "because the checkpoints of an adapter stand in --output_dir": (
        ["--enable_fsdp", "--use_peft"],
        ["--enable_fsdp"],
    ),
}


def needing() -> list[tuple[Need, str]]:
    return [
        (need, key)
        for need in NEEDS
        for key, setting in SETTINGS.items()
        if key in need.settings or setting.section in need.settings
    ]


@pytest.mark.parametrize(("need", "key"), needing(), ids=lambda value: getattr(value, "met", value))
def test_a_setting_without_effect_is_named_with_the_reason(need: Need, key: str) -> None:
    section = SETTINGS[key].section
    value = "True" if key == "train_config.run_validation" else another_value(SETTINGS[key])[0]
    itself = [f"--{key}={value}"]
    if section.endswith("_dataset") and "--dataset" not in need.unless_met:
        itself.append(f"--dataset={section}")
    if section in ("llama_adapter_config", "prefix_config"):
        itself.append(f"--peft_method={section.removesuffix('_config')}")
    comes, goes = COMES_AND_GOES[need.unless_met]
    warned = [
        warning
        for warning in warnings(described_by(*itself, *comes))
        if warning.endswith(f" no effect in this run {need.unless_met}.")
    ]
    assert len(warned) == 1
    assert flag_of(key) in warned[0].split(" ha")[0].split(", ")
    assert without_effect(described_by(*itself, *goes), key) == ""


def test_settings_with_one_reason_share_one_warning() -> None:
    assert warnings(configured("--r=4", "--lora_alpha=8", "--gradient_clipping_threshold=2")) == [
        "--gradient_clipping_threshold has no effect in this run without --gradient_clipping.",
        "--lora_config.r, --lora_config.lora_alpha have no effect in this run "
        "without --use_peft and --peft_method lora.",
    ]


def test_bf16_moments_of_bf16_weights_are_advised_to_sum_as_kahan_does() -> None:
    """tests/unit/test_anyprecision.py measures what is said."""
    both = ["--optimizer=anyprecision", "--pure_bf16"]
    (caution,) = warnings(configured(*both))
    assert "follows training in fp32 no better than AdamW in bf16 does" in caution
    assert "Give --fsdp_config.use_kahan_summation too" in caution
    assert warnings(configured(*both, "--use_kahan_summation")) == []
    assert warnings(configured(both[0])) == warnings(configured(both[1])) == []


def test_a_default_given_by_a_flag_is_given() -> None:
    assert len(warnings(configured("--lora_config.r=8"))) == 1


def test_nothing_is_said_where_nothing_is_given() -> None:
    assert warnings(RunConfig()) == []
    assert warnings(RunConfig(train_config=TrainConfig(use_peft=True))) == []


def test_a_bare_name_is_fine_as_long_as_one_section_listens() -> None:
    assert warnings(configured("--no_mixed_precision")) == []
    flags = ["--dataset=alpaca_dataset", "--data_path=x", "--on_bad_row=skip"]
    assert warnings(described_by(*flags)) == []
    assert len(warnings(described_by("--data_path=x", *RUNNABLE))) == 3
