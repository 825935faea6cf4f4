"""What ruins a run and belongs to no single document: the template, the steps, refused rows."""

from __future__ import annotations

from llama_recipes.data.finding import NOTEWORTHY, Finding
from llama_recipes.data.steps import Filling
from llama_recipes.data.template import Template

_RUN = "run"
MUCH_PADDING = 1 / 3
"""Share of the slots."""


def refused(reason: str) -> Finding:
    """The run itself would stop at its data."""
    return Finding(
        "run_refused", _RUN, 1, 0,
        f"run: training with these flags stops at the data. {reason}",
        "What is shown here is what would be left without these rows.",
    )  # fmt: skip


def about_template(template: Template | None, *, is_used: bool) -> list[Finding]:
    if template is None or not is_used or template.has_generation_prompt:
        return []
    return [
        Finding(
            "template_without_generation_prompt", _RUN, 1, 0,
            f"chat template: it writes {template.opens!r} before an answer, but not when it is"
            " asked for one (add_generation_prompt), so the model has to write that itself.",
            "Take a template with a part for add_generation_prompt, or add it to chat_template in"
            " the folder that --tokenizer_name names.",
        )
    ]  # fmt: skip


def about_steps(
    filling: Filling, *, total_steps: int, few: int, is_limited: bool, padded: bool
) -> list[Finding]:
    """few: steps below which a run rarely learns; is_limited: that few were asked for."""
    found = []
    if total_steps < few and not is_limited:
        found.append(
            Finding(
                "few_steps", _RUN, total_steps, total_steps,
                f"optimizer steps in all, of {filling.tokens_of_steps.mean:,.0f} tokens each: too"
                " few to learn much.",
                "Lower --batch_size_training, --gradient_accumulation_steps or --context_length, or"
                " raise --num_epochs.",
            )
        )  # fmt: skip
    if filling.idle_steps >= NOTEWORTHY * filling.steps and filling.idle_steps:
        found.append(
            Finding(
                "idle_steps", _RUN, filling.idle_steps, filling.steps,
                "steps of the first epoch have no trained token and change nothing.",
                "Check the labels, or raise --batch_size_training.",
            )
        )  # fmt: skip
    if padded and filling.padding >= MUCH_PADDING * filling.slots:
        found.append(
            Finding(
                "much_padding", _RUN, filling.padding, filling.slots,
                "slots hold padding, which is computed for nothing.",
                "Use --batching_strategy packing, or lower --batch_size_training.",
            )
        )  # fmt: skip
    return found
