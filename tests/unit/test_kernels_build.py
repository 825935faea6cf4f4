"""Kernels are compiled once, for this processor, and done without where they cannot be had."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from llama_recipes.kernels import build, library
from support.kernels import enable


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def calls(monkeypatch) -> list[list[str]]:
    """The compiler's command lines from now on, without those that ask for its version."""
    seen, real = [], subprocess.run

    def run(command, **keywords):
        if "--version" not in command:
            seen.append(command)
        return real(command, **keywords)

    monkeypatch.setattr(build.subprocess, "run", run)
    return seen


def test_the_second_process_compiles_nothing(cache, monkeypatch):
    enable("plain")
    made = list(cache.rglob("*.so"))
    assert len(made) == 1
    library.disable()
    seen = calls(monkeypatch)
    enable("plain")
    assert seen == []
    assert list(cache.rglob("*.so")) == made


def test_another_compiler_or_source_is_another_library(cache, monkeypatch):
    enable("plain")
    monkeypatch.setattr(build, "_version", lambda compiler: "another one")
    library.disable()
    enable("plain")
    assert len(list(cache.rglob("*.so"))) == 2


def test_without_a_compiler_the_reason_is_named(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert library.enable() == "no C++ compiler was found (tried g++, c++; install g++)"
    assert library.enabled() is None
    assert not library.serves(torch.ones(2))


def test_a_compiler_that_fails_leaves_nothing_behind(cache, monkeypatch):
    enable("plain")  # skips where there is no compiler
    library.disable()
    monkeypatch.setattr(build, "_OPTIONS", ("--no-such-option",))
    reason = library.enable("plain")
    assert reason is not None
    assert "could not compile them" in reason
    assert "--no-such-option" in reason
    assert len(list(cache.rglob("*.so"))) == 1
    assert not list(cache.rglob("tmp*"))


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    enable("plain")
    library.disable()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    reason = library.enable("plain")
    assert reason is not None
    assert "cannot be written to" in reason


def test_the_best_instruction_set_that_compiles_is_taken(monkeypatch):
    enable("plain")
    library.disable()
    tried = []

    def fails_but_for_plain(name):
        tried.append(name)
        if name != "plain":
            raise build.BuildError("it is too old for that")
        return real(name)

    real = build.build
    monkeypatch.setattr(library, "build", fails_but_for_plain)
    assert library.enable() is None
    assert library.enabled() == "plain"
    assert tried[-1] == "plain"


def test_processors_are_told_apart(tmp_path, monkeypatch):
    def of(flags: str) -> list[str]:
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor : 0\nflags : {flags}\n")
        monkeypatch.setattr(build, "CPUINFO", file)
        return build.supported_instruction_sets()

    avx512 = "avx2 fma avx512f avx512bw avx512dq avx512vl"
    assert of("sse2") == ["plain"]
    assert of("avx2 fma") == ["avx2", "plain"]
    assert of(avx512) == ["avx512", "avx2", "plain"]
    assert of(f"{avx512} avx512_bf16")[0] == "avx512_bf16"
    assert of(f"{avx512} avx512_bf16 amx_tile amx_bf16")[0] == "amx"
    monkeypatch.setattr(build, "CPUINFO", tmp_path / "none")
    assert build.supported_instruction_sets() == ["plain"]


def test_what_is_served():
    enable()
    x = torch.ones(2, 3)
    assert library.serves(x, None, x)
    assert library.serves(x.bfloat16())
    assert not library.serves(x.double())
    assert not library.serves(x.half())
    assert not library.serves(x, x.bfloat16())
    assert not library.serves(x.to("meta"))
    library.disable()
    assert not library.serves(x)
