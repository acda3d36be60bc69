# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits that need neither the MMU nor a device with a state of its own, answered in compiled code.

    RDTSC, RDTSCP   the virtual clock: executed instructions plus the time that HLT skipped and port accesses took
    CPUID           answers that Python has given before; leaf 0xd, which depends on XCR0, is the engine's own
    IN, OUT         ports where nothing is (all ones), and the serial port while it only transmits

The clock lives here: now = COUNT + CLOCK_OFFSET nanoseconds (`hooks`).  Python reads the same cells, so both agree.
While events are recorded CPUID and ports go to Python, which knows KVM's tracepoints; KVM sees no RDTSC at all.
"""

from ...state.foreign import call7, load8, load32, load64, native, store8, store64
from . import exits as ex
from . import offsets as o

# Cells of the quick block; its address is in the control block
(ENABLED, CLOCK_OFFSET, TSC_AUX, IO_TIME, PORTS, SERIAL_BASE, SERIAL_READY, SERIAL_STATUS, SERIAL_BUFFER, SERIAL_COUNT,
 CPUID_COUNT, CPUID_TABLE, TAKEN, TAKEN_IO, LIMIT_AT, NATIVE_CPUID, ANSWER_EAX, ANSWER_EBX, ANSWER_ECX, ANSWER_EDX,
 CELLS) = range(21)
NO_LIMIT = (1 << 63) - 1

SERIAL_ROOM = 4096
CPUID_ENTRIES = 64  # of six words: leaf, subleaf, eax, ebx, ecx, edx
#: No exit tells when XCR0 changes, so its answers are not kept.
XSAVE_LEAF = 0xD
LINE_STATUS = 5
#: What reading the clock takes, ns: about an exit of real hardware.  Delay loops wait in such steps.
TIME_STAMP_TIME = 500


@native
def cell(block, number):
    return load64(block + 8 * number)


@native
def set_cell(block, number, value):
    store64(block + 8 * number, value)


@native
def skip(env, length):
    """The instruction is complete."""
    rip = load64(env + o.EIP) + length
    hflags = load32(env + o.HFLAGS)
    if hflags & o.HF_CS64 == 0:
        rip &= 0xFFFFFFFF
    store64(env + o.EIP, rip)
    store8(env + o.HFLAGS, hflags & 0xFF & ~o.HF_INHIBIT_IRQ)


@native
def pass_time(block, ns):
    """Time that passes without instructions: the virtual clock goes on, and the next expiry comes nearer."""
    set_cell(block, CLOCK_OFFSET, cell(block, CLOCK_OFFSET) + ns)
    limit = cell(block, LIMIT_AT)
    if load64(limit) != NO_LIMIT:
        store64(limit, load64(limit) - ns)


@native
def time_stamp(block, env, count, with_aux, length):
    """RDTSC and RDTSCP."""
    now = count + cell(block, CLOCK_OFFSET)
    pass_time(block, TIME_STAMP_TIME)
    store64(env + o.REGS, now & 0xFFFFFFFF)
    store64(env + o.REGS + 16, now >> 32 & 0xFFFFFFFF)
    if with_aux:
        store64(env + o.REGS + 8, cell(block, TSC_AUX) & 0xFFFFFFFF)
    skip(env, length)


@native
def cpuid(block, env, length):
    """CPUID from the table; 0 when Python has not answered this one yet."""
    leaf = load64(env + o.REGS) & 0xFFFFFFFF
    subleaf = load64(env + o.REGS + 8) & 0xFFFFFFFF
    if leaf == XSAVE_LEAF:
        answer = block + 8 * ANSWER_EAX
        call7(cell(block, NATIVE_CPUID), env, leaf, subleaf, answer, answer + 8, answer + 16, answer + 24)
        store64(env + o.REGS, cell(block, ANSWER_EAX))
        store64(env + o.REGS + 24, cell(block, ANSWER_EBX))
        store64(env + o.REGS + 8, cell(block, ANSWER_ECX))
        store64(env + o.REGS + 16, cell(block, ANSWER_EDX))
        skip(env, length)
        return 1
    entry = cell(block, CPUID_TABLE)
    for _ in range(cell(block, CPUID_COUNT)):
        if load64(entry) == leaf and load64(entry + 8) == subleaf:
            store64(env + o.REGS, load64(entry + 16))
            store64(env + o.REGS + 24, load64(entry + 24))
            store64(env + o.REGS + 8, load64(entry + 32))
            store64(env + o.REGS + 16, load64(entry + 40))
            skip(env, length)
            return 1
        entry += 48
    return 0


@native
def port(block, number, size, is_in, value):
    """A port access that no device has to see: the value read (0 for OUT), or -1."""
    claimed = False
    table = cell(block, PORTS)
    for i in range(size):
        at = (number + i) & 0xFFFF
        claimed = claimed or load8(table + (at >> 3)) >> (at & 7) & 1 != 0
    if not claimed:
        return (1 << 8 * size) - 1 if is_in else 0
    if size != 1 or cell(block, SERIAL_READY) == 0:
        return -1
    register = number - cell(block, SERIAL_BASE)
    if is_in and register == LINE_STATUS:
        return cell(block, SERIAL_STATUS)
    count = cell(block, SERIAL_COUNT)
    if not is_in and register == 0 and count < SERIAL_ROOM:
        store8(cell(block, SERIAL_BUFFER) + count, value)
        set_cell(block, SERIAL_COUNT, count + 1)
        return 0
    return -1


@native
def take(block, env, code, count, length, with_aux):
    """One of RDTSC, RDTSCP, CPUID: 1 when it is done.  `length`: of the instruction, with its prefixes."""
    if code == ex.RDTSC:
        time_stamp(block, env, count, with_aux, length)
        return 1
    return cpuid(block, env, length)
