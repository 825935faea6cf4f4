"""Files that exist completely or not at all.

Written beside their target, brought to the disk, and renamed over it: a crash or a power cut at any
moment leaves the old content or the new.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def publish(path: Path, content: bytes) -> None:
    """Replace the content of `path` atomically."""
    with drafted(path) as draft:
        draft.write_bytes(content)


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Give a draft to write; it replaces `path` when the block ends, and is gone if it fails."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # what a run that was killed left
    draft.touch()
    mode = stat.S_IMODE(draft.stat().st_mode)
    try:
        yield draft
        draft.chmod(mode)  # safetensors makes files that nobody but their owner can read
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)  # a rename is not durable before that


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
