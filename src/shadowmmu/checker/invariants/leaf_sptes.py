# SPDX-License-Identifier: GPL-2.0-or-later
"""What a present leaf spte maps is what the host gave for its gfn, with no more rights than it may have.

    frame        the host's frame of the gfn; a large one lies inside its slot, aligned, on consecutive frames
    W            => host-writable and MMU-writable; host-writable => the slot is not read-only
    dirty log    a writable spte in a logged slot is in the bitmap (with PML: one that is also dirty)
    NX rule      a large spte is not executable while the iTLB-multihit workaround is on
    size         not above rules.max_huge_page_level

Dossier 2.3, rows "large pages", "NX huge pages", "host/MMU writable", "dirty logging"; DESIGN section 6, check 5.
"disallow_lpage == 0" holds when a large spte is made, not afterwards: a table shadowed inside it later only
write-protects it (account_shadowed), so that is `write_protection`'s business.
"""

from ... import state
from ...mmu import memslots
from ...state import core
from ...x86.bits import FRAME_MASK, NX, PT_DIRTY, PT_PAGE_SIZE, PT_WRITABLE
from . import raw
from .picture import HOST_WRITABLE, MMU_WRITABLE, look


def check(vm):
    p, out = look(vm), []
    for leaf in p.leaves:
        span = p.span(leaf.level)
        base = leaf.gfn & -span
        slot = p.slot_of(leaf.page.as_id, leaf.gfn)
        if slot is None or not slot.holds(base) or not slot.holds(base + span - 1):
            out.append(f"{leaf}: not inside a memslot")
            continue
        frames = p.frames(slot, base, span)
        if leaf.pfn % span or frames != list(range(leaf.pfn, leaf.pfn + span)):
            out.append(f"{leaf}: maps frame {leaf.pfn:#x}, the host has {frames[0]:#x}")
        writable = leaf.spte & PT_WRITABLE
        if writable and leaf.spte & (HOST_WRITABLE | MMU_WRITABLE) != HOST_WRITABLE | MMU_WRITABLE:
            out.append(f"{leaf}: writable without host-writable and MMU-writable")
        if leaf.spte & HOST_WRITABLE and slot.flags & memslots.READONLY:
            out.append(f"{leaf}: host-writable in a read-only slot")
        first = base - slot.base
        logged = writable and (leaf.spte & PT_DIRTY or not p.rules.pml)
        if logged and slot.flags & memslots.LOG_DIRTY_PAGES \
                and not all(p.column(slot, 1, "dirty")[first:first + span]):
            out.append(f"{leaf}: writable in a slot with a dirty log, but not in the bitmap")
        if leaf.level > 1:
            if p.rules.nx_huge_pages and not leaf.spte & NX:
                out.append(f"{leaf}: a large executable page with the NX workaround on")
            if leaf.level > p.rules.max_huge_page_level:
                out.append(f"{leaf}: larger than the host allows")
        elif leaf.spte & PT_PAGE_SIZE:
            out.append(f"{leaf}: bit 7 set at level 1")
    return out


@core
def leaf_holds(vm, sp, spte, gfn, s):
    """One leaf, for this gfn in slot number s."""
    lv = raw.level(sp)
    span = raw.span(vm, lv)
    base = gfn & -span
    if s < 0:
        return False
    slot = state.slot(vm, s)
    if base < slot.base_gfn or base + span > slot.base_gfn + slot.npages:
        return False
    hva = state.words(vm, vm.hva)
    pfn = (spte & FRAME_MASK) >> 12
    writable = spte & PT_WRITABLE
    if pfn & span - 1 or writable and (not spte & HOST_WRITABLE or not spte & MMU_WRITABLE):
        return False
    if spte & HOST_WRITABLE and slot.flags & memslots.READONLY:
        return False
    for k in range(span):
        entry = hva[slot.hva + base - slot.base_gfn + k]
        if entry == -1 or entry & (1 << 56) - 1 != pfn + k:
            return False
        if writable and slot.flags & memslots.LOG_DIRTY_PAGES \
                and not state.meta(vm, slot.meta + base - slot.base_gfn + k).dirty:
            return False
    if lv == 1:
        return not spte & PT_PAGE_SIZE
    rules = state.rules(vm)
    return lv <= rules.max_huge_page_level and (not rules.nx_huge_pages or spte & NX)


@core
def holds(vm):
    """The same, compiled."""
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not sp.in_use:
            continue
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if not raw.present(spte) or not raw.is_leaf(sp, spte):
                continue
            gfn = raw.gfn(vm, sp, i)
            if not leaf_holds(vm, sp, spte, gfn, raw.slot_of(vm, raw.space(sp), gfn)):
                return False
    return True
