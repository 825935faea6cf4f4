"""Whether what was written is what was trained: both are loaded and asked the same.

`python -m llama_recipes.export.compare` is the process of its own in which this happens, so that
nothing that the writer holds in memory can stand in for what is in the files.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from llama_recipes.adapters.lora import LoraLinear
from llama_recipes.adapters.modules import modules_of
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import guard
from llama_recipes.export.beside_weights import differences
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.rounding import is_rounded
from llama_recipes.export.trained import Trained, plain_model
from llama_recipes.inference.generate import generate
from llama_recipes.inference.load import Found, find, load
from llama_recipes.inference.prompts import check_ids, encode_prompt
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import widest_dtype
from llama_recipes.parallel.ranks import share_processor
from llama_recipes.quantization.kept import Kept

PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Summarize: The meeting was moved from Monday to Thursday because the room was taken.",
    "12 + 30 =",
    "Übersetze ins Englische: Guten Morgen!",
    "Once upon a time",
)
ANSWER_TOKENS = 24

LOGITS_BOUND: dict[Encoding, float] = {"F32": 1e-4, "F16": 2e-2, "BF16": 1e-1, "Q8_0": 3e-1}
"""Root mean square of the logits' deviation, in standard deviations of the logits.

Some times what rounding does to a model of 135M parameters (0, 0.002, 0.013 and 0.08), and no more
than a second line: `weights` are held to be the very numbers that were trained, once rounded.
"""
_UPDATE_BOUND = 1e-5
_LISTED = 5


@dataclass
class Comparison:
    """What was compared. problems: sentences, one for each thing that differs; none: all is well.

    weights: tensors that were compared. updates: layers whose update was compared, update_deviation
    the largest found, relative to their output. logits_deviation: as `LOGITS_BOUND` says, over
    `tokens` tokens. same_texts: greedy answers that are equal, of `texts`.
    """

    weights: int = 0
    updates: int = 0
    update_deviation: float = 0.0
    tokens: int = 0
    logits_deviation: float = 0.0
    texts: int = len(PROMPTS)
    same_texts: int = 0
    problems: list[str] = field(default_factory=list)


@torch.inference_mode()
def compare(
    name: str, base: str | None, result: str, encoding: Encoding, kept: str | None = None
) -> Comparison:
    """The model called `name`, as llama-recipes chat finds it, with what was written of it.

    kept: how the base is kept, as `Kept.text` has it, where the adapter does not tell.
    Raises CheckpointError where one of them cannot be loaded, as with a tensor that is missing, or
    cannot be asked anything.
    """
    trained = plain_model(find(name, base=base, kept=Kept.read(kept)))
    written = plain_model(find(result))
    report = Comparison()
    report.problems += differences(trained, written)
    for prompt in _prompts(trained.found):
        check_ids(prompt, trained.found.tokenizer, trained.config)
    if not report.problems:
        _compare_weights(trained, written, encoding, report)
        _compare_answers(trained, written.found, encoding, report)
    return report


def _compare_weights(
    trained: Trained, written: Trained, encoding: Encoding, report: Comparison
) -> None:
    different = []
    for key in trained.shapes:
        report.weights += 1
        stored, exact = (model.tensors.read(key).float() for model in (written, trained))
        if not is_rounded(stored, exact, encoding):
            different.append(key)
    if different:
        more = f" and {len(different) - _LISTED} more" if len(different) > _LISTED else ""
        report.problems.append(
            f"{len(different)} tensors are not the trained ones, rounded to {encoding}:"
            f" {', '.join(different[:_LISTED])}{more}."
        )


def _compare_answers(
    trained: Trained, written: Found, encoding: Encoding, report: Comparison
) -> None:
    """One model after the other, so that one alone is in memory."""
    found = trained.found
    prompts = _prompts(found)
    model = _load(found)
    _compare_updates(model, trained, report)
    answers = _answers(model, prompts, found.tokenizer)
    documents = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    expected = _logits(model, documents)
    del model

    model = _load(written)
    got = _logits(model, documents)
    texts = _answers(model, prompts, found.tokenizer)
    report.tokens = len(expected)
    spread = expected.sub(expected.mean(-1, keepdim=True)).square().mean().sqrt()
    report.logits_deviation = float((got - expected).square().mean().sqrt() / spread)
    report.same_texts = sum(one == other for one, other in zip(answers, texts, strict=True))
    bound = LOGITS_BOUND[encoding]
    if not report.logits_deviation <= bound:  # NaN is beyond any bound
        report.problems.append(
            f"The logits deviate by {report.logits_deviation:.1e} of their spread from those of the"
            f" trained model; rounding to {encoding} explains at most {bound:.0e}."
        )
    if encoding == "F32" and report.same_texts < report.texts:
        report.problems.append(
            f"{report.texts - report.same_texts} of {report.texts} greedy answers are other texts."
        )


def _prompts(found: Found) -> list[list[int]]:
    return [encode_prompt(text, found.prompt_format, found.tokenizer) for text in PROMPTS]


def _load(found: Found) -> Llama:
    stored = widest_dtype(found.source.tensors)
    return load(found, device=torch.device("cpu"), dtype=torch.float32, stored=stored).model


def _compare_updates(model: Llama, trained: Trained, report: Comparison) -> None:
    """Layer and adapter, as trained, against one layer that has the update in its weights."""
    generator = torch.Generator().manual_seed(0)
    for name, layer in modules_of(model, LoraLinear):
        x = torch.randn(8, layer.base.in_features, generator=generator)
        expected = layer(x)
        y = torch.nn.functional.linear(x, trained.tensors.read(f"{name}.weight").float())
        if layer.base.bias is not None:
            y = y + trained.tensors.read(f"{name}.bias").float()
        deviation = float((y - expected).abs().max() / expected.abs().max())
        report.updates += 1
        report.update_deviation = max(report.update_deviation, deviation)
        if not deviation <= _UPDATE_BOUND:
            report.problems.append(
                f"{name} with the update in its weights deviates by {deviation:.1e} from layer and"
                " adapter."
            )


def _answers(model: Llama, prompts: list[list[int]], tokenizer: Tokenizer) -> list[list[int]]:
    return generate(model, prompts, max_new_tokens=ANSWER_TOKENS, stop_ids=tokenizer.stop_ids)


def _logits(model: Llama, documents: list[list[int]]) -> Tensor:
    """Of every token of every document, one after the other, [N, V]."""
    lengths = [len(document) for document in documents]
    tokens = torch.tensor([id_ for document in documents for id_ in document])
    positions = torch.cat([torch.arange(length) for length in lengths])
    return model.logits(model(tokens, positions, DocumentAttention(lengths)))


def figures(report: Comparison, encoding: Encoding) -> list[str]:
    """What was compared, in lines for a person."""
    lines = [
        "Loaded again in a fresh process and compared with the trained model:",
        f"  weights    {report.weights} tensors, held to be the trained ones, rounded to"
        f" {encoding}",
    ]
    if report.updates:
        lines.append(
            f"  updates    {report.updates} layers against layer and adapter, apart by at most"
            f" {report.update_deviation:.1e}"
        )
    return [
        *lines,
        f"  logits     {report.tokens} tokens, apart by {report.logits_deviation:.1e} of their"
        f" spread (at most {LOGITS_BOUND[encoding]:.0e})",
        f"  greedy     {report.same_texts} of {report.texts} answers are the same text",
    ]


def main(argv: list[str]) -> int:
    """argv: one JSON object with the arguments of `compare`; prints the Comparison as JSON."""
    arguments = cast(dict[str, Any], json.loads(argv[0]))

    def body() -> int:
        share_processor()
        print(json.dumps(asdict(compare(**arguments))))
        return 0

    return guard(body, debug=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
