"""Small tokenizers with the chat templates that Llamas are published with."""

from __future__ import annotations

import copy
from functools import cache, partial

import tokenizers
from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from llama_recipes.data.tokenizer import Tokenizer
from support.tiny_tokenizers import byte_level, sentencepiece

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def llama2() -> tokenizers.Tokenizer:
    """As Llama 2's: a space stands before every text, and decoding takes it off again."""
    tokenizer = copy.deepcopy(sentencepiece())
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


STYLES = {
    "chatml": (byte_level, CHATML, "<|im_start|>", "<|im_end|>", ()),
    "llama-3": (
        partial(byte_level, "llama-bpe"),
        LLAMA3,
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama-2": (byte_level, LLAMA2, "<s>", "</s>", ()),
    "llama-2, sentencepiece": (llama2, LLAMA2, "<s>", "</s>", ()),
    "no chat": (byte_level, None, "<s>", "</s>", ()),
    "no bos": (byte_level, None, None, "</s>", ()),
}


def hf_tokenizer(style: str, **changes) -> PreTrainedTokenizerFast:
    backend, template, bos, eos, more = STYLES[style]
    settings = {
        "bos_token": bos,
        "eos_token": eos,
        "additional_special_tokens": list(more),
        "chat_template": template,
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend(), **(settings | changes))


@cache
def tokenizer(style: str) -> Tokenizer:
    return Tokenizer(hf_tokenizer(style))
