"""Whether as much is learnt from the same documents: LoRA by us and by TRL, one epoch each.

Both adapters are judged by transformers and peft in fp32, `python -m benchmarks.quality JSON`,
on documents that neither has seen.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ours, trl_sft
from benchmarks.bench import CONTEXT, Bench
from benchmarks.contenders import GROUPED_WITHOUT_CHECKPOINTING
from benchmarks.speed import in_order

LR = 1e-3
"""Constant; large enough that the loss falls within few steps."""


@dataclass(frozen=True)
class Judgement:
    """loss: nats per supervised token, over `supervised` of them."""

    loss: float
    supervised: int


def measure(bench: Bench) -> dict[str, Any]:
    scale = bench.scale
    file = bench.rows_file(bench.rows("train")[: scale.taught])
    plan = bench.plan(file, micro_batch=scale.micro_batch, accumulation=scale.accumulation)
    our_folder, their_folder = bench.new_path("our-adapter"), bench.new_path("their-adapter")
    our_job = ours.Job(
        file=file,
        adapter=True,
        steps=len(plan),
        rows=scale.micro_batch,
        accumulation=scale.accumulation,
        lr=LR,
        save=True,
    )
    ours.run(bench, our_job, folder=our_folder)
    bench.say(f"evaluation loss: ours made {len(plan)} steps")
    their_job = trl_sft.Job(
        file=str(in_order(bench, file, plan)),
        adapter=True,
        steps=len(plan),
        rows=scale.micro_batch,
        accumulation=scale.accumulation,
        bf16=bench.machine["bf16"],
        lr=LR,
        save_to=str(their_folder),
    )
    trl_sft.run(bench, their_job, GROUPED_WITHOUT_CHECKPOINTING)
    bench.say(f"evaluation loss: TRL made {len(plan)} steps")
    judged = bench.rows_file(bench.rows("test")[: scale.judged])
    job = {
        "model": str(bench.model),
        "file": str(judged),
        "adapters": {"ours": str(our_folder), "trl": str(their_folder)},
    }
    losses = bench.own("quality", json.dumps(job))
    said = ", ".join(f"{name} {found['loss']:.4f}" for name, found in losses.items())
    bench.say(f"evaluation loss: {said}")
    return {
        "precision": bench.precision,
        "documents": scale.taught,
        "steps": len(plan),
        "judged": scale.judged,
        "losses": losses,
    }


def judge(model_folder: str, file: Path, adapters: dict[str, str]) -> dict[str, Judgement]:
    """The loss before training, and with each adapter."""
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    documents = _documents(Path(model_folder), file)
    found = {}
    for name, adapter in {"before": "", **adapters}.items():
        model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        found[name] = _judge(
            PeftModel.from_pretrained(model, adapter) if adapter else model, documents
        )
    return found


def _documents(model_folder: Path, file: Path) -> list[Any]:
    """Tokenised by our package, for both alike: the loss is taken on the answers."""
    from llama_recipes.data.example import Chat, Message
    from llama_recipes.data.tokenize import encode, fit
    from llama_recipes.data.tokenizer import load_tokenizer

    with file.open(encoding="utf-8") as lines:
        chats = [
            Chat(tuple(Message(**message) for message in json.loads(line)["messages"]))
            for line in lines
        ]
    documents = encode(chats, load_tokenizer(model_folder), train_on_prompt=False)
    return [fit(document, CONTEXT, "end") for document in documents]


def _judge(model: Any, documents: list[Any]) -> Judgement:
    import torch
    import torch.nn.functional as F

    from llama_recipes.data.tokenize import IGNORE

    model.eval()
    total, supervised = 0.0, 0
    with torch.inference_mode():
        for document in documents:
            ids, labels = (
                torch.from_numpy(part).long() for part in (document.input_ids, document.labels)
            )
            logits = model(input_ids=ids[None]).logits[0, :-1]
            total += F.cross_entropy(
                logits, labels[1:], ignore_index=IGNORE, reduction="sum"
            ).item()
            supervised += document.supervised
    return Judgement(total / supervised, supervised)


def _main(job: dict[str, Any]) -> dict[str, Any]:
    found = judge(job["model"], Path(job["file"]), job["adapters"])
    return {name: vars(judgement) for name, judgement in found.items()}


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
