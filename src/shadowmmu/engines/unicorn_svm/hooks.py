# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled callbacks between the engine and Python.

An exit arrives in `on_interrupt`. It deals with the common cases without entering CPython, calls Python for
the rest, and on the way back puts a queued event into the guest:

    engine --exit--> on_interrupt --miss?--> fast path --handled--+
                          |                       | no             |
                          |                       v                |
                          +-----------------> Python on_exit       |
                                                  |                |
                      guest <---- deliver event <-+----------------+

Event delivery calls the engine's own interrupt code. That code reads the IDT, the TSS and the stack through
the shadow tables, so it can miss; a miss is a `longjmp` that ends in a new call of `on_interrupt`, and the
event that was on its way is then found in the VMCB, as on a real CPU (EXITINTINFO). This is why nothing here
may be a Python function: the jump would go over its frames.

The callbacks share one *control block* of int64 cells with Python; its address is their `user_data`.
"""

from ...state.foreign import (
    call1,
    call3,
    call4,
    call6,
    call7,
    callback,
    load8,
    load16,
    load32,
    load64,
    native,
    store8,
    store16,
    store32,
    store64,
)
from . import exits as ex
from . import offsets as o
from . import quick

# Cells of the control block
(ENV, CPU, VMCB, EXIT_CALLBACK, FAST_PATH, FAST_ARGUMENT,
 DO_INTERRUPT, DO_HARDIRQ, CPU_VMEXIT, READ_EFLAGS, VADDR_TO_HOST, LOAD16_MMU, EMU_STOP,
 EXCEPTION_INTERCEPTS,
 # the event to deliver before the next guest instruction
 EVENT_PENDING, EVENT_INFO, EVENT_ERROR, EVENT_LENGTH,
 # the event whose delivery the last exit interrupted, in EXITINTINFO form
 EXIT_INT_INFO, EXIT_INT_ERROR, EXIT_INT_LENGTH, DELIVERY_RIP,
 EXIT_CODE, EXIT_ADDRESS, EXIT_ERROR,
 # why and how Python wants the engine's attention
 LEAVE, USER_KICK, IN_EXIT, HELD_REQUESTS,
 IO_PORT, IO_SIZE, IO_IN, IO_STRING, IO_REP, IO_VALUE, IO_LENGTH,
 CODE_COUNT, CODE_0, CODE_1,
 EXITS, FAST_EXITS, NATIVE_EVENTS, PREFETCH_RIP,
 # instruction counting
 COUNT, LIMIT, BLOCK_PC, BLOCK_SIZE, BLOCK_COUNT, COUNT_TABLE, STARTED,
 # nested paging (nested_paging): the walker, its argument; what to walk; what came out
 WALK, WALK_ARGUMENT, WALK_GVA, WALK_KIND, WALK_WHO, WALK_PEEK,
 WALK_HPA, WALK_PROT, WALK_SIZE, WALK_ERROR, WALK_ADDRESS, FAULT_LINEAR,
 TLB_SET_PAGE, RAM_HPA, RAM_HOST, RAM_LENGTH,
 FAULTS_PUSH_RF,
 # counting the engine's own walks (walk_counter): the counter, its argument, the engine's walker
 COUNT_WALK, COUNT_ARGUMENT, ENGINE_WALKER,
 # exits answered without Python (module quick)
 QUICK,
 # which pages hold code (module code_pages)
 CODE_WATCH,
 # CR3 as we loaded it, or ANY_ROOT
 ROOT,
 # iterations of a REP that may be emulated at once (exact counting: up to the run's limit, where an interrupt may wait)
 ROOM,
 CELLS) = range(75)

# Values of LEAVE
LEAVE_HANDLER, LEAVE_BUDGET, LEAVE_STOP, LEAVE_SIGNAL = 1, 2, 3, 4

ANY_ROOT = -1
MAX_INSTRUCTION = 15
COUNT_TABLE_BITS = 14  # translated blocks remembered for counting
PAGE = 4096
TRAP = 1 << 8  # EFLAGS.TF: who completes an instruction has to raise #DB after it; Python does


@native
def get(control, cell):
    return load64(control + 8 * cell)


@native
def put(control, cell, value):
    store64(control + 8 * cell, value)


@native
def kick(cpu):
    """Make the engine take an INTR exit before the next translated block.

    Other threads do the same, so each request has its own byte and is set by a plain store.
    """
    store8(cpu + o.CPU_INTERRUPT_REQUEST, o.INTERRUPT_HARD)
    store16(cpu + o.CPU_ICOUNT_HIGH, 0xFFFF)
    store32(cpu + o.CPU_TCG_EXIT_REQ, 1)


@native
def leave(control, uc, cpu):
    """End uc_emu_start. Requests still open would exit again before it ends, so they are put aside."""
    requests = cpu + o.CPU_INTERRUPT_REQUEST
    held = load32(requests) & o.INTERRUPT_VIRQ
    if held:
        put(control, HELD_REQUESTS, held)
    store8(requests, 0)
    store8(requests + 1, 0)
    call1(get(control, EMU_STOP), uc)


@native
def mmu_index(env):
    hflags = load32(env + o.HFLAGS)
    if hflags & o.HF_CPL == 3:
        return o.MMU_USER
    if hflags & o.HF_SMAP == 0 or load64(env + o.EFLAGS) & (1 << 18):
        return o.MMU_KNOSMAP
    return o.MMU_KSMAP


@native
def fetch_host(control, env, address):
    """Host address of guest code, 0 if it may not be executed.  With nested paging the look-up leaves no A bit behind."""
    if get(control, WALK) == 0:
        return call4(get(control, VADDR_TO_HOST), env, address, o.ACCESS_FETCH, mmu_index(env))
    put(control, WALK_GVA, address)
    put(control, WALK_KIND, o.ACCESS_FETCH)
    put(control, WALK_WHO, mmu_index(env))
    put(control, WALK_PEEK, 1)
    status = call1(get(control, WALK), get(control, WALK_ARGUMENT))
    put(control, WALK_PEEK, 0)
    at = get(control, WALK_HPA) - get(control, RAM_HPA)
    if status != 0 or at < 0 or at >= get(control, RAM_LENGTH):
        return 0
    return get(control, RAM_HOST) + at


@native
def fetch_instruction(control, env):
    """Copy up to 15 bytes at CS:RIP into the control block, as far as the engine may execute them.

    The look-up never faults; a page that is not mapped ends the copy. It overwrites the fields of the last
    fault, so it runs after they were saved.
    """
    address = load64(env + o.SEGS + o.SEG_SIZE + o.SEG_BASE) + load64(env + o.EIP)
    if load32(env + o.HFLAGS) & o.HF_CS64:
        address = load64(env + o.EIP)
    elif load32(env + o.HFLAGS) & o.HF_LMA == 0:
        address &= 0xFFFFFFFF
    bytes_at = control + 8 * CODE_0
    put(control, CODE_0, 0)
    put(control, CODE_1, 0)
    first = min(MAX_INSTRUCTION, PAGE - (address & (PAGE - 1)))
    host = fetch_host(control, env, address)
    count = 0
    if host != 0:
        while count < first:
            store8(bytes_at + count, load8(host + count))
            count += 1
        if first < MAX_INSTRUCTION:
            host = fetch_host(control, env, address + first)
            if host != 0:
                while count < MAX_INSTRUCTION:
                    store8(bytes_at + count, load8(host + count - first))
                    count += 1
    put(control, CODE_COUNT, count)
    return count


@native
def prefix_length(control, env):
    """Number of prefix bytes before the opcode among the fetched bytes."""
    code64 = load32(env + o.HFLAGS) & o.HF_CS64
    count = get(control, CODE_COUNT)
    at = control + 8 * CODE_0
    for index in range(count):
        byte = load8(at + index)
        legacy = (byte == 0x66 or byte == 0x67 or byte == 0xF2 or byte == 0xF3 or byte == 0xF0 or byte == 0x26
                  or byte == 0x2E or byte == 0x36 or byte == 0x3E or byte == 0x64 or byte == 0x65)
        if not legacy and not (code64 and byte & 0xF0 == 0x40):
            return index
    return count


@native
def has_rep_prefix(control, length):
    at = control + 8 * CODE_0
    for index in range(length):
        if load8(at + index) == 0xF2 or load8(at + index) == 0xF3:
            return 1
    return 0


@native
def is_task_gate(control, env, vector):
    """Is the IDT's entry of type 5?  May not return."""
    gate = (load64(env + o.IDT + o.SEG_BASE) + 8 * vector) & 0xFFFFFFFF
    if 8 * vector + 7 > load32(env + o.IDT + o.SEG_LIMIT):
        return False
    # in the order of a CPU: a missing page is missed at the gate's first word
    call4(get(control, LOAD16_MMU), env, gate, o.MMU_KNOSMAP, 0)
    return (call4(get(control, LOAD16_MMU), env, gate + 4, o.MMU_KNOSMAP, 0) >> 8) & 0x1F == 5


