"""One measured run of TRL's SFTTrainer, in a process of its own: `python -m benchmarks.trl_sft`.

What is not named in `train` is TRL's own default: AdamW in a fused kernel, gradients clipped at 1,
gradient checkpointing, bf16 autocast over fp32 weights.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.bench import CONTEXT, Bench
from benchmarks.contenders import Contender
from benchmarks.ours import LORA_ALPHA, LORA_DROPOUT, LORA_RANK, LORA_TARGETS
from benchmarks.run import Run


@dataclass(frozen=True)
class Job:
    """What is trained, and how much of it.

    file: rows of messages, in the order in which a contender that groups by length takes them.
    packed: the file holds rows of token ids instead, made by packed.py.
    rows, accumulation: rows of a micro-batch, micro-batches of an optimizer step.
    four_bit: the frozen layers in bitsandbytes' nf4. TRL keeps their adapter in bf16.
    save_to: a folder for the adapter; empty: nothing is saved.
    """

    file: str
    adapter: bool
    steps: int
    rows: int
    accumulation: int
    bf16: bool
    context: int = CONTEXT
    lr: float = 1e-4
    save_to: str = ""
    packed: bool = False
    four_bit: bool = False
    rank: int = LORA_RANK
    target_modules: tuple[str, ...] = LORA_TARGETS


def run(bench: Bench, job: Job, contender: Contender, *, model: Path | None = None) -> Run:
    """model: a folder; the exported one where not given."""
    content = {
        "job": asdict(job),
        "contender": asdict(contender),
        "model": str(model or bench.model),
        "output_dir": str(bench.new_path("trl")),
    }
    command = [sys.executable, "-m", "benchmarks.trl_sft", json.dumps(content)]
    ended = bench.spawn(command, name="trl")
    return Run(**json.loads(ended.output), peak_gib=ended.peak_gib)


def train(job: Job, contender: Contender, *, model: str, output_dir: str) -> dict[str, Any]:
    """Tokens and seconds of every step. Only documents are counted, no padding."""
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokens, ends = [0], []

    class Trainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")  # none where rows are packed, for they are full
            tokens[-1] += inputs["input_ids"].numel() if mask is None else int(mask.sum())
            compute: Any = super().compute_loss
            return compute(model, inputs, *args, **kwargs)

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())
            tokens.append(0)

    # Packing fills rows with several documents each: a full row stands for about four of them.
    per_row = 4 if contender.packing else 1
    trainer = Trainer(
        model=model,
        args=SFTConfig(
            output_dir=output_dir,
            # TRL wants to cut rows itself, or to be told that nothing has to be cut.
            max_length=None if job.packed else job.context,
            padding_free=job.packed,
            packing=contender.packing,
            per_device_train_batch_size=max(1, job.rows // per_row),
            gradient_accumulation_steps=job.accumulation,
            gradient_checkpointing=contender.checkpointing,
            train_sampling_strategy="sequential" if contender.grouped else "random",
            model_init_kwargs={"dtype": "bfloat16"} if contender.bf16_weights else None,
            bf16=job.bf16,
            max_steps=job.steps,
            learning_rate=job.lr,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=_rows(job),
        quantization_config=_nf4(BitsAndBytesConfig, bf16=job.bf16) if job.four_bit else None,
        peft_config=_lora(LoraConfig, job) if job.adapter else None,
        callbacks=[Clock()],
    )
    trainer.train()
    if job.save_to:
        trainer.save_model(job.save_to)
    seconds = [end - start for start, end in pairwise(ends)]
    return {"tokens": tokens[: len(seconds)], "seconds": seconds}


def _rows(job: Job) -> Any:
    from datasets import Dataset

    with Path(job.file).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if job.packed:
        return Dataset.from_list(rows)
    chats = [row["messages"] for row in rows]
    # Prompt and completion apart: TRL then takes the loss on the completion alone.
    return Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])


def _nf4(config: Any, *, bf16: bool) -> Any:
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype="bfloat16" if bf16 else "float32",
    )


def _lora(config: Any, job: Job) -> Any:
    return config(
        r=job.rank,
        lora_alpha=LORA_ALPHA * job.rank // LORA_RANK,
        lora_dropout=LORA_DROPOUT,
        target_modules=list(job.target_modules),
        task_type="CAUSAL_LM",
    )


def _main(content: dict[str, Any]) -> dict[str, Any]:
    return train(
        Job(**content["job"]),
        Contender(**content["contender"]),
        model=content["model"],
        output_dir=content["output_dir"],
    )


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
