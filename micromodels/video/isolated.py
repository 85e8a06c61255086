"""Starts the decoding process without network access; run as a file, so that nothing has been imported yet.

A decoder that a hostile file has taken over then cannot connect anywhere. This is the fallback without a sandbox
(``sandbox``). If the system does not allow new namespaces (some containers), decoding continues without them; the lists
of formats, codecs and protocols apply in any case.
"""

from __future__ import annotations

import ctypes
import runpy
import sys

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_NEW_IPC = 0x08000000  # CLONE_NEWIPC
_NEW_USER = 0x10000000  # CLONE_NEWUSER: lets users other than root create the other namespaces
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_CAPABILITIES = 0x20080522  # version 3 of the structure: two sets of three numbers


def isolate() -> bool:
    """Permanently drop network access and the ability to gain privileges; returns whether it worked.

    Call it before any thread starts: only a single-threaded process can create a user namespace.
    """
    try:
        library = ctypes.CDLL(None)
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if library.unshare(_NEW_NETWORK | _NEW_IPC) == 0:
            return True
        if library.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) != 0:
            return False
        # The creator of a user namespace has all capabilities in it; a decoder needs none.
        library.capset((ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)())
        return True
    except (AttributeError, OSError):  # not Linux
        return False


if __name__ == "__main__":
    isolate()
    runpy.run_module("micromodels.video.child", run_name="__main__", alter_sys=True)
    sys.exit(0)
