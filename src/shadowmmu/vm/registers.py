# SPDX-License-Identifier: GPL-2.0-or-later
"""Control registers: what the guest (or the host, or SMM) does to them, and what that means for roots and TLB.

    event                        roots                      request
    CR0.PG 1->0                  all unloaded               TLB_FLUSH_GUEST
    CR0.PG 0->1, CR0.WP (PG=1)   all unloaded               -
    CR4 role bits                all unloaded               see below
    CR4.PCIDE 0->1               all unloaded               -
    CR4.PCIDE 1->0, PGE toggled  as role bits say           TLB_FLUSH_GUEST
    CR4.PAE toggled, SMEP 0->1   as role bits say           TLB_FLUSH_CURRENT
    EFER.LME, EFER.NX            all unloaded               -
    CR3 (flushing)               root cache                 MMU_SYNC, TLB_FLUSH_CURRENT; same-PCID roots freed
    CR3 NOFLUSH                  root cache                 -
    SMM enter and leave          all unloaded               -
    INIT with PG=1               all unloaded               TLB_FLUSH_GUEST
    SET_SREGS, changed           all unloaded               TLB_FLUSH_GUEST

Functions return True when the instruction must raise #GP(0).  Linux 6.12: kvm_set_cr0, kvm_set_cr3, kvm_set_cr4,
set_efer, kvm_smm_changed, kvm_vcpu_reset, __set_sregs_common.
"""

from .. import state
from ..mmu import contexts, flush, geometry, host, memslots, nested, roles, roots, walk
from ..state import core
from ..x86.bits import (
    CR0_CD,
    CR0_DEFINED,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR3_PCID_MASK,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    EFER_SVME,
    PFERR_USER,
    PFERR_WRITE,
    PT_ACCESSED,
    PT_PRESENT,
)

PDPTR_CR0_BITS = CR0_CD | CR0_NW | CR0_PG
PDPTR_CR4_BITS = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP


@core
def is_long_mode(vcpu):
    return vcpu.efer & EFER_LMA != 0


@core
def is_pae_paging(vcpu):
    """is_pae_paging."""
    return vcpu.cr0 & CR0_PG and vcpu.cr4 & CR4_PAE and not is_long_mode(vcpu)


@core
def load_pdptrs(vm, vcpu, cr3):
    """load_pdptrs: False when an entry is not valid.  Changed entries mean a new root (6b123c3a89a9)."""
    ctx = state.context(vm, vcpu.walk_mmu)
    gfn = geometry.entry_frame(cr3)
    if ctx.id == nested.NESTED_MMU:
        real = nested.translate_gpa(vm, vcpu, gfn << vm.page_shift, PFERR_USER | PFERR_WRITE)
        if real == walk.INVALID_GPA:
            return False
        gfn = real >> vm.page_shift
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    if not memslots.is_visible(vm, i):
        return False
    frame = host.fault_in(vm, memslots.gfn_to_hva(vm, i, gfn)) - vm.ram_pfn
    # 32-byte aligned in the page
    offset = cr3 & ((1 << vm.page_shift) - 1) & ~31
    reserved = contexts.rsvd_bits(vcpu.maxphyaddr, 63) | contexts.rsvd_bits(5, 8) | contexts.rsvd_bits(1, 2)
    if vcpu.pdpte_accessed_allowed:
        reserved &= ~PT_ACCESSED
    changed = False
    for k in range(4):
        pdpte = host.read_entry(vm, frame, offset + 8 * k, 8)
        if pdpte & PT_PRESENT and pdpte & reserved:
            return False
        if pdpte != ctx.pdptrs[k]:
            changed = True
    if changed and not state.rules(vm).tdp_enabled:
        roots.free_roots(vm, ctx, roots.CURRENT)
    for k in range(4):
        ctx.pdptrs[k] = host.read_entry(vm, frame, offset + 8 * k, 8)
    vcpu.requests |= flush.REQ_LOAD_MMU_PGD
    return True


@core
def post_set_cr0(vm, vcpu, old, new):
    """kvm_post_set_cr0."""
    if old ^ new == CR0_WP:
        if not new & CR0_PG:
            return
        if state.rules(vm).tdp_enabled:
            # only walks that KVM makes itself depend on it
            contexts.init_mmu(vm, vcpu)
            return
    if (old ^ new) & CR0_PG and not new & CR0_PG:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    if (old ^ new) & roles.CR0_ROLE_BITS:
        contexts.reset(vm, vcpu)


