"""Whole models on disk, with a tokenizer, small enough to be written for every test."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from llama_recipes.export.hf import save_model
from llama_recipes.model.llama import Llama
from support.tiny import tiny_llama
from support.tiny_tokenizers import byte_level

CHAT_TEMPLATE = (
    "{% for message in messages %}<|bos|>{{ message.role }}\n{{ message.content }}<|eot_id|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|bos|>assistant\n{% endif %}"
)
VOCABULARY = 500


def save_tiny_tokenizer(folder: Path, *, chat: bool = True, **settings) -> None:
    """bos, end of turn (which is eos) and pad are the ids 0, 1, 2."""
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        bos_token="<|bos|>",
        eos_token="<|eot_id|>",
        chat_template=CHAT_TEMPLATE if chat else None,
        **settings,
    ).save_pretrained(folder)


def save_tiny_model(folder: Path, *, chat: bool = True, seed: int = 0, **changes) -> Llama:
    """Write a model folder and return the model in it."""
    model = tiny_llama(seed, **{"vocab_size": VOCABULARY} | changes)
    save_model(model, folder, generation_config={})
    save_tiny_tokenizer(folder, chat=chat)
    return model