@native
def exit_for_task_gate(control, env, vector, info, error):
    """Give the event to Python, which knows task switches."""
    gate = (load64(env + o.IDT + o.SEG_BASE) + 8 * vector) & 0xFFFFFFFF
    put(control, EXIT_CODE, ex.TASK_SWITCH)
    put(control, EXIT_ADDRESS, call4(get(control, LOAD16_MMU), env, gate + 2, o.MMU_KNOSMAP, 0) & 0xFFFF)
    put(control, EXIT_ERROR, error)
    put(control, EXIT_INT_INFO, info | ex.EVENT_VALID)
    put(control, EXIT_INT_ERROR, error)
    put(control, EXIT_INT_LENGTH, get(control, EVENT_LENGTH))
    put(control, EXITS, get(control, EXITS) + 1)
    put(control, IN_EXIT, 1)
    call1(get(control, EXIT_CALLBACK), ex.TASK_SWITCH)
    put(control, IN_EXIT, 0)


@native
def deliver_event(control, env, cpu):
    """Push the pending event through the guest's IDT. May not return (see the module's text)."""
    put(control, EVENT_PENDING, 0)
    info = get(control, EVENT_INFO)
    error = get(control, EVENT_ERROR)
    kind = (info >> 8) & 7
    vector = info & 0xFF
    # Kept while the delivery runs: if it is interrupted these become the EXITINTINFO.
    vmcb = get(control, VMCB)
    store32(vmcb + o.VMCB_EVENT_INJ, info | ex.EVENT_VALID)
    store32(vmcb + o.VMCB_EVENT_INJ_ERR, error)
    put(control, DELIVERY_RIP, load64(env + o.EIP))
    store32(env + o.OLD_EXCEPTION, -1)
    store32(env + o.HFLAGS, load32(env + o.HFLAGS) & ~o.HF_INHIBIT_IRQ)
    put(control, NATIVE_EVENTS, get(control, NATIVE_EVENTS) + 1)
    hflags = load32(env + o.HFLAGS)
    if hflags & o.HF_LMA == 0 and hflags & o.HF_PE and is_task_gate(control, env, vector):
        store32(vmcb + o.VMCB_EVENT_INJ, 0)
        exit_for_task_gate(control, env, vector, info, error)
        return
    if kind == ex.EVENT_INTERRUPT or kind == ex.EVENT_NMI:
        call3(get(control, DO_HARDIRQ), env, vector, 1)
    else:
        software = kind == ex.EVENT_SOFTWARE
        following = load64(env + o.EIP) + get(control, EVENT_LENGTH)
        if load32(env + o.HFLAGS) & o.HF_CS64 == 0:
            following &= 0xFFFFFFFF
        store32(cpu + o.CPU_EXCEPTION_INDEX, vector)
        store32(env + o.ERROR_CODE, error)
        store32(env + o.EXCEPTION_IS_INT, 1 if software else 0)
        store64(env + o.EXCEPTION_NEXT_EIP, following)
        call1(get(control, DO_INTERRUPT), cpu)
        # Left set, the engine would overwrite RIP at the next exit.
        store32(env + o.EXCEPTION_IS_INT, 0)
    # Real mode and failed checks may leave it: the delivery is over.
    store32(vmcb + o.VMCB_EVENT_INJ, 0)


