# SPDX-License-Identifier: GPL-2.0-or-later
"""A linked table's role follows from its parent's.

    same: efer_nx cr0_wp smep smap ad_disabled guest_mode smm     level: one less     passthrough: 0
    free: access, direct, quadrant                                 4-byte gptes: quadrant == index & 1
    a linked table is valid; a direct parent has direct children

Dossier 2.3, row "cpu_role / root_role", I1 (what is reused matches in role), I5, I6 (invalid pages are nobody's child).
Access need not shrink from parent to child: with CR0.WP=0 a direct table below a read-only entry may be writable
(dossier 3.2, step 5).
"""

from ... import state
from ...mmu import roles
from ...state import core
from . import raw
from .picture import look

FREE = roles.LEVEL | roles.ACCESS | roles.DIRECT | roles.QUADRANT | roles.PASSTHROUGH


def check(vm):
    p, out = look(vm), []
    for link in p.links:
        parent, child = link.parent, link.child
        if child is None:
            continue
        where = f"entry {link.index} of {parent} leads to {child}"
        if child.invalid or child.record.mmu_valid_gen != parent.record.mmu_valid_gen:
            out.append(f"{where}, which is not valid")
        elif child.level != parent.level - 1 or (child.role ^ parent.role) & ~FREE or child.role & roles.PASSTHROUGH:
            out.append(f"{where}: roles do not fit")
        elif child.role & roles.HAS_4_BYTE_GPTE \
                and (child.role & roles.QUADRANT) >> roles.QUADRANT_SHIFT != link.index & 1:
            out.append(f"{where}: wrong quadrant")
    for page in p.pages.values():
        if page.invalid and any(link.parent is page for link in p.links):
            out.append(f"{page} is invalid and still has children")
    return out


@core
def link_holds(parent, i, child):
    """Entry i of a page points to another."""
    if (child.role | parent.role) & roles.INVALID or child.mmu_valid_gen != parent.mmu_valid_gen:
        return False
    if raw.level(child) != raw.level(parent) - 1 or (child.role ^ parent.role) & ~FREE or child.role & roles.PASSTHROUGH:
        return False
    return not child.role & roles.HAS_4_BYTE_GPTE or (child.role & roles.QUADRANT) >> roles.QUADRANT_SHIFT == i & 1


@core
def holds(vm):
    """The same, compiled."""
    for n in range(vm.n_pages):
        parent = state.page(vm, n)
        if not parent.in_use:
            continue
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, parent, i)
            if not raw.present(spte) or raw.is_leaf(parent, spte):
                continue
            c = raw.child(vm, spte)
            if c >= 0 and not link_holds(parent, i, state.page(vm, c)):
                return False
    return True
