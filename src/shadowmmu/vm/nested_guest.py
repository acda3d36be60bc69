# SPDX-License-Identifier: GPL-2.0-or-later
"""Entering and leaving a nested guest, as far as the MMU is concerned (kvm_amd's nested.c with what it calls).

    VMRUN    guest_mode = 1 -> flush -> [guest_mmu, nested_mmu] -> L2's EFER, CR0, CR4 -> CR3: roles, cached root?
    #VMEXIT  guest_mode = 0 -> L1's EFER, CR0, CR4 -> flush -> root_mmu -> CR3: roles, cached root?

Nested SVM flushes and syncs at every transition, whatever TLB_CONTROL and ASID say: what L1 changes without a flush is
seen by the next VMRUN.
"""

from .. import state
from ..mmu import contexts, flush, nested, roots
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
