"""The adapters, one section each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llama_recipes.configs.section import OPEN_DEFAULT, Section


class LoraConfig(Section):
    """LoRA, with --use_peft --peft_method lora."""

    r: int = Field(default=8, ge=1, description="Rank of the update")
    lora_alpha: int = Field(default=32, ge=1, description="The update is scaled by lora_alpha / r")
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = Field(
        default=["q_proj", "v_proj"],
        description="Linear layers that get an update, by the last part of their name; "
        "all-linear: every one of a decoder layer",
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none", description="Biases that are trained too"
    )
    task_type: Literal["CAUSAL_LM"] = Field(
        default="CAUSAL_LM", description="Kind of model, as the peft library names it"
    )
    lora_dropout: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the update's inputs that is dropped in training",
    )
    use_rslora: bool = Field(default=False, description="Scale by lora_alpha / sqrt(r) instead")
    init_lora_weights: Literal["default", "qera"] = Field(
        default="default",
        description="qera: half of the rank makes up for what quantisation took from the layer, as "
        "well as that goes on a few documents of the training, and is held; the rest is trained",
    )
    modules_to_save: list[str] = Field(
        default=[],
        description="Trained whole and saved with the update: embed_tokens, lm_head, or both; both "
        "where the vocabulary was extended",
    )


class LlamaAdapterConfig(Section):
    """LLaMA-Adapter, with --use_peft --peft_method llama_adapter."""

    adapter_len: int = Field(default=10, ge=1, description="Trained prompt vectors in a layer")
    adapter_layers: Annotated[int, OPEN_DEFAULT] = Field(
        default=30,
        ge=1,
        description="Decoder layers, from the top, that get them; where not given, at most the "
        "model's own number",
    )


class PrefixConfig(Section):
    """Prefix tuning, with --use_peft --peft_method prefix."""

    num_virtual_tokens: int = Field(
        default=30, ge=1, description="Trained virtual tokens in every layer"
    )


AdapterConfig = LoraConfig | LlamaAdapterConfig | PrefixConfig