@native
def requeue_interrupted_event(control):
    """The fault that interrupted a delivery was repaired: deliver the same event again."""
    if get(control, EXIT_INT_INFO) != 0:
        put(control, EVENT_INFO, get(control, EXIT_INT_INFO))
        put(control, EVENT_ERROR, get(control, EXIT_INT_ERROR))
        put(control, EVENT_LENGTH, get(control, EXIT_INT_LENGTH))
        put(control, EVENT_PENDING, 1)
        put(control, EXIT_INT_INFO, 0)


@native
def reflect_exception(control, vector, error):
    """An exception nobody intercepts goes to the guest; returns False on a triple fault (APM 8.2.9)."""
    before = get(control, EXIT_INT_INFO)
    if before != 0 and (before >> 8) & 7 == ex.EVENT_EXCEPTION:
        old = before & 0xFF
        if old == 8:
            return False
        second = (ex.CONTRIBUTORY >> vector) & 1
        if (((ex.CONTRIBUTORY >> old) & 1 and second)
                or (old == 14 and (second or vector == 14))):
            vector = 8
            error = 0
    if (ex.FAULTS >> vector) & 1 and get(control, FAULTS_PUSH_RF):
        # a fault pushes RFLAGS with RF set (SDM vol. 3 6.8.3)
        env = get(control, ENV)
        store64(env + o.EFLAGS, load64(env + o.EFLAGS) | 0x10000)
    info = vector | (ex.EVENT_EXCEPTION << 8) | ex.EVENT_VALID
    if (ex.HAS_ERROR_CODE >> vector) & 1:
        info |= ex.EVENT_ERROR_VALID
    put(control, EVENT_INFO, info)
    put(control, EVENT_ERROR, error)
    put(control, EVENT_LENGTH, 0)
    put(control, EVENT_PENDING, 1)
    put(control, EXIT_INT_INFO, 0)
    return True


