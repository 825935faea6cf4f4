"""Tokenizers: nothing is added behind one's back, and nothing unreadable gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from llama_recipes.data.example import Message
from llama_recipes.data.tokenizer import NAME_ANOTHER, Tokenizer, load_tokenizer
from llama_recipes.errors import CheckpointError, DataError
from support.tiny_tokenizers import TEXTS, byte_level


def hf(**settings) -> PreTrainedTokenizerFast:
    named = {"bos_token": "<|bos|>", "eos_token": "<|eot_id|>"} | settings
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), **named)


@pytest.fixture
def folder(tmp_path) -> Path:
    hf().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder(folder):
    tokenizer = load_tokenizer(folder)
    original = byte_level()
    assert tokenizer.encode_batch(TEXTS) == [original.encode(text).ids for text in TEXTS]
    assert tokenizer.size == original.get_vocab_size()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.special_ids == {0, 1, 2}


def test_padding_is_the_tokenizers_own_or_eos_and_never_written_back(tmp_path):
    hf(pad_token="<|pad|>").save_pretrained(tmp_path / "own")
    assert load_tokenizer(tmp_path / "own").pad_id == 2
    hf().save_pretrained(tmp_path / "none")
    tokenizer = load_tokenizer(tmp_path / "none")
    assert tokenizer.pad_id == tokenizer.eos_id
    assert tokenizer.hf.pad_token is None


def test_generation_stops_at_eos_and_at_the_end_of_a_turn(tmp_path):
    hf(eos_token="<|pad|>").save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).stop_ids == (2, 1)


def test_settings_for_cutting_and_filling_left_in_a_file_do_not_count(tmp_path):
    original = hf(pad_token="<|pad|>")
    original.backend_tokenizer.enable_truncation(4)
    original.backend_tokenizer.enable_padding(length=8)
    original.save_pretrained(tmp_path)
    short, long = load_tokenizer(tmp_path).encode_batch(["a", "a b c d e f g h i j k l"])
    assert len(short) == 1
    assert len(long) > 8


def test_the_fingerprint_changes_with_whatever_changes_ids_or_chats(tmp_path):
    variants = {
        "plain": hf(),
        "template": hf(chat_template="{{ messages }}"),
        "pad": hf(pad_token="<|pad|>"),
        "added": hf(additional_special_tokens=["<|more|>"]),
    }
    fingerprints = set()
    for name, variant in variants.items():
        variant.save_pretrained(tmp_path / name)
        fingerprint = load_tokenizer(tmp_path / name).fingerprint
        assert fingerprint == load_tokenizer(tmp_path / name).fingerprint
        fingerprints.add(fingerprint)
    assert len(fingerprints) == len(variants)


CHAT = [Message("system", "be brief"), Message("user", "hi"), Message("assistant", "ho")]


def test_a_chat_is_written_by_the_models_own_template(tmp_path):
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    hf(chat_template=template).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    written = "<system>be brief\n<user>hi\n<assistant>ho\n"
    assert tokenizer.render_chat(CHAT, add_generation_prompt=False) == written
    assert tokenizer.render_chat(CHAT, add_generation_prompt=True) == written + "<assistant>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}",
        "{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ today() }}",
    ],
)
def test_a_template_that_asks_for_the_date_is_told_the_same_one_for_ever(template):
    tokenizer = Tokenizer(hf(chat_template=template))
    assert tokenizer.render_chat(CHAT, add_generation_prompt=False) == "26 Jul 2024"


def test_the_date_is_written_as_the_template_asks():
    tokenizer = Tokenizer(hf(chat_template="{{ strftime_now('%A, %d %B %Y; %Y-%m-%d %H:%M') }}"))
    written = "Friday, 26 July 2024; 2024-07-26 00:00"
    assert tokenizer.render_chat(CHAT, add_generation_prompt=False) == written


def test_no_template_says_what_to_do(folder):
    with pytest.raises(DataError, match=r"no chat template.*Use an instruct model"):
        load_tokenizer(folder).render_chat(CHAT, add_generation_prompt=False)


def test_what_the_template_refuses_is_passed_on(tmp_path):
    hf(chat_template="{{ raise_exception('no system role here') }}").save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"\(system, user, assistant\): no system role here"):
        load_tokenizer(tmp_path).render_chat(CHAT, add_generation_prompt=False)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.*--tokenizer_name"):
        load_tokenizer(tmp_path, or_else=NAME_ANOTHER)
    with pytest.raises(CheckpointError, match=r"where the model comes from\.$"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is not valid JSON"):
        load_tokenizer(folder)


def test_code_that_comes_with_a_tokenizer_is_never_run(folder):
    settings = folder / "tokenizer_config.json"
    changed = json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.T", None]}}
    settings.write_text(json.dumps(changed))
    (folder / "evil.py").write_text("raise SystemExit('code of the tokenizer was run')")
    with pytest.raises(CheckpointError, match=r"\(auto_map\), which is never done"):
        load_tokenizer(folder)


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match=r"CTRLTokenizer\) has no fast form"):
        load_tokenizer(tmp_path)
