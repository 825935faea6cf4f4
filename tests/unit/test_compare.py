"""What was written is held against what was trained: good results pass, planted faults do not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_recipes.adapters.merged import MergedTensors
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.export.compare import PROMPTS, Comparison, compare, figures
from llama_recipes.export.rounding import is_rounded
from llama_recipes.model.config import RopeConfig
from support.exported import copied, save_base, save_trained_adapter, written

ENCODINGS = ["F32", "F16", "BF16", "Q8_0"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    return save_trained_adapter(base.parent / "adapter", base)


def target(tmp_path, encoding):
    return tmp_path / ("result.gguf" if encoding == "Q8_0" else "result")


def problems(adapter, result, encoding) -> str:
    return "\n".join(compare(str(adapter), None, str(result), encoding).problems)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("result", encoding) for encoding in ENCODINGS[:-1]]
    + [("result.gguf", encoding) for encoding in ENCODINGS],
)
def test_good_results_pass(adapter, name, encoding, tmp_path):
    result = written(adapter, tmp_path / name, encoding)
    report = compare(str(adapter), None, str(result), encoding)
    assert report.problems == []
    assert (report.weights, report.updates, report.texts) == (21, 14, len(PROMPTS))
    assert report.tokens > 300
    assert 0 < report.update_deviation < 1e-5
    assert report.same_texts == report.texts or encoding != "F32"
    bounds = {"F32": (0, 1e-5), "F16": (1e-5, 3e-3), "BF16": (1e-4, 5e-2), "Q8_0": (1e-4, 8e-2)}
    low, high = bounds[encoding]
    assert low <= report.logits_deviation <= high


def spoil(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_zeroed_lora_b(adapter, encoding, tmp_path):
    """One of fourteen: the written model lacks one layer's update."""
    faulty = copied(adapter, tmp_path / "faulty")
    key = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"
    spoil(faulty / "adapter_model.safetensors", lambda tensors: tensors[key].zero_())
    result = written(faulty, target(tmp_path, encoding), encoding)
    found = problems(adapter, result, encoding)
    assert "1 tensors are not the trained ones" in found
    assert "model.layers.1.self_attn.k_proj.weight" in found


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_wrong_alpha(adapter, encoding, tmp_path):
    faulty = copied(adapter, tmp_path / "faulty")
    path = faulty / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 9}))
    result = written(faulty, target(tmp_path, encoding), encoding)
    assert "14 tensors are not the trained ones" in problems(adapter, result, encoding)