@core
def store_cr0(vcpu, value):
    """svm_set_cr0: EFER.LMA follows CR0.PG while EFER.LME is set."""
    if vcpu.efer & EFER_LME:
        if not vcpu.cr0 & CR0_PG and value & CR0_PG:
            vcpu.efer |= EFER_LMA
        elif vcpu.cr0 & CR0_PG and not value & CR0_PG:
            vcpu.efer &= ~EFER_LMA
    vcpu.cr0 = value


@core
def set_cr0(vm, vcpu, value):
    """kvm_set_cr0."""
    old = vcpu.cr0
    if value & ~((1 << 32) - 1) or value & CR0_NW and not value & CR0_CD or value & CR0_PG and not value & CR0_PE:
        return True
    value = (value | CR0_ET) & CR0_DEFINED
    if vcpu.efer & EFER_LME and not old & CR0_PG and value & CR0_PG:
        if not vcpu.cr4 & CR4_PAE or vcpu.cs_l:
            return True
    if not vcpu.efer & EFER_LME and value & CR0_PG and vcpu.cr4 & CR4_PAE and (value ^ old) & PDPTR_CR0_BITS:
        if not load_pdptrs(vm, vcpu, vcpu.cr3):
            return True
    if not value & CR0_PG and (is_long_mode(vcpu) and vcpu.cs_l or vcpu.cr4 & CR4_PCIDE):
        return True
    store_cr0(vcpu, value)
    post_set_cr0(vm, vcpu, old, value)
    return False


