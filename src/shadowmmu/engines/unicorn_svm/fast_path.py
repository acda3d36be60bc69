# SPDX-License-Identifier: GPL-2.0-or-later
"""The common page fault without CPython: from the engine's exit to the next guest instruction in compiled code.

    on_interrupt -> handle(block) -> the MMU (compiled) -> entry: requests, root -> TLB flushes -> 1: resume
                                         |                                                       0: Python goes on
                                         +-- verdict other than "retry", event ring nearly full, new mode

The block (int64 cells) is shared with `hooks` (cells 0..3) and with Python.  When the result is 0, VERDICT tells
Python how far the exit has been handled.
"""

from ... import state
from ...mmu import counters, events
from ...state import core
from ...state.foreign import call1, call2, callback, load32, load64, store64
from ...vm import entry, exits
from ...x86.bits import PFERR_PRESENT, PFERR_RSVD
from . import exits as svm
from . import hooks
from . import offsets as o

(GVA, ERROR, RIP, INTERRUPTED, HANDLE, VCPU, CONTROL, VERDICT, FLUSH_TLB, FLUSH_PAGE, EVENT_LIMIT, WORLD_SWITCH,
 RSVD_WITHOUT_PRESENT, EVENTS_SEEN, EVENT_BEFORE, CELLS) = range(16)
#: VERDICT when the fast path did not look at the fault, and when only the entry is left to do.
UNTOUCHED, ENTER_ONLY = -100, -101


@core
def flush_hardware(vcpu, env, cpu, flush_tlb, flush_page, always):
    """Do what the MMU asked of the hardware; load the root."""
    root = vcpu.hw_root & ~0xFFF
    changed = load64(env + o.CR + 24) != root
    store64(env + o.CR + 24, root)
    # the engine's TLB has no PCIDs: another root means another TLB
    if vcpu.hw_flush or changed or always:
        call1(flush_tlb, cpu)
    else:
        for i in range(vcpu.hw_flush_count):
            call2(flush_page, cpu, vcpu.hw_flush_gva[i])
    vcpu.hw_flush = 0
    vcpu.hw_flush_count = 0


@core
def read_cpu(vcpu, env):
    """CPL and EFLAGS.AC as the walker needs them; RIP is set by the caller."""
    vcpu.cpl = load32(env + o.HFLAGS) & 3
    vcpu.ac = (load64(env + o.EFLAGS) >> 18) & 1


@core
def finish_previous_events(vcpu):
    """svm_complete_interrupts when no event was being delivered: what was injected has arrived."""
    vcpu.nmi_injected = 0
    vcpu.exception_pending = 0
    vcpu.exception_injected = 0
    vcpu.interrupt_injected = 0


@core
def note_events(block, control):
    """Remember whether an event was delivered between the last exit and this one."""
    count = hooks.get(control, hooks.NATIVE_EVENTS)
    store64(block + 8 * EVENT_BEFORE, 1 if count != load64(block + 8 * EVENTS_SEEN) else 0)
    store64(block + 8 * EVENTS_SEEN, count)


@core
def page_fault(block):
    """One #PF exit; 1 when the guest may go on at once."""
    store64(block + 8 * VERDICT, UNTOUCHED)
    if load64(block + 8 * INTERRUPTED) != 0:
        return 0
    vm = state.attach(load64(block + 8 * HANDLE))
    vcpu = state.vcpu(vm, load64(block + 8 * VCPU))
    control = load64(block + 8 * CONTROL)
    env = load64(control + 8 * hooks.ENV)
    cpu = load64(control + 8 * hooks.CPU)
    note_events(block, control)
    gva = load64(block + 8 * GVA)
    error = load64(block + 8 * ERROR)
    if error & PFERR_RSVD and load64(block + 8 * RSVD_WITHOUT_PRESENT):
        error &= ~PFERR_PRESENT
    vcpu.rip = load64(block + 8 * RIP)
    vcpu.in_guest = 0
    read_cpu(vcpu, env)
    finish_previous_events(vcpu)
    vcpu.stat[counters.EXITS] += 1
    events.emit(vm, events.EXIT, vcpu.id, svm.PAGE_FAULT, vcpu.rip, error, gva)
    verdict = exits.handle_page_fault(vm, vcpu, gva, error)
    store64(block + 8 * VERDICT, verdict)
    if verdict != exits.RESUME:
        return 0
    if state.words(vm, vm.events)[0] > load64(block + 8 * EVENT_LIMIT):
        store64(block + 8 * VERDICT, ENTER_ONLY)
        return 0
    if entry.enter(vm, vcpu) != entry.ENTER:
        store64(block + 8 * VERDICT, ENTER_ONLY)
        return 0
    if vcpu.exception_injected:
        if vcpu.exception_set_rf:
            store64(env + o.EFLAGS, load64(env + o.EFLAGS) | 0x10000)
            vcpu.exception_set_rf = 0
        hooks.put(control, hooks.EVENT_INFO, entry.event_injection(vcpu))
        hooks.put(control, hooks.EVENT_ERROR, vcpu.exception_error)
        hooks.put(control, hooks.EVENT_LENGTH, 0)
        hooks.put(control, hooks.EVENT_PENDING, 1)
        store64(env + o.CR + 16, vcpu.cr2)
    flush_hardware(vcpu, env, cpu, load64(block + 8 * FLUSH_TLB), load64(block + 8 * FLUSH_PAGE),
                   load64(block + 8 * WORLD_SWITCH))
    return 1


#: The interpreted core has no machine code to offer; then every fault goes to Python.
AVAILABLE = state.JIT

if AVAILABLE:
    @callback("i64", "i64")
    def handle(block):
        return page_fault(block)
