# SPDX-License-Identifier: GPL-2.0-or-later
"""A page fault exit, from the tracepoint to the verdict (kvm_handle_page_fault, kvm_mmu_page_fault).

    verdict = RESUME                      the guest tries again (or gets its #PF)
            = EMULATE | flags             the instruction must be emulated
            < 0                           errno: the VM cannot go on
"""

from .. import state
from ..mmu import events, faults, inject, mmio, roles, roots, warn, writes, zap
from ..state import core
from ..x86.bits import PFERR_GUEST_PAGE, PFERR_PRESENT, PFERR_RSVD, PFERR_WRITE

RESUME, EMULATE = 0, 1
#: EMULTYPE_ALLOW_RETRY_PF: unprotecting the page may help.  EMULTYPE_WRITE_PF_TO_SP: the write hits a table that
#: translates it.
ALLOW_RETRY, WRITE_TO_OWN_TABLE = 2, 4
#: Of `before_lock`, besides the results of mmu/faults: an MMIO spte said so, no counter is touched.
MMIO_EMULATE = 100


@core
def write_protect_fault(vm, vcpu, addr, error_code):
    """kvm_mmu_write_protect_fault: EMULATE | ALLOW_RETRY, EMULATE, or RESUME after unprotecting."""
    direct = state.context(vm, vcpu.mmu).root_role & roles.DIRECT
    table_write = PFERR_GUEST_PAGE | PFERR_WRITE | PFERR_PRESENT
    if not state.rules(vm).unprotect_reworked:
        if direct and error_code & table_write == table_write:
            # a nested guest's page table that is itself shadowed: give up shadowing it
            zap.unprotect_gfn(vm, addr >> vm.page_shift)
            return RESUME
        retry = not mmio.in_cache(vm, vcpu, addr, direct) and not vcpu.guest_mode
        return EMULATE | ALLOW_RETRY if retry else EMULATE
    if vcpu.last_retry_eip == vcpu.rip and vcpu.last_retry_addr == addr:
        # the same instruction at the same address again: unprotecting did not help
        return EMULATE
    vcpu.last_retry_eip = 0
    vcpu.last_retry_addr = 0
    if mmio.in_cache(vm, vcpu, addr, direct):
        warn.warn(vm, 25)
        return EMULATE
    if direct and error_code & table_write == table_write or not direct and inject.needs_reinjection(vcpu):
        if writes.unprotect_gfn_and_retry(vm, vcpu, addr):
            return RESUME
    return EMULATE if vcpu.guest_mode else EMULATE | ALLOW_RETRY


@core
def conclude(vm, vcpu, addr, error_code, result):
    """The tail of kvm_mmu_page_fault."""
    if result < 0:
        return result
    verdict = RESUME
    if result == faults.WRITE_PROTECTED:
        verdict = write_protect_fault(vm, vcpu, addr, error_code)
        if verdict != RESUME:
            result = faults.EMULATE
    elif result == faults.EMULATE:
        verdict = EMULATE
    faults.account(vcpu, result)
    if verdict != RESUME and state.fault(vm, vcpu.id * 2).write_fault_to_shadow_pgtable:
        verdict |= WRITE_TO_OWN_TABLE
    return verdict


@core
def before_lock(vm, vcpu, addr, error_code):
    """kvm_mmu_page_fault up to mmu_lock: CONTINUE of mmu/faults, another result of it, or MMIO_EMULATE."""
    if error_code & PFERR_RSVD:
        ctx = state.context(vm, vcpu.mmu)
        if ctx.root_hpa == roots.INVALID_PAGE:
            return faults.RETRY
        result = faults.handle_mmio_page_fault(vm, vcpu, addr, ctx.root_role & roles.DIRECT)
        if result == faults.EMULATE:
            return MMIO_EMULATE
        if result != faults.INVALID:
            return faults.RETRY
    return faults.begin(vm, vcpu, addr, error_code)


@core
def mmu_page_fault(vm, vcpu, addr, error_code):
    """kvm_mmu_page_fault."""
    result = before_lock(vm, vcpu, addr, error_code)
    if result == MMIO_EMULATE:
        return EMULATE
    if result == faults.CONTINUE:
        result = faults.finish(vm, vcpu)
    return conclude(vm, vcpu, addr, error_code, result)


@core
def leave_guest(vm, vcpu, addr, error_code):
    """kvm_handle_page_fault up to kvm_mmu_page_fault."""
    vcpu.in_guest = 0
    events.emit(vm, events.PAGE_FAULT, vcpu.id, vcpu.rip, addr, error_code)
    if not state.rules(vm).unprotect_reworked and not state.rules(vm).tdp_enabled and inject.needs_reinjection(vcpu):
        writes.unprotect_page_virt(vm, vcpu, addr)


@core
def handle_page_fault(vm, vcpu, addr, error_code):
    """kvm_handle_page_fault."""
    leave_guest(vm, vcpu, addr, error_code)
    return mmu_page_fault(vm, vcpu, addr, error_code)
