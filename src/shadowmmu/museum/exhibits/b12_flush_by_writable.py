# SPDX-License-Identifier: GPL-2.0-or-later
"""Only a writable spte that loses W is flushed, not one that was writable a moment ago.

id:      B12
year:    2022
commits: f81602958c11
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   host, interleaving
length:  4

Dirty logging makes entries read-only and flushes once at its end, outside of the lock. In between a CPU can still hold the
writable entry. When such a page becomes a guest page table, its entry is found read-only already, "no flush needed" is the
answer, and the guest goes on writing a table that KVM believes to be protected.

Fix: an entry that is still MMU-writable may be cached as writable and is flushed when it loses that.
"""


@replaces("mmu.sptes.update")
def update(vm, sptep, new):
    """mmu_spte_update: change bits of a present spte; True when the TLB must be flushed.

    A writable entry that becomes read-only must be flushed even if it was already read-only in the table but
    MMU-writable: a CPU may hold the older, writable one (f81602958c11).
    """
    old = geometry.read_spte(vm, sptep)
    geometry.write_spte(vm, sptep, new)
    if not is_present(old):
        return False
    if (old ^ new) & FRAME_MASK:
        warn.warn(vm, 20)
    if old & PT_WRITABLE and not new & PT_WRITABLE:
        return True
    if state.rules(vm).flush_only_mmu_writable:
        return False
    if old & PT_ACCESSED and not new & PT_ACCESSED:
        return True
    return old & PT_DIRTY != 0 and not new & PT_DIRTY
