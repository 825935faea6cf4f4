"""What inspect counts, against plain Python over the batches that training gets."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_recipes.cli.inspection.samples import Sample, pieces, read_samples
from llama_recipes.configs.datasets import FileDataset
from llama_recipes.data import inspect
from llama_recipes.data.inspect import as_trained, mark
from llama_recipes.data.loader import Loader
from llama_recipes.data.prepare import Preparation, split_off
from llama_recipes.data.sameness import copies, overlap
from llama_recipes.data.splits import Splits, open_splits
from llama_recipes.data.spread import spread
from llama_recipes.data.steps import fill
from llama_recipes.data.template import look_at_template
from llama_recipes.data.tokenize import IGNORE
from support.chat_tokenizers import tokenizer
from support.documents import document, loader, random_documents, stored
from support.planted import answered, chat, completion, rows
from support.tiny_folder import jsonl

BAD = [{"prompt": 1}, {"prompt": "a", "completion": " "}]
HOW = Preparation(120, "end", train_on_prompt=False)
PAD = 2


def doubled(samples):
    """A collator that puts the first id before each sample once more, and masks every third."""
    ids = [[sample["input_ids"][0], *sample["input_ids"]] for sample in samples]
    labels = [
        [IGNORE, *(IGNORE if at % 3 == 0 else id_ for at, id_ in enumerate(sample["labels"]))]
        for sample in samples
    ]
    longest = max(map(len, ids))
    fill_up = [[0] * (longest - len(each)) for each in ids]
    return {
        "input_ids": [each + more for each, more in zip(ids, fill_up, strict=True)],
        "labels": [each + [IGNORE] * len(more) for each, more in zip(labels, fill_up, strict=True)],
        "attention_mask": [[1] * len(each) + more for each, more in zip(ids, fill_up, strict=True)],
    }


def batches_of(chosen: Loader) -> list[tuple[int, list[int], list[int], int]]:
    """Number, ids, labels and padding of each document of the first epoch, by its batches."""
    found = []
    for batch in chosen.batches(0):
        targets = dict(zip(batch.supervised.tolist(), batch.targets.tolist(), strict=True))
        start = 0
        for number, span, length in zip(batch.documents, batch.spans, batch.lengths, strict=True):
            ids = batch.tokens[start : start + length].tolist()
            labels = [IGNORE] + [targets.get(start + at, IGNORE) for at in range(length - 1)]
            found.append((number, ids, labels, span - length))
            start += span
    return found


@pytest.fixture(params=["packing", "padding", "collator"])
def chosen(request, tmp_path) -> Loader:
    """Documents of many lengths, some equal, some alike but for a label."""
    made = random_documents([5, 9, 30, 2, 17, 31, 8, 8, 12, 3, 26], seed=3)
    relabelled = replace(made[2], labels=made[2].input_ids)
    store = stored(tmp_path, [*made, made[4], made[4], relabelled, document([7, 7, 7])])
    collator = doubled if request.param == "collator" else None
    strategy = "packing" if request.param == "packing" else "padding"
    return loader(store, strategy=strategy, collator=collator, batch_size=3, context_length=64)


def test_the_documents_are_those_of_the_batches(chosen):
    store = as_trained(chosen)
    for number, ids, labels, _ in batches_of(chosen):
        found = store.document(number)
        assert found.input_ids.tolist() == ids
        assert [IGNORE, *found.labels[1:].tolist()] == labels
        assert store.supervised[number] == sum(label != IGNORE for label in labels)
    assert len(store) == len(chosen.store)


@pytest.mark.parametrize("piece", [1, 40, 2**20])
def test_the_marks_are_what_one_counts(chosen, monkeypatch, piece):
    monkeypatch.setattr(inspect, "_PIECE_TOKENS", piece)
    words = tokenizer("no chat")
    marks = mark(as_trained(chosen), words, "prompt_completion")
    by_number = sorted(batches_of(chosen))
    for number, ids, labels, _ in by_number:
        trained = [at for at, label in enumerate(labels) if label != IGNORE]
        last = [labels[at] in words.stop_ids for at in trained[-4:]]
        assert marks.prompts[number] == (trained[0] if trained else len(ids))
        assert marks.ends[number] == any(last)
        assert marks.begins_twice[number] == (ids[:2] == [words.bos_id] * 2)
        assert marks.only_stops[number] == (
            bool(trained) and all(labels[at] in words.stop_ids for at in trained)
        )
    whole = [(tuple(ids), tuple(labels)) for _, ids, labels, _ in by_number]
    answers = [tuple(label for label in labels if label != IGNORE) for _, labels in whole]
    asked = [ids[: marks.prompts[number]] for number, (ids, _) in enumerate(whole)]
    for hashes, things in ((marks.whole, whole), (marks.answer, answers), (marks.prompt, asked)):
        assert same_groups(hashes.tolist(), things)
    found = copies(marks, np.ones(len(whole), bool))
    first = {thing: whole.index(thing) for thing in whole}
    again = [number for number, thing in enumerate(whole) if first[thing] != number]
    assert found.copies.tolist() == again
    assert found.originals.tolist() == [first[whole[number]] for number in again]
    assert found.distinct == len(set(whole))


def same_groups(left: list, right: list) -> bool:
    return [left.index(each) for each in left] == [right.index(each) for each in right]


@pytest.mark.parametrize("a_step", [1, 2, 7])
def test_the_steps_are_those_of_the_batches(chosen, a_step):
    filling = fill(chosen, as_trained(chosen), micro_batches_of_a_step=a_step)
    made = list(chosen.batches(0))
    assert filling.micro_batches == len(made)
    assert filling.rows == sum(len(batch) for batch in chosen.plan(0))
    assert filling.tokens == sum(batch.num_tokens for batch in made)
    assert filling.padding == sum(len(batch.tokens) - batch.num_tokens for batch in made)
    room = 64 * filling.rows if chosen.strategy == "packing" else sum(len(b.tokens) for b in made)
    assert filling.slots == room
    steps = [made[start : start + a_step] for start in range(0, len(made), a_step)]
    tokens = [sum(batch.num_tokens for batch in step) for step in steps]
    supervised = [sum(batch.num_supervised for batch in step) for step in steps]
    assert filling.steps == len(steps)
    assert filling.tokens_of_steps == spread(np.array(tokens))
    assert filling.supervised_of_steps == spread(np.array(supervised))
    assert filling.idle_steps == supervised.count(0)


def test_a_step_of_several_processes_takes_the_micro_batches_of_all(chosen):
    filling = fill(chosen, as_trained(chosen), micro_batches_of_a_step=2 * 2)
    shares = [
        [batch.num_tokens for batch in Loader.batches(_of_rank(chosen, rank), 0)]
        for rank in range(2)
    ]
    steps = [
        sum(sum(share[start : start + 2]) for share in shares)
        for start in range(0, len(shares[0]), 2)
    ]
    assert filling.tokens_of_steps == spread(np.array(steps))


def _of_rank(chosen: Loader, rank: int) -> Loader:
    return loader(
        chosen.store,
        strategy=chosen.strategy,
        collator=chosen.collator,
        batch_size=3,
        context_length=64,
        rank=rank,
        world_size=2,
    )


@pytest.mark.parametrize("values", [[4], [1, 1, 1], [3, 9, 1, 27, 5], list(range(0, 4000, 7))])
def test_a_spread_is_what_one_counts(values):
    found = spread(np.array(values))
    ordered = sorted(values)
    assert (found.count, found.total) == (len(values), sum(values))
    assert found.mean == sum(values) / len(values)
    assert (found.smallest, found.largest) == (ordered[0], ordered[-1])
    for share, value in (
        (0.25, found.p25), (0.5, found.median), (0.75, found.p75), (0.95, found.p95),
        (0.99, found.p99),
    ):  # fmt: skip
        assert value == ordered[math.ceil(round(share * len(values), 9)) - 1]
    bins = Counter(
        next(number for number, high in enumerate(found.borders[1:]) if value < high)
        for value in values
    )
    assert [bins[number] for number in range(len(found.counts))] == list(found.counts)


def test_labels_that_are_shifted_and_stops_that_are_masked_are_seen(tmp_path):
    words = tokenizer("no chat")
    ids = np.arange(5, 12, dtype=np.int32)
    ids[-1] = words.eos_id
    own = np.where(np.arange(7) < 3, IGNORE, ids).astype(np.int32)
    masked, moved = own.copy(), np.append(own[1:], IGNORE).astype(np.int32)
    masked[-1] = IGNORE
    made = [replace(document(ids), labels=labels) for labels in (own, masked, moved)]
    marks = mark(stored(tmp_path, made), words, "tokens")
    assert marks.shifted.tolist() == [False, False, True]
    assert marks.stop_is_masked.tolist() == [False, True, True]
    assert marks.ends.tolist() == [True, False, True]


def test_overlap_is_what_one_counts(tmp_path):
    train = [completion(number) for number in range(20)]
    held_out = [
        completion(3),
        answered(completion(4), lambda text: text + "!"),
        completion(5) | {"prompt": completion(5)["prompt"].upper()},
        completion(60),
    ]
    splits = opened(tmp_path, train, held_out)
    words = tokenizer("no chat")
    marks = [mark(part, words, "prompt_completion") for part in (splits.train, splits.validation)]
    everything = tuple(np.ones(len(each.prompts), bool) for each in marks)
    found = overlap(*marks, alike=None, has_prompt=everything)
    assert found.same.tolist() == [True, False, False, False]
    assert found.prompt.tolist() == [False, True, False, False]
    assert found.match[:2].tolist() == [3, 4]


def opened(folder: Path, train, validation, **changes) -> Splits:
    section = FileDataset(
        train_file=str(jsonl(folder / "train.jsonl", train)),
        validation_file=str(jsonl(folder / "validation.jsonl", validation)) if validation else "",
        on_bad_row="skip",
    )
    return open_splits(
        section,
        tokenizer("no chat"),
        replace(HOW, **changes),
        validate=True,
        seed=1,
        notify=lambda _: None,
    )


# Documents know their row


def test_a_document_knows_its_row_and_what_was_cut_off(tmp_path):
    long = answered(completion(2), lambda text: text + " and so on" * 30)
    splits = opened(tmp_path, [BAD[0], completion(0), BAD[1], completion(1), long], [])
    store = splits.train
    assert store.rows.tolist() == [2, 4, 5]
    whole = len(opened(tmp_path, [long], [], context_length=10_000).train.document(0).input_ids)
    assert store.cut.tolist() == [0, 0, whole - HOW.context_length]
    assert (store.document(2).row, store.document(2).cut) == (5, whole - HOW.context_length)
    short = opened(tmp_path, [long, completion(1)], [], truncation="drop").train
    assert (short.rows.tolist(), short.cut.tolist()) == ([2], [0])


def test_so_do_those_that_are_held_out(tmp_path):
    store = opened(tmp_path, [BAD[0], *rows("completion")], []).train
    train, held_out = split_off(store, 0.25, seed=3)
    assert sorted([*train.rows, *held_out.rows]) == list(range(2, 42))
    for part in (train, held_out):
        for number, row in enumerate(part.rows):
            assert (part.document(number).input_ids == store.document(row - 2).input_ids).all()


def test_documents_together_are_the_documents(tmp_path):
    store = stored(tmp_path, random_documents([3, 1, 40, 2])).subset(np.array([3, 0, 2]))
    ids, labels, offsets = store.together(1, 3)
    assert offsets.tolist() == [0, 3, 43]
    for number in (1, 2):
        own = slice(offsets[number - 1], offsets[number])
        assert ids[own].tolist() == store.document(number).input_ids.tolist()
        assert labels[own].tolist() == store.document(number).labels.tolist()


# Templates and samples


@pytest.mark.parametrize(
    ("style", "asks", "closes"),
    [
        ("chatml", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
        ("llama-3", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("llama-2", " [/INST]", " </s>"),
    ],
)
def test_a_template_is_told_apart(style, asks, closes):
    template = look_at_template(tokenizer(style))
    assert (template.asks, template.closes) == (asks, closes)
    assert template.has_generation_prompt
    assert not template.marks_answers
    assert look_at_template(tokenizer("no chat")) is None


@pytest.mark.parametrize("style", ["chatml", "llama-3", "llama-2, sentencepiece"])
def test_the_pieces_of_a_sample_are_its_tokens_and_its_text(tmp_path, style):
    words = tokenizer(style)
    row = answered(chat(3), lambda text: text + "\n 你好 👩\u200d👩\u200d👧 naïve")
    splits = open_splits(
        FileDataset(train_file=str(jsonl(tmp_path / "t.jsonl", [row, chat(4)]))),
        words,
        replace(HOW, context_length=4000),
        validate=False,
        seed=0,
        notify=lambda _: None,
    )
    for strategy in ("packing", "padding"):
        chosen = loader(splits.train, strategy=strategy, context_length=4000, vocab_size=9999)
        samples = read_samples(chosen, 5, accumulation=1, processes=1)
        assert len(samples) == 2
        for sample, (number, ids, labels, padding) in zip(samples, batches_of(chosen), strict=True):
            assert (sample.document, sample.ids, sample.padding) == (number, ids, padding)
            assert sample.labels == labels
            assert sample.data_row == number + 1
            found = list(pieces(sample, words))
            assert [id_ for piece in found for id_ in piece.ids] == ids
            assert "".join(piece.text for piece in found) == words.decode(ids)
            assert "\ufffd" not in "".join(piece.text for piece in found)
            states = [piece.is_trained for piece in found for _ in piece.ids]
            assert states == [label != IGNORE for label in labels]


def test_a_character_that_is_trained_in_part_is_two_pieces():
    words = tokenizer("chatml")
    (ids,) = words.encode_batch(["ab 🦥 ጀ c"])
    sample = Sample(1, 1, 1, 1, 1, 1, 0, 1, ids, list(ids), 0)
    together = next(piece for piece in pieces(sample, words) if len(piece.ids) > 1)
    first = ids.index(together.ids[0])
    half = replace(sample, labels=[IGNORE] * (first + 1) + ids[first + 1 :])
    states = [piece.is_trained for piece in pieces(half, words) for _ in piece.ids]
    assert states == [label != IGNORE for label in half.labels]
