# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties of a machine's state that hold between any two operations, one file each.

    invariants.check_all(vm)             every violation, as "file: what is wrong"; [] when the state is in order
    invariants.rmap_exact.check(vm)      one property

Each file's docstring names the rule, where it comes from (research/kvm-dossier.md: I1..I8, or the row of table 2.3) and
what breaks without it.  They read the raw state through `picture` and recompute everything; the MMU's own functions are
not asked.  KVM once had such checks (mmu_audit.c, removed in 2022 because nobody could run them).
"""

from . import (
    child_roles,
    counters_exact,
    direct_pages,
    leaf_sptes,
    lists,
    mmio_sptes,
    no_leaks,
    parents_exact,
    rmap_exact,
    root_cache,
    root_references,
    tdp_trees,
    tracking_exact,
    unique_keys,
    unsync_bits,
    write_protection,
)
from .picture import look

ALL = (unique_keys, lists, parents_exact, rmap_exact, child_roles, direct_pages, leaf_sptes, mmio_sptes,
       write_protection, tracking_exact, unsync_bits, root_references, root_cache, tdp_trees, counters_exact, no_leaks)


def check_all(vm):
    """Violations of all invariants."""
    picture = look(vm)
    return [f"{module.__name__.rpartition('.')[2]}: {text}" for module in ALL for text in module.check(picture)]
