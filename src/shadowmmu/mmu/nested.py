# SPDX-License-Identifier: GPL-2.0-or-later
"""The three MMUs of a vCPU, and what changes when L2 runs.

                     L1 runs              L2 runs, L1 without NPT/EPT    L2 runs, L1 with NPT/EPT
    vcpu.mmu         root_mmu             root_mmu (role guest_mode)     guest_mmu: shadows L1's NPT or EPT
    vcpu.walk_mmu    root_mmu             root_mmu                       nested_mmu: only walks L2's own tables

        L2 linear --nested_mmu--> L2 physical --guest_mmu--> L1 physical --memslots--> host
                    L2's CR3                    vcpu.nested_pgd (nCR3, EPTP)

A walk of nested_mmu translates every table address and its result by a walk of guest_mmu (translate_gpa); a fault of
that inner walk is one of L1's nested tables and becomes a #VMEXIT to L1.
"""

from .. import state
from ..state import core
from ..x86.bits import CR0_WP, CR4_PKE, PFERR_USER, PFERR_WRITE
from . import contexts, events, geometry, host, roles, roots, walk

#: `CONTEXT.id`.
ROOT_MMU, GUEST_MMU, NESTED_MMU = 0, 1, 2


@core
def is_nested(vcpu):
    """mmu_is_nested: L2 runs on L1's own nested tables."""
    return vcpu.walk_mmu == 3 * vcpu.id + NESTED_MMU


@core
def guest_pgd(vcpu, ctx):
    """mmu->get_guest_pgd: the table where a guest walk of this MMU starts."""
    return vcpu.nested_pgd if ctx.id == GUEST_MMU else vcpu.cr3


@core
def pdptr(vm, vcpu, ctx, i):
    """mmu->get_pdptr: registers, but for a nested PAE table (nested_svm_get_tdp_pdptr), which is read from memory."""
    if ctx.id != GUEST_MMU:
        return ctx.pdptrs[i]
    frame = host.gpa_frame(vm, vcpu, geometry.entry_frame(vcpu.nested_pgd) << vm.page_shift, False)
    if frame < 0:
        return 0
    return host.read_entry(vm, frame, geometry.page_offset(vm, vcpu.nested_pgd) + 8 * i, 8)


@core
def load_pdptrs(vm, vcpu, ctx):
    """load_pdptrs of L2 under nested paging: four words at L2's CR3, as they are in memory now.  Nothing is kept of an
    earlier reading when there is no memory, or a reserved bit is set."""
    real = translate_gpa(vm, vcpu, geometry.entry_frame(vcpu.cr3) << vm.page_shift, PFERR_USER | PFERR_WRITE)
    if real == walk.INVALID_GPA:
        return
    frame = host.gpa_frame(vm, vcpu, real, False)
    if frame < 0:
        return
    offset = vcpu.cr3 & ((1 << vm.page_shift) - 1) & ~31
    for i in range(4):
        ctx.pdptrs[i] = host.read_entry(vm, frame, offset + 8 * i, 8)


@core
def init_nested_mmu(vm, vcpu, cpu_role, cpu_ext):
    """init_kvm_nested_mmu: L2's tables are never shadowed, so there is no root role."""
    ctx = state.context(vm, 3 * vcpu.id + NESTED_MMU)
    contexts.init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, 0)


@core
def translate_gpa(vm, vcpu, gpa, access):
    """kvm_translate_gpa in nested_mmu: L1's gpa for L2's, or INVALID_GPA with the fault in the nested walker.  Walks of
    nested tables are user walks."""
    ctx = state.context(vm, vcpu.mmu)
    w = walk.walker_of(vm, vcpu, walk.NESTED_WALKER)
    if not walk.walk_addr(vm, vcpu, ctx, w, gpa, access | PFERR_USER):
        return walk.INVALID_GPA
    return (w.gfn << vm.page_shift) | geometry.page_offset(vm, gpa)


@core
def take_fault(vm, vcpu, w):
    """The fault of the nested walk is the fault of the walk that needed it."""
    inner = walk.walker_of(vm, vcpu, walk.NESTED_WALKER)
    w.fault_error = inner.fault_error
    w.fault_address = inner.fault_address
    w.fault_nested = inner.fault_nested


@core
def walk_once(vm, vcpu, ctx, w, addr, access):
    """One attempt of walk_addr: 1 success, 0 fault, 2 start again."""
    if vcpu.pdptrs_stale and roles.level(ctx.cpu_role) == 3:
        vcpu.pdptrs_stale = 0
        load_pdptrs(vm, vcpu, ctx)
    if not walk.begin(vm, vcpu, ctx, w, addr, access):
        return 0
    result = 2
    while result == 2:
        # the hardware will set A and D bits in the table
        table = walk.gpte_to_gfn(w.gpte) << vm.page_shift
        real = translate_gpa(vm, vcpu, table, walk.NESTED_TABLE_ACCESS)
        if real == walk.INVALID_GPA:
            take_fault(vm, vcpu, w)
            return 0
        result = walk.step(vm, vcpu, ctx, w, addr, access, real >> vm.page_shift)
    if result == 0 or not walk.leaf(vm, vcpu, ctx, w, addr, access):
        return 0
    real = translate_gpa(vm, vcpu, w.gfn << vm.page_shift, access)
    if real == walk.INVALID_GPA:
        take_fault(vm, vcpu, w)
        return 0
    w.gfn = real >> vm.page_shift
    return walk.finish(vm, vcpu, ctx, w, access)


@core
def gva_to_gpa(vm, vcpu, ctx, w, addr, access):
    """nested_mmu.gva_to_gpa."""
    if ctx.kind == contexts.NONPAGING:
        gpa = translate_gpa(vm, vcpu, addr, access)
        if gpa == walk.INVALID_GPA:
            take_fault(vm, vcpu, w)
        return gpa
    events.emit(vm, events.PAGETABLE_WALK, addr, access)
    result = 2
    while result == 2:
        result = walk_once(vm, vcpu, ctx, w, addr, access)
    if result == 0:
        return walk.INVALID_GPA
    return (w.gfn << vm.page_shift) | geometry.page_offset(vm, addr)


@core
def init_shadow_npt_mmu(vm, vcpu, cr0, cr4, efer, nested_cr3):
    """kvm_init_shadow_npt_mmu.  The shadow of L1's NPT has as many levels as the host's; a level that L1's table lacks
    below a 5-level root is passed through (84e5ffd045f3), lower formats hang below pml4_root."""
    # no protection keys in nested tables (a0f8a5..., C28)
    cr4 &= ~CR4_PKE
    if state.rules(vm).npt_role_has_wp:
        cr0 |= CR0_WP
    cpu_role = roles.calc_cpu_role(vm, vcpu, cr0, cr4, efer)
    cpu_ext = roles.calc_cpu_ext(cr0, cr4, efer)
    level = vcpu.tdp_level
    root_role = cpu_role & ~roles.LEVEL | level
    if level == 5 and roles.level(cpu_role) == 4:
        root_role |= roles.PASSTHROUGH
    ctx = state.context(vm, vcpu.mmu)
    contexts.init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, root_role)
    roots.new_pgd(vm, vcpu, nested_cr3)
