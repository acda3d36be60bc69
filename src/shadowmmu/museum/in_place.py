# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting a patch in and taking it out again within one process: interpreted only (compiled, a process has one variant).

    with in_place.applied("exhibits/b1_same_pcid.py"):
        search.replay(arena, rows)

It works because the core calls `module.function`, and names of its own module through that module's globals.
"""

import contextlib
import importlib

from ..state import JIT
from ..state.patch import PACKAGE, Patch


@contextlib.contextmanager
def applied(*paths):
    """The functions of the patch files stand in place of the core's until the end of the block."""
    if JIT:
        raise RuntimeError("patches can be exchanged only where the core is interpreted (SHADOWMMU_JIT=0)")
    saved = []
    try:
        for path in paths:
            patch = Patch(str(path))
            for target in patch.functions:
                module_name, _, name = target.rpartition(".")
                module = importlib.import_module(f"{PACKAGE}.{module_name}")
                original = getattr(module, name, None)
                if original is not None:
                    saved.append((module, name, original))
                    setattr(module, name, patch.apply(original))
            patch.check()
        yield
    finally:
        for module, name, original in reversed(saved):
            setattr(module, name, original)
