# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of places of sptes: the reverse map of a gfn, and the parents of a shadow page (struct kvm_rmap_head).

    head = 0                     empty
    head = (sptep + 1) << 1      one spte
    head = (desc + 1) << 1 | 1   descriptors:   [head desc: 1..14 used] -> [full] -> [full]

Only the head descriptor may be part full (13 fewer scans than chains, 2022: "KVM: x86/mmu: Track tail count in
pte_list_desc to optimize guest fork()"), so removal refills the hole from the head.
"""

from .. import state
from ..state import core, layout
from . import warn

EXT = layout.PTE_LIST_EXT


@core
def alloc_desc(vm):
    """A descriptor from the pool (kvm_mmu_memory_cache_alloc), or -1."""
    d = vm.desc_free
    if d >= 0:
        vm.desc_free = state.desc(vm, d).more
        return d
    if vm.desc_next < vm.n_descs:
        vm.desc_next += 1
        return vm.desc_next - 1
    warn.warn(vm, 12)
    return -1


@core
def free_desc(vm, d):
    state.desc(vm, d).more = vm.desc_free
    vm.desc_free = d


@core
def add(vm, head, sptep):
    """pte_list_add: the new head."""
    if head == 0:
        return (sptep + 1) << 1
    if not head & 1:
        d = alloc_desc(vm)
        if d < 0:
            return head
        desc = state.desc(vm, d)
        desc.sptes[0] = (head >> 1) - 1
        desc.sptes[1] = sptep
        desc.spte_count = 2
        desc.tail_count = 0
        desc.more = -1
        return (d + 1) << 1 | 1
    d = (head >> 1) - 1
    desc = state.desc(vm, d)
    if desc.spte_count == EXT:
        n = alloc_desc(vm)
        if n < 0:
            return head
        new = state.desc(vm, n)
        new.more = d
        new.tail_count = desc.tail_count + desc.spte_count
        new.spte_count = 1
        new.sptes[0] = sptep
        return (n + 1) << 1 | 1
    desc.sptes[desc.spte_count] = sptep
    desc.spte_count += 1
    return head


@core
def remove(vm, head, sptep):
    """pte_list_remove: the new head; a missing spte is data corruption."""
    if head == 0:
        warn.warn(vm, 1)
        return head
    if not head & 1:
        if head != (sptep + 1) << 1:
            warn.warn(vm, 1)
            return head
        return 0
    h = (head >> 1) - 1
    d = h
    while d >= 0:
        desc = state.desc(vm, d)
        for i in range(desc.spte_count):
            if desc.sptes[i] == sptep:
                first = state.desc(vm, h)
                last = first.spte_count - 1
                desc.sptes[i] = first.sptes[last]
                first.spte_count = last
                if last:
                    return head
                more = first.more
                free_desc(vm, h)
                if more < 0:
                    return 0
                return (more + 1) << 1 | 1
        d = desc.more
    warn.warn(vm, 1)
    return head


@core
def count(vm, head):
    """pte_list_count."""
    if head == 0:
        return 0
    if not head & 1:
        return 1
    desc = state.desc(vm, (head >> 1) - 1)
    return desc.tail_count + desc.spte_count


@core
def first(vm, head):
    """The first sptep (rmap_get_first), or -1."""
    if head == 0:
        return -1
    if not head & 1:
        return (head >> 1) - 1
    return state.desc(vm, (head >> 1) - 1).sptes[0]


@core
def get(vm, head, position):
    """The sptep at `position` in iteration order (head descriptor first), or -1 past the end."""
    if head == 0:
        return -1
    if not head & 1:
        return (head >> 1) - 1 if position == 0 else -1
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        if position < desc.spte_count:
            return desc.sptes[position]
        position -= desc.spte_count
        d = desc.more
    return -1


@core
def next_place(vm, place):
    """Step an iteration.  A place is desc * 16 + slot; start with `first_place`, end at -1."""
    d = place >> 4
    i = (place & 15) + 1
    desc = state.desc(vm, d)
    if i < desc.spte_count:
        return d << 4 | i
    if desc.more < 0:
        return -1
    return desc.more << 4


@core
def free_all(vm, head):
    """Return the descriptors of a list that is being dropped."""
    if head & 1:
        d = (head >> 1) - 1
        while d >= 0:
            more = state.desc(vm, d).more
            free_desc(vm, d)
            d = more
