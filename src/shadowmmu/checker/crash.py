# SPDX-License-Identifier: GPL-2.0-or-later
"""A changed MMU that takes the process with it, or never comes back: a finding like any other.

    this process --fork--> the command, as it would have been done here
         | waits            its lanes keep their words in a folder (blackbox)
         |
         +-- ended            its exit code is ours
         +-- killed by SIGSEGV ...   --> operations of the last lane --> minimal script, each candidate in a child of its own
         +-- no operation for HANG seconds: ended here             --> the same

The core is compiled without checks of indices.  In a kernel a wild index is a wild pointer, so it is told as `crash`.
Only patched cores are guarded, and only compiled: interpreted, the core ends with Python's error and its place.
"""

import mmap
import os
import shutil
import signal
import sys
import tempfile
import time

from ..state import JIT, PATCH
from . import blackbox, causes, entries, finding, geometry, ops, tables, verify
from .shrink import smallest

SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
#: Seconds without a single operation after which a search is held to hang; the same of one replay.
HANG, HANG_IN_REPLAY = 20, 5
#: Seconds between two looks.
LOOK = 0.02


def guarded(command, told):
    """command() in a child; this process ends with its exit code.  told(finding): called here after a crash or a hang; gives the
    exit code.  Where nothing is guarded: just command()."""
    if not JIT or not PATCH.text:
        return command()
    # compiled here, so that replays need not
    geometry.Arena(geometry.MACHINES["4-level"], "linux-6.12", 1, copies=1)
    folder = tempfile.mkdtemp(prefix="shadowmmu-")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        blackbox.folder = folder
        return command()
    # Ctrl-C is the child's to handle
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended, hung = _wait(child, folder)
        if not hung and not (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) in SIGNALS):
            sys.stdout.flush()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(os.waitstatus_to_exitcode(ended) if os.WIFEXITED(ended) else 128 + os.WTERMSIG(ended))
        found = blackbox.read(folder)
    finally:
        signal.signal(signal.SIGINT, before)
        shutil.rmtree(folder, ignore_errors=True)
    return told(explained(found, verify.HANG if hung else verify.CRASH, 0 if hung else os.WTERMSIG(ended)))


def _wait(child, folder):
    """(wait status, did it hang?) of the child; one that hangs is ended."""
    moved, done = time.monotonic(), None
    looked = moved
    while True:
        which, status = os.waitpid(child, os.WNOHANG)
        if which:
            return status, False
        time.sleep(LOOK)
        now = time.monotonic()
        if now - looked < 1:
            continue
        looked = now
        current = blackbox.read(folder)
        if not current.get("machine") or current["done"] != done:
            moved, done = now, current.get("done")
        elif now - moved > HANG:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True


def fatal(arena, rows):
    """Number of operations after which these crash or hang, in a child; 0 if they do not."""
    reached = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        try:
            arena.copy(1, 0)
            table = entries.table_of(rows)
            for i in range(len(rows)):
                reached[:8] = (i + 1).to_bytes(8, "little")
                if entries.perform(arena.handle(1), arena.area, table, i * ops.ROW_WORDS):
                    break
        finally:
            # whatever happened: this process must not go on as its parent
            os._exit(0)
    end = time.monotonic() + HANG_IN_REPLAY
    while True:
        which, status = os.waitpid(child, os.WNOHANG)
        if which:
            return int.from_bytes(reached[:8], "little") if os.WIFSIGNALED(status) else 0
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(LOOK / 10)


def explained(found, failure, number):
    """The Finding of what a black box holds (blackbox.read), its script as short as it gets."""
    name, meaning, _ = verify.FAILURES[failure]
    details = {"signal": signal.Signals(number).name} if number else {"given up after": f"{HANG} s without an operation"}
    if not found.get("rows"):
        return finding.Finding("?", "?", 0, "", 0, name, meaning, details | {"script": "not known: it was no operation that ran"},
                               [], [], [], [], causes.Cause("", "", "", "I2"), name, patched=True, failure=failure)
    arena = geometry.Arena(geometry.MACHINES[found["machine"]], found["rules"], found["vcpus"], copies=2, aside=found["aside"])
    rows = smallest(found["rows"], lambda some: fatal(arena, some)) if fatal(arena, found["rows"]) else found["rows"]
    entries.replay(arena, rows[:-1])
    state = tables.snapshot(arena, 1)
    rules = arena.rules if isinstance(arena.rules, str) else "custom"
    script = ops.script(arena.machine.name, rules, arena.vcpus, rows)
    return finding.Finding(
        machine=arena.machine.name, rules=rules, vcpus=arena.vcpus, script=script,
        operations=len(rows), rule=name, meaning=meaning, details=details, permitted=[], held=[],
        change=["not known: below is the state before the last operation"], tables=tables.shadow_lines(state),
        cause=causes.cause(failure, rows[-1][0]), shape=finding.shape(failure, rows), patched=True, failure=failure, rows=rows)
