"""Tracking with Weights & Biases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama_recipes.configs.section import Section


class WandbConfig(Section):
    """Handed to wandb.init, with --use_wandb."""

    project: str = Field(default="llama_recipes", description="Project the run belongs to")
    entity: str | None = Field(
        default=None, description="User or team; None: the default of the login"
    )
    job_type: str | None = Field(default=None, description="Kind of run, to filter by")
    tags: list[str] | None = Field(default=None, description="Labels of the run")
    group: str | None = Field(default=None, description="Group of runs that belong together")
    notes: str | None = Field(default=None, description="Remark on the run")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        default=None, description="Whether it is uploaded; None: what wandb itself is set to"
    )
