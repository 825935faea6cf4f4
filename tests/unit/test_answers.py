"""Documents as questions, by their ids alone; answers as transformers gives them one by one."""

from __future__ import annotations

import pytest
import torch

from llama_recipes.configs.datasets import CustomDataset
from llama_recipes.data.example import Message
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.inference import answers
from llama_recipes.inference.answers import answer, as_question, with_prompt
from llama_recipes.inference.generate import generate
from llama_recipes.inference.prompts import encode_conversation, encode_prompt
from support.chat_tokenizers import tokenizer
from support.documents import document, stored
from support.labels import chat, rows, store_of
from support.tiny import tiny_llama, transformers_twin
from support.tiny_folder import VOCABULARY, byte_tokenizer

STYLES = ["chatml", "llama-3", "llama-2", "llama-2, sentencepiece"]
PLAIN = [*STYLES, "no bos"]
LONG = 10_000


def question(store, using, *, number=0, context_length=LONG):
    return as_question(store.document(number), using, context_length=context_length)


# What is asked, and what for


@pytest.mark.parametrize("style", STYLES)
def test_a_conversation_is_asked_for_its_last_answer(style, tmp_path):
    using = tokenizer(style)
    talk = chat("Hi", "Hello", "How so?", " in a while")
    store = store_of(rows(tmp_path, talk, chat("One", "two")), using)
    assert with_prompt(store, using) == [0, 1]
    last = question(store, using)
    messages = [Message(**message) for message in talk["messages"][:-1]]
    assert last.prompt == encode_conversation(messages, using)
    assert last.prompt_text == using.decode(last.prompt)
    assert last.reference == "in a while"
    assert not last.is_cut
    assert question(store, using, number=1).reference == "two"


@pytest.mark.parametrize("style", PLAIN)
def test_a_prompt_is_asked_for_its_completion(style, tmp_path):
    using = tokenizer(style)
    pair = {"prompt": "Hello world:", "completion": " and so on\n"}
    asked = question(store_of(rows(tmp_path, pair), using), using)
    assert asked.prompt == encode_prompt("Hello world:", "prompt_completion", using)
    assert asked.reference == "and so on"


@pytest.mark.parametrize("style", PLAIN)
def test_what_is_trained_from_its_start_has_no_prompt(style, tmp_path):
    using = tokenizer(style)
    text, pair = rows(tmp_path, {"text": "Hello world"}), {"prompt": "Hello", "completion": "you"}
    assert with_prompt(store_of(text, using), using) == []
    assert with_prompt(store_of(rows(tmp_path, pair), using, on_prompt=True), using) == []


def test_ready_made_ids_are_asked_too(tmp_path):
    using = tokenizer("no bos")
    (hello, world), stop = using.encode_batch(["Hello", " world"]), using.eos_id
    mask = [False] * len(hello) + [True] * (len(world) + 2)
    documents = [document([*hello, *world, stop, stop], mask), document(world)]
    store = stored(tmp_path, documents)
    assert with_prompt(store, using) == [0]
    assert question(store, using).prompt == hello
    assert question(store, using).reference == "world"


def test_the_labels_of_ready_made_ids_are_the_reference(tmp_path):
    """A custom data set may want something else learnt than what stands there."""
    using = tokenizer("no bos")
    (tmp_path / "own.py").write_text(
        "def get_custom_dataset(config, tokenizer, split):\n"
        "    ids, other = tokenizer('Hello world' * 3).input_ids, tokenizer('Fine').input_ids\n"
        "    labels = [-100] * len(ids) + other\n"
        "    return [{'input_ids': ids + ids[: len(other)], 'labels': labels}]\n"
    )
    store = store_of(CustomDataset(file=str(tmp_path / "own.py")), using)
    assert question(store, using).reference == "Fine"


def test_a_reference_that_was_cut_is_marked(tmp_path):
    using = tokenizer("chatml")
    section = rows(tmp_path, {"prompt": "Hello", "completion": " world, and more"})
    whole = store_of(section, using)
    length = int(whole.lengths[0])
    assert not question(whole, using, context_length=length).is_cut
    cut = question(store_of(section, using, length=length - 2), using, context_length=length - 2)
    assert cut.is_cut
    assert "Hello world, and more".find(cut.reference) > 0


# What is said


PROMPTS = ["Hello world", "a", "def f(x):\n    return", "a b c d e f g", "né"]
NEW_TOKENS = 20


@pytest.fixture(scope="module")
def model():
    return tiny_llama(vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def asked():
    using = Tokenizer(byte_tokenizer())
    return [encode_prompt(text, "text", using) for text in PROMPTS]


@pytest.fixture
def using(model, asked):
    """With a stop token that some of the answers come to."""
    using = Tokenizer(byte_tokenizer())
    free = generate(model, asked, max_new_tokens=NEW_TOKENS, stop_ids=())
    using.stop_ids = (free[0][4], free[3][9])
    return using


def oracle(model, prompt, using):
    output = transformers_twin(model).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=list(using.stop_ids),
    )
    said = output[0, len(prompt) :].tolist()
    stops = said[-1] in using.stop_ids
    return using.decode(said[:-1] if stops else said, skip_special=True).strip(), not stops


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_answers_in_batches_are_those_of_transformers_alone(batch_size, model, asked, using):
    told = []
    given = answer(
        model,
        asked,
        using,
        max_new_tokens=NEW_TOKENS,
        batch_size=batch_size,
        done=told.append,
    )
    expected = [oracle(model, prompt, using) for prompt in asked]
    assert given.texts == [text for text, _ in expected]
    assert given.unfinished == sum(unfinished for _, unfinished in expected)
    assert 0 < given.unfinished < len(asked)
    assert sum(told) == len(asked)
    assert max(told) == min(batch_size, len(asked))


def test_similar_lengths_are_answered_together_the_longest_first(monkeypatch, model, asked, using):
    batches = []

    def spied(model, prompts, **how):
        batches.append([len(prompt) for prompt in prompts])
        return generate(model, prompts, **how)

    monkeypatch.setattr(answers, "generate", spied)
    answer(model, asked, using, max_new_tokens=1, batch_size=2)
    lengths = sorted((len(prompt) for prompt in asked), reverse=True)
    assert batches == [lengths[:2], lengths[2:4], lengths[4:]]


def test_an_answer_that_the_model_s_own_limit_ends_is_unfinished(asked):
    using = Tokenizer(byte_tokenizer())
    using.stop_ids = ()
    model = tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=len(asked[0]) + 2)
    given = answer(model, asked[:1], using, max_new_tokens=9, batch_size=1)
    assert given.unfinished == 1
