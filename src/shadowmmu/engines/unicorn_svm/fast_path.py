# SPDX-License-Identifier: GPL-2.0-or-later
"""The common exits without CPython: from the engine's exit to the next guest instruction in compiled code.

    on_interrupt -> handle(block) -> #PF: the MMU, then emulate_write if it says so    -+-> entry: requests, root
                                     MOV CR3, INVLPG: decoded here, then the MMU       -+     -> TLB flushes -> 1: resume
                                         |                                                       0: Python goes on
                                         +-- anything unusual, event ring nearly full, new mode

The block (int64 cells) is shared with `hooks` (cells 0..4) and with Python.  When the result is 0, VERDICT tells
Python how far the exit has been handled.
"""

from ... import state
from ...mmu import counters, events, flush, inject
from ...state import core
from ...state.foreign import call1, call2, callback, load8, load32, load64, store8, store64
from ...vm import entry, exits, invalidation, registers
from ...x86.bits import PFERR_PRESENT, PFERR_RSVD
from . import emulate_write, hooks, operand
from . import exits as svm
from . import offsets as o

(GVA, ERROR, RIP, INTERRUPTED, CODE, HANDLE, VCPU, CONTROL, VERDICT, FLUSH_TLB, FLUSH_PAGE, EVENT_LIMIT, WORLD_SWITCH,
 RSVD_WITHOUT_PRESENT, EVENTS_SEEN, EVENT_BEFORE, PLAIN, ENGINE, RAM_ADDRESS, INVALIDATE, RAM, READ_EFLAGS,
 EMULATED, CR3_READS, CR3_WRITES, INVLPGS, NESTED_ROOT, CELLS) = range(28)
#: VERDICT when the fast path did not look at the exit, and when only the entry is left to do.
UNTOUCHED, ENTER_ONLY = -100, -101
GP = 13
#: EXITINFO1 of a CR access with DecodeAssists: bit 63 says MOV, the rest is the register
MOV_CR = -(1 << 63)


@core
def flush_hardware(vcpu, env, control, flush_tlb, flush_page, always):
    """Do what the MMU asked of the hardware; load the root."""
    cpu = hooks.get(control, hooks.CPU)
    root = vcpu.hw_root & ~0xFFF
    changed = load64(env + o.CR + 24) != root
    store64(env + o.CR + 24, root)
    hooks.put(control, hooks.ROOT, root)
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
    vcpu.vmexit_pending = 0


@core
def note_events(block, control):
    """Remember whether an event was delivered between the last exit and this one."""
    count = hooks.get(control, hooks.NATIVE_EVENTS)
    store64(block + 8 * EVENT_BEFORE, 1 if count != load64(block + 8 * EVENTS_SEEN) else 0)
    store64(block + 8 * EVENTS_SEEN, count)


@core
def begin(block, vm, vcpu, env, control, info1, info2):
    """What every exit begins with, up to its trace event."""
    note_events(block, control)
    vcpu.rip = load64(block + 8 * RIP)
    vcpu.in_guest = 0
    read_cpu(vcpu, env)
    finish_previous_events(vcpu)
    vcpu.stat[counters.EXITS] += 1
    events.emit(vm, events.EXIT, vcpu.id, load64(block + 8 * CODE), vcpu.rip, info1, info2)


@core
def enter_again(block, vm, vcpu, env, control):
    """To the next VMRUN: 1 when the guest may go on, 0 when Python has to see to the entry."""
    store64(block + 8 * VERDICT, ENTER_ONLY)
    if vcpu.vmexit_pending:
        return 0
    if state.words(vm, vm.events)[0] > load64(block + 8 * EVENT_LIMIT):
        return 0
    vcpu.rip = load64(env + o.EIP)
    result = entry.enter(vm, vcpu)
    if result != entry.ENTER:
        if result == entry.SHUTDOWN:
            # Python enters again and must find it
            vcpu.requests |= flush.REQ_TRIPLE_FAULT
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
    flush_hardware(vcpu, env, control, load64(block + 8 * FLUSH_TLB),
                   load64(block + 8 * FLUSH_PAGE), load64(block + 8 * WORLD_SWITCH))
    store64(block + 8 * VERDICT, UNTOUCHED)
    return 1


