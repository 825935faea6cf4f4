"""For each setting a run in which it matters, another value of it, and what that changes."""

from __future__ import annotations

from dataclasses import dataclass

from support.seen import (
    See,
    answered,
    batches,
    checkpoints,
    code,
    counted,
    ending,
    epochs,
    eval_batches,
    eval_loss,
    eval_rows,
    eval_steps,
    eval_tokens,
    first_loss,
    folders,
    in_adapter,
    in_file,
    in_wandb,
    later_losses,
    losses,
    lrs,
    norms,
    numbers,
    profiled,
    prompt_format,
    recomputed,
    resumed,
    rows,
    saved_model,
    shapes,
    start,
    threads,
    tokens,
    tracked,
    trained,
)


@dataclass(frozen=True)
class Case:
    """`value`, instead of the default, changes all that `sees` looks at.

    flags: those of both runs beside USUAL, with inputs as {name} and the run's own folder as ROOT.
    shows: what the first of `sees` returns with the default and with `value`, where it is plain.
    """

    key: str
    value: str
    sees: tuple[See, ...]
    flags: str = ""
    shows: tuple[object, object] | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


USUAL = (
    "--model_name={model} --dataset=file_dataset --file_dataset.train_file={train}"
    " --file_dataset.validation_file={validation} --batching_strategy=padding --no_mixed_precision"
    " --num_epochs=1 --lr=1e-2 --num_workers_dataloader=0"
)
"""Three steps of four documents, and an evaluation of four."""

DONE = "all epochs are done"

PROFILED = "--profiler_dir=ROOT/trace --num_epochs=2"
"""Six steps."""

LORA = "--use_peft --lora_dropout=0"
FIXED = "--lr=1e-30"
"""No weight changes: what is seen depends on what goes in alone."""


def of_train(name: str, value: str, *sees: See, flags: str = "", shows=None) -> Case:
    return Case(f"train_config.{name}", value, sees, flags, shows)


ENOUGH = "--lr=1e-30 --batch_size_training=64 --no_save_model"
"""For data sets: one step."""


def of_data(section: str, name: str, value: str, *sees: See, flags: str, shows=None) -> Case:
    flags = f"--dataset={section} {ENOUGH} {flags}"
    return Case(f"{section}.{name}", value, sees, flags, shows)


OWN = "--dataset=custom_dataset --custom_dataset.file={custom} --batch_size_training=1"

