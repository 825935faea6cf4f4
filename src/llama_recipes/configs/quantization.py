"""How a quantised model is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama_recipes.configs.section import Section


class QuantizationConfig(Section):
    """4-bit weights, with --quantization 4bit."""

    quant_type: Literal["nf4", "fp4"] = Field(
        default="nf4",
        description="The 16 values a weight can have: normal quantiles or 4-bit floats",
    )
    use_double_quant: bool = Field(
        default=False, description="Quantise the scales as well: about 0.4 bits less a weight"
    )
