# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is lost and nothing is owned twice: shadow pages, pte_list descriptors, host frames.

    free + in use == capacity; a descriptor chain is full except for its head, and tail_count is what lies behind it

Dossier 2.2 (PTE_LIST_EXT 14) and DESIGN section 6, check 5 ("no leak, counts balance").
"""

from collections import Counter

from ... import state
from ...state import core, interpreted, layout
from . import raw
from .picture import look


def check(vm):
    p = look(vm)
    return _pages(p) + _descs(p) + _frames(p)


def _pages(p):
    free = p.view.free_pages >> 3
    ids = p.view.view[free:free + p.view.n_free_pages].tolist()
    out = []
    if len(set(ids)) != len(ids) or any(p.page_in_use(i) for i in ids):
        out.append("the free list of shadow pages has a page twice, or one that is in use")
    used = len(p.everything())
    if len(ids) + used != p.view.n_pages:
        out.append(f"{len(ids)} shadow pages free, {used} in use, capacity {p.view.n_pages}")
    return out


def _descs(p):
    out, owners = [], Counter()
    for name, head in p.heads():
        descs = p.places(head)[1]
        owners.update(descs)
        behind = 0
        for n, d in enumerate(reversed(descs)):
            desc = interpreted.desc(p.view, d)
            is_head = n == len(descs) - 1
            if desc.tail_count != behind or not 0 < desc.spte_count <= layout.PTE_LIST_EXT \
                    or (not is_head and desc.spte_count != layout.PTE_LIST_EXT):
                out.append(f"{name}: descriptor {d} has {desc.spte_count} entries, tail_count {desc.tail_count}, "
                           f"{behind} behind it")
            behind += desc.spte_count
    d, free = p.view.desc_free, 0
    while d >= 0 and free <= p.view.n_descs:
        free += 1
        owners[d] += 1
        d = interpreted.desc(p.view, d).more
    twice = [d for d, n in owners.items() if n > 1]
    if twice:
        out.append(f"descriptors {twice} belong to two lists")
    if len(owners) != p.view.desc_next:
        out.append(f"{p.view.desc_next} descriptors were handed out, {len(owners)} are in lists or free")
    return out


def _frames(p):
    view = p.view.view
    hva, free = p.view.hva >> 3, p.view.free_ram >> 3
    frames = [e & (1 << 56) - 1 for e in view[hva:hva + p.view.n_hva].tolist() if e != -1]
    frames += view[free:free + p.view.n_free_ram].tolist()
    if sorted(frames) != list(range(p.view.ram_pfn, p.view.ram_pfn + p.view.n_ram)):
        return ["host frames are lost, or belong to two owners"]
    return []


@core
def list_holds(vm, head):
    """Descriptors of one list, or -1: the head may be part full, the others are full, tail_count is what lies behind."""
    if not head & 1:
        return 0
    n = 0
    left = 0
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        if n and (desc.spte_count + desc.tail_count != left or desc.spte_count != layout.PTE_LIST_EXT) \
                or not 0 < desc.spte_count <= layout.PTE_LIST_EXT or n > vm.n_descs:
            return -1
        left = desc.tail_count + 0
        n += 1
        d = desc.more
    return n if left == 0 else -1


@core
def descs_hold(vm):
    """Every descriptor handed out is in one list or free."""
    total = 0
    d = vm.desc_free
    while d >= 0 and total <= vm.n_descs:
        total += 1
        d = state.desc(vm, d).more
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if sp.in_use:
            n = list_holds(vm, sp.parent_ptes)
            if n < 0:
                return False
            total += n
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used:
            continue
        for lv in range(1, 4):
            for k in range(raw.large_count(vm, slot, lv)):
                n = list_holds(vm, raw.rmap(vm, slot, lv, k))
                if n < 0:
                    return False
                total += n
    return total == vm.desc_next


@core
def pages_hold(vm):
    """Free and used pages are all pages: equal number, sum and sum of squares."""
    free = state.words(vm, vm.free_pages)
    count = vm.n_pages - vm.n_free_pages
    total = 0
    squares = 0
    for i in range(vm.n_pages):
        total += i
        squares += i * i
        if state.page(vm, i).in_use:
            count -= 1
            total -= i
            squares -= i * i
    for k in range(vm.n_free_pages):
        total -= free[k]
        squares -= free[k] * free[k]
    return count == 0 and total == 0 and squares == 0


@core
def frames_hold(vm):
    """The host's frames: the same way."""
    count = vm.n_ram - vm.n_free_ram
    total = 0
    squares = 0
    for i in range(vm.n_ram):
        total += i
        squares += i * i
    hva = state.words(vm, vm.hva)
    for i in range(vm.n_hva):
        if hva[i] != -1:
            frame = (hva[i] & (1 << 56) - 1) - vm.ram_pfn
            count -= 1
            total -= frame
            squares -= frame * frame
    free = state.words(vm, vm.free_ram)
    for k in range(vm.n_free_ram):
        frame = free[k] - vm.ram_pfn
        total -= frame
        squares -= frame * frame
    return count == 0 and total == 0 and squares == 0


@core
def holds(vm):
    """The same, compiled."""
    return pages_hold(vm) and descs_hold(vm) and frames_hold(vm)
