"""What holds for every test: no more threads than pay, and a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import hypothesis
import pytest
import torch
from platformdirs import user_cache_path

from llama_recipes.kernels import library
from support.kernels import enable

# The same examples in every run: what passes once passes again.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

_ALL_THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for tiny tensors, and for all where other tests run beside this one: on a busy
    machine several threads wait for each other ten times over."""
    alone = item.get_closest_marker("real_model") and not hasattr(item.config, "workerinput")
    torch.set_num_threads(_ALL_THREADS if alone else 1)


@pytest.fixture(autouse=True)
def _plain_path() -> Iterator[None]:
    """Every test begins on the plain path; a run enables the kernels for its whole process."""
    yield
    library.disable()


@pytest.fixture(params=["plain", "kernels"])
def either_path(request: pytest.FixtureRequest) -> None:
    """For tests of what must hold on the plain path and with the kernels alike."""
    if request.param == "kernels":
        enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Prepared data sets are kept under the tests' folder, never in the user's cache.

    Processes that test side by side share it. Compiled kernels are the user's: they are the same.
    """
    kept = user_cache_path("llama_recipes") / "kernels"
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if hasattr(request.config, "workerinput") else folder
    kernels = shared / "cache" / "llama_recipes" / "kernels"
    kernels.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # no such folder can be made, or the other process was first
        kept.mkdir(parents=True, exist_ok=True)
        kernels.symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody who runs the tests is logged in at W&B, whatever they have set up for themselves."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(folder))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield
