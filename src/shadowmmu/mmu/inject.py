# SPDX-License-Identifier: GPL-2.0-or-later
"""Exceptions that KVM queues for the guest (struct kvm_queued_exception), and what a second one makes of them.

    none queued        -> queue it (its payload, CR2, is delivered at once outside nested guests)
    contributory twice,
    or after a #PF     -> #DF; after a #DF: triple fault
    else               -> the new one replaces the old one: the instruction will raise the old one again
"""

from ..state import core
from ..x86.bits import DE, DF, GP, NP, PF, PFERR_PRESENT, PFERR_RSVD, SS, TS
from . import counters, flush, roots, walk

BENIGN, CONTRIBUTORY, PAGE_FAULT_CLASS = 0, 1, 2


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
def queue(vcpu, vector, has_error, error, has_payload, payload):
    """kvm_multiple_exception for a new exception."""
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


@core
def page_fault(vcpu, error, address):
    """kvm_inject_page_fault."""
    vcpu.stat[counters.PF_GUEST] += 1
    queue(vcpu, PF, 1, error, 1, address)


@core
def emulated_page_fault(vm, vcpu, error, address):
    """kvm_inject_emulated_page_fault: before the guest sees the fault, the stale translation must be gone."""
    if error & PFERR_PRESENT and not error & PFERR_RSVD:
        walk.invalidate_addr(vm, vcpu, vcpu.walk_mmu, address, roots.CURRENT)
    page_fault(vcpu, error, address)


@core
def needs_reinjection(vcpu):
    """kvm_event_needs_reinjection: an event was in delivery when the exit happened."""
    return vcpu.exception_injected or vcpu.interrupt_injected or vcpu.nmi_injected
