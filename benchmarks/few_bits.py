"""What 8 and 4 bits cost: LoRA on each after the same steps, and peft's on the same 4 bits.

Whatever a run computed with, its adapter is judged by transformers and peft in fp32, on weights
that bitsandbytes encoded and decoded: `python -m benchmarks.few_bits JSON` writes these.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import ours, trl_sft
from benchmarks.bench import Bench
from benchmarks.contenders import GROUPED_WITHOUT_CHECKPOINTING
from benchmarks.speed import in_order

PLAIN, EIGHT, FOUR, QERA, PEFT = "16 bits", "8 bits", "nf4", "nf4, qera", "nf4, peft"
RANK, LR = 64, 4e-4
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def measure(bench: Bench) -> dict[str, Any]:
    """LoRA on all linear layers; documents as in the section `quality`, a micro-batch a step."""
    scale = bench.scale
    file = bench.rows_file(bench.rows("train")[: scale.taught])
    plan = bench.plan(file, micro_batch=scale.micro_batch, accumulation=1)
    job = ours.Job(
        file=file,
        adapter=True,
        steps=len(plan),
        rows=scale.micro_batch,
        lr=LR,
        save=True,
        rank=RANK,
        target_modules=LINEAR,
    )
    bases = {PLAIN: bench.model, EIGHT: _rounded(bench, 8), FOUR: _rounded(bench, 4)}
    jobs = {
        PLAIN: (PLAIN, job),
        EIGHT: (EIGHT, replace(job, quantization="8bit")),
        FOUR: (FOUR, replace(job, quantization="4bit")),
        # Half of the rank is held: as much is trained as in the others.
        QERA: (
            FOUR,
            replace(job, quantization="4bit", init_lora_weights="qera", rank=2 * job.rank),
        ),
    }
    adapters = {name: bench.new_path("adapter") for name in [*jobs, PEFT]}
    for name, (_, one) in jobs.items():
        ours.run(bench, one, folder=adapters[name])
        bench.say(f"few bits: {name}: {len(plan)} steps")
    their_job = trl_sft.Job(
        file=str(in_order(bench, file, plan)),
        adapter=True,
        steps=len(plan),
        rows=scale.micro_batch,
        accumulation=1,
        bf16=bench.machine["bf16"],
        lr=LR,
        save_to=str(adapters[PEFT]),
        rank=RANK,
        target_modules=LINEAR,
    )
    trl_sft.run(bench, their_job, GROUPED_WITHOUT_CHECKPOINTING, model=bases[FOUR])
    bench.say(f"few bits: {PEFT}: {len(plan)} steps")
    judged = bench.rows_file(bench.rows("test")[: scale.judged])
    losses: dict[str, float] = {}
    for base, folder in bases.items():
        on_it = [name for name, (its_base, _) in jobs.items() if its_base == base]
        on_it += [PEFT] if base == FOUR else []
        question = {
            "model": str(folder),
            "file": str(judged),
            "adapters": {name: str(adapters[name]) for name in on_it},
        }
        found = {
            name: each["loss"] for name, each in bench.own("quality", json.dumps(question)).items()
        }
        losses |= {f"{base}, before": found.pop("before"), **found}
        bench.say(f"few bits: {', '.join(f'{name} {loss:.4f}' for name, loss in found.items())}")
    return {
        "precision": bench.precision,
        "documents": scale.taught,
        "steps": len(plan),
        "judged": scale.judged,
        "losses": losses,
    }


def _rounded(bench: Bench, bits: int) -> Path:
    folder = bench.new_path(f"{bits}-bits")
    bench.own("few_bits", json.dumps({"model": str(bench.model), "to": str(folder), "bits": bits}))
    return folder


def write_rounded(model: str, to: str, *, bits: int) -> None:
    """The model with its decoder layers' linear weights as bitsandbytes keeps them, in fp32."""
    import torch
    from bitsandbytes import functional
    from transformers import AutoTokenizer, LlamaForCausalLM

    twin = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    for module in twin.model.layers.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight = module.weight.data
        if bits == 4:
            decoded = functional.dequantize_4bit(*functional.quantize_nf4(weight))
        else:
            numbers, highest, _ = functional.int8_vectorwise_quant(weight.half())
            decoded = numbers.float() * (highest / 127)[:, None]
        module.weight.data = decoded.to(weight.dtype)
    twin.save_pretrained(to)
    AutoTokenizer.from_pretrained(model).save_pretrained(to)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    write_rounded(asked["model"], asked["to"], bits=asked["bits"])
    print(json.dumps(None))