TRAINING = [
    # What is trained
    of_train("model_name", "{other_model}", losses),
    of_train("model_name", "{other_model}", in_adapter("base_model_name_or_path"), flags=LORA),
    of_train(
        "tokenizer_name", "{other_tokenizer}", losses, in_file("tokenizer_config.json", "eos_token")
    ),
    of_train(
        "use_peft",
        "True",
        saved_model,
        losses,
        shows=(["result/model.safetensors"], ["result/adapter_model.safetensors"]),
    ),
    of_train(
        "peft_method",
        "prefix",
        in_adapter("peft_type"),
        losses,
        flags=LORA,
        shows=("LORA", "PREFIX_TUNING"),
    ),
    of_train("from_peft_checkpoint", "{adapter}", first_loss, in_adapter("r"), flags=LORA),
    of_train("freeze_layers", "True", later_losses),
    of_train("num_freeze_layers", "2", later_losses, flags="--freeze_layers"),
    of_train("quantization", "True", losses, flags=LORA),
    of_train("quantization", "8bit", losses, flags=LORA),
    of_train("quantization", "4bit", losses, flags=f"{LORA} --model_name={{wide_model}}"),
    # The data, and how it is cut
    of_train(
        "dataset",
        "grammar_dataset",
        prompt_format,
        rows,
        losses,
        flags="--dataset=samsum_dataset --samsum_dataset.data_path={samsum}"
        " --grammar_dataset.train_split={fewer_grammar} --grammar_dataset.test_split={grammar}",
        shows=("samsum", "grammar"),
    ),
    of_train(
        "batching_strategy",
        "padding",
        batches,
        eval_batches,
        tokens,
        flags="--batching_strategy=packing",
        shows=("1", "3"),
    ),
    of_train("context_length", "12", tokens, eval_tokens),
    of_train(
        "context_length",
        "32",
        batches,
        flags="--batching_strategy=packing --batch_size_training=1",
        shows=("1", "6"),
    ),
    of_train("truncation", "drop", rows, eval_rows, flags="--context_length=13"),
    of_train("truncation", "error", code, flags="--context_length=13", shows=(0, 3)),
    of_train("train_on_prompt", "True", trained, eval_tokens, losses),
    of_train(
        "num_workers_dataloader",
        "0",
        threads,
        flags=f"{OWN} --num_workers_dataloader=1",
        shows=({"0"}, {"MainThread"}),
    ),
    of_train(
        "num_workers_dataloader",
        "2",
        threads,
        flags=f"{OWN} --custom_dataset.data_path=two-threads",
        shows=({"MainThread"}, {"0", "1"}),
    ),
    # The steps
    of_train("batch_size_training", "6", ending, batches, shows=((3, DONE), (2, DONE))),
    of_train("gradient_accumulation_steps", "2", ending, shows=((3, DONE), (2, DONE))),
    of_train(
        "num_epochs",
        "2",
        ending,
        epochs,
        eval_steps,
        flags="--num_epochs=3",
        shows=((9, DONE), (6, DONE)),
    ),
    of_train("max_train_step", "2", ending, shows=((3, DONE), (2, "max_train_step=2 is reached"))),
    of_train("lr", "2e-2", lrs, later_losses, shows=([1e-2] * 3, [2e-2] * 3)),
    of_train("lr_scheduler", "constant", lrs, flags="--num_epochs=2 --lr_scheduler=gamma"),
    of_train("lr_scheduler", "linear", lrs, later_losses),
    of_train("lr_scheduler", "cosine", lrs, later_losses),
    of_train(
        "gamma",
        "0.5",
        lrs,
        flags="--num_epochs=2",
        shows=([1e-2] * 3 + [85e-4] * 3, [1e-2] * 3 + [5e-3] * 3),
    ),
    of_train("warmup_steps", "2", lrs, later_losses, shows=([1e-2] * 3, [5e-3, 1e-2, 1e-2])),
    of_train("weight_decay", "0.5", later_losses),
    # Adam is blind to the gradient's size until that is near its epsilon.
    of_train("gradient_clipping", "True", later_losses, flags="--gradient_clipping_threshold=1e-7"),
    of_train("gradient_clipping_threshold", "1e-7", later_losses, flags="--gradient_clipping"),
    of_train("seed", "7", losses),  # the order
    of_train(
        "seed",
        "7",
        eval_loss,
        flags=f"{FIXED} --file_dataset.validation_file= --file_dataset.validation_fraction=0.25",
    ),
    of_train("seed", "7", start, flags=f"{LORA} --max_train_step=1"),
    of_train(  # the dropout: one document in an adapter that is there already
        "seed",
        "7",
        losses,
        flags="--use_peft --from_peft_checkpoint={adapter} --file_dataset.train_file={one}",
    ),
    # Evaluation
    of_train("run_validation", "False", eval_steps, eval_rows, shows=([3], [])),
    of_train("val_batch_size", "2", eval_batches, shows=("4", "2")),
    of_train("max_eval_step", "2", eval_tokens, eval_loss),
    of_train("eval_every", "2", eval_steps, shows=([3], [2, 3])),
    of_train(
        "early_stopping_patience",
        "1",
        ending,
        flags=f"{FIXED} --eval_every=1",
        shows=((3, DONE), (2, "no better evaluation loss in 1 evaluations (early stopping)")),
    ),
    # Numbers and devices
    of_train("mixed_precision", "False", numbers, flags=f"{LORA} --mixed_precision"),
    of_train("use_fp16", "True", losses, norms, flags="--mixed_precision"),
    # What is kept
    of_train("output_dir", "ROOT/elsewhere", folders, shows=({"result"}, {"elsewhere"})),
    of_train("save_model", "False", saved_model, shows=(["result/model.safetensors"], [])),
    of_train("save_optimizer", "True", saved_model),
    of_train("checkpoint_every", "1", checkpoints, shows=([3], [2, 3])),
    of_train(
        "keep_checkpoints",
        "1",
        checkpoints,
        flags=f"{FIXED} --checkpoint_every=1 --no_run_validation",
        shows=([2, 3], [3]),
    ),
    of_train("resume", "{checkpoint}", resumed, shows=("", "step 2")),
    of_train(
        "resume_with_changes", "True", code, flags="--resume={checkpoint} --lr=1e-3", shows=(2, 0)
    ),
    # What is watched
    of_train("flop_counter", "True", counted, flags="--flop_counter_start=1", shows=("", "2:")),
    of_train(
        "flop_counter_start",
        "2",
        counted,
        flags="--flop_counter --flop_counter_start=1",
        shows=("2:", "3:"),
    ),
    of_train("use_profiler", "True", profiled, flags=PROFILED, shows=("", "ROOT/trace")),
    of_train(
        "profiler_dir",
        "ROOT/elsewhere",
        folders,
        flags=f"--use_profiler {PROFILED}",
        shows=({"result", "trace"}, {"result", "elsewhere"}),
    ),
]

