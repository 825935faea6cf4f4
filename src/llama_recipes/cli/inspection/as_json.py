"""An inspection for programs: every figure, finding and sample."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from llama_recipes.cli.inspection.facts import Inspection, near_copies, spreads
from llama_recipes.cli.inspection.files import MADE_BY
from llama_recipes.data.finding import Finding, Part


def as_text(shown: Inspection) -> str:
    return json.dumps(as_json(shown), indent=2, allow_nan=False) + "\n"


def as_json(shown: Inspection) -> dict[str, Any]:
    train = shown.config.train_config
    return {
        "made_by": MADE_BY,
        "settings": {
            "model_name": train.model_name,
            "dataset": train.dataset,
            train.dataset: shown.config.dataset.model_dump(),
            "batching_strategy": train.batching_strategy,
            "context_length": train.context_length,
            "truncation": train.truncation,
            "train_on_prompt": train.train_on_prompt,
            "batch_size_training": train.batch_size_training,
            "gradient_accumulation_steps": train.gradient_accumulation_steps,
            "num_epochs": train.num_epochs,
            "max_train_step": train.max_train_step,
            "seed": train.seed,
            "processes": shown.processes,
        },
        "parts": {part.name: _part(shown, part) for part in shown.parts},
        "overlap": _overlap(shown),
        "steps": {**asdict(shown.filling), "efficiency": shown.filling.efficiency,
                  "total_steps": shown.total_steps},
        "template": None if shown.template is None else {
            **asdict(shown.template),
            "has_generation_prompt": shown.template.has_generation_prompt,
        },
        "refused": shown.refused or None,
        "findings": [_finding(shown, finding) for finding in shown.findings],
        "samples": [
            {**asdict(sample), "place_of_row": shown.place("training", sample.data_row)}
            for sample in shown.samples
        ],
    }  # fmt: skip


def _part(shown: Inspection, part: Part) -> dict[str, Any]:
    store, marks = part.store, part.marks
    counts = part.store.report["counts"]
    return {
        "format": part.form,
        "rows": counts.get("rows"),
        "left_out": {
            kind: counts.get(kind, 0) for kind in ("bad_rows", "too_long", "no_supervised_token")
        },
        "bad_rows_shown": store.report.get("bad_rows_shown", []),
        "documents": len(store),
        "tokens": int(store.lengths.sum()),
        "supervised_tokens": int(store.supervised.sum()),
        "documents_cut": int((store.cut > 0).sum()),
        "tokens_cut": int(store.cut.sum()),
        "documents_that_train_their_stop": int(marks.ends.sum()),
        "distinct_documents": part.copies.distinct,
        "copies": len(part.copies.copies),
        "copies_but_for_case_and_space": near_copies(part),
        "prompts_with_other_answers": part.copies.other_answers,
        "spreads": {name: asdict(values) for name, values in spreads(part).items()},
    }


def _overlap(shown: Inspection) -> dict[str, int] | None:
    if shown.overlap is None:
        return None
    return {
        "same": int(shown.overlap.same.sum()),
        "same_but_for_case_and_space": int(shown.overlap.alike.sum()),
        "prompt_with_another_answer": int(shown.overlap.prompt.sum()),
    }


def _finding(shown: Inspection, finding: Finding) -> dict[str, Any]:
    return {
        **asdict(finding),
        "share": finding.share,
        "places": [shown.place(finding.part, row) for row in finding.rows],
        "places_of_matches": [shown.place("training", row) for row in finding.matches],
    }
