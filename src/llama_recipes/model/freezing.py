"""Which weights of a model stay as they are."""

from __future__ import annotations

from llama_recipes.errors import ConfigError
from llama_recipes.model.llama import Llama


def freeze_lowest(model: Llama, layers: int) -> None:
    """Freeze the embedding and the `layers` lowest decoder layers, with adapters in them.

    The backward pass ends above them. Raises ConfigError for more layers than there are, and where
    nothing would be left to train.
    """
    count = len(model.layers)
    if layers > count:
        raise ConfigError(
            f"--num_freeze_layers is {layers}, but the model has {count} decoder layers."
            f" Give at most {count}."
        )
    model.model.embed_tokens.requires_grad_(False)
    for layer in model.layers[:layers]:
        layer.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"--freeze_layers with --num_freeze_layers {layers} leaves nothing to train."
            f" Freeze fewer than {count} layers."
        )
