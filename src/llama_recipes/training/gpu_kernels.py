"""What `use_fast_kernels` adds on a GPU: compiled layers, or Liger's kernels in short runs.

Not measured yet. On a processor `llama_recipes.kernels` does this work, and nothing is compiled at
run time.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

from torch import Tensor

from llama_recipes.model.llama import MLP, Llama, RMSNorm

COMPILE_STEPS = 500
"""Optimizer steps from which compiling, about a minute, is taken to pay for itself."""


def speed_up(model: Llama, *, steps: int) -> str:
    """Rewrite `model` from outside for a run of `steps` optimizer steps; returns what was done."""
    if steps >= COMPILE_STEPS:
        compile_layers(model)
        return "The layers are compiled: the first steps take about a minute longer."
    liger = _liger()
    if liger is None:
        return (
            f"Nothing is compiled in a run of fewer than {COMPILE_STEPS} steps, and liger-kernel is"
            " not installed: PyTorch's own operations are used."
        )
    use_liger(model, liger)
    return "Norms and activations are computed by Liger Kernel."


def compile_layers(model: Llama, *, backend: str = "inductor") -> None:
    """One graph for all layers: they share their code, and lengths are not part of it."""
    for layer in model.layers:
        layer.compile(backend=backend, dynamic=True)


def use_liger(model: Llama, liger: ModuleType) -> None:
    """Compute norms and gated activations with `liger`, which is `liger_kernel.ops`."""
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.forward = partial(_norm, liger, module)  # type: ignore[method-assign]
        elif isinstance(module, MLP):
            module.forward = partial(_mlp, liger, module)  # type: ignore[method-assign]


def _liger() -> ModuleType | None:
    try:
        import liger_kernel.ops
    except ImportError:
        return None
    return liger_kernel.ops  # type: ignore[no-any-return]


def _norm(
    liger: ModuleType, norm: RMSNorm, x: Tensor, branch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if branch is not None:
        x = x + branch
    weight = norm.weight.to(x.dtype)
    # No offset on the weight, rounding as in Llama, and x is still needed.
    return x, liger.LigerRMSNormFunction.apply(x, weight, norm.eps, 0.0, "llama", False)


def _mlp(liger: ModuleType, mlp: MLP, x: Tensor) -> Tensor:
    activated = liger.LigerSiLUMulFunction.apply(mlp.gate_proj(x), mlp.up_proj(x))
    return mlp.down_proj(activated)  # type: ignore[no-any-return]
