# SPDX-License-Identifier: GPL-2.0-or-later
"""No page for the PDPTEs of a nested table of 32 bits.

id:      C17
year:    2021
commits: 04d45551a1ee, c8b49e01a23b
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   nested guest
length:  1

With nested paging on the host a guest never needs pae_root, so it was not allocated; but L1's own nested tables may have two or
three
levels, and their shadow hangs below it. The first VMRUN of a PAE hypervisor dereferenced NULL.

Fix: pae_root, and the table above it, are allocated when they are first needed.
"""


@replaces("mmu.roots.alloc_shadow_roots")
def alloc_shadow_roots(vm, vcpu, ctx):
    """mmu_alloc_shadow_roots."""
    pgd = nested.guest_pgd(vcpu, ctx)
    gfn = geometry.entry_frame(pgd)
    level = roles.level(ctx.cpu_role)
    if not is_visible_gfn(vm, vcpu, gfn):
        if state.rules(vm).dummy_root:
            ctx.root_hpa = dummy_root(vm)
            return OK
        vcpu.requests |= flush.REQ_TRIPLE_FAULT
        return ENO_ROOT
    if level < 4 and state.rules(vm).tdp_enabled:
        # vcpu->arch.mmu->pae_root is NULL
        warn.warn(vm, 42)
        ctx.root_hpa = dummy_root(vm)
        return OK
    absent = 0
    if level == 3:
        for i in range(4):
            pdptr = nested.pdptr(vm, vcpu, ctx, i)
            if not pdptr & PT_PRESENT:
                absent |= 1 << i
            elif not is_visible_gfn(vm, vcpu, geometry.entry_frame(pdptr)):
                if not state.rules(vm).dummy_root:
                    vcpu.requests |= flush.REQ_TRIPLE_FAULT
                    return ENO_ROOT
                absent |= 1 << i
    if not reclaim.make_pages_available(vm):
        return ENOSPC
    if level >= 4:
        root = alloc_root(vm, vcpu, ctx, gfn, 0, roles.level(ctx.root_role))
        if root == INVALID_PAGE:
            return ENO_ROOT
        ctx.root_hpa = root
        ctx.root_pgd = pgd
        return OK
    root_level = roles.level(ctx.root_role)
    bits = PT_PRESENT if root_level < 4 else PT_PRESENT | PT_WRITABLE | PT_USER | PT_ACCESSED
    ctx.special = 1
    for i in range(4):
        if absent >> i & 1:
            write_pae_root(vm, ctx, i, 0)
            continue
        if level == 3:
            gfn = geometry.entry_frame(nested.pdptr(vm, vcpu, ctx, i))
        root = alloc_root(vm, vcpu, ctx, gfn, i if level == 2 else 0, 2)
        if root == INVALID_PAGE:
            return ENO_ROOT
        write_pae_root(vm, ctx, i, root | bits)
    ctx.root_hpa = special_tables(vm, ctx, root_level, bits) << FRAME_SHIFT
    ctx.root_pgd = pgd
    return OK