@native
def is_prefetch_fault(control, env, cpu, address, error):
    """True for a fetch fault of the translator that no instruction has earned yet; arranges the retry.

    The engine translates ahead, over the end of the page, and faults there before the instructions it has
    already translated ran. A CPU would run those first (and may never get there). So the block is retried with
    one instruction; if that one faults again, it is its own fault: it crosses the page.
    """
    rip = load64(env + o.EIP)
    linear = rip
    if load32(env + o.HFLAGS) & o.HF_CS64 == 0:
        linear += load64(env + o.SEGS + o.SEG_SIZE + o.SEG_BASE)
        if load32(env + o.HFLAGS) & o.HF_LMA == 0:
            linear &= 0xFFFFFFFF
    if error & 0x10 == 0 or (address ^ linear) & ~(PAGE - 1) == 0 or get(control, PREFETCH_RIP) == rip:
        return False
    put(control, PREFETCH_RIP, rip)
    store32(cpu + o.CPU_CFLAGS_NEXT_TB, 1)
    return True


@native
def is_edge_fault(control, env, cpu):
    """The same for a #GP in the last page before the non-canonical addresses, where translating ahead ends in one."""
    rip = load64(env + o.EIP)
    above = (rip & -PAGE) + PAGE
    if load32(env + o.HFLAGS) & o.HF_CS64 == 0 or above != 1 << 47 and above != 1 << 56 or get(control, PREFETCH_RIP) == rip:
        return False
    put(control, PREFETCH_RIP, rip)
    store32(cpu + o.CPU_CFLAGS_NEXT_TB, 1)
    return True


@native
def complete_io(control, env):
    """Finish a non-string IN or OUT after Python looked at it."""
    if get(control, IO_IN):
        size = get(control, IO_SIZE)
        value = get(control, IO_VALUE)
        rax = load64(env + o.REGS)
        if size == 1:
            rax = (rax & ~0xFF) | (value & 0xFF)
        elif size == 2:
            rax = (rax & ~0xFFFF) | (value & 0xFFFF)
        else:
            rax = value & 0xFFFFFFFF
        store64(env + o.REGS, rax)
    rip = load64(env + o.EIP) + get(control, IO_LENGTH)
    if load32(env + o.HFLAGS) & o.HF_CS64 == 0:
        rip &= 0xFFFFFFFF
    store64(env + o.EIP, rip)
    store32(env + o.HFLAGS, load32(env + o.HFLAGS) & ~o.HF_INHIBIT_IRQ)


