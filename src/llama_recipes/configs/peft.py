"""The adapters, one section each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llama_recipes.configs.section import LIMITED_BY_MODEL, Section


class LoraConfig(Section):
    """LoRA, with --use_peft --peft_method lora."""

    r: int = Field(8, ge=1, description="Rank of the update")
    lora_alpha: int = Field(32, ge=1, description="The update is scaled by lora_alpha / r")
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = Field(
        ["q_proj", "v_proj"],
        description="Linear layers that get an update, by the last part of their name; "
        "all-linear: every one of a decoder layer",
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Biases that are trained too"
    )
    task_type: Literal["CAUSAL_LM"] = Field(
        "CAUSAL_LM", description="Kind of model, as the peft library names it"
    )
    lora_dropout: float = Field(
        0.05, ge=0, lt=1, description="Share of the update's inputs that is dropped in training"
    )
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) instead")


class LlamaAdapterConfig(Section):
    """LLaMA-Adapter, with --use_peft --peft_method llama_adapter."""

    adapter_len: int = Field(10, ge=1, description="Trained prompt vectors in a layer")
    adapter_layers: Annotated[int, LIMITED_BY_MODEL] = Field(
        30,
        ge=1,
        description="Decoder layers, from the top, that get them; where not given, at most the "
        "model's own number",
    )


class PrefixConfig(Section):
    """Prefix tuning, with --use_peft --peft_method prefix."""

    num_virtual_tokens: int = Field(30, ge=1, description="Trained virtual tokens in every layer")
