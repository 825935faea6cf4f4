"""Several processes that train together, over torch.distributed: NCCL between GPUs, else gloo."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from hashlib import blake2b
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.rendezvous import rendezvous

from llama_recipes.configs.fsdp import FsdpConfig
from llama_recipes.errors import FollowedError, LlamaRecipesError, ProcessLostError
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import TensorSource
from llama_recipes.parallel import ranks
from llama_recipes.parallel.meeting import meet, wait_for
from llama_recipes.parallel.read_by_one import ReadByOne
from llama_recipes.parallel.strategy import groups, make_mesh, shard
from llama_recipes.parallel.world import World

_PATIENCE_SECONDS = 3
"""How long those that lost a process wait for each other to say so."""

_LOST = re.compile(r"\bgloo/|Gloo connectFullMesh")
"""What gloo says, in plain RuntimeErrors, when another process is gone or does not answer: it
begins with the place in its source."""


class ManyProcesses:
    """`World` under torchrun.

    Raises ProcessLostError where the others do not come.
    """

    def __init__(self, config: FsdpConfig, device: torch.device) -> None:
        self.rank, self.size, self.device = ranks.rank(), ranks.world_size(), device
        self._config = config
        self._timeout = timedelta(seconds=config.timeout_seconds)
        shared, _, _ = next(rendezvous("env://"))
        self._store = meet(
            shared, rank=self.rank, size=self.size, seconds=self._timeout.total_seconds()
        )
        self._made = 0
        self._group: dist.ProcessGroup | None = None  # all, over gloo for what is on a processor

    def join(self) -> None:
        """Become a part of it. Before, `is_first_to_say` and `leave` alone have a meaning.

        Raises ConfigError where the settings do not fit the number of processes.
        """
        shares = groups(
            self._config, processes=self.size, processes_of_host=ranks.local_world_size()
        )
        kind = self.device.type
        dist.init_process_group(
            "gloo" if kind == "cpu" else f"cpu:gloo,{kind}:nccl",
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=self._timeout,
            device_id=None if kind == "cpu" else self.device,
        )
        self._mesh = make_mesh(kind, shares)

    def shard(self, model: nn.Module, *, gathered_in: torch.dtype | None) -> None:
        shard(cast(Llama, model), self._mesh, self._config, param_dtype=gathered_in)

    def read_by_one(self, tensors: TensorSource) -> TensorSource:
        return ReadByOne(tensors, self.rank)

    def gather_gradients(self, model: nn.Module, *, wanted: bool) -> None:
        cast(FSDPModule, model).set_requires_gradient_sync(wanted)

    def rest(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        mine = torch.tensor(numbers, dtype=torch.float64)
        return [each.tolist() for each in self._gather(mine)]

    def texts(self, text: str) -> list[str]:
        content = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)
        lengths = [int(length) for (length,) in self.exchange([len(text.encode())])]
        padded = content.new_zeros(max(*lengths, 1))
        padded[: len(content)] = content[: len(padded)]
        parts = zip(self._gather(padded), lengths, strict=True)
        return [bytes(part[:length].tolist()).decode() for part, length in parts]

    def _gather(self, mine: Tensor) -> list[Tensor]:
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self._group)
        return found

    def aside(self) -> World:
        other = copy(self)
        other._group = dist.new_group(backend="gloo", timeout=self._timeout)
        return other

    def lead(self, action: Callable[[], object]) -> None:
        code, error = 0, None
        if self.rank == 0:
            try:
                action()
            except BaseException as raised:
                error, code = raised, _code_of(raised)
        code = int(self.exchange([code])[0][0])
        if error is not None:
            raise error
        if code:
            raise FollowedError(code)

    def once(self, make: Callable[[], str]) -> str:
        return self._made_by(make if self.rank == 0 else None, place=0, places=1)

    def once_a_host(self, make: Callable[[], str]) -> str:
        leads = ranks.local_rank() == 0
        return self._made_by(make if leads else None, place=ranks.host(), places=ranks.hosts())

    def _made_by(self, make: Callable[[], str] | None, *, place: int, places: int) -> str:
        """What is made at `place`, by the process there that has `make`, once it is everywhere.

        Through the store and not a collective: it may take longer than any timeout, at one place
        alone too, where others have it in their cache.
        """
        self._made += 1
        keys = [f"made/{self._made}/{number}" for number in range(places)]
        failed = f"made/{self._made}/failed"
        if make is not None:
            try:
                self._store.set(keys[place], make())
            except BaseException as error:
                self._store.set(failed, str(_code_of(error)))
                raise
        wait_for(lambda: self._store.check(keys) or self._store.check([failed]))
        if self._store.check([failed]):
            raise FollowedError(int(self._store.get(failed)))
        return str(self._store.get(keys[place]).decode())

    def is_first_to_say(self, text: str) -> bool:
        key = blake2b(text.encode(), digest_size=16).hexdigest()
        try:
            return bool(self._store.add(f"said/{key}", 1) == 1)
        except dist.DistError:  # gone with rank 0, which has said it, or with torchrun
            return self.rank == 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What fails because another process is gone or does not answer says which, and ends."""
        try:
            yield
        except RuntimeError as error:  # those of torch.distributed are, too
            if not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise
            traceback.print_exc()  # where it waited
            raise ProcessLostError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        silent = [rank for rank, answers in enumerate(self._who_answers()) if not answers]
        who = f"rank {', '.join(map(str, silent))}" if silent else "another rank"
        return (
            f"Rank {self.rank} waited for {who}, which has ended or has not answered for"
            f" {self._timeout.total_seconds():.0f} seconds ({str(error).splitlines()[0]})."
            " torchrun names the process that failed first. Start again with --resume auto: the"
            " run goes on from its last checkpoint. Where the other one was at work, as on a"
            " checkpoint that it writes for all, --timeout_seconds gives it more."
        )

    def _who_answers(self) -> list[bool]:
        """Every process that can still speak comes here when one cannot."""
        try:
            self._store.set(f"answers/{self.rank}", "yes")
            time.sleep(_PATIENCE_SECONDS)
            return [self._store.check([f"answers/{rank}"]) for rank in range(self.size)]
        except dist.DistError:  # it was the process that kept the store
            return []

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _code_of(error: BaseException) -> int:
    return error.exit_code if isinstance(error, LlamaRecipesError) else 1
