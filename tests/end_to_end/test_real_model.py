"""The main job on real input: LoRA on the real 135M model and GSM8K learns, and peft agrees."""

from __future__ import annotations

import json

import pytest
import torch

from llama_recipes.adapters.peft_format import load_adapter_weights
from llama_recipes.adapters.select import start_adapter
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.tokenizer import load_tokenizer
from llama_recipes.finetuning import main
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights
from llama_recipes.running.parts import shape_model
from support.real import MODEL, SHARED_DATA, needs_gsm8k, needs_model, write_gsm8k_chat
from support.tiny import transformers_twin

pytestmark = [pytest.mark.real_model, needs_model, needs_gsm8k]

STEPS = 12


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a run of 12 steps, evaluated before (by a run of one tiny step) and after."""
    folder = tmp_path_factory.mktemp("gsm8k")
    train = write_gsm8k_chat(folder / "train.jsonl", "train", slice(2 * STEPS))
    validation = write_gsm8k_chat(folder / "validation.jsonl", "test", slice(16))

    def run(name: str, *flags: str) -> dict:
        arguments = (
            f"--use_peft --model_name {MODEL} --dataset file_dataset --train_file {train}"
            f" --validation_file {validation} --output_dir {folder / name} --context_length 1024"
            " --batching_strategy padding --batch_size_training 2 --val_batch_size 4"
            " --report_samples 0"
        )
        assert main([*arguments.split(), *flags]) == 0
        return json.loads((folder / name / "results.json").read_text())

    before = run("before", "--max_train_step", "1", "--lr", "1e-30", "--no_save_model")
    after = run("after", "--max_train_step", str(STEPS), "--lr", "3e-3", "--warmup_steps", "4")
    return folder / "after", before["best_eval_loss"], after["best_eval_loss"]


def test_evaluation_loss_falls_by_a_tenth(tuned):
    folder, before, after = tuned
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert sum("lr" in json.loads(line) for line in lines) == STEPS
    assert after <= 0.9 * before, (before, after)


def loaded(source, adapter, dtype):
    model, adapter_names = shape_model(source.config, RunConfig(), adapter, dtype)
    device = torch.device("cpu")
    load_weights(model, source.tensors, device=device, skip=adapter_names)
    if adapter is not None:
        start_adapter(model, adapter, checkpoint="", seed=0, device=device)
    return model


def test_the_adapter_gives_the_same_logits_in_peft(tuned):
    """In float32 both agree closely; in bf16 ours is as near to that as peft's."""
    from peft import PeftModel

    folder, _, _ = tuned
    source = open_model(MODEL)
    text = (SHARED_DATA / "gsm8k" / "test.jsonl").read_text(encoding="utf-8")[:500]
    ids = torch.tensor(load_tokenizer(source.path).encode_batch([text])[0])

    @torch.no_grad()
    def ours(dtype: torch.dtype) -> torch.Tensor:
        model = loaded(source, LoraConfig(), dtype)
        load_adapter_weights(model, LoraConfig(), folder)
        model.eval()
        hidden = model(ids, torch.arange(len(ids)), DocumentAttention([len(ids)]))
        return model.logits(hidden).float()

    @torch.no_grad()
    def theirs(dtype: torch.dtype) -> torch.Tensor:
        base = loaded(source, None, dtype)
        twin = transformers_twin(base).to(dtype)
        model = PeftModel.from_pretrained(twin, str(folder)).eval()
        return model(ids[None]).logits[0].float()

    exact = theirs(torch.float32)
    assert (ours(torch.float32) - exact).abs().max() <= 1e-4 * exact.abs().max()

    ours_off = (ours(torch.bfloat16) - exact).abs().mean()
    theirs_off = (theirs(torch.bfloat16) - exact).abs().mean()
    assert ours_off <= 1.1 * theirs_off, (ours_off, theirs_off)
