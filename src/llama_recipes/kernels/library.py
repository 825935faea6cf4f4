"""The compiled kernels of this process: found or built once, and called with tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from llama_recipes.kernels.build import BuildError, build, supported_instruction_sets

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): a process has to ask for AMX's registers.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


class Library:
    """Kernels for one instruction set. Raises BuildError."""

    def __init__(self, instruction_set: str) -> None:
        self.instruction_set = instruction_set
        if instruction_set == "amx" and not _may_use_tiles():
            raise BuildError("the operating system does not allow AMX")
        path = build(instruction_set)
        try:
            self._native = ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildError(f"{path} cannot be loaded ({error})") from error

    def call(self, name: str, dtype: torch.dtype, *arguments: Any) -> int:
        """Call kernel `name` for numbers of `dtype`. Tensors are contiguous, None is null."""
        function = getattr(self._native, f"{name}_{_DTYPES[dtype]}")
        return int(function(*map(_native, arguments)))


def _native(value: Any) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous() and value.device.type == "cpu"
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    # On the machines we compile for, an int argument takes a register or a whole place as a long.
    return ctypes.c_void_p(None) if value is None else ctypes.c_long(value)


def _may_use_tiles() -> bool:
    libc = ctypes.CDLL(None)
    return bool(libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


Watch = Callable[[str, tuple[Any, ...]], AbstractContextManager[object]]
"""Told of a call's name and arguments before it; the call is made inside of what it returns."""

_library: Library | None = None
_watch: Watch | None = None


def enable(instruction_set: str | None = None) -> str | None:
    """Use the kernels from now on, in this process: those for `instruction_set`, else the best.

    Returns None, or why there are none; the plain path is used then.
    """
    global _library
    if _library is not None and instruction_set in (None, _library.instruction_set):
        return None
    _library, reason = None, None
    for name in [instruction_set] if instruction_set else supported_instruction_sets():
        try:
            _library = Library(name)
            return None
        except BuildError as error:
            reason = reason or str(error)
    return reason


def disable() -> None:
    """Use the plain path from now on."""
    global _library
    _library = None


def enabled() -> str | None:
    """The instruction set that is in use; None on the plain path."""
    return None if _library is None else _library.instruction_set


def serves(*tensors: Tensor | None) -> bool:
    """Whether kernels are enabled and can compute with all of these: one dtype, on the CPU."""
    if _library is None:
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    return given[0].dtype in _DTYPES and all(
        tensor.device.type == "cpu" and tensor.dtype == given[0].dtype for tensor in given
    )


def watch(told: Watch | None) -> None:
    """Tell of every call from now on what PyTorch's own observers see of PyTorch's operations."""
    global _watch
    _watch = told


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call kernel `name`, on as many threads as PyTorch uses (its last argument)."""
    assert _library is not None
    if _watch is None:
        failed = _library.call(name, dtype, *arguments)
    else:
        with _watch(name, arguments):
            failed = _library.call(name, dtype, *arguments)
    if failed:
        raise MemoryError(f"The memory ran out in {name}.")
