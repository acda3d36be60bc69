# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk of a nested EPT does not end at level 1.

id:      C29
year:    2017
commits: fd19d3b45164, 829ee279aed4
cve:     CVE-2017-12188
rules:   linux-6.12
change:  -
breaks:  warning
needs:   nested guest
length:  2

Whether an entry is the last one was computed from its bit 7 and last_nonleaf_level, which nobody had set for an EPT. Bit 7 of an
entry of level 1 means nothing and is 0: the walk went on to level 0 and wrote beyond the walker's arrays.

Fix: last_nonleaf_level is set for EPT, too, and level 1 always ends a walk.
"""


@replaces("mmu.walk.step")
def step(vm, vcpu, ctx, w, addr, access, real_gfn):
    """One level: the entry in the table that the entry in hand points to.  1 it is the last, 0 fault, 2 go on below."""
    if w.level == 0:
        # walker->ptes[-1]
        warn.warn(vm, 41)
        w.level = 1
        return 1
    size = gpte_size(ctx)
    nx = NX if size == 8 else 0
    level = w.level
    pt_access = w.access
    table_gfn = gpte_to_gfn(w.gpte)
    offset = gpte_index(vm, ctx, addr, level) * size
    w.table_gfn[level - 1] = table_gfn
    w.real_gfn[level - 1] = real_gfn
    w.pte_gpa[level - 1] = (table_gfn << vm.page_shift) + offset
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, real_gfn)
    if not memslots.is_visible(vm, i):
        fail(vm, vcpu, ctx, w, addr, access, 0)
        return 0
    w.pte_writable[level - 1] = 0 if state.slot(vm, i).flags & memslots.READONLY else 1
    frame = host.fault_in(vm, memslots.gfn_to_hva(vm, i, real_gfn)) - vm.ram_pfn
    gpte = host.read_entry(vm, frame, offset, size)
    events.emit(vm, events.PAGING_ELEMENT, gpte, level)
    w.gpte = gpte
    w.access = pt_access & (gpte ^ nx)
    if not is_present(ctx, gpte):
        fail(vm, vcpu, ctx, w, addr, access, 0)
        return 0
    if contexts.is_rsvd_bits_set(ctx, gpte, level):
        fail(vm, vcpu, ctx, w, addr, access, PFERR_RSVD | PFERR_PRESENT)
        return 0
    w.ptes[level - 1] = gpte
    w.pt_access[level - 1] = gpte_access(ctx, pt_access ^ nx)
    if gpte & PT_PAGE_SIZE if ctx.kind == contexts.PAGING_EPT else is_last_gpte(ctx, level, gpte):
        return 1
    w.level = level - 1
    return 2
