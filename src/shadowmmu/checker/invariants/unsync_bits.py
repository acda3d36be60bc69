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
