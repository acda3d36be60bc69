# SPDX-License-Identifier: GPL-2.0-or-later
"""Real page tables and pages without one share their shadow.

id:      S004.direct
year:    2007
commits: cea0f0e7ea54
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   -
length:  1

A mutant of seed 004: without the "metaphysical" bit (today: direct) the shadow of a large page at a gfn is taken for the
shadow of a page table at that gfn.

Fix: the bit is part of the role.
"""


@replaces("mmu.roles.child")
def child(parent_role, direct, child_access, index):
    """kvm_mmu_child_role: role of the table that entry `index` of a page with `parent_role` points to."""
    role = parent_role - 1
    role &= ~(ACCESS | DIRECT | PASSTHROUGH)
    role |= child_access << ACCESS_SHIFT
    if role & HAS_4_BYTE_GPTE:
        # a 4-byte table maps twice what an 8-byte one does: bit 21 (4M half) selects the shadow table
        role = role & ~QUADRANT | (index & 1) << QUADRANT_SHIFT
    return role
