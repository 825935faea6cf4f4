"""A run's checkpoint is as good as its result: it answers, it is merged and exported, and it is
refused where it is damaged or what it needs is another."""

from __future__ import annotations

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.errors import CheckpointError
from llama_recipes.export.trained import plain_model
from llama_recipes.inference.load import check, find, load
from llama_recipes.model.attention import DocumentAttention
from support.outcome import run
from support.quantised import WIDE
from support.tiny_folder import byte_tokenizer, jsonl, sums, tiny_folder
from support.tiny_folders import save_tiny_model

PEFT = ("--use_peft", "--lora_dropout=0")
KINDS = {
    "full": (),
    "tied": ("--model_name=INPUTS/tied",),
    "frozen": ("--freeze_layers",),
    "frozen, in bf16": ("--freeze_layers", "--pure_bf16", "--mixed_precision"),
    "frozen new rows": ("--freeze_layers", "--tokenizer_name=INPUTS/larger"),
    "lora": (*PEFT, "--target_modules=all-linear"),
    "biases": (*PEFT, "--model_name=INPUTS/biased", "--lora_config.bias=lora_only"),
    "new tokens": (*PEFT, "--tokenizer_name=INPUTS/larger"),
    "new tokens, tied": (*PEFT, "--model_name=INPUTS/tied", "--tokenizer_name=INPUTS/larger"),
    "8bit": (*PEFT, "--quantization=8bit"),
    "llama_adapter": (*PEFT[:1], "--peft_method=llama_adapter"),
    "prefix": (*PEFT[:1], "--peft_method=prefix"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_folder(folder / "model", **WIDE)
    save_tiny_model(folder / "named", **WIDE)
    tiny_folder(folder / "tied", tie_word_embeddings=True)
    tiny_folder(folder / "biased", attention_bias=True)
    tiny_folder(folder / "other", seed=1, **WIDE)
    larger = byte_tokenizer()
    larger.add_tokens(["<|tool|>"], special_tokens=True)
    larger.save_pretrained(folder / "larger")
    jsonl(folder / "train.jsonl", sums(6))
    return folder


def train(inputs: Path, root: Path, *flags: str) -> Path:
    """A run of three steps, each of which is kept; its folder."""
    usual = (
        *("--model_name=INPUTS/model", "--train_file=INPUTS/train.jsonl", "--no_run_validation"),
        *("--dataset=file_dataset", "--context_length=64", "--batch_size_training=1", "--lr=1e-2"),
        *("--max_train_step=3", "--checkpoint_every=1", "--keep_checkpoints=9"),
        *("--no_mixed_precision", *flags),
    )
    made = run(root, *(flag.replace("INPUTS", str(inputs)) for flag in usual))
    assert made.code == 0, made.err
    return made.folder


@pytest.fixture(scope="module")
def full(inputs, tmp_path_factory):
    """Of a model whose tokenizer has a name in GGUF."""
    return train(inputs, tmp_path_factory.mktemp("full") / "run", "--model_name=INPUTS/named")


@pytest.fixture(scope="module")
def lora(inputs, tmp_path_factory):
    return train(inputs, tmp_path_factory.mktemp("lora") / "run", *KINDS["lora"])


def step(folder: Path, number: int = 3) -> Path:
    return folder / "checkpoints" / f"step-{number:08}"


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@torch.no_grad()
def logits(name: Path) -> torch.Tensor:
    model = load(find(str(name)), device=torch.device("cpu"), dtype=torch.float32).model
    ids = torch.arange(3, 60)
    return model.logits(model(ids, torch.arange(len(ids)), DocumentAttention([len(ids)])))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_checkpoint_is_the_result(kind, inputs, tmp_path):
    result = train(inputs, tmp_path / "run", *KINDS[kind])
    found, expected = find(str(step(result))), find(str(result))
    check(found)
    assert torch.equal(logits(step(result)), logits(result))
    assert not torch.equal(logits(step(result, 2)), logits(result))
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint
    assert found.prompt_format == expected.prompt_format == "prompt_completion"
    assert found.quantization == expected.quantization
    assert found.source.config.vocab_size == expected.source.config.vocab_size
    if kind not in ("llama_adapter", "prefix"):
        one, other = plain_model(found), plain_model(expected)
        assert one.shapes == other.shapes
        for key in one.shapes:
            assert torch.equal(one.tensors.read(key).float(), other.tensors.read(key).float())


def test_an_adapter_s_checkpoint_is_merged_as_the_adapter_is(said, lora, tmp_path):
    out = said("merge", step(lora), "--output_dir", tmp_path / "merged")
    assert "updates    14 layers" in out
    said("merge", lora, "--output_dir", tmp_path / "of_adapter", "--no_compare")
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("merged", "of_adapter")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_newest_of_several_as_gguf_and_which_it_is_is_said(said, full, tmp_path):
    target = tmp_path / "model.gguf"
    out = said("export", full / "checkpoints", "--output", target, "--dtype", "Q8_0")
    assert f"Taking step-00000003, the newest checkpoint in {full / 'checkpoints'}." in out
    assert f"Writing {step(full)} to {target}" in out
    assert "answers are the same text" in out
    assert said("chat", target, "--prompt", "1 + 1 =", "--max_new_tokens", 3)


def test_evaluate_and_chat_take_one_too(said, full, inputs, tmp_path):
    data = ("--dataset=file_dataset", f"--validation_file={inputs / 'train.jsonl'}")
    figures = []
    for number, name in enumerate((full, step(full))):
        file = tmp_path / f"{number}.json"
        said("evaluate", name, *data, "--no_generate", f"--output_file={file}")
        figures.append(json.loads(file.read_text())["models"][0]["loss"])
    assert figures[0] == figures[1]
    assert said("chat", step(full), "--prompt", "1 + 1 =", "--max_new_tokens", 3)


def test_a_damaged_one_is_refused_and_of_several_the_one_before_is_taken(said, full, tmp_path):
    root = copied(full / "checkpoints", tmp_path / "checkpoints")
    file = root / "step-00000003" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    err = said("export", file.parent, "--output", tmp_path / "model", code=4)
    assert f"{file.parent} is no whole checkpoint (weights.safetensors is not what was" in err
    assert err.endswith("Give an earlier one.\n")
    out = said("export", root, "--output", tmp_path / "model", "--no_compare")
    assert "is no whole checkpoint (weights.safetensors is not what was written). The che" in out
    assert "Taking step-00000002, the newest checkpoint" in out
    for path in root.iterdir():
        (path / "state.json").write_text("{}")
    err = said("export", root, "--output", tmp_path / "another", code=4)
    assert f"None of the checkpoints in {root} is whole" in err
    assert not (tmp_path / "another").exists()


def test_the_optimizer_s_state_is_not_asked_for(full, tmp_path):
    alone = copied(step(full), tmp_path / "step-00000003")
    (alone / "optimizer.safetensors").unlink()
    assert torch.equal(logits(alone), logits(full))


def test_a_base_that_was_moved_or_is_another(said, lora, inputs, tmp_path):
    root = copied(inputs, tmp_path / "inputs")
    result = train(root, tmp_path / "run", *KINDS["lora"])
    (root / "model").rename(root / "moved")
    with pytest.raises(CheckpointError, match=r"cannot be opened: .* say where with --base_model"):
        find(str(step(result)))
    moved = find(str(step(result)), base=str(root / "moved"))
    assert moved.source.path == root / "moved"
    for name in (step(result), result):  # the adapter says it too
        target = ("--base_model", root / "other", "--output_dir", tmp_path / "merged")
        assert "other weights than those of" in said("merge", name, *target, code=4)


def test_a_tokenizer_that_was_moved_is_found_beside_the_result(inputs, tmp_path):
    root = copied(inputs, tmp_path / "inputs")
    result = train(root, tmp_path / "run", *KINDS["new tokens"])
    (root / "larger").rename(root / "moved")
    wanted = find(str(result)).tokenizer.fingerprint
    assert find(str(step(result))).tokenizer.fingerprint == wanted
    alone = copied(step(result), tmp_path / "alone" / "checkpoints" / "step-00000003")
    with pytest.raises(CheckpointError, match=r"larger any more, or it is another one now"):
        find(str(alone))


def test_one_of_an_older_version_needs_the_model_s_name(said, full, inputs, tmp_path):
    """It did not say what it was made of, but for the settings that have to stay."""
    run_folder = copied(full, tmp_path / "run")
    path = step(run_folder) / "state.json"
    state = json.loads(path.read_text())
    del state["made_of"]
    path.write_text(json.dumps(state))
    manifest = path.with_name("manifest.json")
    sums_now = json.loads(manifest.read_text())
    sums_now["blake2b"]["state.json"] = blake2b(path.read_bytes(), digest_size=32).hexdigest()
    manifest.write_text(json.dumps(sums_now))
    err = said("export", path.parent, "--output", tmp_path / "model", code=2)
    assert "does not say which model it was trained from. Name that model with --base_model" in err
    found = find(str(path.parent), base=str(inputs / "named"))
    assert found.prompt_format == "prompt_completion"


@pytest.mark.parametrize("method", ["llama_adapter", "prefix"])
def test_prompts_in_a_checkpoint_cannot_be_merged_either(said, method, inputs, tmp_path):
    result = train(inputs, tmp_path / "run", "--use_peft", f"--peft_method={method}")
    err = said("merge", step(result), "--output_dir", tmp_path / "merged", code=4)
    assert f"The adapter in {step(result)} adds prompts to the attention" in err


def test_a_full_one_needs_no_merging(said, full, tmp_path):
    err = said("merge", step(full), "--output_dir", tmp_path / "merged", code=2)
    assert f"{step(full)} is no adapter: there is nothing to merge." in err
