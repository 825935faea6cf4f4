"""Compile the C++ of `native` for this processor, once, into the user's cache folder.

The kernels have a plain C interface: with PyTorch's headers, compiling would take several times as
long, and what was compiled would serve one version of PyTorch only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from platformdirs import user_cache_path

CPUINFO = Path("/proc/cpuinfo")
NATIVE = Path(__file__).parent / "native"
_COMPILERS = ("g++", "c++")

_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_AVX512_BF16 = (*_AVX512, "-mavx512bf16")

INSTRUCTION_SETS = {
    "amx": (*_AVX512_BF16, "-mamx-tile", "-mamx-bf16"),
    "avx512_bf16": _AVX512_BF16,
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": (),
}
"""Name → what the compiler is told; the best first."""

EMULATED = {
    "emulated_amx": (*_AVX2, "-DEMULATED_LANES", "-DEMULATED_TILES", "-O1"),
    "emulated_avx512": (*_AVX2, "-DEMULATED_LANES", "-O1"),
}
"""AVX-512's vectors in halves and AMX's instructions in plain C++: for tests, on processors that
have neither, of the code that is built on them. -O3 would compile the emulation for a minute."""

_REQUIRED = {
    "amx": {"amx_tile", "amx_bf16", "avx512_bf16"},
    "avx512_bf16": {"avx512_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma"},
    "plain": set(),
}
"""Flags of /proc/cpuinfo."""

_OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")
# What exact semantics of floating point forbid without a use here; NaN and infinities are kept.
_ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math")


class BuildError(Exception):
    """Why there are no kernels, as a clause that also says what helps."""


def supported_instruction_sets() -> list[str]:
    """Those that this processor has, the best first; `plain` runs everywhere."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = {flag for line in lines[:100] if line.startswith("flags") for flag in line.split()}
    return [name for name in INSTRUCTION_SETS if flags >= _REQUIRED[name]]


def build(instruction_set: str) -> Path:
    """The compiled library, from the cache where it is there. Raises BuildError."""
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise BuildError(f"no C++ compiler was found (tried {', '.join(_COMPILERS)}; install g++)")
    instructions = {**INSTRUCTION_SETS, **EMULATED}[instruction_set]
    command = [compiler, *_OPTIONS, *_ARITHMETIC, *instructions]
    sources = sorted(NATIVE.glob("*.cpp"))
    digest = hashlib.sha256(repr([*command, _version(compiler), *_openmp()]).encode())
    for file in sorted(NATIVE.iterdir()):
        digest.update(file.read_bytes())
    folder = user_cache_path("llama_recipes") / "kernels"
    library = folder / f"{instruction_set}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile([*command, *map(str, sources)], library)
        except OSError as error:
            raise BuildError(f"{folder} cannot be written to ({error.strerror})") from error
    return library


def _version(compiler: str) -> str:
    try:
        return subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{compiler} does not run ({error})") from error


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library: the threads of a second one would stand in its way."""
    return [str(path) for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))]


def _compile(command: list[str], library: Path) -> None:
    # Under another name first: whoever starts meanwhile finds the whole library or none.
    with TemporaryDirectory(dir=library.parent) as folder:
        draft = Path(folder) / library.name
        done = subprocess.run(
            [*command, "-o", str(draft), *_openmp()], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise BuildError(f"{command[0]} could not compile them ({reason})")
        draft.replace(library)
