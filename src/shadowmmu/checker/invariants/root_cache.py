# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of previous roots holds no special root, and no root twice.

Dossier 1.0 (g), 1.3 (seed 003) and 2.3, row "special roots".  "No duplicate hpa", as worded there, is too strong: two
values of CR3 that differ only in the PCID (or PWT, PCD) have the same root page and are two entries with reason, since
a flush of one PCID frees one of them.  What must be unique is (pgd, hpa).
"""

from ... import state
from ...state import core, layout
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    for v, m, ctx in p.contexts():
        seen = set()
        for name, hpa, pgd in [("root", ctx.root_hpa, ctx.root_pgd),
                               *((f"prev_roots[{i}]", ctx.prev_hpa[i], ctx.prev_pgd[i]) for i in range(3))]:
            if hpa == -1:
                continue
            if name != "root" and p.page_of_frame(hpa >> 12) is None:
                out.append(f"vCPU {v} MMU {m}: {name} is the special or dummy root {hpa:#x}")
            if (pgd, hpa) in seen:
                out.append(f"vCPU {v} MMU {m}: {name} (pgd {pgd:#x}) stands in the cache twice")
            seen.add((pgd, hpa))
    return out


@core
def holds(vm):
    """The same, compiled."""
    for c in range(vm.n_vcpus * layout.CONTEXTS_PER_VCPU):
        ctx = state.context(vm, c)
        for i in range(layout.NUM_PREV_ROOTS):
            if ctx.prev_hpa[i] == -1:
                continue
            if raw.page_of(vm, ctx.prev_hpa[i] >> 12) < 0:
                return False
            if ctx.prev_hpa[i] == ctx.root_hpa and ctx.prev_pgd[i] == ctx.root_pgd:
                return False
            for k in range(i):
                if ctx.prev_hpa[i] == ctx.prev_hpa[k] and ctx.prev_pgd[i] == ctx.prev_pgd[k]:
                    return False
    return True
