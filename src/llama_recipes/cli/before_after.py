"""What a model says about functions it was not trained on: measured, and shown side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from llama_recipes.data.example import Chat
from llama_recipes.data.loader import make_batch
from llama_recipes.data.sources.stdlib_docstrings import open_stdlib_docstrings
from llama_recipes.data.tokenize import encode
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.inference.answers import spread
from llama_recipes.inference.generate import generate
from llama_recipes.inference.load import Loaded
from llama_recipes.inference.metrics import rouge
from llama_recipes.inference.prompts import encode_conversation
from llama_recipes.training.evaluate import evaluate

_ANSWER_TOKENS = 40
"""No reference is longer than 30 tokens."""
_SLICE_TOKENS = 4096
_CODE_LINES = 9


@dataclass(frozen=True, slots=True)
class Measurement:
    """loss: nats per token of the references; rouge_l: mean F1 of the answers, 0 to 1."""

    loss: float
    rouge_l: float
    answers: list[str]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Functions of modules that training does not see; the loss is that of all of them.

    asked: a sample, spread over all, that the model has to answer.
    """

    all: list[Chat]
    asked: list[Chat]

    @property
    def prompts(self) -> list[str]:
        return [chat.messages[0].content for chat in self.asked]

    @property
    def references(self) -> list[str]:
        return [chat.messages[1].content for chat in self.asked]


def held_out(tokenizer: Tokenizer, *, measured: int | None, asked: int) -> HeldOut:
    """`measured` None: the loss is taken on all there are."""
    source = open_stdlib_docstrings("validation", tokenizer)
    chats = [example for example in source.examples() if isinstance(example, Chat)]
    chats = spread(chats, measured or len(chats))
    return HeldOut(chats, spread(chats, asked))


def measure(loaded: Loaded, functions: HeldOut) -> Measurement:
    """The loss of the references, and how near to them the model's own greedy answers are."""
    tokenizer = loaded.tokenizer
    documents = encode(functions.all, tokenizer, train_on_prompt=False)
    batch = make_batch(
        documents, numbers=range(len(documents)), pad_id=tokenizer.pad_id, padded=False
    ).to(loaded.model.head_weight.device)
    loss = evaluate(loaded.model, batch.split(_SLICE_TOKENS)).loss
    answers = generate(
        loaded.model,
        [encode_conversation(chat.messages[:1], tokenizer) for chat in functions.asked],
        max_new_tokens=_ANSWER_TOKENS,
        stop_ids=tokenizer.stop_ids,
    )
    texts = [tokenizer.decode(answer, skip_special=True).strip() for answer in answers]
    return Measurement(loss, rouge(functions.references, texts, ["rougeL"])["rougeL"], texts)


def numbers_table(before: Measurement, after: Measurement, functions: HeldOut) -> Table:
    count, sample = len(functions.all), len(functions.asked)
    title = f"{count} held-out functions; answers have at most {_ANSWER_TOKENS} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in "before", "after":
        table.add_column(name, justify="right")
    table.add_row("loss on all, nats per token", f"{before.loss:.3f}", f"{after.loss:.3f}")
    rouge = f"ROUGE-L on {sample} of them (F1, 0 to 1)"
    table.add_row(rouge, f"{before.rouge_l:.3f}", f"{after.rouge_l:.3f}")
    return table


def examples_table(
    before: Measurement, after: Measurement, functions: HeldOut, count: int
) -> Table:
    """Side by side; long functions are cut."""
    table = Table(
        title="Answers to held-out functions", title_justify="left", show_lines=True, expand=True
    )
    table.add_column("function", ratio=10, no_wrap=True, overflow="ellipsis")
    for name in "reference", "before", "after":
        table.add_column(name, ratio=6, overflow="fold")
    for index in spread(range(len(functions.asked)), count):
        table.add_row(
            Text(_code(functions.prompts[index]), no_wrap=True, overflow="ellipsis"),
            Text(functions.references[index]),
            Text(before.answers[index]),
            Text(after.answers[index]),
        )
    return table


def _code(prompt: str) -> str:
    """The first lines of the code between the fences of a prompt."""
    lines = prompt.partition("```python\n")[2].removesuffix("\n```").split("\n")
    return "\n".join(lines[:_CODE_LINES] + (["…"] if len(lines) > _CODE_LINES else []))


def as_json(before: Measurement, after: Measurement, functions: HeldOut) -> dict[str, Any]:
    """All that was measured, with every prompt and answer."""
    return {
        "held_out_functions": len(functions.all),
        "asked_functions": len(functions.asked),
        "before": _numbers(before),
        "after": _numbers(after),
        "examples": [
            {"prompt": prompt, "reference": reference, "before": old, "after": new}
            for prompt, reference, old, new in zip(
                functions.prompts,
                functions.references,
                before.answers,
                after.answers,
                strict=True,
            )
        ],
    }


def as_samples(
    before: Measurement, after: Measurement, functions: HeldOut, count: int, *, step: int
) -> dict[str, Any]:
    """What was measured, with `count` of the answers, as a run's samples.json has it."""
    examples: list[dict[str, str]] = as_json(before, after, functions)["examples"]
    asked = len(functions.asked)
    return {
        "part": "validation",
        "left_out": "",
        "max_new_tokens": _ANSWER_TOKENS,
        "after_step": step,
        "note": "They are functions of modules that the training does not see.",
        "figures": [
            {
                "name": "Loss on held-out functions",
                "before": before.loss,
                "after": after.loss,
                "note": f"nats per token, of all {len(functions.all)}",
            },
            {
                "name": "ROUGE-L of answers",
                "before": before.rouge_l,
                "after": after.rouge_l,
                "note": f"F1, 0 to 1, of {asked} held-out functions",
            },
        ],
        "examples": [examples[index] for index in spread(range(asked), count)],
    }


def _numbers(measured: Measurement) -> dict[str, float]:
    return {key: value for key, value in asdict(measured).items() if key != "answers"}
