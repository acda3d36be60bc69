# SPDX-License-Identifier: GPL-2.0-or-later
"""What a search is doing, in files that outlive its process.

    search                                              who looks afterwards (crash.py)
      lane's words and trace  == mapped ==  N.work, N.trace
      note(lane) before a slice, rest() after it  -->  current       which lane, in JSON

Without a folder (the usual case) a lane's tables are ordinary memory, and nothing is noted.
"""

import json
import mmap
import os

from ..state import JIT
from . import entries, ops
from .work import OPERATIONS, STEP

#: Where the files are; None: nothing is kept.
folder = None


def table(lane, name, n):
    """n words for a lane: in a file if there is a folder."""
    if folder is None:
        return entries.table(n)
    path = os.path.join(folder, f"{id(lane)}.{name}")
    with open(path, "wb") as file:
        file.truncate(8 * n)
    with open(path, "r+b") as file:
        buffer = mmap.mmap(file.fileno(), 8 * n)
    if not JIT:
        return memoryview(buffer).cast("q")
    import numpy
    return numpy.frombuffer(buffer, dtype=numpy.int64)


def note(lane, rows=()):
    """This lane is about to do a slice.  rows: what its words refer to by number."""
    if folder is not None:
        _write({"lane": id(lane), "machine": lane.arena.machine.name, "rules": lane.arena.rules, "vcpus": lane.arena.vcpus,
                "aside": lane.arena.aside, "mode": lane.mode, "rows": list(rows)})


def note_rows(arena, rows):
    """These operations are about to be done, one after the other."""
    if folder is not None:
        _write({"machine": arena.machine.name, "rules": arena.rules, "vcpus": arena.vcpus, "aside": arena.aside, "mode": "replay",
                "rows": list(rows)})


def rest():
    """Nothing of the core is running."""
    if folder is not None:
        _write({})


def _write(what):
    path = os.path.join(folder, "current")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(what, file)
    os.replace(path + ".new", path)


def read(where):
    """What was going on, from the folder of a process that may have ended: a dictionary as `note` wrote it with `rows`, the
    operations up to the one under way, and `done`, a number that moves while the search does; {} for nothing."""
    try:
        with open(os.path.join(where, "current"), encoding="utf-8") as file:
            found = json.load(file)
    except OSError:
        return {}
    found["done"] = 0
    if not found.get("machine") or found["mode"] == "replay":
        return found
    work = _words(where, found["lane"], "work")
    found["done"] = work[OPERATIONS]
    if found["mode"] == "random":
        found["rows"] = entries.rows_of(_words(where, found["lane"], "trace"), work[STEP] + 1)
    else:
        from .breadth import LEVEL_END, NEXT_OP
        path = _words(where, found["lane"], "path")
        numbers = [path[k] for k in range(work[LEVEL_END] - 1, -1, -1)] + [work[NEXT_OP]]
        found["rows"] = [found["rows"][k] for k in numbers if k < len(found["rows"])]
    found["rows"] = [tuple(row) for row in found["rows"] if row[0] in ops.BY_CODE]
    return found


def _words(where, lane, name):
    with open(os.path.join(where, f"{lane}.{name}"), "rb") as file:
        return memoryview(file.read()).cast("q")
