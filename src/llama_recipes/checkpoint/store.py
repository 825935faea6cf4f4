"""Files that exist completely or not at all.

Written beside their target, brought to the disk, and renamed over it: a crash or a power cut at any
moment leaves the old content or the new. Several processes may write the same file: each has a
draft of its own, and the last to end decides.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_writing: set[Path] = set()
"""This process's drafts. One that bears its number and is not among them is of an earlier process
of that number: in a container the numbers begin anew."""


def publish(path: Path, content: bytes) -> None:
    """Replace the content of `path` atomically."""
    with drafted(path) as draft:
        draft.write_bytes(content)


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Give a draft to write; it replaces `path` when the block ends, and is gone if it fails."""
    _remove_abandoned(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    _writing.add(draft)
    try:
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        yield draft
        draft.chmod(mode)  # safetensors makes files that nobody but their owner can read
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
        _writing.discard(draft)
    sync(path.parent)  # a rename is not durable before that


def _remove_abandoned(path: Path) -> None:
    """Drafts of `path` whose processes were killed."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.draft"):
        found = re.fullmatch(r"(\d+)-[0-9a-f]+", draft.name[len(path.name) + 2 : -len(".draft")])
        if found is not None and draft not in _writing and not _lives_elsewhere(int(found[1])):
            with suppress(OSError):  # another process removes it too
                draft.unlink()


def _lives_elsewhere(process: int) -> bool:
    """Whether a process of that number lives, and is not this one."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
