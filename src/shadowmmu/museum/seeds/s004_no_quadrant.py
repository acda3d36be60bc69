# SPDX-License-Identifier: GPL-2.0-or-later
"""The quadrant is left out of the role.

id:      S004.quadrant
year:    2007
commits: cea0f0e7ea54
cve:     -
rules:   linux-6.12
change:  -
breaks:  child-roles
needs:   -
length:  1

A mutant of seed 004: a 32-bit page table has twice the entries of a shadow table, so two shadow tables stand for its halves
(four for a page directory). Without the quadrant the halves share one.

Fix: the quadrant is part of the role.
"""


@replaces("mmu.roles.child")
def child(parent_role, direct, child_access, index):
    """kvm_mmu_child_role: role of the table that entry `index` of a page with `parent_role` points to."""
    role = parent_role - 1
    role &= ~(ACCESS | DIRECT | PASSTHROUGH)
    role |= child_access << ACCESS_SHIFT
    if direct:
        role |= DIRECT
    if role & HAS_4_BYTE_GPTE:
        # a 4-byte table maps twice what an 8-byte one does: bit 21 (4M half) selects the shadow table
        role = role & ~QUADRANT
    return role
