# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is lost and nothing is owned twice: shadow pages, pte_list descriptors, host frames.

    free + in use == capacity; a descriptor chain is full except for its head, and tail_count is what lies behind it

Dossier 2.2 (PTE_LIST_EXT 14) and DESIGN section 6, check 5 ("no leak, counts balance").
"""

from collections import Counter

from ...state import interpreted, layout
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
