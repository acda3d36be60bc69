# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C while the guest runs.

Two problems. CPython runs signal handlers between bytecodes, and a guest that makes no exits executes none:
so the C part of CPython's signal handling writes a byte to a file descriptor, and one helper thread per
process that waits for it makes the engine leave. And a KeyboardInterrupt raised on entry to a ctypes callback
is printed and forgotten: so while the guest runs SIGINT is only noted, and its handler is called afterwards.
Handlers of other signals run as soon as the engine has left, and the guest then goes on.
"""

import signal
import socket
import threading

_writer = None
_leave = None
_handler = None
_noted = False


def arm(leave) -> bool:
    """Call `leave()` from the helper thread at every signal, and hold back SIGINT, until `disarm`.

    Returns False, and does nothing, outside the main thread (which alone receives signals) and when an event
    loop listens for signals already.
    """
    global _writer, _leave, _handler, _noted
    if threading.current_thread() is not threading.main_thread():
        return False
    if _writer is None:
        reader, _writer = socket.socketpair()
        _writer.setblocking(False)
        threading.Thread(target=_wait, args=(reader,), daemon=True, name="shadowmmu-signals").start()
    before = signal.set_wakeup_fd(_writer.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
        return False
    _noted = False
    _leave = leave
    _handler = signal.getsignal(signal.SIGINT)
    if callable(_handler):
        signal.signal(signal.SIGINT, _note)
    return True


def interrupted() -> bool:
    """True when SIGINT arrived since `arm`."""
    return _noted


def disarm():
    """Undo `arm` (only if it returned True), then call the SIGINT handler if the signal arrived."""
    global _leave
    _leave = None
    signal.set_wakeup_fd(-1)
    if callable(_handler):
        signal.signal(signal.SIGINT, _handler)
        if _noted:
            _handler(signal.SIGINT, None)


def _note(number, frame):
    global _noted
    _noted = True


def _wait(reader):
    while reader.recv(64):
        leave = _leave
        if leave is not None:
            leave()
