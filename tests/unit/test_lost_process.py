"""What is taken for the loss of another process, and what is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from llama_recipes.errors import ProcessLostError
from llama_recipes.parallel import processes
from llama_recipes.parallel.processes import ManyProcesses

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer"


@pytest.fixture
def world(monkeypatch):
    """Rank 1 of two, of which rank 0 says nothing."""
    monkeypatch.setattr(processes, "_PATIENCE_SECONDS", 0)
    world = ManyProcesses.__new__(ManyProcesses)
    world.rank, world.size = 1, 2
    world._timeout, world._store = timedelta(seconds=5), dist.HashStore()
    return world


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CLOSED),
        RuntimeError("Gloo connectFullMesh failed with what lies below"),
        dist.DistNetworkError("Broken pipe"),
        dist.DistStoreError("wait timeout after 5000ms"),
        dist.DistBackendError("NCCL communicator was aborted"),
    ],
)
def test_it_is_said_of_which(world, error, capsys):
    said = "Rank 1 waited for rank 0, which has ended or has"
    with pytest.raises(ProcessLostError, match=said), world.watched():
        raise error
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["The download timed out", "Connection reset", "NCCL is missing"])
def test_other_errors_stay_what_they_are(world, text):
    with pytest.raises(RuntimeError, match=text) as raised, world.watched():
        raise RuntimeError(text)
    assert raised.type is RuntimeError
