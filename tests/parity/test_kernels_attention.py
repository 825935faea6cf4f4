"""The C++ attention is attention. Oracle: PyTorch's own in float64, one document at a time.

With every instruction set that this processor has; AMX's code around its instructions anywhere.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llama_recipes.kernels.attention import document_attention
from support.kernels import EACH_SET, enable

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
# Relative to the norm of what is exact: about 2 and 3 times what was found.
ALLOWED = {torch.float32: (3e-6, 6e-6), torch.bfloat16: (4e-3, 6e-3)}

HEADS = [(1, 1, 64), (4, 4, 32), (9, 3, 64), (8, 1, 48), (6, 2, 128), (2, 1, 80)]
ODD_HEADS = [(2, 2, 6), (2, 1, 20), (3, 1, 100), (1, 1, 256)]
LENGTHS = {
    "one token": [1],
    "around the strip": [31, 1, 32, 33, 2],
    "around the block": [63, 64, 65, 127, 128, 129],
    "equal": [50] * 4,
    "long and short": [700, 1, 90],
}


def inputs(lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    torch.manual_seed(len(lengths))
    count, (q_heads, kv_heads, dim) = sum(lengths), heads
    return [torch.randn(count, h, dim).to(dtype) for h in (q_heads, kv_heads, kv_heads, q_heads)]


def computed(lengths: list[int], tensors: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of q, k and v."""
    q, k, v = (x.clone().requires_grad_() for x in tensors[:3])
    out = document_attention(q, k, v, torch.tensor(list(accumulate(lengths, initial=0))))
    out.backward(tensors[3])
    return [out.detach(), q.grad, k.grad, v.grad]


def exact(lengths: list[int], tensors: list[Tensor]) -> list[Tensor]:
    q, k, v = (x.double().requires_grad_() for x in tensors[:3])
    parts = []
    for start, end in pairwise(accumulate(lengths, initial=0)):
        one = (x[start:end].transpose(0, 1) for x in (q, k, v))
        y = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        parts.append(y.transpose(0, 1))
    out = torch.cat(parts)
    out.backward(tensors[3].double())
    return [out.detach(), q.grad, k.grad, v.grad]


def check(lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors = inputs(lengths, heads, dtype)
    of_output, of_gradients = ALLOWED[dtype]
    found = zip(computed(lengths, tensors), exact(lengths, tensors), strict=True)
    for number, (ours, theirs) in enumerate(found):
        # A document of one token has gradients of zero: exact ones, or rounding's.
        scale = theirs.norm().clamp_min(tensors[3].double().norm() * 1e-2)
        error = ((ours.double() - theirs).norm() / scale).item()
        assert error <= (of_gradients if number else of_output), (number, error)


@DTYPES
@pytest.mark.parametrize("heads", HEADS + ODD_HEADS, ids=str)
@EACH_SET
def test_every_shape_of_heads(instruction_set, heads, dtype):
    enable(instruction_set)
    check([5, 130, 40], heads, dtype)


@DTYPES
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@EACH_SET
def test_every_length_of_documents(instruction_set, lengths, dtype):
    enable(instruction_set)
    check(lengths, (6, 2, 64), dtype)


@DTYPES
@pytest.mark.parametrize("length", [1025, 4096])
@EACH_SET
def test_documents_that_are_cut_into_parts(instruction_set, length, dtype):
    """Beyond 1,024 tokens a head's backward pass is several tasks."""
    if instruction_set == "emulated_amx" and length > 2048:
        pytest.skip("emulated tiles would take a minute for 4,096 tokens")
    enable(instruction_set)
    check([3, length], (2, 1, 32), dtype)


@DTYPES
@EACH_SET
def test_threads_and_repetition_change_no_bit(instruction_set, dtype):
    enable(instruction_set)
    lengths = [1100, 1, 200, 64]
    tensors = inputs(lengths, (4, 2, 32), dtype)
    once = computed(lengths, tensors)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for ours, before in zip(computed(lengths, tensors), once, strict=True):
            assert torch.equal(ours, before)


@DTYPES
@EACH_SET
def test_what_comes_later_and_other_documents_are_not_seen(instruction_set, dtype):
    """Not a bit changes before the changed token, nor in another document; its gradients are 0."""
    enable(instruction_set)
    lengths, changed = [40, 70, 33], 40 + 37
    tensors = inputs(lengths, (2, 1, 64), dtype)
    out = computed(lengths, tensors)[0]
    for x in tensors[:3]:
        x[changed] = 50.0
    other = computed(lengths, tensors)[0]
    assert torch.equal(out[:changed], other[:changed])
    assert torch.equal(out[110:], other[110:])
    assert not torch.equal(out[changed:110], other[changed:110])

    tensors[3][changed:] = 0
    for gradient in computed(lengths, tensors)[1:]:
        assert not gradient[changed:].any()
        assert gradient[:changed].any()


@DTYPES
@EACH_SET
def test_what_is_not_a_number_is_not_hidden(instruction_set, dtype):
    enable(instruction_set)
    tensors = inputs([40, 20], (2, 1, 32), dtype)
    tensors[0][7] = float("nan")
    out, grad_q, grad_k, _ = computed([40, 20], tensors)
    assert out[7].isnan().all()
    assert grad_q[7].isnan().all()
    assert grad_k[:8].isnan().all()
    assert not out[8:].isnan().any()


@EACH_SET
def test_large_scores_do_not_overflow(instruction_set):
    enable(instruction_set)
    tensors = inputs([100], (2, 1, 32), torch.float32)
    tensors[0] *= 100
    check_close = zip(computed([100], tensors), exact([100], tensors), strict=True)
    for ours, theirs in check_close:
        assert ((ours - theirs).norm() / theirs.norm()).item() <= 1e-4