def test_a_dropped_key(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    spoil(result / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"lacks model\.norm\.weight"):
        compare(str(adapter), None, str(result), "F32")


def test_a_swapped_template(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    template = next(result.glob("*.jinja"))
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert problems(adapter, result, "F32") == "The result has another chat template."


def test_another_tokenizer(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    path = result / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["H"], vocabulary["e"] = vocabulary["e"], vocabulary["H"]
    path.write_text(json.dumps(tokenizer))
    assert "other ids for the same texts" in problems(adapter, result, "F32")


def test_another_end(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    path = result / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|pad|>"}))
    assert "eos_id is 2 in the result's tokenizer, and 1 in training" in problems(
        adapter, result, "F32"
    )


def test_an_end_that_transformers_would_not_stop_at(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    path = result / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))
    assert "eos_token_id is 7 in the result's generation_config.json" in problems(
        adapter, result, "F32"
    )


def test_numbers_that_gguf_keeps_in_float32_are_no_other_shape(tmp_path):
    rope = RopeConfig(theta=26000.7, scaling={"rope_type": "linear", "factor": 1.2})
    base = save_base(tmp_path / "base", rope=rope, rms_norm_eps=1.234567891e-5)
    assert problems(base, written(base, tmp_path / "result.gguf"), "F32") == ""


def test_another_shape(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    path = result / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 5e5}))
    assert problems(adapter, result, "F32").startswith("rope is {'theta': 500000.0")


def test_another_beginning(adapter, tmp_path):
    result = written(adapter, tmp_path / "result")
    path = result / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|pad|>"}))
    assert "bos_id is 2 in the result's tokenizer, and 0 in training" in problems(
        adapter, result, "F32"
    )


def test_a_model_with_fewer_rows_than_its_template_writes_ids(tmp_path):
    small = str(save_base(tmp_path / "small", vocab_size=50))
    with pytest.raises(CheckpointError, match="the model's embedding has only 50 rows"):
        compare(small, None, small, "F32")


def test_one_mistake_in_writer_and_check_is_seen_by_the_adapter_itself(
    adapter, tmp_path, monkeypatch
):
    """Both add the update up in the same code; layer and adapter as trained do not."""
    read = MergedTensors.read

    def doubled(self, *args):
        self._scale = 4.0
        return read(self, *args)

    monkeypatch.setattr(MergedTensors, "read", doubled)
    result = written(adapter, tmp_path / "result", "BF16")
    found = problems(adapter, result, "BF16")
    assert "tensors are not the trained ones" not in found
    assert "model.layers.0.self_attn.q_proj with the update in its weights deviates by" in found


def test_logits_and_answers_are_looked_at_by_themselves(adapter, tmp_path, monkeypatch):
    faulty = copied(adapter, tmp_path / "faulty")
    spoil(
        faulty / "adapter_model.safetensors",
        lambda tensors: [tensor.zero_() for key, tensor in tensors.items() if "lora_B" in key],
    )
    result = written(faulty, tmp_path / "result")
    monkeypatch.setattr("llama_recipes.export.compare.is_rounded", lambda *arguments: True)
    found = problems(adapter, result, "F32")
    assert "tensors" not in found
    assert "The logits deviate by" in found
    assert "greedy answers are other texts." in found


def test_trained_biases_are_part_of_the_update(tmp_path):
    base = save_base(tmp_path / "base", attention_bias=True)
    config = LoraConfig(r=2, bias="all", target_modules=["q_proj", "down_proj"])
    adapter = save_trained_adapter(tmp_path / "adapter", base, config)
    assert problems(adapter, written(adapter, tmp_path / "result"), "F32") == ""


@pytest.mark.parametrize("value", [1e-5, 1e-3, float("nan"), float("inf")])
def test_a_single_number(adapter, value, tmp_path):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][3, 5] += value

    result = written(adapter, tmp_path / "result")
    spoil(result / "model.safetensors", change)
    assert "model.layers.0.mlp.up_proj.weight" in problems(adapter, result, "F32")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rounding_and_nothing_else(encoding):
    torch.manual_seed(0)
    exact = torch.randn(8, 64) * torch.logspace(-3, 2, 8)[:, None]
    rounded = {
        "F32": exact,
        "F16": exact.half().float(),
        "BF16": exact.bfloat16().float(),
    }.get(encoding)
    if rounded is None:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize, quantize

        kind = GGMLQuantizationType.Q8_0
        rounded = torch.from_numpy(dequantize(quantize(exact.numpy(), kind), kind))
    assert is_rounded(rounded, exact, encoding)
    step = exact.unflatten(1, (-1, 32)).abs().amax() / 127
    for row, column in (0, 0), (7, 63), (3, 31):
        wrong = rounded.clone()
        wrong[row, column] += 1.5 * step if encoding == "Q8_0" else wrong[row, column] / 64 + 1e-4
        assert not is_rounded(wrong, exact, encoding)


def test_numbers_between_the_steps_of_q8_are_not_its_own():
    """Nearer to the exact ones than any multiple of the step is, and still not what Q8_0 holds."""
    torch.manual_seed(0)
    exact = torch.randn(4, 32)
    assert not is_rounded(exact, exact, "Q8_0")


def test_the_figures_are_said():
    report = Comparison(
        weights=21,
        updates=14,
        update_deviation=2e-7,
        tokens=300,
        logits_deviation=3e-3,
        same_texts=5,
    )
    said = "\n".join(figures(report, "BF16"))
    for words in "21 tensors", "14 layers", "2.0e-07", "300 tokens", "3.0e-03", "5 of 6 answers":
        assert words in said
    assert "updates" not in "\n".join(figures(Comparison(), "BF16"))
