# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu check` in a process of its own, interpreted: what the tests of this folder share."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
SRC = HERE.parent.parent / "src"
SCRIPTS = HERE.parent.parent / "docs" / "scripts"

#: A change that every machine notices soon: a child's role forgets the access of the path above it.
BROKEN = '''
@replaces("mmu.roles.child")
def child(parent_role, direct, child_access, index):
    role = parent_role - 1
    role &= ~(ACCESS | DIRECT | PASSTHROUGH)
    role |= ACC_ALL << ACCESS_SHIFT
    if direct:
        role |= DIRECT
    if role & HAS_4_BYTE_GPTE:
        role = role & ~QUADRANT | (index & 1) << QUADRANT_SHIFT
    return role
'''


def environment(tmp_path, **more):
    """Interpreted, and with a state folder of the test's own."""
    return dict(os.environ, SHADOWMMU_JIT="0", PYTHONPATH=str(SRC), XDG_STATE_HOME=str(tmp_path / "state")) | more


def check(tmp_path, *arguments, code=0, timeout=300):
    """Run `shadowmmu check ...` and return the finished process, whose exit code must be `code`."""
    done = subprocess.run([sys.executable, "-m", "shadowmmu", "check", *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env=environment(tmp_path))
    assert done.returncode == code, (done.returncode, done.stdout[-1500:], done.stderr[-1500:])
    return done
