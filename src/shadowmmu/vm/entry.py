# SPDX-License-Identifier: GPL-2.0-or-later
"""Between exit and entry: requests served in the kernel's order, a root made sure of (vcpu_enter_guest).

    FREE_OBSOLETE_ROOTS -> MMU_SYNC -> LOAD_MMU_PGD -> TLB_FLUSH (all; clears CURRENT) -> TLB_FLUSH_CURRENT
    -> TLB_FLUSH_GUEST -> (triple fault?) -> event injection -> kvm_mmu_reload
"""

from .. import state
from ..mmu import counters, events, flush, inject, roots
from ..state import core
from ..x86.bits import BP, DB, DF, MC, NMI, OF

ENTER, SHUTDOWN, NESTED_EXIT = 0, 1, 2


@core
def take(vcpu, request):
    """kvm_check_request: test and clear."""
    if vcpu.requests & request:
        vcpu.requests &= ~request
        return True
    return False


@core
def flush_tlb_guest(vm, vcpu):
    """kvm_vcpu_flush_tlb_guest: the guest's TLB is emptied; with shadow paging, all its tables must be in order."""
    vcpu.stat[counters.TLB_FLUSH] += 1
    if not state.rules(vm).tdp_enabled:
        roots.sync_roots(vm, vcpu)
        roots.sync_prev_roots(vm, vcpu)
    flush.tlb_hardware(vcpu)


@core
def serve_requests(vm, vcpu):
    """The MMU's part of vcpu_enter_guest: ENTER, or SHUTDOWN for a triple fault."""
    if vcpu.requests == 0:
        return ENTER
    if take(vcpu, flush.REQ_FREE_OBSOLETE_ROOTS):
        roots.free_obsolete_roots(vm, vcpu)
    if take(vcpu, flush.REQ_MMU_SYNC):
        roots.sync_roots(vm, vcpu)
    if take(vcpu, flush.REQ_LOAD_MMU_PGD):
        roots.load_pgd(vm, vcpu)
    if take(vcpu, flush.REQ_TLB_FLUSH):
        flush.tlb_all(vcpu)
    if take(vcpu, flush.REQ_TLB_FLUSH_CURRENT):
        flush.tlb_current(vcpu)
    if take(vcpu, flush.REQ_TLB_FLUSH_GUEST):
        flush_tlb_guest(vm, vcpu)
    if take(vcpu, flush.REQ_TRIPLE_FAULT):
        if vcpu.guest_mode and vcpu.nested_shutdown:
            # nested_svm_triple_fault
            vcpu.vmexit_pending = inject.SHUTDOWN_VMEXIT
            return ENTER
        return SHUTDOWN
    return ENTER


@core
def inject_pending(vm, vcpu):
    """The trace of kvm_inject_exception for a pending or reinjected exception; the engine delivers it."""
    if vcpu.exception_injected:
        events.emit(vm, events.INJ_EXCEPTION, vcpu.exception_vector, vcpu.exception_has_error, vcpu.exception_error, 1)
    elif vcpu.exception_pending:
        events.emit(vm, events.INJ_EXCEPTION, vcpu.exception_vector, vcpu.exception_has_error, vcpu.exception_error, 0)
        vcpu.exception_pending = 0
        vcpu.exception_injected = 1
        # a fault pushes RFLAGS with RF set; a trap or #DB leaves it
        vector = vcpu.exception_vector
        vcpu.exception_set_rf = 0 if vector in (DB, BP, OF, DF, MC) else 1


@core
def event_injection(vcpu):
    """The VMCB's EVENTINJ field (APM vol. 2 15.20) for what is being injected; 0 for nothing."""
    if vcpu.exception_injected:
        return 1 << 31 | 3 << 8 | vcpu.exception_vector | vcpu.exception_has_error << 11
    if vcpu.interrupt_injected:
        return 1 << 31 | (4 << 8 if vcpu.interrupt_soft else 0) | vcpu.interrupt_nr
    if vcpu.nmi_injected:
        return 1 << 31 | 2 << 8 | NMI
    return 0


@core
def enter(vm, vcpu):
    """vcpu_enter_guest up to VMRUN: ENTER, SHUTDOWN, or a negative errno when no root could be made.  NESTED_EXIT: L2
    must leave for L1 first (`vcpu.vmexit_pending` says why), then enter again.

    A request that reload raised is served at once here; the kernel cancels the entry and comes back for it.
    """
    while True:
        if vcpu.vmexit_pending == inject.TABLE_FAULT_VMEXIT:
            return NESTED_EXIT
        result = serve_requests(vm, vcpu)
        if result != ENTER:
            return result
        if vcpu.vmexit_pending:
            return NESTED_EXIT
        inject_pending(vm, vcpu)
        result = roots.reload(vm, vcpu)
        if result == roots.ENO_ROOT and vcpu.requests & flush.REQ_TRIPLE_FAULT:
            # a root without memory before 0e3223d8d00a
            continue
        if result != roots.OK:
            return result
        if vcpu.requests == 0:
            break
    vcpu.in_guest = 1
    events.emit(vm, events.ENTRY, vcpu.id, vcpu.rip, vcpu.immediate_exit, event_injection(vcpu),
                vcpu.exception_error if vcpu.exception_injected and vcpu.exception_has_error else 0)
    vcpu.immediate_exit = 0
    return ENTER
