# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker that brings huge pages back looks into the memslots of the wrong address space.

id:      C26
year:    2023
commits: 817fa998362d
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   host, SMM, large host pages
length:  6

Pages that the iTLB multihit workaround has split are zapped from time to time, so that a huge page may come back, unless
their memslot keeps a dirty log. The slot was looked for in address space 0 also for a page of system management mode: a slot
of another memory, or none, which the kernel holds for impossible (WARN_ON_ONCE).

Fix: kvm_memslots_for_spte_role.
"""


@replaces("mmu.zap.recovery_is_vain")
def recovery_is_vain(vm, sp):
    """gfn_to_memslot(kvm, sp->gfn)."""
    logging = False
    for k in range(vm.n_slots):
        logging = logging or state.slot(vm, k).used and memslots.dirty_track_enabled(vm, k)
    if not logging:
        return False
    i = memslots.gfn_to_memslot(vm, 0, sp.gfn)
    if i < 0:
        warn.warn(vm, 46)
        return False
    return memslots.dirty_track_enabled(vm, i) != 0