@core
def count(block, cell):
    store64(block + 8 * cell, load64(block + 8 * cell) + 1)


@core
def page_fault(block, vm, vcpu, env, control):
    """One #PF exit; 1 when the guest may go on at once."""
    gva = load64(block + 8 * GVA)
    error = load64(block + 8 * ERROR)
    if error & PFERR_RSVD and load64(block + 8 * RSVD_WITHOUT_PRESENT):
        error &= ~PFERR_PRESENT
    begin(block, vm, vcpu, env, control, error, gva)
    if vcpu.guest_mode:
        events.emit(vm, events.NESTED_VMEXIT, vcpu.id, svm.PAGE_FAULT, vcpu.rip, error, gva)
    verdict = exits.handle_page_fault(vm, vcpu, gva, error)
    if verdict > 0 and verdict & exits.EMULATE and load64(block + 8 * PLAIN) and not vcpu.guest_mode:
        engine = (load64(block + 8 * ENGINE), load64(block + 8 * RAM_ADDRESS), load64(block + 8 * INVALIDATE),
                  load64(block + 8 * RAM), load64(block + 8 * READ_EFLAGS), hooks.get(control, hooks.ROOM))
        if emulate_write.emulate(vm, vcpu, env, gva, 1 if verdict & exits.ALLOW_RETRY else 0, engine):
            count(block, EMULATED)
            verdict = exits.RESUME
    store64(block + 8 * VERDICT, verdict)
    if verdict != exits.RESUME:
        return 0
    return enter_again(block, vm, vcpu, env, control)


@core
def skip(env, length):
    """kvm_skip_emulated_instruction with NRIPS."""
    rip = load64(env + o.EIP) + length
    hflags = load32(env + o.HFLAGS)
    store64(env + o.EIP, rip if hflags & o.HF_CS64 else rip & 0xFFFFFFFF)
    store8(env + o.HFLAGS, hflags & 0xFF & ~o.HF_INHIBIT_IRQ)


@core
def mov_cr3(block, vm, vcpu, env, control, kind):
    """MOV to and from CR3: 1 when the guest may go on."""
    code = control + 8 * hooks.CODE_0
    at = 0
    rex = 0
    if kind == operand.CODE64 and load8(code) & 0xF0 == 0x40:
        rex = load8(code)
        at = 1
    write = load64(block + 8 * CODE) == svm.WRITE_CR0 + 3
    modrm = load8(code + at + 2)
    if load8(code + at) != 0x0F or load8(code + at + 1) != (0x22 if write else 0x20) or rex & 4 or modrm >> 3 & 7 != 3:
        return 0
    number = modrm & 7 | (rex & 1) << 3
    register = env + o.REGS + 8 * number
    begin(block, vm, vcpu, env, control, MOV_CR | number, 0)
    if write:
        count(block, CR3_WRITES)
        value = load64(register) if kind == operand.CODE64 else load64(register) & operand.LOW32
        events.emit(vm, events.CR, 1, 3, value)
        vcpu.cs_l = 1 if kind == operand.CODE64 else 0
        if registers.set_cr3(vm, vcpu, value):
            inject.queue(vcpu, GP, 1, 0, 0, 0)
            return enter_again(block, vm, vcpu, env, control)
    else:
        count(block, CR3_READS)
        store64(register, vcpu.cr3 if kind == operand.CODE64 else vcpu.cr3 & operand.LOW32)
        events.emit(vm, events.CR, 0, 3, vcpu.cr3)
    skip(env, at + 3)
    return enter_again(block, vm, vcpu, env, control)


