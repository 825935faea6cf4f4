"""The names of what weights can be stored in."""

from __future__ import annotations

from typing import Literal

Encoding = Literal["F32", "F16", "BF16", "Q8_0"]
"""Of matrices, as GGUF names them; Q8_0: blocks of 32 bytes with a scale in fp16."""

Q8_BLOCK = 32
"""Numbers of a row that share a step in Q8_0."""