@native
def uncount_unfinished(control, env):
    """A block was counted whole when it began; take back what was not executed."""
    size = get(control, BLOCK_SIZE)
    if size == 0:
        return
    linear = load64(env + o.EIP)
    if load32(env + o.HFLAGS) & o.HF_CS64 == 0:
        linear += load64(env + o.SEGS + o.SEG_SIZE + o.SEG_BASE)
    done = linear - get(control, BLOCK_PC)
    if 0 <= done < size:
        counted = get(control, BLOCK_COUNT)
        put(control, COUNT, get(control, COUNT) - (counted * (size - done) + size - 1) // size)
    put(control, BLOCK_SIZE, 0)


@native
def count_emulated(control, env, repeated, rip, rcx):
    """Exact counting: an instruction that a fault's handler has emulated counts as on the engine's own MMU.

    The engine begins a REP instruction once for each iteration, and once more to find that none is left.
    """
    done = 1 if load64(env + o.EIP) != rip else 0
    if repeated:
        done += rcx - load64(env + o.REGS + 8)
    put(control, COUNT, get(control, COUNT) + done)


@native
def quick_exit(control, env, code):
    """Exits that `quick` can answer; 1 when the guest may go on."""
    block = get(control, QUICK)
    enabled = quick.cell(block, quick.ENABLED)
    if load64(env + o.EFLAGS) & TRAP:
        return 0
    if code == ex.IOIO and enabled:
        size = get(control, IO_SIZE)
        value = quick.port(block, get(control, IO_PORT), size, get(control, IO_IN), get(control, IO_VALUE))
        if value < 0:
            return 0
        put(control, IO_VALUE, value)
        complete_io(control, env)
        quick.pass_time(block, quick.cell(block, quick.IO_TIME))
        quick.set_cell(block, quick.TAKEN_IO, quick.cell(block, quick.TAKEN_IO) + 1)
    elif code == ex.RDTSC or code == ex.CPUID and enabled:
        fetch_instruction(control, env)
        prefixes = prefix_length(control, env)
        # 0f 31, 0f a2, and 0f 01 f9 (RDTSCP), which the engine reports as RDTSC
        with_aux = load8(control + 8 * CODE_0 + prefixes + 1) == 0x01
        if quick.take(block, env, code, get(control, COUNT), prefixes + (3 if with_aux else 2), with_aux) == 0:
            return 0
    else:
        return 0
    quick.set_cell(block, quick.TAKEN, quick.cell(block, quick.TAKEN) + 1)
    return 1


@callback("void", "i64", "u32", "i64")
def on_interrupt(uc, number, control):
    env = get(control, ENV)
    cpu = get(control, CPU)
    vmcb = get(control, VMCB)
    code = number - o.EXCP_VMEXIT
    # What the exit says, before anything below can overwrite it.
    address = load64(vmcb + o.VMCB_EXIT_INFO_2)
    error = load32(env + o.ERROR_CODE)
    interrupted = load32(vmcb + o.VMCB_EVENT_INJ)
    store32(env + o.EXCEPTION_IS_INT, 0)
    put(control, EXIT_INT_INFO, 0)
    if interrupted & ex.EVENT_VALID:
        store32(vmcb + o.VMCB_EVENT_INJ, 0)
        put(control, EXIT_INT_INFO, interrupted)
        put(control, EXIT_INT_ERROR, load32(vmcb + o.VMCB_EVENT_INJ_ERR))
        put(control, EXIT_INT_LENGTH, get(control, EVENT_LENGTH))
        # For a software event the engine has moved RIP to the next instruction already.
        store64(env + o.EIP, get(control, DELIVERY_RIP))
        # Its 64-bit gate checks report twice the selector-style index (vector * 16 + 2).
        if error & 2 and code != ex.PAGE_FAULT and code != ex.NPF and load32(env + o.HFLAGS) & o.HF_LMA:
            error = (interrupted & 0xFF) * 8 + 2
    linear = address
    if code == ex.NPF:
        # the engine keeps 32 bits of EXITINFO1
        error = get(control, WALK_ERROR)
        linear = get(control, FAULT_LINEAR)
    if (code == ex.PAGE_FAULT or code == ex.NPF) and interrupted & ex.EVENT_VALID == 0:
        if is_prefetch_fault(control, env, cpu, linear, error):
            return
    if code == ex.EXCEPTION + 13 and interrupted & ex.EVENT_VALID == 0 and is_edge_fault(control, env, cpu):
        return
    put(control, PREFETCH_RIP, -1)
    put(control, EXITS, get(control, EXITS) + 1)
    emulable = 0
    put(control, ROOM, quick.NO_LIMIT)
    rip = load64(env + o.EIP)
    rcx = load64(env + o.REGS + 8)
    if get(control, STARTED):
        # Exact counting: the instruction was counted when it began, and it did not end. A fault on the
        # fetch of the next one comes before that one began.
        put(control, STARTED, 0)
        fetch = (code == ex.PAGE_FAULT or code == ex.NPF) and error & 0x10
        if code != ex.INTR and code != ex.VINTR and not fetch:
            put(control, COUNT, get(control, COUNT) - 1)
            put(control, ROOM, get(control, LIMIT) - get(control, COUNT))
            if code == ex.PAGE_FAULT or code == ex.NPF:
                fetch_instruction(control, env)
                emulable = 1 + has_rep_prefix(control, prefix_length(control, env))
    else:
        uncount_unfinished(control, env)

    to_python = True
    if get(control, QUICK) != 0 and quick_exit(control, env, code):
        to_python = False
    elif code == ex.NPF or code == ex.PAGE_FAULT and (get(control, EXCEPTION_INTERCEPTS) >> 14) & 1:
        if get(control, FAST_PATH) != 0:
            block = get(control, FAST_ARGUMENT)
            store64(block, address)
            store64(block + 8, error)
            store64(block + 16, load64(env + o.EIP))
            store64(block + 24, get(control, EXIT_INT_INFO))
            store64(block + 32, code)
            if call1(get(control, FAST_PATH), block) == 1:
                put(control, FAST_EXITS, get(control, FAST_EXITS) + 1)
                requeue_interrupted_event(control)
                to_python = False
    elif (code == ex.WRITE_CR0 + 3 or code == ex.READ_CR0 + 3 or code == ex.INVLPG) and get(control, FAST_PATH) != 0:
        fetch_instruction(control, env)
        block = get(control, FAST_ARGUMENT)
        store64(block + 16, load64(env + o.EIP))
        store64(block + 24, 0)
        store64(block + 32, code)
        if call1(get(control, FAST_PATH), block) == 1:
            put(control, FAST_EXITS, get(control, FAST_EXITS) + 1)
            to_python = False
    elif code == ex.INTR:
        # Most kicks only bring us here: to leave, or to deliver an event queued outside an exit.
        store8(cpu + o.CPU_INTERRUPT_REQUEST, 0)
        to_python = get(control, USER_KICK) != 0 and get(control, LEAVE) == 0
        if to_python:
            put(control, USER_KICK, 0)
    elif code == ex.VINTR:
        store8(cpu + o.CPU_INTERRUPT_REQUEST + 1, 0)
    elif (ex.EXCEPTION <= code < ex.EXCEPTION + 32
          and (get(control, EXCEPTION_INTERCEPTS) >> (code - ex.EXCEPTION)) & 1 == 0):
        if code == ex.PAGE_FAULT:
            store64(env + o.CR + 16, address)
        if reflect_exception(control, code - ex.EXCEPTION, error):
            to_python = False
        else:
            code = ex.SHUTDOWN

    if to_python:
        put(control, EXIT_CODE, code)
        put(control, EXIT_ADDRESS, address)
        put(control, EXIT_ERROR, error)
        if code == ex.PAGE_FAULT or code == ex.NPF:
            put(control, CODE_COUNT, 0)
        else:
            fetch_instruction(control, env)
        put(control, IN_EXIT, 1)
        call1(get(control, EXIT_CALLBACK), code)
        put(control, IN_EXIT, 0)
        if code == ex.IOIO and get(control, IO_LENGTH) != 0:
            complete_io(control, env)
    if emulable:
        count_emulated(control, env, emulable == 2, rip, rcx)
    # an event that met a task gate may be followed by another one
    while get(control, EVENT_PENDING) and get(control, LEAVE) == 0:
        deliver_event(control, env, cpu)
    if get(control, LEAVE):
        leave(control, uc, cpu)


@native
def io_permitted(control, env, port, size):
    """The permission check the engine leaves out: IOPL, then the bitmap of a 32-bit or 64-bit TSS."""
    flags = load64(env + o.EFLAGS)
    hflags = load32(env + o.HFLAGS)
    virtual = flags & (1 << 17)
    if hflags & o.HF_PE == 0 or (hflags & o.HF_CPL <= (flags >> 12) & 3 and not virtual):
        return True
    tr = env + o.TR
    limit = load32(tr + o.SEG_LIMIT)
    kind = (load32(tr + o.SEG_FLAGS) >> 8) & 0xF
    if (kind != 9 and kind != 11) or limit < 103:
        return False
    base = load64(tr + o.SEG_BASE)
    # Reads with supervisor rights; a miss restarts the instruction.
    map_offset = call4(get(control, LOAD16_MMU), env, base + 0x66, o.MMU_KNOSMAP, 0) & 0xFFFF
    at = map_offset + (port >> 3)
    if at + 1 > limit:
        return False
    bits = call4(get(control, LOAD16_MMU), env, base + at, o.MMU_KNOSMAP, 0) & 0xFFFF
    return (bits >> (port & 7)) & ((1 << size) - 1) == 0


@native
def io_exit(control, port, size, is_in, value):
    """Common part of IN and OUT. A plain one becomes an exit; a string element calls Python from inside."""
    env = get(control, ENV)
    if not io_permitted(control, env, port, size):
        call4(get(control, CPU_VMEXIT), env, ex.EXCEPTION + 13, 0, 0)
    fetch_instruction(control, env)
    prefixes = prefix_length(control, env)
    opcode = load8(control + 8 * CODE_0 + prefixes)
    string = 0x6C <= opcode <= 0x6F
    put(control, IO_PORT, port)
    put(control, IO_SIZE, size)
    put(control, IO_IN, is_in)
    put(control, IO_STRING, 1 if string else 0)
    put(control, IO_REP, has_rep_prefix(control, prefixes) if string else 0)
    put(control, IO_VALUE, value)
    put(control, IO_LENGTH, prefixes + (2 if opcode <= 0xE7 else 1))
    if not string:
        # APM 15.10.2: bit 0 = IN, bits 4..6 = operand size, bits 16..31 = port
        information = (port << 16) | is_in | (size << 4)
        call4(get(control, CPU_VMEXIT), env, ex.IOIO, information, 0)
    put(control, EXIT_CODE, ex.IOIO)
    put(control, EXIT_INT_INFO, 0)
    call1(get(control, EXIT_CALLBACK), ex.IOIO)
    return get(control, IO_VALUE)


@callback("u32", "i64", "u32", "i32", "i64")
def on_in(uc, port, size, control):
    return io_exit(control, port, size, 1, 0)


@callback("void", "i64", "u32", "i32", "u32", "i64")
def on_out(uc, port, size, value, control):
    io_exit(control, port, size, 0, value)


@native
def load_flat_segment(env, segment, selector, flags):
    at = env + o.SEGS + o.SEG_SIZE * segment
    store32(at + o.SEG_SELECTOR, selector)
    store64(at + o.SEG_BASE, 0)
    store32(at + o.SEG_LIMIT, 0xFFFFFFFF)
    store32(at + o.SEG_FLAGS, flags)


FLAT_CODE32, FLAT_CODE64, FLAT_DATA = 0xC09B00, 0xA09B00, 0xC09300


@native
def enter_kernel_segments(env, selector, long_mode):
    """CS, SS and the mode bits as SYSCALL and SYSENTER load them."""
    load_flat_segment(env, 1, selector & 0xFFFC, FLAT_CODE64 if long_mode else FLAT_CODE32)
    load_flat_segment(env, 2, (selector + 8) & 0xFFFC, FLAT_DATA)
    hflags = load32(env + o.HFLAGS) & ~(o.HF_CPL | o.HF_CS64 | o.HF_ADDSEG)
    hflags |= o.HF_CS32 | o.HF_SS32
    if long_mode:
        hflags |= o.HF_CS64
    else:
        ds_base = load64(env + o.SEGS + 3 * o.SEG_SIZE + o.SEG_BASE)
        es_base = load64(env + o.SEGS + o.SEG_BASE)
        if ds_base | es_base:
            hflags |= o.HF_ADDSEG
    store32(env + o.HFLAGS, hflags)


@callback("void", "i64", "i64")
def on_syscall(uc, control):
    """SYSCALL (APM volume 3). The engine only calls the hook and then adds the length to RIP."""
    env = get(control, ENV)
    efer = load64(env + o.EFER)
    if efer & 1 == 0:
        call4(get(control, CPU_VMEXIT), env, ex.EXCEPTION + 6, 0, 0)
    fetch_instruction(control, env)
    length = prefix_length(control, env) + 2
    star = load64(env + o.STAR)
    selector = (star >> 32) & 0xFFFF
    following = load64(env + o.EIP) + length
    flags = call1(get(control, READ_EFLAGS), env)
    if efer & 0x400:
        from64 = load32(env + o.HFLAGS) & o.HF_CS64
        store64(env + o.REGS + 8 * 1, following)
        store64(env + o.REGS + 8 * 11, flags & ~0x10000)
        flags &= ~(load64(env + o.SFMASK) | 0x10000)
        enter_kernel_segments(env, selector, True)
        target = load64(env + o.LSTAR) if from64 else load64(env + o.CSTAR)
    else:
        store64(env + o.REGS + 8 * 1, following & 0xFFFFFFFF)
        flags &= ~0x30200  # IF, RF, VM
        enter_kernel_segments(env, selector, False)
        target = star & 0xFFFFFFFF
    store64(env + o.CC_SRC, flags & o.CC_MASK)
    store32(env + o.CC_OP, o.CC_OP_EFLAGS)
    store32(env + o.DF, -1 if flags & o.DF_FLAG else 1)
    store64(env + o.EFLAGS, (flags & ~(o.CC_MASK | o.DF_FLAG)) | 2)
    store64(env + o.EIP, target - length)


@callback("void", "i64", "i64")
def on_sysenter(uc, control):
    """SYSENTER outside 64-bit code; in 64-bit code the engine raises #UD itself, as AMD CPUs do."""
    env = get(control, ENV)
    selector = load32(env + o.SYSENTER_CS)
    if selector & 0xFFFC == 0:
        call4(get(control, CPU_VMEXIT), env, ex.EXCEPTION + 13, 0, 0)
    fetch_instruction(control, env)
    length = prefix_length(control, env) + 2
    # The arithmetic flags stay as they are, also in their lazy form.
    store64(env + o.EFLAGS, load64(env + o.EFLAGS) & ~0x30200)
    enter_kernel_segments(env, selector, False)
    store64(env + o.REGS + 8 * 4, load64(env + o.SYSENTER_ESP) & 0xFFFFFFFF)
    store64(env + o.EIP, (load64(env + o.SYSENTER_EIP) & 0xFFFFFFFF) - length)


@native
def count_slot(table, pc, size):
    """Address of the table entry for a block: key (pc ^ size << 48), value (instructions)."""
    key = pc ^ (size << 48)
    index = (pc ^ (pc >> COUNT_TABLE_BITS) ^ size) & ((1 << COUNT_TABLE_BITS) - 1)
    return table + 16 * index, key


@callback("void", "i64", "i64", "i64", "i64")
def on_translated(uc, current, previous, control):
    """Remember how many instructions a freshly translated block has (uc_tb: pc, icount u16, size u16)."""
    pc = load64(current)
    count = load16(current + 8)
    size = load16(current + 10)
    slot, key = count_slot(get(control, COUNT_TABLE), pc, size)
    store64(slot, key)
    store64(slot + 8, count)


@callback("void", "i64", "i64", "u32", "i64")
def on_block(uc, pc, size, control):
    """Count a block about to run; the limit is tested here, and acts before the block's first instruction."""
    slot, key = count_slot(get(control, COUNT_TABLE), pc, size)
    count = load64(slot + 8) if load64(slot) == key else max(1, size // 4)
    total = get(control, COUNT)
    if total >= get(control, LIMIT):
        put(control, BLOCK_SIZE, 0)
        put(control, LEAVE, LEAVE_BUDGET)
        kick(get(control, CPU))
        return
    put(control, COUNT, total + count)
    put(control, BLOCK_PC, pc)
    put(control, BLOCK_SIZE, size)
    put(control, BLOCK_COUNT, count)


@callback("void", "i64", "i64", "u32", "i64")
def on_instruction(uc, pc, size, control):
    """Exact counting: called before every instruction, with RIP and flags in the CPU record."""
    total = get(control, COUNT)
    if total >= get(control, LIMIT):
        put(control, STARTED, 0)
        put(control, LEAVE, LEAVE_BUDGET)
        call4(get(control, CPU_VMEXIT), get(control, ENV), ex.INTR, 0, 0)
    put(control, COUNT, total + 1)
    put(control, STARTED, 1)


@callback("u32", "i64", "i64", "i32", "i32", "i32", "u32", "i64")
def on_tlb_fill(cpu, address, size, kind, index, probe, retaddr):
    """CPUClass.tlb_fill: fill the TLB and return 1; a failed probe returns 0, any other failure does not return."""
    env = cpu + o.CPU_ENV
    control = load64(env + o.NESTED_CR3)
    put(control, WALK_GVA, address)
    put(control, WALK_KIND, kind)
    put(control, WALK_WHO, index)
    status = call1(get(control, WALK), get(control, WALK_ARGUMENT))
    if status == 0:
        call6(get(control, TLB_SET_PAGE), cpu, address & -PAGE, get(control, WALK_HPA) & -PAGE,
              get(control, WALK_PROT), index, get(control, WALK_SIZE))
        return 1
    if probe & 0xFF:
        return 0
    put(control, FAULT_LINEAR, address)
    vmexit = get(control, CPU_VMEXIT)
    store64(get(control, VMCB) + o.VMCB_EXIT_INFO_2, get(control, WALK_ADDRESS))
    error = get(control, WALK_ERROR)
    if status == 1:
        call4(vmexit, env, ex.NPF, error & 0xFFFFFFFF, retaddr)
    elif status == 2:
        call4(vmexit, env, ex.PAGE_FAULT, error, retaddr)
    elif status == 3:
        call4(vmexit, env, ex.EXCEPTION + 13, 0, retaddr)
    call4(vmexit, env, ex.INTR, 0, retaddr)
    return 0


@callback("u32", "i64", "i64", "i32", "i32", "i32", "u32", "i64")
def on_tlb_fill_counted(cpu, address, size, kind, index, probe, retaddr):
    """CPUClass.tlb_fill of a run whose walks are counted: count, then let the engine walk."""
    control = load64(cpu + o.CPU_ENV + o.NESTED_CR3)
    if probe & 0xFF == 0:
        put(control, WALK_GVA, address)
        call1(get(control, COUNT_WALK), get(control, COUNT_ARGUMENT))
    return call7(get(control, ENGINE_WALKER), cpu, address, size, kind, index, probe & 0xFF, retaddr) & 0xFF
