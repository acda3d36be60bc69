# SPDX-License-Identifier: GPL-2.0-or-later
"""A memslot goes and its shadow stays.

id:      E3
year:    2008
commits: 34d4cb8fca1f, 376c53c2b30d
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   host
length:  2

Deleting a memslot gives its pages back to userspace. The shadow entries that map them were left, and so was the metadata they
are registered in.

Fix: the deletion first zaps every shadow page.
"""


@replaces("mmu.dirty.invalidate_memslot")
def invalidate_memslot(vm, i):
    """kvm_invalidate_memslot: no new mappings; all old ones die."""
    slot = state.slot(vm, i)
    slot.flags |= memslots.MEMSLOT_INVALID
    swap_active_memslots(vm, slot.as_id)
