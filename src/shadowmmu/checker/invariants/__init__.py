# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties of a machine's state that hold between any two operations, one file each.

    invariants.check_all(vm)             every violation, as "file: what is wrong"; [] when the state is in order
    invariants.rmap_exact.check(vm)      one property
    invariants.violated(vm)              compiled, for searches: number of the first property that does not hold, or 0

Each file's docstring names the rule, where it comes from (research/kvm-dossier.md: I1..I8, or the row of table 2.3) and
what breaks without it.  Each says it twice: `check` decodes the state through `picture` and tells in words what is wrong,
`holds` reads the raw words (`raw`), compiled and without words; tests hold the two against each other.  Both recompute
everything; the MMU's own functions are not asked.  KVM once had such checks (mmu_audit.c, removed in 2022 because
nobody could run them).
"""

from ...state import core
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
    together,
    tracking_exact,
    unique_keys,
    unsync_bits,
    write_protection,
)
from .picture import look

ALL = (unique_keys, lists, parents_exact, rmap_exact, child_roles, direct_pages, leaf_sptes, mmio_sptes,
       write_protection, tracking_exact, unsync_bits, root_references, root_cache, counters_exact, no_leaks, tdp_trees)
COUNT = len(ALL)


def told(number):
    """What the invariant of this number says: the first line of its file."""
    return (ALL[number - 1].__doc__ or "").partition("\n")[0]


def check_all(vm):
    """Violations of all invariants."""
    picture = look(vm)
    return [f"{module.__name__.rpartition('.')[2]}: {text}" for module in ALL for text in module.check(picture)]


@core
def holds(vm, number):
    """Does the invariant of this number (its place in ALL, from 1) hold?"""
    if number == 1:
        return unique_keys.holds(vm)
    if number == 2:
        return lists.holds(vm)
    if number == 3:
        return parents_exact.holds(vm)
    if number == 4:
        return rmap_exact.holds(vm)
    if number == 5:
        return child_roles.holds(vm)
    if number == 6:
        return direct_pages.holds(vm)
    if number == 7:
        return leaf_sptes.holds(vm)
    if number == 8:
        return mmio_sptes.holds(vm)
    if number == 9:
        return write_protection.holds(vm)
    if number == 10:
        return tracking_exact.holds(vm)
    if number == 11:
        return unsync_bits.holds(vm)
    if number == 12:
        return root_references.holds(vm)
    if number == 13:
        return root_cache.holds(vm)
    if number == 14:
        return counters_exact.holds(vm)
    if number == 15:
        return no_leaks.holds(vm)
    return tdp_trees.holds(vm)


@core
def violated(vm):
    """Number of the first invariant that does not hold; 0 if all do."""
    if together.all_hold(vm):
        return 0
    for number in range(1, COUNT + 1):
        if not holds(vm, number):
            return number
    return 0


def name(number):
    """Name of an invariant by the number that `violated` gives."""
    return ALL[number - 1].__name__.rpartition(".")[2]
