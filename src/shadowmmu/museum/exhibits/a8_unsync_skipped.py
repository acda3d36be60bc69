# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick answer "a 2M page may be mapped here, so nothing is shadowed" asks one address space.

id:      A8
year:    2026
commits: 2e8a2c1b0306, b3ae3ceb5569
cve:     -
rules:   linux-7.2
change:  -
breaks:  follows
needs:   SMM
length:  4

Linux 7.1 got a shortcut: where a large mapping is allowed nothing in that range is a shadowed page table, so the walk over
the hash chain can be left out. The permission for large mappings is kept per memslot, and a page table that is used in system
management mode forbids them in the memslots of that address space only. A write from outside then gets a writable mapping
while the shadow page stays marked in sync, and later flushes do not reread it.

Fix: the shortcut is taken only if large mappings are allowed in every address space.
"""


@replaces("mmu.tracking.is_nothing_shadowed")
def is_nothing_shadowed(vm, i, gfn):
    """Is a large page allowed at the gfn in every address space?  Then no table in that range is shadowed (b3ae3ceb5569)."""
    return not memslots.disallow_lpage(vm, i, gfn, 2)
