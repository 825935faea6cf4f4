"""Every way in which a flag may be written, and what is said about every other way."""

from __future__ import annotations

import pytest

from llama_recipes.configs.flags import parse, read
from support.settings import RUNNABLE, configured, problems_of


@pytest.mark.parametrize(
    "flags", [["--use_peft"], ["--use_peft", "True"], ["--use_peft=true"], ["--use-peft", "yes"]]
)
def test_a_switch_is_on(flags: list[str]) -> None:
    assert configured(*flags).train_config.use_peft is True


@pytest.mark.parametrize(
    "flags",
    [
        ["--run_validation=false"],
        ["--run_validation", "False"],
        ["--no_run_validation"],
        ["--no-run-validation"],
        ["--no_train_config.run_validation"],
    ],
)
def test_a_switch_is_off(flags: list[str]) -> None:
    assert configured(*flags).train_config.run_validation is False


def test_a_switch_alone_does_not_swallow_the_next_flag() -> None:
    config = configured("--use_peft", "--lora_config.r", "16")
    assert config.train_config.use_peft
    assert config.lora_config.r == 16


@pytest.mark.parametrize(
    "flags",
    [
        ["--lora_config.r", "16"],
        ["--lora_config.r=16"],
        ["--lora-config.r", "16"],
        ["--r", "16"],
    ],
)
def test_a_section_s_setting_goes_by_its_full_name_and_by_its_own(flags: list[str]) -> None:
    assert configured("--use_peft", *flags).lora_config.r == 16


def test_a_bare_name_sets_all_sections_and_a_full_name_wins_over_it() -> None:
    flags = ["--fsdp_config.mixed_precision", "True", "--mixed_precision", "False"]
    for order in (flags, flags[2:] + flags[:2]):
        config = configured(*order)
        assert not config.train_config.mixed_precision
        assert config.fsdp_config.mixed_precision


@pytest.mark.parametrize(
    "text", ["[q_proj,k_proj]", "q_proj,k_proj", "['q_proj', \"k_proj\"]", "q_proj, k_proj"]
)
def test_a_list(text: str) -> None:
    config = configured("--use_peft", "--lora_config.target_modules", text)
    assert config.lora_config.target_modules == ["q_proj", "k_proj"]


def test_a_word_in_the_place_of_a_list() -> None:
    config = configured("--use_peft", "--target_modules", "all-linear")
    assert config.lora_config.target_modules == "all-linear"


@pytest.mark.parametrize("text", ["SHARD_GRAD_OP", "ShardingStrategy.SHARD_GRAD_OP"])
def test_an_enumeration_may_carry_the_name_of_its_class(text: str) -> None:
    config = configured("--sharding_strategy", text)
    assert config.fsdp_config.sharding_strategy == "SHARD_GRAD_OP"


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, True), ("True", True), ("8bit", "8bit"), ("4bit", "4bit"), ("False", False)],
)
def test_quantization_is_a_switch_and_a_word(text: str | None, value: object) -> None:
    flags = ["--quantization"] if text is None else ["--quantization", text]
    config = read(flags, prog="train").config
    assert config.train_config.quantization is value or config.train_config.quantization == value


@pytest.mark.parametrize("text", ["None", "null"])
def test_none(text: str) -> None:
    assert configured("--tokenizer_name", text).train_config.tokenizer_name is None


def test_numbers_as_python_writes_them() -> None:
    config = configured("--lr", "2e-5", "--weight_decay", "0", "--seed", "1_000")
    assert config.train_config.lr == 2e-5
    assert config.train_config.weight_decay == 0
    assert config.train_config.seed == 1000


def test_a_value_may_begin_with_a_dash_and_hold_anything() -> None:
    assert problems_of(*RUNNABLE, "--lr", "-1e-4") == (
        "--lr is -0.0001, but must be a number, above 0.",
    )
    config = configured("--use_peft", "--notes=--a = b", "--entity", "-x y")
    assert config.wandb_config.notes == "--a = b"
    assert config.wandb_config.entity == "-x y"


def test_an_empty_value_is_a_value() -> None:
    assert configured("--resume", "").train_config.resume == ""
    assert configured("--resume=").was_set("train_config.resume")


