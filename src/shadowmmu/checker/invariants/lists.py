# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page is on the lists where it belongs.

    active list    every page that is not invalid, once; obsolete ones behind all current ones (reclaim and
                   zap-obsolete work from the tail and stop at the first current page)
    no list        invalid pages that are still roots
    invalid list   empty between operations: who prepares a zap commits it
    hash chain     every page in use, once, in the bucket of its gfn

Dossier 2.3, rows "hash table" and "active list", I6 (an invalid page is never found and never reused).
"""

from collections import Counter

from ... import state
from ...mmu import roles
from ...state import core, interpreted, layout
from . import raw
from .picture import look

#: hash_64 of include/linux/hash.h: GOLDEN_RATIO_64, upper 12 bits (KVM_MMU_HASH_SHIFT).
GOLDEN_RATIO_64 = 0x61C8864680B583EB


def _walk(p, which, out):
    ids, i, before = [], p.view.list_head[which], -1
    while i >= 0 and len(ids) <= p.view.n_pages:
        record = interpreted.page(p.view, i)
        if record.prev != before or record.list != which:
            out.append(f"page {i}: prev {record.prev}, list {record.list}; found behind {before} on list {which}")
        ids.append(i)
        before, i = i, record.next
    if p.view.list_tail[which] != before:
        out.append(f"list {which} ends at page {before}, its tail says {p.view.list_tail[which]}")
    return ids


def check(vm):
    p, out = look(vm), []
    active = _walk(p, layout.ACTIVE_LIST, out)
    for which in (layout.INVALID_LIST, layout.OBSOLETE_LIST):
        if _walk(p, which, out):
            out.append(f"list {which} is not empty between operations")
    for i, n in Counter(active).items():
        if n > 1 or i not in p.pages:
            out.append(f"page {i} is on the active list {n} times" + ("" if i in p.pages else ", but not in use"))
        elif p.pages[i].invalid:
            out.append(f"{p.pages[i]} is invalid and on the active list")
    for page in p.pages.values():
        if not page.invalid and page.id not in active:
            out.append(f"{page} is not on the active list")
        if page.invalid and not page.record.root_count:
            out.append(f"{page} is invalid, no root, and not freed")
    current = [interpreted.page(p.view, i).mmu_valid_gen == p.view.mmu_valid_gen for i in active]
    if current != sorted(current, reverse=True):
        out.append("a page of the current generation stands behind an obsolete one on the active list")
    return out + _hash(p)


def _hash(p):
    out, seen = [], Counter()
    heads = interpreted.words(p.view, p.view.hash)
    for bucket in range(p.view.n_hash):
        i, before = heads[bucket], -1
        while i >= 0 and seen[i] < 2:
            record = interpreted.page(p.view, i)
            seen[i] += 1
            if record.hash_prev != before:
                out.append(f"page {i}: hash_prev {record.hash_prev}, found behind {before}")
            right = (record.gfn * GOLDEN_RATIO_64 & (1 << 64) - 1) >> 52 & p.view.n_hash - 1
            if bucket != right:
                out.append(f"page {i} is in bucket {bucket}, its gfn belongs to {right}")
            before, i = i, record.hash_next
    for i in set(seen) | set(p.pages):
        if seen[i] != (i in p.pages):
            out.append(f"page {i} is in hash chains {seen[i]} times, in use: {i in p.pages}")
    return out


@core
def active_holds(vm):
    """The active list alone."""
    count = 0
    before = -1
    old = False
    i = vm.list_head[layout.ACTIVE_LIST]
    while i >= 0:
        sp = state.page(vm, i)
        current = sp.mmu_valid_gen == vm.mmu_valid_gen
        if sp.prev != before or sp.list != layout.ACTIVE_LIST or not sp.in_use or sp.role & roles.INVALID or current and old:
            return False
        old = not current
        before = i
        i = sp.next
        count += 1
        if count > vm.n_pages:
            return False
    for k in range(vm.n_pages):
        sp = state.page(vm, k)
        if raw.is_shadow_page(sp) and not sp.role & roles.INVALID:
            count -= 1
        elif raw.is_shadow_page(sp) and not sp.root_count:
            return False
    return count == 0 and vm.list_tail[layout.ACTIVE_LIST] == before


@core
def hash_holds(vm):
    """The hash chains alone."""
    heads = state.words(vm, vm.hash)
    count = 0
    for bucket in range(vm.n_hash):
        before = -1
        i = heads[bucket]
        while i >= 0:
            sp = state.page(vm, i)
            right = ((sp.gfn * GOLDEN_RATIO_64) >> 52 & 0xFFF) & vm.n_hash - 1
            if sp.hash_prev != before or not sp.in_use or right != bucket:
                return False
            before = i
            i = sp.hash_next
            count += 1
            if count > vm.n_pages:
                return False
    for k in range(vm.n_pages):
        if raw.is_shadow_page(state.page(vm, k)):
            count -= 1
    return count == 0


@core
def holds(vm):
    """The same, compiled."""
    if vm.list_head[layout.INVALID_LIST] >= 0 or vm.list_head[layout.OBSOLETE_LIST] >= 0:
        return False
    return active_holds(vm) and hash_holds(vm)