@core
def invlpg(block, vm, vcpu, env, control, kind):
    """INVLPG without segment prefix: 1 when the guest may go on."""
    limit = hooks.get(control, hooks.CODE_COUNT)
    code = state.octets(vm, control + 8 * hooks.CODE_0 - load64(block + 8 * HANDLE))
    at = 0
    rex = 0
    if kind == operand.CODE64 and code[0] & 0xF0 == 0x40:
        rex = code[0] + 0
        at = 1
    if limit < at + 3 or code[at] != 0x0F or code[at + 1] != 0x01:
        return 0
    offset, length, segment = operand.effective_address(code, limit, at + 2, rex, env, kind, 0)
    if length == 0:
        return 0
    gva = operand.linear(env, kind, segment, offset)
    count(block, INVLPGS)
    begin(block, vm, vcpu, env, control, gva, 0)
    invalidation.invlpg(vm, vcpu, gva)
    skip(env, length)
    return enter_again(block, vm, vcpu, env, control)


@core
def exit_handler(block):
    """Any exit that `hooks` offers."""
    store64(block + 8 * VERDICT, UNTOUCHED)
    if load64(block + 8 * INTERRUPTED) != 0:
        return 0
    vm = state.attach(load64(block + 8 * HANDLE))
    vcpu = state.vcpu(vm, load64(block + 8 * VCPU))
    control = load64(block + 8 * CONTROL)
    env = load64(control + 8 * hooks.ENV)
    code = load64(block + 8 * CODE)
    if code == svm.PAGE_FAULT:
        return page_fault(block, vm, vcpu, env, control)
    kind = operand.code_kind(env)
    if load64(block + 8 * PLAIN) == 0 or kind == operand.OTHER_CODE or vcpu.guest_mode or load64(env + o.EFLAGS) & hooks.TRAP:
        return 0    # what L2 does may be L1's to see; a single step ends in a trap
    if code == svm.INVLPG:
        return invlpg(block, vm, vcpu, env, control, kind)
    return mov_cr3(block, vm, vcpu, env, control, kind)


@core
def flush_nested(vcpu, cpu, block, flush_tlb):
    """Do what the MMU asked of the hardware; with nested paging the root is not in CR3."""
    changed = load64(block + 8 * NESTED_ROOT) != vcpu.hw_root
    if vcpu.hw_flush or vcpu.hw_flush_count or changed or load64(block + 8 * WORLD_SWITCH):
        call1(flush_tlb, cpu)
    store64(block + 8 * NESTED_ROOT, vcpu.hw_root)
    vcpu.hw_flush = 0
    vcpu.hw_flush_count = 0


@core
def nested_page_fault(block):
    """One NPF exit; 1 when the guest may go on at once."""
    store64(block + 8 * VERDICT, UNTOUCHED)
    if load64(block + 8 * INTERRUPTED) != 0 or load64(block + 8 * CODE) != svm.NPF:
        return 0
    vm = state.attach(load64(block + 8 * HANDLE))
    vcpu = state.vcpu(vm, load64(block + 8 * VCPU))
    if vcpu.guest_mode:
        # the fault may be L1's
        return 0
    control = load64(block + 8 * CONTROL)
    env = load64(control + 8 * hooks.ENV)
    gpa = load64(block + 8 * GVA)
    error = load64(block + 8 * ERROR)
    vcpu.cr2 = load64(env + o.CR + 16)
    registers.guest_loaded(vm, vcpu, vcpu.cr0, load64(env + o.CR + 24))
    begin(block, vm, vcpu, env, control, error, gpa)
    verdict = exits.handle_page_fault(vm, vcpu, gpa, error)
    store64(block + 8 * VERDICT, verdict)
    if verdict != exits.RESUME:
        return 0
    store64(block + 8 * VERDICT, ENTER_ONLY)
    if state.words(vm, vm.events)[0] > load64(block + 8 * EVENT_LIMIT) or entry.enter(vm, vcpu) != entry.ENTER:
        return 0
    flush_nested(vcpu, hooks.get(control, hooks.CPU), block, load64(block + 8 * FLUSH_TLB))
    store64(block + 8 * VERDICT, UNTOUCHED)
    return 1


#: The interpreted core has no machine code to offer; then every fault goes to Python.
AVAILABLE = state.JIT

if AVAILABLE:
    @callback("i64", "i64")
    def handle(block):
        return exit_handler(block)

    @callback("i64", "i64")
    def handle_nested(block):
        return nested_page_fault(block)
