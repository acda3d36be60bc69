# SPDX-License-Identifier: GPL-2.0-or-later
"""The quota of shadow pages: when fewer than 5 are left, the oldest go until 25 are free.

    n_used_mmu_pages <= n_max_mmu_pages = max(memslot pages / 50, 64), or KVM_SET_NR_MMU_PAGES
"""

from .. import state
from ..state import core
from . import counters, shadow_pages, zap

MIN_ALLOC_MMU_PAGES, MIN_FREE_MMU_PAGES, REFILL_PAGES, PERMILLE_DIVISOR = 64, 5, 25, 50


@core
def available(vm):
    """kvm_mmu_available_pages."""
    return max(vm.n_max_mmu_pages - vm.n_used_mmu_pages, 0)


@core
def zap_oldest(vm, nr_to_zap):
    """kvm_mmu_zap_oldest_mmu_pages: roots in use are passed over."""
    total = 0
    i = vm.list_tail[shadow_pages.ACTIVE]
    if i < 0:
        return 0
    while i >= 0:
        sp = state.page(vm, i)
        before = sp.prev
        if sp.root_count:
            i = before
            continue
        zapped = zap.prepare_zap_unstable(vm, sp)
        total += zapped >> 1
        if total >= nr_to_zap:
            break
        i = vm.list_tail[shadow_pages.ACTIVE] if zapped & 1 else before
    zap.commit_zap_page(vm)
    vm.stat[counters.MMU_RECYCLED] += total
    return total


@core
def make_pages_available(vm):
    """make_mmu_pages_available: False when there is no page at all (-ENOSPC)."""
    free = available(vm)
    if free >= MIN_FREE_MMU_PAGES:
        return True
    zap_oldest(vm, REFILL_PAGES - free)
    return available(vm) > 0


@core
def change_mmu_pages(vm, goal):
    """kvm_mmu_change_mmu_pages."""
    if vm.n_used_mmu_pages > goal:
        zap_oldest(vm, vm.n_used_mmu_pages - goal)
        goal = vm.n_used_mmu_pages
    vm.n_max_mmu_pages = goal


@core
def default_mmu_pages(vm):
    """Quota that follows from the memslots of both address spaces, unless userspace set one
    (kvm_mmu_calculate_default_mmu_pages)."""
    pages = 0
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used:
            pages += slot.npages
    return max(pages // PERMILLE_DIVISOR, MIN_ALLOC_MMU_PAGES)
