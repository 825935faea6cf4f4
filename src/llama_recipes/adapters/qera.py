"""A start of LoRA that makes up for what quantisation took (QERA, Zhang et al. 2024, section 3.2,
https://arxiv.org/abs/2410.06040).

Of all products B A of rank r, the one with which a quantised layer comes nearest to the layer as it
was, over the inputs that the layer gets: with R the weights that are lost and C = E[x xᵀ] = L Lᵀ,
the best approximation of R L of rank r, by its singular values, times L⁻¹. The quantised weights
stay as they are.

Half of an adapter's rank is started so and held, for training at the rates that suit a fresh update
undoes it within a few steps. The other half starts as ever, and is what is trained.

Shapes: N tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from llama_recipes.adapters.lora import LoraLinear
from llama_recipes.adapters.modules import modules_of
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.model.rope import rotation_table
from llama_recipes.model.weights import TensorSource, checkpoint_key
from llama_recipes.quantization.linear import FourBitLinear, Int8Linear

_DAMPING = 1e-3
"""Of the mean of C's diagonal: directions that few tokens have shown are not trusted."""

_OVERSAMPLED, _ITERATIONS = 8, 4
"""Of the randomised singular values (Halko et al. 2011, https://arxiv.org/abs/0909.4061)."""


@torch.no_grad()
def start_from_residual(
    model: Llama, tensors: TensorSource, documents: Sequence[Sequence[int]], *, seed: int
) -> None:
    """Give what `hold_start` holds of every layer the values that `tensors`, the weights before
    they were quantised, and the inputs that `documents` (token ids) bring about ask for.

    Layer by layer from below, each on what the layers below it give by then, so that no more than
    one weight is there unquantised. seed: of the randomised singular values.
    """
    device = model.head_weight.device
    lengths = [len(document) for document in documents]
    tokens = torch.tensor(list(chain.from_iterable(documents)), device=device)
    positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
    attention = DocumentAttention(lengths)
    was_training = model.training
    model.eval()
    x, branch = model.lower(tokens, positions, attention, 0), None
    rotation = rotation_table(model.config.rope, model.config.head_dim, positions, x.dtype)
    for number, layer in enumerate(model.layers):
        wrapped = {name: (lora, base) for name, lora, base in _quantised(layer)}
        with _second_moments({name: lora for name, (lora, _) in wrapped.items()}) as moments:
            layer(x, branch, rotation, attention)
        for name, (lora, base) in wrapped.items():
            key = checkpoint_key(f"model.layers.{number}.{name}.weight")
            lost = tensors.read(key).to(device).float() - base.dequantized().weight
            b, a = best_update(lost, moments[name], lora.held, seed=seed)
            lora.lora_A.weight[: len(a)] = a
            lora.lora_B.weight[:, : len(a)] = b / lora.scale
        x, branch = layer(x, branch, rotation, attention)
    model.train(was_training)


def hold_start(model: Llama) -> None:
    """Let training leave alone what `start_from_residual` sets: half of the rank."""
    for _, lora, _ in _quantised(model):
        lora.held = len(lora.lora_A.weight) // 2


def best_update(lost: Tensor, moment: Tensor, rank: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """lost [O, I] and the inputs' second moment [I, I] → B [O, r] and A [r, I], whose product is
    nearest to `lost` over those inputs; of equal length, row by column.

    A smaller r where `lost` has no more directions.
    """
    moment = moment.double()
    moment.diagonal().add_(_DAMPING * moment.diagonal().mean())
    root = torch.linalg.cholesky(moment).to(lost.dtype)
    with torch.random.fork_rng(devices=[lost.device] if lost.is_cuda else []):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(
            lost @ root, q=min(rank + _OVERSAMPLED, *lost.shape), niter=_ITERATIONS
        )
    a = torch.linalg.solve_triangular(root, right[:, :rank].T, upper=False, left=False)
    b = left[:, :rank] * values[:rank]
    balance = (b.norm(dim=0) / a.norm(dim=1)).sqrt()
    return b / balance, a * balance[:, None]


def _quantised(model: nn.Module) -> Iterator[tuple[str, LoraLinear, Int8Linear | FourBitLinear]]:
    """Name, wrapper and layer, of the layers that are kept in few bits."""
    for name, lora in modules_of(model, LoraLinear):
        if not isinstance(lora.base, Linear):
            yield name, lora, lora.base


@contextmanager
def _second_moments(layers: Mapping[str, LoraLinear]) -> Iterator[dict[str, Tensor]]:
    """The mean of x xᵀ [I, I] over the inputs [N, I] that each layer gets in the block."""
    found: dict[str, Tensor] = {}
    last: list[tuple[Tensor, Tensor]] = []  # neighbours have the same input

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            (x,) = inputs
            if not last or last[0][0] is not x:
                wide = x.float()
                last[:] = [(x, wide.T @ wide / len(wide))]
            found[name] = last[0][1]

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
