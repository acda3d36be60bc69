# SPDX-License-Identifier: GPL-2.0-or-later
"""Exceptions that KVM queues for the guest (struct kvm_queued_exception), and what a second one makes of them.

    none queued        -> queue it (its payload, CR2, is delivered at once outside nested guests)
    contributory twice,
    or after a #PF     -> #DF; after a #DF: triple fault
    else               -> the new one replaces the old one: the instruction will raise the old one again
"""

from .. import state
from ..state import core
from ..x86.bits import DE, DF, GP, NP, PF, PFERR_PRESENT, PFERR_RSVD, SS, TS
from . import contexts, counters, ept, flush, nested, roots, walk

BENIGN, CONTRIBUTORY, PAGE_FAULT_CLASS = 0, 1, 2
#: `vcpu.vmexit_pending`: an exception that L1 intercepts (waits for the entry), a fault of L1's nested tables (leaves at
#: once), a triple fault that L1 intercepts.
NO_VMEXIT, EXCEPTION_VMEXIT, TABLE_FAULT_VMEXIT, SHUTDOWN_VMEXIT = range(4)


@core
def exception_class(vector):
    """exception_class (SDM vol. 3 6.15, table of double faults)."""
    if vector == PF:
        return PAGE_FAULT_CLASS
    if vector == DE or vector == TS or vector == NP or vector == SS or vector == GP:
        return CONTRIBUTORY
    return BENIGN


@core
def store(vcpu, vector, has_error, error, has_payload, payload, injected):
    vcpu.exception_pending = 0 if injected else 1
    vcpu.exception_injected = 1 if injected else 0
    vcpu.exception_vector = vector
    vcpu.exception_has_error = has_error
    vcpu.exception_error = error
    vcpu.exception_has_payload = has_payload
    vcpu.exception_payload = payload
    if has_payload and vector == PF:
        # kvm_deliver_exception_payload
        vcpu.cr2 = payload
        vcpu.exception_has_payload = 0


@core
def queue_vmexit(vcpu, vector, has_error, error, has_payload, payload):
    """kvm_queue_exception_vmexit: the exception leaves L2 at the next entry; CR2 stays as it is."""
    vcpu.vmexit_pending = EXCEPTION_VMEXIT
    vcpu.vmexit_vector = vector
    vcpu.vmexit_has_error = has_error
    vcpu.vmexit_error = error
    vcpu.vmexit_has_payload = has_payload
    vcpu.vmexit_payload = payload


@core
def queue(vcpu, vector, has_error, error, has_payload, payload):
    """kvm_multiple_exception for a new exception.  In L2, one that L1 intercepts becomes a #VMEXIT at once
    (7709aba8f716, 6.1)."""
    if vcpu.guest_mode and (vcpu.nested_exceptions >> vector) & 1:
        queue_vmexit(vcpu, vector, has_error, error, has_payload, payload)
        return
    if not vcpu.exception_pending and not vcpu.exception_injected:
        store(vcpu, vector, has_error, error, has_payload, payload, False)
        return
    before = vcpu.exception_vector
    if before == DF:
        vcpu.requests |= flush.REQ_TRIPLE_FAULT
        return
    first = exception_class(before)
    second = exception_class(vector)
    if first == CONTRIBUTORY and second == CONTRIBUTORY or first == PAGE_FAULT_CLASS and second != BENIGN:
        store(vcpu, DF, 1, 0, 0, 0, False)
    else:
        store(vcpu, vector, has_error, error, has_payload, payload, False)


@core
def requeue(vcpu, vector, has_error, error):
    """kvm_requeue_exception: the delivery of an event was interrupted by an exit; it must be delivered again."""
    store(vcpu, vector, has_error, error, 0, 0, True)


@core
def clear_queue(vcpu):
    """kvm_clear_exception_queue."""
    vcpu.exception_pending = 0
    vcpu.exception_injected = 0
    vcpu.vmexit_pending = NO_VMEXIT


@core
def page_fault(vcpu, error, address):
    """kvm_inject_page_fault."""
    vcpu.stat[counters.PF_GUEST] += 1
    queue(vcpu, PF, 1, error, 1, address)


@core
def emulated_page_fault(vm, vcpu, error, address, of_nested_table):
    """kvm_inject_emulated_page_fault: before the guest sees the fault, the stale translation must be gone.
    of_nested_table: it is a fault of L1's NPT or EPT, met while translating for L2 (fault->nested_page_fault)."""
    fault_mmu = vcpu.mmu if of_nested_table else vcpu.walk_mmu
    if error & PFERR_PRESENT and not error & PFERR_RSVD:
        walk.invalidate_addr(vm, vcpu, fault_mmu, address, roots.CURRENT)
    if vcpu.guest_mode and state.context(vm, fault_mmu).id == nested.GUEST_MMU:
        # nested_svm_inject_npf_exit, nested_ept_inject_page_fault
        ctx = state.context(vm, fault_mmu)
        if ctx.kind == contexts.PAGING_EPT and not error & PFERR_RSVD:
            vcpu.vmexit_qualification = vcpu.fault_qualification
            walk.invalidate_addr(vm, vcpu, fault_mmu, address, ept.matching_roots(ctx, vcpu.nested_pgd))
        vcpu.vmexit_pending = TABLE_FAULT_VMEXIT
        vcpu.vmexit_error = error
        vcpu.vmexit_payload = address
        return
    page_fault(vcpu, error, address)


@core
def needs_reinjection(vcpu):
    """kvm_event_needs_reinjection: an event was in delivery when the exit happened."""
    return vcpu.exception_injected or vcpu.interrupt_injected or vcpu.nmi_injected