@core
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if new & CR4_PCIDE and not old & CR4_PCIDE and not state.rules(vm).tdp_enabled:
        # no flush is due, but a stale previous root could come back by a NOFLUSH load (509bfe3d9796)
        contexts.unload(vm, vcpu)
    if (new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PAE or new & CR4_SMEP and not old & CR4_SMEP:
        vcpu.requests |= flush.REQ_TLB_FLUSH_CURRENT


@core
def set_cr4(vm, vcpu, value):
    """kvm_set_cr4."""
    old = vcpu.cr4
    if value & vcpu.cr4_reserved:
        return True
    if is_long_mode(vcpu):
        if not value & CR4_PAE or (value ^ old) & CR4_LA57:
            return True
    elif vcpu.cr0 & CR0_PG and value & CR4_PAE and (value ^ old) & PDPTR_CR4_BITS:
        if not load_pdptrs(vm, vcpu, vcpu.cr3):
            return True
    if value & CR4_PCIDE and not old & CR4_PCIDE and (vcpu.cr3 & CR3_PCID_MASK or not is_long_mode(vcpu)):
        return True
    if state.rules(vm).tdp_enabled and (old ^ value) & CR4_PGE:
        # svm_set_cr4: the guest's global translations are in the hardware's TLB only
        flush.tlb_hardware(vcpu)
    vcpu.cr4 = value
    post_set_cr4(vm, vcpu, old, value)
    return False


@core
def invalidate_pcid(vm, vcpu, pcid):
    """kvm_invalidate_pcid."""
    if state.rules(vm).tdp_enabled:
        # roots do not depend on the guest's CR3; all that KVM can do is to flush the hardware (e45e9e3998f0)
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        return
    if roots.active_pcid(vcpu) == pcid:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    if not vcpu.cr4 & CR4_PCIDE:
        # every MOV CR3 flushes then; the cache may keep its roots (509bfe3d9796)
        return
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    for i in range(3):
        if roots.get_pcid(vcpu, ctx.prev_pgd[i]) == pcid:
            which |= roots.previous(i)
    roots.free_roots(vm, ctx, which)


@core
def is_legal_cr3(vcpu, value):
    """kvm_vcpu_is_legal_cr3."""
    return value >> vcpu.maxphyaddr == 0


@core
def set_cr3(vm, vcpu, value):
    """kvm_set_cr3."""
    noflush = False
    pcid = 0
    if vcpu.cr4 & CR4_PCIDE:
        noflush = value < 0
        value &= (1 << 63) - 1
        pcid = value & CR3_PCID_MASK
    if value != vcpu.cr3 or is_pae_paging(vcpu):
        if not is_legal_cr3(vcpu, value):
            return True
        if is_pae_paging(vcpu) and not load_pdptrs(vm, vcpu, value):
            return True
        if value != vcpu.cr3:
            roots.new_pgd(vm, vcpu, value)
        vcpu.cr3 = value
    if not noflush:
        invalidate_pcid(vm, vcpu, pcid)
    return False


@core
def set_efer(vm, vcpu, value, from_host):
    """set_efer."""
    old = vcpu.efer
    if value & vcpu.efer_reserved:
        return True
    if not from_host and vcpu.cr0 & CR0_PG and (old ^ value) & EFER_LME:
        return True
    value = value & ~EFER_LMA | old & EFER_LMA
    vcpu.efer = value
    if (value ^ old) & (EFER_LME | EFER_NX):
        contexts.reset(vm, vcpu)
    return False


@core
def smm_changed(vm, vcpu, entering):
    """kvm_smm_changed: the other address space, other roots."""
    vcpu.smm = 1 if entering else 0
    contexts.reset(vm, vcpu)


@core
def reset(vm, vcpu):
    """The MMU's part of kvm_vcpu_reset for INIT: registers to their start values, and the TLB goes (df37ed38e6c2)."""
    old_cr0 = vcpu.cr0
    vcpu.smm = 0
    vcpu.efer = 0
    vcpu.cr0 = CR0_ET | old_cr0 & (CR0_NW | CR0_CD)
    vcpu.cr4 = 0
    vcpu.cr3 = 0
    vcpu.cs_l = 0
    vcpu.cpl = 0
    vcpu.ac = 0
    if old_cr0 & CR0_PG:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        contexts.reset(vm, vcpu)
    else:
        contexts.init_mmu(vm, vcpu)


@core
def set_sregs(vm, vcpu, cr0, cr3, cr4, efer):
    """KVM_SET_SREGS (__set_sregs_common): True when the combination is refused (-EINVAL)."""
    if efer & vcpu.efer_reserved or cr4 & vcpu.cr4_reserved:
        return True
    if efer & EFER_LME and cr0 & CR0_PG:
        # kvm_is_valid_sregs: long mode needs PAE, LMA and a legal CR3
        if not cr4 & CR4_PAE or not efer & EFER_LMA or not is_legal_cr3(vcpu, cr3):
            return True
    elif efer & EFER_LMA:
        return True
    changed = vcpu.cr3 != cr3 or vcpu.efer != efer or vcpu.cr0 != cr0 or vcpu.cr4 != cr4
    vcpu.cr3 = cr3
    vcpu.efer = efer
    vcpu.cr0 = cr0
    vcpu.cr4 = cr4
    if is_pae_paging(vcpu):
        load_pdptrs(vm, vcpu, cr3)
        changed = True
    if changed:
        contexts.reset(vm, vcpu)
        if state.rules(vm).sregs_flush_guest_tlb:
            vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    return False


@core
def guest_loaded(vm, vcpu, cr0, cr3):
    """svm_handle_exit with two-dimensional paging: take over the registers whose writes were not intercepted.  The PDPTEs
    of a PAE guest lie in memory; KVM reads them again at the first use after an exit, which is no later than here."""
    vcpu.cr0 = cr0
    vcpu.cr3 = cr3
    if not is_pae_paging(vcpu):
        return
    if nested.is_nested(vcpu):
        # the reading is a walk of L1's tables, with events: at the first use indeed
        vcpu.pdptrs_stale = 1
    else:
        load_pdptrs(vm, vcpu, cr3)


@core
def hardware_cr0(vm, vcpu):
    """svm_set_cr0: what CR0 the CPU really runs with."""
    if state.rules(vm).tdp_enabled:
        return vcpu.cr0 & ~(CR0_CD | CR0_NW)
    return (vcpu.cr0 | CR0_PG | CR0_WP) & ~(CR0_CD | CR0_NW)


@core
def hardware_efer(vm, vcpu):
    """svm_set_efer: with shadow paging NX always, LME only together with LMA."""
    if state.rules(vm).tdp_enabled:
        return vcpu.efer | EFER_SVME
    efer = vcpu.efer | EFER_NX | EFER_SVME
    if not efer & EFER_LMA:
        efer &= ~EFER_LME
    return efer



@core
def hardware_cr4(vm, vcpu):
    """svm_set_cr4."""
    return vcpu.cr4 if state.rules(vm).tdp_enabled else shadow_cr4(vcpu)


@core
def shadow_cr4(vcpu):
    """CR4 with shadow paging: PAE always; without guest paging no supervisor-mode protections, our tables are all-user."""
    cr4 = vcpu.cr4 | CR4_PAE
    if not vcpu.cr0 & CR0_PG:
        cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE)
    return cr4