def test_the_command_s_own_flags() -> None:
    parsed = parse([*RUNNABLE, "--print-config", "--debug"], prog="train")
    assert parsed.print_config
    assert parsed.debug
    assert problems_of(*RUNNABLE, "--debug", "yes") == ("--debug takes no value, but got 'yes'.",)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--num_epoch", "3"], "--num_epoch is no setting. Did you mean --num_epochs?"),
        (["--lora_config.rr=3"], "--lora_config.rr is no setting. Did you mean --lora_config.r?"),
        (["--use_pef"], "--use_pef is no setting. Did you mean --use_peft?"),
        (["--no_lr"], "--no_lr is no setting. --help lists them all."),
        (["--zzz", "1"], "--zzz is no setting. --help lists them all."),
        (["--lr"], "--lr needs a value: a number, above 0."),
        (["--no_use_peft", "x"], "--no_use_peft takes no value, but got 'x'."),
        (["--use_peft", "maybe"], "--use_peft is 'maybe', but must be True or False."),
        (["--num_epochs", "3.0"], "--num_epochs is '3.0', but must be a whole number, at least 1."),
        (["--lr", "nan"], "--lr is nan, but must be a number, above 0."),
        (["--lr", "inf"], "--lr is inf, but must be a number, above 0."),
        (["--model_name=x", "--model_name=y"], "--model_name ('x') and --model_name ('y')"),
        (["--seed=1", "--train_config.seed=2"], "contradict each other: give one of them."),
        (["--use_peft", "--no_use_peft"], "--use_peft (True) and --no_use_peft (False)"),
        (["--config"], "--config needs one value: the path of a YAML file."),
        (["--config=a", "--config=b"], "--config needs one value: the path of a YAML file."),
        (["stray"], "'stray' belongs to no flag"),
        (["--target_modules", "q_proj", "k_proj"], "a list with commas, as in a,b."),
        (
            ["--sharding_strategy", "shard_grad"],
            "--sharding_strategy is 'shard_grad', but must be one of FULL_SHARD, SHARD_GRAD_OP, "
            "NO_SHARD, HYBRID_SHARD. Did you mean SHARD_GRAD_OP?",
        ),
        (
            ["--checkpoint_type", "ShardingStrategy.FULL_STATE_DICT"],
            "must be SHARDED_STATE_DICT or FULL_STATE_DICT",
        ),
        (["--dataset", "samsun_dataset"], "Did you mean samsum_dataset?"),
        (["--peft_method", "None"], "must be one of lora, llama_adapter, prefix."),
    ],
)
def test_what_is_said_about_anything_else(flags: list[str], problem: str) -> None:
    assert problem in "\n".join(problems_of(*flags))


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--lr", ["0", "-1"]),
        ("--gamma", ["0", "1.5"]),
        ("--lora_dropout", ["-0.1", "1"]),
        ("--validation_fraction", ["-0.1", "1"]),
        ("--batch_size_training", ["0"]),
        ("--val_batch_size", ["0"]),
        ("--gradient_accumulation_steps", ["0"]),
        ("--gradient_clipping_threshold", ["0"]),
        ("--num_epochs", ["0"]),
        ("--context_length", ["1"]),
        ("--r", ["0"]),
        ("--keep_checkpoints", ["0"]),
        ("--seed", ["-1", str(2**32)]),
        ("--weight_decay", ["-0.1"]),
        ("--target_modules", ["[]"]),
        *((f"--{name}", ["-1"]) for name in ("max_train_step", "max_eval_step", "warmup_steps")),
        *((f"--{name}", ["-1"]) for name in ("eval_every", "early_stopping_patience")),
        *((f"--{name}", ["-1"]) for name in ("num_workers_dataloader", "flop_counter_start")),
    ],
)
def test_a_value_out_of_its_range_is_refused(flag: str, values: list[str]) -> None:
    for value in values:
        (problem,) = problems_of(*RUNNABLE, flag, value)
        assert problem.startswith(f"{flag} is ")


def test_all_problems_come_at_once_and_each_once() -> None:
    problems = problems_of(
        "--lerning_rate=1", "--lr=0", "--use_fp16=x", "--one_gpu", "--enable_fsdp"
    )
    assert [problem.split()[0] for problem in problems] == [
        "--lerning_rate",
        "--use_fp16",  # in two sections, said once
        "--lr",
        "--enable_fsdp",  # with --one_gpu
        "--model_name",
        "--dist_checkpoint_root_folder",
        "--samsum_dataset.data_path",
    ]


def test_a_setting_that_is_wrong_is_not_also_called_missing_or_in_conflict() -> None:
    assert problems_of(*RUNNABLE[1:], "--model_name") == ("--model_name needs a value: text.",)
    problems = problems_of(*RUNNABLE, "--early_stopping_patience=2", "--run_validation=x")
    assert problems == ("--run_validation is 'x', but must be True or False.",)
