# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map is exact: a present leaf spte <=> one entry in the rmap of (slot of its address space, gfn, level).

Dossier 2.3, row "rmaps", and I2 (the gfn used to remove an entry is the one used to insert it).  An entry left behind
is a use after free (CVE-2026-46113); a missing one survives an unmap by the host.
"""

from collections import Counter

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
