"""What can be talked to, and that a prompt has the very ids it had in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import torch

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.adapters.select import adapt, start_adapter
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.data.example import Chat, Message, PromptAnswer, Text
from llama_recipes.data.sources import alpaca, grammar, samsum
from llama_recipes.data.tokenize import IGNORE, encode
from llama_recipes.data.tokenizer import load_tokenizer
from llama_recipes.errors import CheckpointError, ConfigError, DataError
from llama_recipes.export.hf import save_adapter
from llama_recipes.inference.load import load_for_inference
from llama_recipes.inference.prompts import check_prompt, encode_conversation, encode_prompt
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights
from llama_recipes.training.precision import set_precision
from support.quantised import KINDS, WIDE, dense, encoded_layers
from support.tiny import tiny_config
from support.tiny_folders import save_tiny_model, save_tiny_tokenizer

CPU = torch.device("cpu")
TYPED = "Zwei  Wörter,\n\tand 👩\u200d👧 x**2 "
LORA = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5)


def load(name, dtype=torch.float32, **settings):
    return load_for_inference(str(name), device=CPU, dtype=dtype, **settings)


@torch.no_grad()
def logits(model):
    ids = torch.arange(3, 60)
    hidden = model(ids, torch.arange(len(ids)), DocumentAttention([len(ids)]))
    return model.logits(hidden)


@pytest.fixture
def base(tmp_path):
    save_tiny_model(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture
def adapter(base, tmp_path):
    """A folder as a run writes it, beside its base."""
    folder = tmp_path / "result"
    model = load(base).model
    add_lora(model, LORA)
    initialise_lora(model, seed=1, device=CPU)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(model, folder, config=LORA, base_model=str(base))
    save_tiny_tokenizer(folder)
    (folder / "results.json").write_text('{"prompt_format": "samsum"}')
    return folder


def training_prompt(example, tokenizer):
    """What stands before the first trained token."""
    (document,) = encode([example], tokenizer, train_on_prompt=False)
    trained = [place for place, label in enumerate(document.labels) if label != IGNORE]
    return document.input_ids[: trained[0]].tolist()


TRAINED = {
    "samsum": PromptAnswer(samsum.prompt(TYPED), "The answer."),
    "grammar": PromptAnswer(grammar.prompt(TYPED), "The answer."),
    "alpaca": PromptAnswer(alpaca.prompt(TYPED), "The answer."),
    "prompt_completion": PromptAnswer(TYPED, "The answer."),
    "chat": Chat((Message("user", TYPED), Message("assistant", "The answer."))),
}


@pytest.mark.parametrize("prompt_format", TRAINED)
def test_a_typed_prompt_has_the_ids_of_training(prompt_format, tokenizer):
    expected = training_prompt(TRAINED[prompt_format], tokenizer)
    assert encode_prompt(TYPED, prompt_format, tokenizer) == expected


@pytest.mark.parametrize("prompt_format", ["text", "tokens"])
def test_a_text_is_gone_on_with(prompt_format, tokenizer):
    (document,) = encode([Text(TYPED)], tokenizer, train_on_prompt=False)
    *whole, end = document.input_ids.tolist()
    assert end == tokenizer.eos_id
    assert encode_prompt(TYPED, prompt_format, tokenizer) == whole


def test_a_tokenizer_without_bos_gets_none(tmp_path):
    save_tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.bos_id = None
    expected = training_prompt(TRAINED["samsum"], tokenizer)
    assert encode_prompt(TYPED, "samsum", tokenizer) == expected
    assert tokenizer.decode(expected) == samsum.prompt(TYPED)


def test_a_conversation_has_the_ids_of_training(tokenizer):
    said = (
        Message("system", "Be brief."),
        Message("user", TYPED),
        Message("assistant", " An answer\n"),
        Message("user", "And?"),
    )
    (document,) = encode(
        [Chat((*said, Message("assistant", "That.")))], tokenizer, train_on_prompt=False
    )
    ids = encode_conversation(said, tokenizer)
    whole = document.input_ids.tolist()
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole[len(ids) :]) == "That.<|eot_id|>\n"
    alone = training_prompt(Chat((*said[:2], Message("assistant", "x"))), tokenizer)
    assert encode_prompt(TYPED, "chat", tokenizer, system="Be brief.") == alone


def test_a_base_model(base, tmp_path):
    loaded = load(base)
    assert torch.equal(logits(loaded.model), logits(tiny_on_disk(base)))
    assert loaded.prompt_format == "chat"
    assert loaded.name == str(base)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    save_tiny_model(tmp_path / "plain", chat=False)
    assert load(tmp_path / "plain").prompt_format == "text"


def tiny_on_disk(folder):
    model = Llama(tiny_config(vocab_size=500))
    load_weights(model, open_model(str(folder)).tensors, device=CPU)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_answers_exactly_as_in_training(adapter, base, dtype):
    source = open_model(str(base))
    with torch.device("meta"):
        trained = Llama(source.config, compute_dtype=dtype)
        names = adapt(trained, LORA)
    set_precision(trained, dtype)
    load_weights(trained, source.tensors, device=CPU, skip=names)
    start_adapter(trained, LORA, checkpoint=str(adapter), seed=0, device=CPU)

    loaded = load(adapter, dtype)
    assert torch.equal(logits(loaded.model), logits(trained.eval()))
    assert not torch.equal(logits(loaded.model), logits(load(base, dtype).model))
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}


def test_the_prompt_format_is_that_of_the_run(adapter, base):
    assert load(adapter).prompt_format == "samsum"
    shutil.copytree(adapter, adapter / "last", ignore=shutil.ignore_patterns("results.json"))
    assert load(adapter / "last").prompt_format == "samsum"
    assert load(adapter, prompt_format="text").prompt_format == "text"
    (base / "results.json").write_text('{"prompt_format": "alpaca"}')
    assert load(base).prompt_format == "alpaca"
    (adapter / "results.json").write_text("{}")
    assert load(adapter).prompt_format == "chat"
    (adapter / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"results\.json is not valid JSON"):
        load(adapter)


def test_the_adapters_own_tokenizer_counts(adapter, base):
    (adapter / "chat_template.jinja").unlink()
    assert load(adapter).tokenizer.chat_template is None
    for file in adapter.glob("*token*"):
        file.unlink()
    assert load(adapter).tokenizer.chat_template is not None


def test_the_base_can_be_elsewhere(adapter, base, tmp_path):
    expected = logits(load(adapter).model)
    base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"is an adapter of .*base.*There is no model at"):
        load(adapter)
    found = load(adapter, base=str(tmp_path / "moved"))
    assert torch.equal(logits(found.model), expected)
    with pytest.raises(CheckpointError, match="There is no model at nowhere"):
        load(adapter, base="nowhere")


def test_an_adapter_that_names_no_base(adapter):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="Name that model with --base_model"):
        load(adapter)


def test_only_an_adapter_has_a_base(base):
    with pytest.raises(ConfigError, match=r"--base_model is x, but .*base is no adapter"):
        load(base, base="x")


def test_prompts_that_cannot_be_answered(tokenizer):
    model = tiny_config(vocab_size=300, max_position_embeddings=8)
    with pytest.raises(DataError, match="The prompt is empty"):
        check_prompt([], tokenizer, model)
    with pytest.raises(DataError, match="has 8 tokens, and the model was made for at most 8"):
        check_prompt([3] * 8, tokenizer, model)
    with pytest.raises(CheckpointError, match=r"gives the id 300 .* has only 300 rows"):
        check_prompt([3, 300], tokenizer, model)
    check_prompt([3] * 7, tokenizer, model)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_a_quantized_base_answers_on_one(tmp_path, kind):
    """As in training: the adapter has learnt to make up for what rounding did to the base."""
    save_tiny_model(tmp_path / "base", **WIDE)
    folder = tmp_path / "result"
    model = load(tmp_path / "base").model
    add_lora(model, LORA)
    initialise_lora(model, seed=1, device=CPU)
    save_adapter(model, folder, config=LORA, base_model=str(tmp_path / "base"))
    save_tiny_tokenizer(folder)
    plain = load(folder).model
    recorded = {"prompt_format": "samsum", "quantization": asdict(KINDS[kind])}
    (folder / "results.json").write_text(json.dumps(recorded))
    loaded = load(folder).model
    assert len(list(encoded_layers(loaded))) == 7 * len(loaded.layers)
    expected = logits(dense(loaded))
    assert (logits(loaded) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits(plain) - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"bits": 4, "quant_type": "int4"}])
def test_a_quantization_that_is_not_known_is_refused(adapter, wrong):
    (adapter / "results.json").write_text(json.dumps({"quantization": wrong}))
    with pytest.raises(CheckpointError, match="no quantisation that is known here"):
        load(adapter)
