# SPDX-License-Identifier: GPL-2.0-or-later
"""`run --lockstep`: equal to the end with our MMU; a broken MMU is stopped at a checkpoint."""

import json
import os
import subprocess
import sys

from shadowmmu.guests import lockstep, session
from shadowmmu.guests.demo import IMAGE

WORDS = "procs=3 rounds=1"
NO_SYNC = '@replaces("mmu.roots.sync_roots")\ndef sync_roots(vm, vcpu):\n    return\n'


def test_equal_to_the_end():
    out = lockstep.Lockstep(session.load(IMAGE, WORDS, memory_size=32 << 20), IMAGE, every=250_000, timeout=100).run()
    assert out.reason == "equal", lockstep.table(out)
    assert out.instructions > 1_000_000 and out.checkpoints > 1000
    assert out.symbol and not out.symbol.startswith("0x")
    assert out.ends == ("the guest ended with code 0",) * 2


def test_accessed_bits_of_tables_that_only_one_side_walked():
    """A table's A bit is set by a walk that the other side did not need, in a page that it never shadowed."""
    image = session.load(IMAGE, "timer procs=16 rounds=1", memory_size=32 << 20)
    out = lockstep.Lockstep(image, IMAGE, every=25_000, timeout=100, max_instructions=3_250_000).run()
    assert out.reason == "limit" and out.instructions >= 3_225_000, lockstep.table(out)
    assert out.accessed_dirty > 0


def test_no_sync_on_mov_cr3_is_caught(tmp_path):
    patch = tmp_path / "patch.py"
    patch.write_text(NO_SYNC)
    command = (sys.executable, "-m", "shadowmmu", "run", "--lockstep", "--json", "--quiet", "--memory", "32", "--append", WORDS,
               "--timeout", "100")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200,
                          env={**os.environ, "SHADOWMMU_PATCH": str(patch), "SHADOWMMU_JIT": "0"})
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["reason"] == "different" and found["instructions"] <= 200_000
    assert found["registers"] and all(left != right for left, right in found["registers"].values())
