"""The shape of a Llama model, read from and written to Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_recipes.errors import CheckpointError

MODEL_TYPES = ("llama",)
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    theta: base of the geometric series of wavelengths.
    scaling: None, or the parameters of "linear" or "llama3" scaling under Hugging Face's names.
    """

    theta: float = 10_000.0
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LlamaConfig:
    """Every number that decides the shape or the arithmetic of the model.

    Sizes are counts of elements; `max_position_embeddings` is in tokens. `bos_token_id` and
    `eos_token_id` are only carried from input to output: what ends an answer is the tokenizer's
    to say.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    @staticmethod
    def from_hf(raw: Mapping[str, Any]) -> LlamaConfig:
        """Read a config.json. Raises CheckpointError with everything that is unsupported."""
        problems = _problems(raw)
        if problems:
            raise CheckpointError(*problems)
        heads = raw["num_attention_heads"]
        eos = raw.get("eos_token_id")
        return LlamaConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            max_position_embeddings=raw.get("max_position_embeddings", 2048),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            attention_bias=raw.get("attention_bias", False),
            mlp_bias=raw.get("mlp_bias", False),
            rope=_rope(raw),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
        )

    def to_hf(self) -> dict[str, Any]:
        """The config.json of this model, readable by transformers 4 and 5."""
        eos = self.eos_token_id
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "rope_theta": self.rope.theta,
            "rope_scaling": None if self.rope.scaling is None else dict(self.rope.scaling),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        }


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def _problems(raw: Mapping[str, Any]) -> list[str]:
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        return [
            f"The model's type is {kind!r}; the types known here are {', '.join(MODEL_TYPES)}."
            " Give a model of one of these."
        ]
    problems = []
    missing = [name for name in _REQUIRED if not _is_positive_int(raw.get(name))]
    if missing:
        problems.append(
            "The model's config.json lacks (or has no positive whole number for) "
            + ", ".join(missing)
            + ". Fetch the file again from where the model comes from."
        )
    if raw.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {raw['hidden_act']!r}; a Llama model has 'silu'.")
    if raw.get("pretraining_tp", 1) != 1:
        problems.append(f"pretraining_tp is {raw['pretraining_tp']}; only 1 is supported.")
    scaling_type = _scaling_type(_rope_parameters(raw))
    if scaling_type not in ROPE_TYPES:
        problems.append(
            f"The rope scaling {scaling_type!r} is not supported; known: {', '.join(ROPE_TYPES)}."
        )
    if not missing:
        heads = raw["num_attention_heads"]
        kv_heads = raw.get("num_key_value_heads") or heads
        if heads % kv_heads:
            problems.append(
                f"num_attention_heads={heads} is no multiple of num_key_value_heads={kv_heads}."
            )
        if (raw.get("head_dim") or raw["hidden_size"] // heads) % 2:
            problems.append("head_dim is odd; rotary embedding needs an even number.")
    return problems


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _rope_parameters(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 writes `rope_parameters`; 4 wrote `rope_scaling` beside `rope_theta`."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _scaling_type(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")


def _rope(raw: Mapping[str, Any]) -> RopeConfig:
    parameters = _rope_parameters(raw)
    theta = parameters.get("rope_theta") or raw.get("rope_theta") or 10_000.0
    kind = _scaling_type(parameters)
    if kind == "default":
        return RopeConfig(theta=float(theta))
    keep = {k: v for k, v in parameters.items() if k not in ("rope_theta", "type", "rope_type")}
    return RopeConfig(theta=float(theta), scaling={"rope_type": kind, **keep})
