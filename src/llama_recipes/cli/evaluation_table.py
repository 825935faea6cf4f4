"""What was measured, as a table, as sentences and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from llama_recipes.cli.measuring import Measured, Questions
from llama_recipes.configs.run import RunConfig
from llama_recipes.monitoring.run_log import finite, perplexity

if TYPE_CHECKING:
    from llama_recipes.cli.evaluate import EvaluateFlags

_SCORES = {
    "rouge1": "ROUGE-1 (F1)",
    "rouge2": "ROUGE-2 (F1)",
    "rougeL": "ROUGE-L (F1)",
    "exact_match": "exact match",
    "answer_match": "answer match",
}
"""Name in JSON → name in the table, in the order of its rows."""


def table(measured: Sequence[Measured], config: RunConfig, flags: EvaluateFlags) -> Table:
    """A row a metric, a column a model."""
    shown = Table(
        title=Text(f"{config.train_config.dataset}, the part for {flags.split}"),
        title_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for model in measured:
        shown.add_column(Text(model.title), justify="right", overflow="fold")
    shown.add_row("loss, nats per token", *(f"{model.loss:.4f}" for model in measured))
    shown.add_row("perplexity", *(f"{perplexity(model.loss):.4f}" for model in measured))
    for key, name in _SCORES.items():
        if key in measured[0].scores:
            shown.add_row(name, *(f"{model.scores[key]:.4f}" for model in measured))
    return shown


def notes(measured: Sequence[Measured], questions: Questions, flags: EvaluateFlags) -> list[str]:
    """What the figures were taken on, and what has to be known about them."""
    first, asked = measured[0], questions.asked
    said = [
        f"The loss is that of {_count(first.supervised_tokens, 'trained token')} in"
        f" {_count(first.documents, 'document')}."
    ]
    if asked:
        said[0] += f" {_count(len(asked), 'document')} of them, equally far apart, were answered."
    cut = sum(question.is_cut for question in asked)
    if questions.without_prompt and asked:
        said.append(f"{_count(questions.without_prompt, 'document')} without a prompt: not asked.")
    if questions.without_match:
        said.append(
            f"{_count(questions.without_match, 'reference')} in which --answer_pattern finds"
            " nothing: not counted in answer match."
        )
    if cut:
        said.append(f"{_count(cut, 'reference')} cut to --context_length.")
    for model in measured:
        if model.kept.how is not None:
            said.append(f"{model.title}: the base was kept {model.kept.words}.")
        if model.short_of_room:
            said.append(
                f"{model.title}: {_count(model.short_of_room, 'prompt')} with less room than"
                " --max_new_tokens up to the model's own limit."
            )
        if model.unfinished:
            said.append(
                f"{model.title}: {_count(model.unfinished, 'answer')} ended by the limit of"
                f" {flags.max_new_tokens} tokens or the model's own."
            )
    return said


def as_json(
    measured: Sequence[Measured], questions: Questions, config: RunConfig, flags: EvaluateFlags
) -> dict[str, Any]:
    """All that was measured, with every prompt and answer; what was not measured is null."""
    train = config.train_config
    return {
        "settings": flags.model_dump(exclude={"output_file", "debug"}),
        "data": {
            "dataset": train.dataset,
            train.dataset: config.dataset.model_dump(),
            "context_length": train.context_length,
            "truncation": train.truncation,
            "train_on_prompt": train.train_on_prompt,
            "seed": train.seed,
        },
        "models": [_record(model) for model in measured],
        "counts": {
            "asked": len(questions.asked),
            "documents_without_prompt": questions.without_prompt,
            "references_cut": sum(question.is_cut for question in questions.asked),
            "references_without_match": questions.without_match,
        },
        "samples": [
            {
                "prompt": question.prompt_text,
                "reference": question.reference,
                "answers": {model.title: model.answers[number] for model in measured},
            }
            for number, question in enumerate(questions.asked)
        ],
    }


def _record(model: Measured) -> dict[str, Any]:
    return finite(
        {
            "title": model.title,
            "name": model.name,
            "quantization": model.kept.record,
            "loss": model.loss,
            "perplexity": perplexity(model.loss),
            "supervised_tokens": model.supervised_tokens,
            "documents": model.documents,
            **{key: model.scores.get(key) for key in _SCORES},
            "answers_unfinished": model.unfinished,
            "prompts_short_of_room": model.short_of_room,
        }
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
