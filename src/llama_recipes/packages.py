"""Packages that only some runs need."""

from __future__ import annotations

from importlib.util import find_spec

from llama_recipes.errors import ConfigError


def require(package: str, *, why: str) -> None:
    """Raises ConfigError where `package` (pip's name) is missing; `why` begins the sentence."""
    spec = find_spec(package.replace("-", "_"))
    # A mere folder of that name where the run was started is found too, without code to load.
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"{why} the package {package}, which is not installed here."
            f" Install it: pip install {package}"
        )
