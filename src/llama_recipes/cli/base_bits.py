"""The flags that say in how many bits a base model is kept, for commands that take a trained one.

They are those of a run, bare or with the section's name before them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llama_recipes.configs.quantization import QuantizationConfig

if TYPE_CHECKING:
    from llama_recipes.quantization.kept import Kept

SECTION = "quantization_config"
_OF_FOUR_BITS = tuple(QuantizationConfig.model_fields)

_UNDER = (
    "How the base is kept under an adapter that does not tell how it was in training: 8bit (or "
    "True), 4bit, or False for as it is"
)
Bits = Annotated[Literal["8bit", "4bit"] | bool | None, Field(description=_UNDER)]
BitsOfAny = Annotated[
    Literal["8bit", "4bit"] | bool | None,
    Field(description=f"{_UNDER}; a model that is no adapter is kept so itself"),
]
QuantType = Annotated[
    Literal["nf4", "fp4"], Field(description="The 16 values of --quantization 4bit")
]
DoubleQuant = Annotated[
    bool, Field(description="With --quantization 4bit: its scales were quantised as well")
]


def bits_problems(quantization: bool | str | None, given: Collection[str]) -> list[str]:
    """What is wrong with the flags; `given` are the names of all that were."""
    idle = [name for name in _OF_FOUR_BITS if name in given and quantization != "4bit"]
    return [f"--{name} has no effect without --quantization 4bit: leave it out." for name in idle]


def kept_as(
    quantization: bool | Literal["8bit", "4bit"] | None,
    quant_type: Literal["nf4", "fp4"],
    use_double_quant: bool,
) -> Kept | None:
    """What the flags ask for; None where they leave it to the adapter."""
    from llama_recipes.quantization.kept import Kept

    section = QuantizationConfig(quant_type=quant_type, use_double_quant=use_double_quant)
    return Kept.asked_for(quantization, section)
