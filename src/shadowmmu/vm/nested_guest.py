# SPDX-License-Identifier: GPL-2.0-or-later
"""Entering and leaving a nested guest, as far as the MMU is concerned (kvm_amd's and kvm_intel's nested.c).

    VMRUN    guest_mode = 1 -> flush -> [guest_mmu, nested_mmu] -> L2's EFER, CR0, CR4 -> CR3: roles, cached root?
    #VMEXIT  guest_mode = 0 -> L1's EFER, CR0, CR4 -> flush -> root_mmu -> CR3: roles, cached root?

    VM entry and VM exit of VMX do the same with EPT for NPT; what they flush depends on the VPID that L1 gave L2.

Nested SVM flushes and syncs at every transition, whatever TLB_CONTROL and ASID say: what L1 changes without a flush is
seen by the next VMRUN.
"""

from .. import state
from ..mmu import contexts, ept, flush, nested, roles, roots
from ..state import core
from ..x86.bits import CR0_PE, CR0_PG, CR4_MCE, CR4_PAE
from . import registers


@core
def transition_tlb_flush(vcpu):
    """nested_svm_transition_tlb_flush."""
    vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT


@core
def load_cr3(vm, vcpu, cr3, nested_npt, reload_pdptrs):
    """nested_svm_load_cr3: True when CR3 or a PDPTE is not legal."""
    if not registers.is_legal_cr3(vcpu, cr3):
        return True
    if reload_pdptrs and not nested_npt and registers.is_pae_paging(vcpu) and not registers.load_pdptrs(vm, vcpu, cr3):
        return True
    vcpu.cr3 = cr3
    contexts.init_mmu(vm, vcpu)
    if not nested_npt:
        roots.new_pgd(vm, vcpu, cr3)
    return False


@core
def enter_svm(vm, vcpu, cr0, cr3, cr4, efer, npt, nested_cr3):
    """The MMU's part of enter_svm_guest_mode: True when L2's CR3 is refused."""
    l1_cr4 = vcpu.cr4
    l1_efer = vcpu.efer
    transition_tlb_flush(vcpu)
    vcpu.guest_mode = 1
    if npt:
        init_svm_mmu_context(vm, vcpu, l1_cr4, l1_efer, nested_cr3)
    vcpu.efer = efer
    registers.store_cr0(vcpu, cr0)
    vcpu.cr4 = cr4
    return load_cr3(vm, vcpu, cr3, npt, True)


@core
def init_svm_mmu_context(vm, vcpu, l1_cr4, l1_efer, nested_cr3):
    """nested_svm_init_mmu_context: the format of nested tables is that of L1's own paging mode."""
    vcpu.mmu = 3 * vcpu.id + nested.GUEST_MMU
    vcpu.nested_pgd = nested_cr3
    nested.init_shadow_npt_mmu(vm, vcpu, CR0_PG, l1_cr4, l1_efer, nested_cr3)
    vcpu.walk_mmu = 3 * vcpu.id + nested.NESTED_MMU


@core
def leave_svm(vm, vcpu, cr0, cr3, cr4, efer):
    """The MMU's part of nested_svm_vmexit: True when L1's own CR3 is refused (its PDPTEs have become invalid)."""
    vcpu.guest_mode = 0
    vcpu.nested_exceptions = 0
    vcpu.nested_shutdown = 0
    vcpu.vmexit_pending = 0
    vcpu.efer = efer
    l2_paging = vcpu.cr0 & CR0_PG
    registers.store_cr0(vcpu, cr0 | CR0_PE)
    if l2_paging != vcpu.cr0 & CR0_PG and state.rules(vm).paging_on_rewrites_cr4 \
            and not state.rules(vm).tdp_enabled:
        # svm_set_cr0 writes CR4 anew when paging goes on, from the register that still holds L2's and into the field
        # from which L1's is then read: an unpaged L2 leaves its CR4, PAE and the host's MCE behind (seen on 6.12 and 7.2)
        cr4 = vcpu.cr4 | CR4_PAE | CR4_MCE
    vcpu.cr4 = cr4
    transition_tlb_flush(vcpu)
    # nested_svm_uninit_mmu_context
    vcpu.mmu = 3 * vcpu.id
    vcpu.walk_mmu = 3 * vcpu.id
    return load_cr3(vm, vcpu, cr3, 0, True)


