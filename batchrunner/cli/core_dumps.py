"""A process that holds keys leaves no copy of its memory: not when it crashes, and not for others of the same user to take."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import resource
import sys

#: of Linux's prctl(2)
PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let no core be written from now on, and on Linux keep other processes of the user out of this one's memory and environment.

    What cannot be forbidden stays as it is. A crash of the interpreter is still told, as a traceback without values. Programs
    that this one starts have the limit too, and not the rest.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A handler that core dumps are piped to heeds no limit. Without libc's prctl nothing is lost but this.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable(file=2)
