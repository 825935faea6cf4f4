"""Keeps report.html up to date while a run goes on, and never stands in its way."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_recipes.monitoring.report.files import RUN_FILE, read_run
from llama_recipes.monitoring.report.page import report_page
from llama_recipes.monitoring.trackers import Publish

if TYPE_CHECKING:
    from llama_recipes.monitoring.screen import Screen

REPORT_FILE = "report.html"
_SHARE = 0.05
"""Of the time since the last report, what making the next one may take."""
_SHORT_SECONDS = 0.5
"""A report that is made so fast is always made."""


def write_report(folder: Path, publish: Publish) -> Path:
    """Make the report of a run from its files alone. Raises OSError, LlamaRecipesError."""
    path = folder / REPORT_FILE
    publish(path, report_page(read_run(folder)).encode("utf-8", "replace"))
    return path


def now() -> str:
    """In UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunReport:
    """A tracker that writes run.json and report.html: after an evaluation, and at the end.

    facts: what run.json holds; warnings of the screen and the time of the end are added. warnings:
    of earlier parts of the run.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        screen: Screen,
        publish: Publish,
        *,
        warnings: Sequence[str] = (),
    ) -> None:
        self.folder, self.facts, self.screen, self.publish = folder, dict(facts), screen, publish
        self.warnings, self._has_failed = warnings, False
        self._made_at = self._took = 0.0

    def write(self, record: Mapping[str, Any]) -> None:
        due = self._took < max(_SHORT_SECONDS, _SHARE * (time.monotonic() - self._made_at))
        if "eval_loss" in record and due:
            self.update()

    def finish(self, results: Mapping[str, Any]) -> None:
        self.facts["ended"] = now()
        self.update()
        if not self._has_failed:
            self.screen.line(f"What happened, to be read: {self.folder / REPORT_FILE}")

    def update(self) -> None:
        """Write both files. What goes wrong is a warning, once: a report is no reason to stop."""
        started = time.monotonic()
        try:
            said = list(dict.fromkeys([*self.warnings, *self.screen.warnings]))
            facts = self.facts | {"warnings": said}
            self.publish(self.folder / RUN_FILE, (json.dumps(facts, indent=2) + "\n").encode())
            write_report(self.folder, self.publish)
        except Exception as error:  # a mistake of ours in it is no reason either
            if not self._has_failed:
                reason = error.strerror if isinstance(error, OSError) else None
                self.screen.warn(
                    f"{self.folder / REPORT_FILE} could not be written: {reason or error}. The"
                    " training goes on; make it later with llama-recipes report"
                    f" {shlex.quote(str(self.folder))}."
                )
            self._has_failed = True
        self._made_at = time.monotonic()
        self._took = self._made_at - started
