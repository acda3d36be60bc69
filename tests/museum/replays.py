# SPDX-License-Identifier: GPL-2.0-or-later
"""Every stored script, interpreted, in one process: under its exhibit, under the fix, shrunk, and under the combined patch.

    python tests/museum/replays.py scripts       id -> [failure's name, length when shrunk, failure under the fix]
    python tests/museum/replays.py combined ID...    id -> [failure alone, failure under the combined patch, with none in force]
    python tests/museum/replays.py states        name -> [states, what is wrong -> in how many]
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ["SHADOWMMU_JIT"] = "0"

from shadowmmu.checker import verify  # noqa: E402
from shadowmmu.checker.shrink import shrink  # noqa: E402
from shadowmmu.museum import claims, combined, exhibit, hunt, in_place, small_states  # noqa: E402


def scripts():
    out = {}
    for x in exhibit.every():
        if x.script:
            with in_place.applied(x.path):
                failure, arena, rows = hunt.replay(x.broken_rules, x.script)
                length = len(shrink(arena, rows, failure)) if failure else 0
            kind = verify.FAILURES[failure][0] if failure else None
            out[x.id] = [kind, length, len(rows), hunt.replay(x.mended_rules, x.script)[0]]
    return out


def together(ids):
    out = {}
    text, numbers = combined.combine(exhibit.every())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "all.py"
        path.write_text(text)
        for x in map(exhibit.named, ids):
            with in_place.applied(x.path):
                alone = hunt.replay(x.broken_rules, x.script)[0]
            with in_place.applied(path):
                out[x.id] = [alone, hunt.replay(x.broken_rules | {"exhibit": numbers[x.id]}, x.script)[0],
                             hunt.replay(x.mended_rules, x.script)[0]]
    return out


def states():
    out = {}
    for title, which, judge in (("roots", claims.ROOT_CACHE, small_states.root_cache),
                                ("unsync", claims.UNSYNC, lambda: small_states.unsync_graphs((3,), 20))):
        for name, verdict in claims.verdicts(which, judge):
            out[f"{title} {name}"] = [verdict.states, verdict.wrong]
    return out


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps(together(arguments) if what == "combined" else scripts() if what == "scripts" else states()))
