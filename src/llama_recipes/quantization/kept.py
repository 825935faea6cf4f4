"""How a base model was kept under an adapter: in words, as flags, and as text in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from llama_recipes.configs.quantization import QuantizationConfig
from llama_recipes.configs.section import flag_of
from llama_recipes.errors import CheckpointError
from llama_recipes.quantization.select import Quantization


@dataclass(frozen=True, slots=True)
class Kept:
    """how: in which few bits; None for the weights as they are.

    It stands for what is known: where nothing tells, there is None in the place of a Kept.
    """

    how: Quantization | None

    @staticmethod
    def asked_for(setting: bool | str | None, config: QuantizationConfig) -> Kept | None:
        """What a --quantization says; None where it was not given."""
        return None if setting is None else Kept(Quantization.asked_for(setting, config))

    @staticmethod
    def recorded(raw: Any) -> Kept:
        """What `record` gave, or null. Raises CheckpointError for anything else."""
        if raw is None:
            return Kept(None)
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"{raw!r} is no quantisation that is known here. Save the adapter again."
            )
        return Kept(Quantization.recorded(raw))

    @staticmethod
    def read(text: str | None) -> Kept | None:
        """What `text` gave. Raises CheckpointError for anything else."""
        if text is None:
            return None
        try:
            return Kept.recorded(json.loads(text))
        except ValueError:
            return Kept.recorded(text)

    @property
    def record(self) -> dict[str, Any] | None:
        return None if self.how is None else asdict(self.how)

    @property
    def text(self) -> str:
        """One line, the same each time."""
        return json.dumps(self.record, sort_keys=True)

    @property
    def words(self) -> str:
        """`in 4 bits (nf4)`; what can stand behind "kept"."""
        if self.how is None:
            return "as it is, not quantised"
        if self.how.bits == 8:
            return "in 8 bits"
        twice = ", its scales quantised too" if self.how.use_double_quant else ""
        return f"in 4 bits ({self.how.quant_type}{twice})"

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a run that keep its base so."""
        if self.how is None:
            return {"train_config.quantization": False}
        bits: dict[str, object] = {"train_config.quantization": f"{self.how.bits}bit"}
        if self.how.bits == 8:
            return bits
        return bits | {
            "quantization_config.quant_type": self.how.quant_type,
            "quantization_config.use_double_quant": self.how.use_double_quant,
        }

    @property
    def flags(self) -> str:
        """The same as one would write them."""
        return " ".join(f"{flag_of(key)} {value}" for key, value in self.settings.items())
