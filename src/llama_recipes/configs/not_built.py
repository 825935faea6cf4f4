"""Settings of the contract whose feature this version does not have yet.

Asking for one is refused, never ignored. Who builds the feature deletes its row.
"""

from __future__ import annotations

from llama_recipes.configs.needs import without_effect
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of

NOT_BUILT = {
    "train_config.use_wandb": "Weights & Biases tracking",
    "train_config.use_tensorboard": "TensorBoard tracking",
    "train_config.save_metrics": "the file of all losses",
}
"""Setting → what is not there."""


def refusals(config: RunConfig) -> list[str]:
    """One sentence for each setting that asks for what is not built."""
    return [
        f"{_spelled(key, config.value(key))}: {feature} is not part of this version yet; "
        "leave the flag out."
        for key, feature in NOT_BUILT.items()
        if _asks(config, key)
    ]


def _asks(config: RunConfig, key: str) -> bool:
    if not config.was_set(key) or without_effect(config, key):
        return False
    return config.value(key) != config.default(key)


def _spelled(key: str, value: object) -> str:
    return flag_of(key) if value is True else f"{flag_of(key)} {value}"
