"""Starts the decoding process where there is no network; run as a file, so that nothing has been imported yet.

A decoder that was taken over by a hostile file can then reach nobody. Where the system does not allow new namespaces
(some containers), decoding goes on without; the lists of formats, codecs and protocols hold in either case.
"""

from __future__ import annotations

import ctypes
import runpy
import sys

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_NEW_IPC = 0x08000000  # CLONE_NEWIPC
_NEW_USER = 0x10000000  # CLONE_NEWUSER: whoever is not root may make the others in one of these
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS


def isolate() -> bool:
    """Leave the network for good, and give up gaining rights; whether it could be done.

    Call it before any thread is started: a namespace of users can be made by a single thread only.
    """
    try:
        library = ctypes.CDLL(None)
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return any(library.unshare(flags | _NEW_NETWORK | _NEW_IPC) == 0 for flags in (0, _NEW_USER))
    except (AttributeError, OSError):  # not Linux
        return False


if __name__ == "__main__":
    isolate()
    runpy.run_module("micromodels.video.child", run_name="__main__", alter_sys=True)
    sys.exit(0)
