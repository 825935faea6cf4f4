"""How far a run is: what it needs to know to go on, and what its results are made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a run is. Tokens count no padding; losses are nats per supervised token.

    epoch, batch: where the next step begins; batch counts micro-batches of the epoch, those of all
    processes together.
    unfinished: the step before that was made, but what follows a step (evaluation, the end of an
    epoch) was not. ends_epoch: whether that step is its epoch's last.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    unfinished: bool = False
    ends_epoch: bool = False
    tokens: int = 0
    supervised_tokens: int = 0
    stop_reason: str = ""
    epoch_loss: float = 0.0
    epoch_tokens: int = 0
    epoch_elapsed: float = 0.0
    epoch_losses: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)