# ---- VMX

@core
def vmx_transition_tlb_flush(vm, vcpu, vpid, entering):
    """nested_vmx_transition_tlb_flush.  Without a VPID L2 shares L1's tag 0, and the architecture flushes it at every
    transition: all of L1's cached roots must be in order, too (07ffaf343e34).  With one, only a change of it flushes: KVM
    keeps no history."""
    if vpid == 0:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif entering and vpid != vcpu.last_vpid:
        vcpu.last_vpid = vpid
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    # a tag of L2's own (vpid02) is always there


@core
def enter_vmx(vm, vcpu, cr0, cr3, cr4, efer, vpid, use_ept, eptp):
    """The MMU's part of nested_vmx_enter_non_root_mode: True when L2's CR3 or EPTP is refused."""
    if use_ept and not ept.is_valid_eptp(vcpu, eptp):
        return True
    vcpu.l1_cr0 = vcpu.cr0
    vcpu.l1_cr3 = vcpu.cr3
    vcpu.l1_cr4 = vcpu.cr4
    vcpu.l1_efer = vcpu.efer
    vcpu.guest_mode = 1
    vcpu.vpid = vpid
    vmx_transition_tlb_flush(vm, vcpu, vpid, True)
    if use_ept:
        vcpu.mmu = 3 * vcpu.id + nested.GUEST_MMU
        vcpu.nested_pgd = eptp
        ept.init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), eptp)
        vcpu.walk_mmu = 3 * vcpu.id + nested.NESTED_MMU
    vcpu.efer = efer
    vcpu.cr0 = cr0
    vcpu.cr4 = cr4
    return load_cr3(vm, vcpu, cr3, use_ept, True)


@core
def leave_vmx(vm, vcpu, cr0, cr3, cr4, efer):
    """The MMU's part of nested_vmx_vmexit: True when L1's CR3 is refused (a VMX abort)."""
    vcpu.guest_mode = 0
    vcpu.nested_exceptions = 0
    vcpu.nested_shutdown = 0
    vcpu.vmexit_pending = 0
    vcpu.efer = efer
    vcpu.cr0 = cr0
    vcpu.cr4 = cr4
    # nested_ept_uninit_mmu_context
    vcpu.mmu = 3 * vcpu.id
    vcpu.walk_mmu = 3 * vcpu.id
    refused = load_cr3(vm, vcpu, cr3, 0, True)
    vmx_transition_tlb_flush(vm, vcpu, vcpu.vpid, False)
    return refused


@core
def switch_eptp(vm, vcpu, eptp):
    """nested_vmx_eptp_switching (VMFUNC 0 of L2): True when the EPTP is refused."""
    if eptp == vcpu.nested_pgd:
        return False
    if not ept.is_valid_eptp(vcpu, eptp):
        return True
    vcpu.nested_pgd = eptp
    # guest_mmu, not nested_mmu: A/D of another MMU was once clobbered here (272b0a998d08)
    ept.init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), eptp)
    if vcpu.vpid == 0:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    return False


@core
def invvpid(vm, vcpu, one_address, gva):
    """handle_invvpid: the hardware forgets L2's tag (or one address of it).  With shadow paging the linear translations of
    L2 are our roots, and VPIDs are not tracked in them: all of L2's roots go (free_guest_mode_roots)."""
    if one_address:
        flush.tlb_gva(vcpu, gva)
    else:
        flush.tlb_hardware(vcpu)
    if not state.rules(vm).tdp_enabled:
        free_guest_mode_roots(vm, state.context(vm, 3 * vcpu.id))


@core
def free_guest_mode_roots(vm, ctx):
    """kvm_mmu_free_guest_mode_roots: previous roots of L2, and those without a shadow page; the current one is L1's."""
    which = 0
    for i in range(roots.NUM_PREV_ROOTS):
        hpa = ctx.prev_hpa[i]
        if hpa != roots.INVALID_PAGE:
            page = roots.root_to_sp(vm, hpa)
            if page < 0 or state.page(vm, page).role & roles.GUEST_MODE:
                which |= roots.previous(i)
    roots.free_roots(vm, ctx, which)
