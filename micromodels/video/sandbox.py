"""A bubblewrap sandbox for the decoding process, if the system has it and allows it.

A decoder that a hostile file has taken over then sees only the interpreter, the system's libraries and the one video,
all read-only: no other file, no network, no other process, no privileges. Without a sandbox, ``isolated`` at least
removes network access.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["is_available", "prefix"]

_LOG = logging.getLogger(__name__)
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
_PACKAGES = ("av", "numpy")
_LIMITS = ("--unshare-all", "--unshare-user", "--cap-drop", "ALL", "--dev", "/dev", "--remount-ro", "/", "--chdir", "/")
_STRICTER = ("--disable-userns",)  # since bubblewrap 0.8
_PROBE_SECONDS = 60.0
_MAX_LINKED_FOLDERS = 64


def prefix(path: Path, names: Sequence[str] | None) -> list[str]:
    """Prefix of the decoding command; empty if it must run without a sandbox.

    Args:
        path: absolute path of the video, or of the folder of its pictures.
        names: names of the pictures in the folder.
    """
    limits = _limits()
    if limits is None:
        return []
    links = [] if names is None else [path / name for name in names if (path / name).is_symlink()]
    folders = {Path(os.path.realpath(link)).parent for link in links}
    if len(folders) > _MAX_LINKED_FOLDERS or not all(map(_readable_unprivileged, (path, *folders))):
        _LOG.warning("%s is decoded without a sandbox: its folder needs privileges to read", path.name)
        return []
    return _command([*_interpreter(), *map(_bind, sorted(folders)), _bind(path)], limits)


def is_available() -> bool:
    """Whether this system can create a sandbox and start Python in it; tested once."""
    return _limits() is not None


@functools.cache
def _limits() -> tuple[str, ...] | None:
    """The strictest limits that this bubblewrap supports; None if no sandbox works."""
    if shutil.which("bwrap") is None:
        return None
    problem = ""
    for limits in ((*_STRICTER, *_LIMITS), _LIMITS):
        command = [*_command(_interpreter(), limits), sys.executable, "-I", "-S", "-c", ""]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = problem or str(error)
            continue
        if done.returncode == 0:
            return limits
        problem = problem or done.stderr.decode(errors="replace").strip()[:300]
    _LOG.warning("videos are decoded without a sandbox: %s", problem)
    return None


def _command(mounts: Iterable[tuple[str, str]], limits: Iterable[str]) -> list[str]:
    binds = [word for source, target in mounts for word in ("--ro-bind", source, target)]
    # Not --die-with-parent, which ends it with the *thread* that started it. The child ends with its standard input.
    return ["bwrap", *binds, *limits, "--"]


def _bind(path: Path) -> tuple[str, str]:
    """Mount a path's target under that path."""
    return os.path.realpath(path), str(path)


def _interpreter() -> Iterator[tuple[str, str]]:
    """Mounts that Python and its packages need."""
    found = [importlib.util.find_spec(name) for name in _PACKAGES]
    packages = [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin]
    python = [sys.prefix, sys.base_prefix, sys.base_exec_prefix, os.path.realpath(sys.base_prefix)]
    own = str(Path(__file__).resolve().parents[1])
    for path in dict.fromkeys([*_SYSTEM, *python, *packages, own]):
        if os.path.exists(path):
            yield _bind(Path(path))


def _readable_unprivileged(path: Path) -> bool:
    """Whether a process of this user can read it without root privileges."""
    found = path.stat()
    return os.geteuid() != 0 or found.st_uid == 0 or bool(found.st_mode & 0o004)
