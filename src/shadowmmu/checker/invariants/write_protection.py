# SPDX-License-Identifier: GPL-2.0-or-later
"""No writable spte for a gfn whose shadow must not lag: any upper-level page, any synced level-1 page.

Dossier 2.3, rows "write tracking" and "leaf pages protection", I7.  A guest write through such an spte would change a
page table unseen.

I4 asks for this across address spaces; the kernel does not give that.  A new or synced page write-protects the gfn in
its own address space only (account_shadowed, kvm_vcpu_write_protect_gfn); an spte that the other address space made
writable *before* stays writable.  Only sptes made *later* look at both (0f38453cdb2e), which no state can show.  So the
statement is per address space.
"""

from ... import state
from ...state import core, layout
from ...x86.bits import PT_WRITABLE
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    protected = {}
    for page in p.valid:
        if page.has_gptes and not page.record.unsync:
            protected.setdefault((page.as_id, page.gfn), page)
    by_start = {}
    for leaf in p.leaves:
        if leaf.spte & PT_WRITABLE:
            by_start.setdefault((leaf.page.as_id, leaf.level, leaf.gfn & -p.span(leaf.level)), leaf)
    for (as_id, gfn), page in protected.items():
        for level in (1, 2, 3):
            leaf = by_start.get((as_id, level, gfn & -p.span(level)))
            if leaf:
                out.append(f"{leaf} is writable, but {page} shadows the guest table at gfn {gfn:#x}")
    return out


@core
def protected(vm, as_id, first, count):
    """Does a valid page that is not unsync shadow a guest table at one of these gfns?"""
    k = vm.list_head[layout.ACTIVE_LIST]
    for _ in range(vm.n_pages):
        if k < 0:
            return False
        sp = state.page(vm, k)
        if first <= sp.gfn < first + count and not sp.unsync and raw.has_gptes(sp) and raw.valid(vm, sp) \
                and raw.space(sp) == as_id:
            return True
        k = sp.next
    return False


@core
def leaf_holds(vm, sp, spte, gfn):
    """One leaf."""
    span = raw.span(vm, raw.level(sp))
    return not spte & PT_WRITABLE or not protected(vm, raw.space(sp), gfn & -span, span)


@core
def holds(vm):
    """The same, compiled; every valid page is on the active list (`lists`)."""
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use:
            continue
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if raw.present(spte) and raw.is_leaf(sp, spte) and not leaf_holds(vm, sp, spte, raw.gfn(vm, sp, i)):
                return False
    return True
