# SPDX-License-Identifier: GPL-2.0-or-later
"""Unsync pages can be found from every root that reaches them.

    unsync            =>  level 1, shadows a guest table, valid
    unsync_children   ==  number of bits in unsync_child_bitmap
    entry i points to a page that is unsync or has unsync_children   =>  bit i is set      (so, going up, every
                                                                         ancestor of an unsync page has its bit)

Dossier 2.3, row "unsync", I3 and seed 001.  Its wording "bit set => the child is, or leads to, an unsync page" does not
hold for the kernel: zapping a child leaves the parents' bits set (kvm_mmu_unlink_parents), and a table with two
parents loses only the bit on the path that synced it (mmu_pages_clear_parents).  Stale bits are harmless, the next walk
clears them; missing bits are stale translations.  So only the direction above is an invariant.
"""

from ... import state
from ...mmu import roles
from ...state import core, layout
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    for page in p.pages.values():
        r = page.record
        if r.unsync and (page.level != 1 or not page.has_gptes or page.invalid):
            out.append(f"{page} is unsync")
        if r.unsync_children != len(page.bits):
            out.append(f"{page}: unsync_children {r.unsync_children}, bits {len(page.bits)}")
        if page.bits and max(page.bits) >= p.entries:
            out.append(f"{page}: unsync bit {max(page.bits)} outside the table")
    for link in p.links:
        if link.child and (link.child.record.unsync or link.child.record.unsync_children) \
                and link.index not in link.parent.bits:
            out.append(f"{link.child} is or leads to an unsync page; entry {link.index} of {link.parent} lacks the bit")
    return out


@core
def page_holds(vm, sp):
    """One page."""
    if sp.unsync and (raw.level(sp) != 1 or not raw.has_gptes(sp) or sp.role & roles.INVALID):
        return False
    bits = 0
    for w in range(layout.BITMAP_WORDS):
        word = sp.unsync_child_bitmap[w] + 0
        while word:
            word &= word - 1
            bits += 1
    if vm.level_bits < 5 and sp.unsync_child_bitmap[0] >> (1 << vm.level_bits):
        return False
    return bits == sp.unsync_children


@core
def link_holds(sp, i, child):
    """Entry i of a page points to another."""
    return not child.unsync and not child.unsync_children or sp.unsync_child_bitmap[i >> 5] >> (i & 31) & 1 != 0


@core
def holds(vm):
    """The same, compiled."""
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use:
            continue
        if not page_holds(vm, sp):
            return False
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or raw.is_leaf(sp, spte):
                continue
            c = raw.child(vm, spte)
            if c >= 0 and not link_holds(sp, i, state.page(vm, c)):
                return False
    return True