TRAINING.append(
    of_train(
        "report_samples",
        "1",
        answered,
        flags="--num_epochs=100 --batching_strategy=packing --no_run_validation --lr=1e-30",
        shows=(3, 1),
    )
)
"""One step an epoch: so many that asking is little of the run."""

BIASED = f"{LORA} --model_name={{biased_model}}"
PROMPTS = "--use_peft --peft_method=llama_adapter"

ADAPTER = [
    Case("lora_config.r", "4", (in_adapter("r"), shapes, later_losses), LORA, (8, 4)),
    Case("lora_config.lora_alpha", "8", (in_adapter("lora_alpha"), later_losses), LORA, (32, 8)),
    Case("lora_config.target_modules", "all-linear", (shapes, later_losses), LORA),
    Case("lora_config.target_modules", "k_proj", (shapes, later_losses), LORA),
    Case("lora_config.lora_dropout", "0.5", (in_adapter("lora_dropout"), norms), "--use_peft"),
    Case(
        "lora_config.bias", "all", (shapes, later_losses), f"{LORA} --model_name={{biased_model}}"
    ),
    Case(
        "llama_adapter_config.adapter_len",
        "4",
        (in_adapter("adapter_len"), later_losses),
        PROMPTS,
        (10, 4),
    ),
    Case(
        "llama_adapter_config.adapter_layers",
        "1",
        (in_adapter("adapter_layers"), shapes, later_losses),
        PROMPTS,
        (2, 1),
    ),
    Case(
        "prefix_config.num_virtual_tokens",
        "4",
        (shapes, losses),
        "--use_peft --peft_method=prefix",
        ({"prompt_embeddings": 30}, {"prompt_embeddings": 4}),
    ),
    Case("lora_config.use_rslora", "True", (in_adapter("use_rslora"), later_losses), LORA),
    Case(
        "lora_config.modules_to_save",
        "embed_tokens,lm_head",
        (in_adapter("modules_to_save"), shapes, later_losses),
        LORA,
    ),
]

SAMSUM = "--samsum_dataset.data_path={samsum}"
GRAMMAR = "--grammar_dataset.train_split={grammar} --grammar_dataset.test_split={grammar}"
ALPACA = "--alpaca_dataset.data_path={alpaca}"
CUSTOM = "--custom_dataset.file={custom}"
FILE = "--file_dataset.train_file={train} --file_dataset.validation_file={validation}"
ONE_BAD = ("", "12 (1 bad rows skipped)")

