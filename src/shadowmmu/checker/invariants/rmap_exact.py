# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map is exact: a present leaf spte <=> one entry in the rmap of (slot of its address space, gfn, level).

Dossier 2.3, row "rmaps", and I2 (the gfn used to remove an entry is the one used to insert it).  An entry left behind
is a use after free (CVE-2026-46113); a missing one survives an unmap by the host.
"""

from collections import Counter

from ... import state
from ...state import core
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    found = {}
    for slot in p.slots:
        for level in (1, 2, 3):
            for k, head in enumerate(p.column(slot, level, "rmap")):
                if head:
                    for place, n in Counter(p.places(head)[0]).items():
                        if n > 1:
                            out.append(f"spte at {place:#x}: {n} times in rmap {k} of slot {slot.id} level {level}")
                        found.setdefault(place, []).append((slot.index, level, k))
    for leaf in p.leaves:
        if leaf.page.tdp:
            continue    # the trees of the TDP MMU have no reverse map
        where = found.pop(leaf.sptep, [])
        slot = p.slot_of(leaf.page.as_id, leaf.gfn)
        if slot is None:
            out.append(f"{leaf}: no memslot has this gfn")
            continue
        shift = p.bits * (leaf.level - 1)
        right = slot.index, leaf.level, (leaf.gfn >> shift) - (slot.base >> shift)
        if where != [right]:
            out.append(f"{leaf}: in the rmaps {where} instead of {right} (slot, level, index)")
    for place, where in found.items():
        out.append(f"the rmaps {where} name the spte at {place:#x}, which is not a present leaf")
    return out


@core
def places(vm):
    """Places in all rmaps."""
    n = 0
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used:
            continue
        for lv in range(1, 4):
            for k in range(raw.large_count(vm, slot, lv)):
                n += raw.length(vm, raw.rmap(vm, slot, lv, k))
    return n


@core
def leaf_holds(vm, sp, i, gfn, s):
    """Entry i of a page is a leaf for this gfn in slot number s."""
    lv = raw.level(sp)
    if s < 0 or lv > 3:
        return False
    slot = state.slot(vm, s)
    return raw.times(vm, raw.rmap(vm, slot, lv, raw.large_index(vm, slot, gfn, lv)), raw.place(vm, sp, i)) == 1


@core
def holds(vm):
    """The same, compiled: every leaf is once in the right list, and there are no more places than leaves."""
    leaves = 0
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not raw.is_shadow_page(sp):
            continue
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or not raw.is_leaf(sp, spte):
                continue
            leaves += 1
            gfn = raw.gfn(vm, sp, i)
            if not leaf_holds(vm, sp, i, gfn, raw.slot_of(vm, raw.space(sp), gfn)):
                return False
    return leaves == places(vm)
