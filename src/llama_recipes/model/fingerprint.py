"""What tells a model's weights from those of any other of the same shape."""

from __future__ import annotations

import hashlib

from llama_recipes.model.weights import TensorSource

_SAMPLED = 3
"""Rows of every tensor. Training moves all rows of a layer, so that few of them tell."""


def weights_fingerprint(tensors: TensorSource) -> str:
    """Of the values, whatever format and type they are stored in, by a few rows of every tensor.

    The head is left out: some writers store one that is tied to the embedding, others do not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors.shapes):
        shape = tensors.shapes[key]
        if not key.startswith("model.") or key.endswith(".inv_freq"):
            continue
        digest.update(f"{key} {shape}\n".encode())
        for row in {(shape[0] - 1) * number // (_SAMPLED - 1): None for number in range(_SAMPLED)}:
            values = tensors.read(key, row, row + 1).float().contiguous()
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()
