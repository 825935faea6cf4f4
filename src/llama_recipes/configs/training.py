"""The settings of the run itself. All names and defaults of the original stand unchanged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llama_recipes.configs.datasets import DatasetName
from llama_recipes.configs.section import OPEN_DEFAULT, Section


class TrainConfig(Section):
    """What is trained, on what, for how long, and what is kept."""

    # What is trained
    model_name: str = Field(
        default="PATH/to/Model",
        description="Model to fine-tune: a folder with safetensors, a .gguf file, a hub id, or "
        "smollm2-135m-instruct",
    )
    tokenizer_name: str | None = Field(
        default=None,
        description="Folder, .gguf file or hub id of the tokenizer; None: the model's own",
    )
    use_peft: bool = Field(
        default=False, description="Train a small adapter; the model stays frozen"
    )
    peft_method: Literal["lora", "llama_adapter", "prefix"] = Field(
        default="lora", description="Kind of adapter, with use_peft"
    )
    from_peft_checkpoint: str = Field(
        default="",
        description="Folder of an adapter to go on training, with use_peft; empty: a new one",
    )
    freeze_layers: bool = Field(
        default=False,
        description="Freeze the embedding and the first num_freeze_layers decoder layers",
    )
    num_freeze_layers: int = Field(
        default=1, ge=0, description="Decoder layers to freeze from the bottom, with freeze_layers"
    )
    quantization: bool | Literal["8bit", "4bit"] = Field(
        default=False,
        description="Keep the frozen model in 8 bits (True or 8bit) or in 4 bits (4bit)",
    )

    # The data, and how it is cut
    dataset: DatasetName = Field(
        default="samsum_dataset",
        description="Data set; its own settings stand in the section of its name",
    )
    batching_strategy: Literal["packing", "padding"] = Field(
        default="packing",
        description="packing: whole documents side by side in rows of context_length tokens, none "
        "seeing another; padding: rows of similar length, padded to the longest",
    )
    context_length: Annotated[int, OPEN_DEFAULT] = Field(
        default=4096,
        ge=2,
        description="Tokens in a row; where not given, at most the model's own limit",
    )
    truncation: Literal["error", "drop", "end"] = Field(
        default="end",
        description="A document above context_length tokens is an error, is dropped, or loses its "
        "end; how many is reported",
    )
    train_on_prompt: bool = Field(
        default=False,
        description="Take the loss on the prompt's tokens too, not on the answer's alone",
    )
    num_workers_dataloader: int = Field(
        default=1, ge=0, description="Threads that prepare batches ahead of the training; 0: none"
    )

    # The steps
    batch_size_training: int = Field(
        default=4, ge=1, description="Rows in a micro-batch on one device"
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="Micro-batches in one optimizer step"
    )
    num_epochs: int = Field(default=3, ge=1, description="Passes over the training data")
    max_train_step: int = Field(
        default=0, ge=0, description="Optimizer steps after which training stops; 0: no limit"
    )
    lr: float = Field(default=1e-4, gt=0, description="Learning rate at its highest")
    lr_scheduler: Literal["gamma", "constant", "linear", "cosine"] = Field(
        default="gamma",
        description="Learning rate over the run: times gamma after every epoch, constant, or "
        "down to 0 in a line or a half cosine",
    )
    gamma: float = Field(
        default=0.85,
        gt=0,
        le=1,
        description="Factor on the learning rate after every epoch, with lr_scheduler gamma",
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        description="Optimizer steps over which the learning rate rises from 0 to lr",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of AdamW")
    gradient_clipping: bool = Field(default=False, description="Limit the norm of the gradient")
    gradient_clipping_threshold: float = Field(
        default=1.0, gt=0, description="Highest norm of the gradient, with gradient_clipping"
    )
    seed: int = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        description="Seed of every random choice: order, adapter, dropout",
    )

    # Evaluation
    run_validation: bool = Field(default=True, description="Evaluate on the validation data")
    val_batch_size: int = Field(default=1, ge=1, description="Rows in a batch of the evaluation")
    max_eval_step: int = Field(
        default=0, ge=0, description="Batches after which an evaluation stops; 0: all of them"
    )
    eval_every: int = Field(
        default=0, ge=0, description="Optimizer steps between evaluations; 0: after every epoch"
    )
    early_stopping_patience: int = Field(
        default=0,
        ge=0,
        description="Evaluations without a better loss after which training stops; 0: off",
    )

    # Numbers and devices
    mixed_precision: bool = Field(
        default=True,
        description="Compute in bf16 and keep trained weights and optimizer state in fp32; "
        "False: everything in fp32",
    )
    use_fp16: bool = Field(default=False, description="Compute in fp16 with loss scaling")
    use_fast_kernels: bool = Field(
        default=False,
        description="Insist on the fastest kernels: on a processor refuse to train without our "
        "own, which are used anyway where a C++ compiler is; on a GPU compile the layers of long "
        "runs, or use Liger Kernel. Results differ by rounding",
    )
    one_gpu: bool = Field(
        default=False, description="Use one device even where several are visible"
    )
    enable_fsdp: bool = Field(
        default=False, description="Shard the model over the processes that torchrun starts"
    )
    low_cpu_fsdp: bool = Field(
        default=False,
        description="Read the weights on rank 0 alone and send them on, with enable_fsdp",
    )

    # What is kept
    output_dir: str = Field(
        default="PATH/to/save/PEFT/model", description="Folder for everything the run writes"
    )
    save_model: bool = Field(default=True, description="Save the adapter or the model")
    save_optimizer: bool = Field(
        default=False, description="Keep the optimizer's state with the final result too"
    )
    checkpoint_every: int = Field(
        default=0,
        ge=0,
        description="Optimizer steps between checkpoints; 0: after every epoch. One more is"
        " saved ahead of the first evaluation",
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints to keep")
    resume: str = Field(
        default="",
        description="Checkpoint to go on from, or auto for the newest one; empty: start anew",
    )
    resume_with_changes: bool = Field(
        default=False,
        description="Go on although settings, data or model are not those of the checkpoint",
    )
    dist_checkpoint_root_folder: str = Field(
        default="PATH/to/save/FSDP/model",
        description="Folder for sharded checkpoints, with enable_fsdp",
    )
    dist_checkpoint_folder: str = Field(
        default="fine-tuned",
        description="Begin of the sharded checkpoints' own folder, with enable_fsdp",
    )

    # What is watched
    use_wandb: bool = Field(
        default=False, description="Track the run with Weights & Biases, as wandb_config says"
    )
    use_tensorboard: bool = Field(
        default=False, description="Write TensorBoard's event files to output_dir/tensorboard"
    )
    report_samples: int = Field(
        default=3,
        ge=0,
        le=50,
        description="Documents, of the validation part where there is one, answered before the "
        "first step and after the last, for the report; 0: none. Left out where that would take "
        "more than 5% of the tokens that the run trains on, and on several processes. Three take "
        "SmolLM2-135M 10 seconds of one processor core each time",
    )
    save_metrics: bool = Field(
        default=False,
        description="Write loss and perplexity to metrics_data_*.json and four plots: train_step "
        "and train_epoch of every optimizer step and epoch, val_step of every evaluation (the "
        "original: of every batch of one), val_epoch of the last one of each epoch",
    )
    flop_counter: bool = Field(
        default=False,
        description="Count the floating-point operations of one optimizer step, by module and "
        "pass, and the TFLOP/s that they are",
    )
    flop_counter_start: int = Field(
        default=3,
        ge=0,
        description="Optimizer steps before the counted one, from the start or from where a run "
        "goes on, with flop_counter",
    )
    use_profiler: bool = Field(
        default=False,
        description="Record a trace of the optimizer steps 4 to 6, from the start or from where a "
        "run goes on, with the PyTorch profiler",
    )
    profiler_dir: str = Field(
        default="PATH/to/save/profiler/results",
        description="Folder for the trace, a file for each process, with use_profiler",
    )
