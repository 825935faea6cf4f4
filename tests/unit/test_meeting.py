"""Processes of one start find each other, whatever an earlier start left in their store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from llama_recipes.errors import ProcessLostError
from llama_recipes.parallel.meeting import meet
from support.ranks import rendezvous


def client(kept: TCPStore) -> TCPStore:
    return TCPStore("127.0.0.1", kept.port, is_master=False)


def met(kept: TCPStore, size: int) -> list:
    """The parts of the store that each of `size` processes gets, the last one starting first."""
    with ThreadPoolExecutor(size) as pool:
        meetings = [
            pool.submit(meet, client(kept), rank=rank, size=size, seconds=20)
            for rank in reversed(range(size))
        ]
        return [meeting.result() for meeting in meetings]


def test_each_start_has_a_part_of_the_store_that_no_earlier_one_wrote_to():
    kept = rendezvous()
    for start in range(3):
        parts = met(kept, 3)
        assert not any(part.check(["address"]) for part in parts)
        parts[0].set("address", str(start))
        assert [part.get("address") for part in parts] == [str(start).encode()] * 3


def test_whom_nobody_meets_says_for_whom_it_waited():
    kept = rendezvous()
    met(kept, 2)  # of an earlier start, whose name is in the store still
    with pytest.raises(ProcessLostError, match="Rank 1 waited for rank 0, and for all others"):
        meet(client(kept), rank=1, size=2, seconds=0.5)
    with pytest.raises(ProcessLostError, match="Rank 0 waited for rank 1, 2 to start, in vain"):
        meet(client(kept), rank=0, size=3, seconds=0.5)


def test_a_store_that_goes_away_is_no_bug_of_ours():
    kept = rendezvous()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(meet, client(kept), rank=1, size=2, seconds=20)
        while not kept.check(["nobody"]) and not waiting.running():
            pass
        del kept
        with pytest.raises(
            ProcessLostError, match="Rank 1 lost the store where the processes meet"
        ):
            waiting.result()