DATA = [
    of_data("samsum_dataset", "data_path", "{other_samsum}", rows, flags=SAMSUM, shows=("12", "9")),
    of_data("samsum_dataset", "train_split", "other", rows, flags=SAMSUM, shows=("12", "4")),
    of_data("samsum_dataset", "test_split", "other", eval_rows, flags=SAMSUM, shows=("2", "4")),
    of_data("samsum_dataset", "on_bad_row", "skip", rows, code, shows=ONE_BAD,
            flags=f"{SAMSUM} --samsum_dataset.train_split=bad"),
    of_data("grammar_dataset", "train_split", "{fewer_grammar}", rows, flags=GRAMMAR,
            shows=("12", "5")),
    of_data("grammar_dataset", "test_split", "{fewer_grammar}", eval_rows, flags=GRAMMAR,
            shows=("12", "5")),
    of_data("grammar_dataset", "on_bad_row", "skip", rows, code, shows=ONE_BAD,
            flags=f"{GRAMMAR} --grammar_dataset.train_split={{bad_grammar}}"),
    of_data("alpaca_dataset", "data_path", "{fewer_alpaca}", rows, flags=ALPACA,
            shows=("11", "4")),
    of_data("alpaca_dataset", "on_bad_row", "skip", rows, code,
            shows=("", "11 (1 bad rows skipped)"),
            flags="--alpaca_dataset.data_path={bad_alpaca}"),
    of_data("custom_dataset", "file", "{custom}:get_small_dataset", rows, eval_rows, flags=CUSTOM,
            shows=("6", "1")),
    of_data("custom_dataset", "train_split", "other", rows, flags=CUSTOM, shows=("6", "4")),
    of_data("custom_dataset", "test_split", "other", eval_rows, flags=CUSTOM, shows=("2", "4")),
    of_data("custom_dataset", "on_bad_row", "skip", rows, code,
            shows=("", "6 (1 bad rows skipped)"),
            flags=f"{CUSTOM} --custom_dataset.train_split=bad"),
    of_data("custom_dataset", "data_path", "of-its-own", losses, flags=CUSTOM),
    of_data("file_dataset", "train_file", "{fewer}", rows, losses, flags=FILE, shows=("12", "5")),
    of_data("file_dataset", "validation_file", "{one}", eval_rows, eval_loss, flags=FILE,
            shows=("4", "1")),
    of_data("file_dataset", "validation_fraction", "0.25", rows, eval_rows,
            flags="--file_dataset.validation_file=", shows=("12", "9")),
    of_data("file_dataset", "format", "text", prompt_format, trained, losses,
            flags="--file_dataset.train_file={both} --file_dataset.validation_file={both}"),
    of_data("file_dataset", "on_bad_row", "skip", rows, code, shows=ONE_BAD,
            flags="--file_dataset.train_file={bad}"),
]  # fmt: skip

FOUR_BITS = f"{LORA} --model_name={{wide_model}} --quantization=4bit"
PURE = "--mixed_precision --pure_bf16"

NUMBERS = [
    Case("lora_config.init_lora_weights", "qera", (losses,), FOUR_BITS),
    Case("quantization_config.quant_type", "fp4", (losses,), FOUR_BITS),
    Case("quantization_config.use_double_quant", "True", (losses,), FOUR_BITS),
    Case(
        "fsdp_config.pure_bf16",
        "True",
        (in_file("config.json", "dtype"), later_losses),
        "--mixed_precision",
        ("float32", "bfloat16"),
    ),
    Case("fsdp_config.optimizer", "anyprecision", (later_losses,)),
    Case(
        "fsdp_config.use_kahan_summation",
        "True",
        (later_losses,),
        f"{PURE} --optimizer=anyprecision --lr=1e-3",
    ),
    Case(
        "fsdp_config.fsdp_activation_checkpointing",
        "True",
        (recomputed,),
        shows=("", " in the backward pass, on this one device too."),
    ),
]

OFFLINE = "--use_wandb --wandb_config.mode=offline"

WATCHED = [
    of_train(
        "use_wandb",
        "True",
        tracked,
        flags="--wandb_config.mode=offline",
        shows=(set(), {"wandb/"}),
    ),
    of_train("use_tensorboard", "True", tracked, shows=(set(), {"tensorboard/"})),
    of_train("save_metrics", "True", tracked, shows=(set(), {"metrics_data_"})),
    Case(
        "wandb_config.project", "mine", (in_wandb("project"),), OFFLINE, ("llama_recipes", "mine")
    ),
    Case("wandb_config.entity", "us", (in_wandb("entity"),), OFFLINE, ("", "us")),
    Case("wandb_config.job_type", "tuning", (in_wandb("job_type"),), OFFLINE, ("", "tuning")),
    Case("wandb_config.tags", "a,b", (in_wandb("tags"),), OFFLINE, ([], ["a", "b"])),
    Case("wandb_config.group", "twelve", (in_wandb("group"),), OFFLINE, ("", "twelve")),
    Case("wandb_config.notes", "remark", (in_wandb("notes"),), OFFLINE, ("", "remark")),
    # Nobody is logged in where the tests run.
    Case("wandb_config.mode", "offline", (code,), "--use_wandb", (2, 0)),
]

CASES = [*TRAINING, *ADAPTER, *NUMBERS, *DATA, *WATCHED]
