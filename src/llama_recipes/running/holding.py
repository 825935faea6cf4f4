"""A run has its folders to itself: a lock in each turns a second run away."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from llama_recipes.errors import ConfigError

LOCK_FILE = ".lock"
"""There while a run holds the folder; one that a kill left behind locks nobody out."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Hold:
    """The folders that this run holds, until `close` or the end of the process, whatever it is.

    The kernel keeps the locks, and those of a file system that hosts share hold for all of them.
    They are a process's own (POSIX): one that it forked, and that outlives it, does not keep them.
    """

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}

    def take(self, folders: Iterable[Path], warn: Callable[[str], None]) -> None:
        """Hold those that exist and are not held yet.

        Raises ConfigError where another run holds one.
        """
        for folder in folders:
            place = folder.resolve()
            if place in self._held or not place.is_dir():
                continue
            try:
                self._held[place] = _lock(place)
            except OSError as error:
                # What cannot be written to at all is said by who writes there.
                if error.errno in _NO_LOCKS:
                    warn(
                        f"{folder} is on a file system without locks ({error.strerror}): take care"
                        " that no other run writes there."
                    )

    def close(self) -> None:
        while self._held:
            folder, descriptor = self._held.popitem()
            with suppress(OSError):
                (folder / LOCK_FILE).unlink()
            os.close(descriptor)


def _lock(folder: Path) -> int:
    """The open file. Raises ConfigError, and OSError where there are no locks."""
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _try_to_lock(descriptor, folder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run that held it has just ended, and has taken the file away


def _try_to_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        who = os.read(descriptor, 200).decode(errors="replace")
        raise ConfigError(
            f"Another run is writing to {folder}{f' ({who})' if who else ''}. Wait for its end,"
            " stop it, or name another folder."
        ) from error
