"""Starts the decoding process where there is no network; run as a file, so that nothing has been imported yet.

A decoder that was taken over by a hostile file can then reach nobody. This is what is left where there is no sandbox
(``sandbox``). Where the system does not allow new namespaces (some containers), decoding goes on without; the lists of
formats, codecs and protocols hold in either case.
"""

from __future__ import annotations

import ctypes
import runpy
import sys

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_NEW_IPC = 0x08000000  # CLONE_NEWIPC
_NEW_USER = 0x10000000  # CLONE_NEWUSER: whoever is not root may make the others in one of these
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_CAPABILITIES = 0x20080522  # version 3 of their form: two sets of three numbers


def isolate() -> bool:
    """Leave the network for good, and give up gaining rights; whether it could be done.

    Call it before any thread is started: a namespace of users can be made by a single thread only.
    """
    try:
        library = ctypes.CDLL(None)
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if library.unshare(_NEW_NETWORK | _NEW_IPC) == 0:
            return True
        if library.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) != 0:
            return False
        # Whoever makes a namespace of users has every right in it, which is no use to a decoder.
        library.capset((ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)())
        return True
    except (AttributeError, OSError):  # not Linux
        return False


if __name__ == "__main__":
    isolate()
    runpy.run_module("micromodels.video.child", run_name="__main__", alter_sys=True)
    sys.exit(0)
