"""A browser without a window, driven over its own protocol, where this machine has one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_chromium = pytest.mark.skipif(
    not PROGRAM, reason="there is no Chromium to look at the page with: apt-get install chromium"
)
_SECONDS = 60
_LAUNCH = """
import fcntl, os, sys
to, back = (fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3])
os.dup2(to, 3)
os.dup2(back, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The protocol's two ends are the browser's file descriptors 3 and 4."""


class Browser:
    """One page at a time; `seen` holds every message that the browser sent of its own accord."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCH, str(to_browser), str(from_browser), PROGRAM),
                *("--headless=new", "--remote-debugging-pipe"),
                *("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
                f"--user-data-dir={tempfile.mkdtemp(dir=folder)}",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._left, self._number, self.seen = b"", 0, list[dict[str, Any]]()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {}
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: dict[str, str] = {}  # noqa: RUF012 - before there is a page

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.seen.append(answer)

    def open(self, path: Path, *, width: int, height: int = 800, scheme: str = "light") -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.seen.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(each.get("method") == "Page.loadEventFired" for each in self.seen):
            self.seen.append(self._next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"]["value"]

    def picture(self) -> bytes:
        """The whole page as PNG."""
        import base64

        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def wider(self) -> list[str]:
        """The begin of each element that leaves the window, but for those one can scroll to."""
        found: list[str] = self.value(
            """[...document.querySelectorAll("body *:not(svg *):not(.scroll *)")].filter(e =>
            e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
        )
        return found

    def pixels(self, folder: Path) -> NDArray[np.int32]:
        """The colour of each pixel of the whole page, as 0xRRGGBB."""
        image = pytest.importorskip("PIL.Image")
        path = folder / "page.png"
        path.write_bytes(self.picture())
        colours = np.asarray(image.open(path).convert("RGB")).astype(np.int32)
        return (colours @ (1 << 16, 1 << 8, 1)).ravel()

    def asked(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        return [each["request"]["url"] for each in self.said("Network.requestWillBeSent")]

    def complaints(self) -> list[dict[str, Any]]:
        return self.said("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")

    def said(self, *methods: str) -> list[dict[str, Any]]:
        return [each["params"] for each in self.seen if each.get("method") in methods]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(_SECONDS)
        os.close(self._to)
        os.close(self._from)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has gone"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
