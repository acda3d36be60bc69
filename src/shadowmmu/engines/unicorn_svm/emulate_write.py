# SPDX-License-Identifier: GPL-2.0-or-later
"""x86_emulate_instruction for the stores that page-table code makes, without CPython.

    89 MOV r   c7 MOV imm   87 XCHG   0f b1 CMPXCHG   21 09 31, 81 83 /4 /1 /6 AND OR XOR   a3 MOV moffs (32-bit)
    0f b3 ab bb, 0f ba /6 /5 /7 BTR BTS BTC   ab STOS (REP)   0f c7 /1 CMPXCHG8B

in 64-bit code and flat 32-bit code, 4 or 8 bytes, within a page.

Everything else, and whatever faults on the way, is left to `emulate` before anything has changed.  The order is that
of `Emulator.emulate` and `EmulatorMemory.write`: fetch walk, operand walk, retry rule, store, MMU.
"""

from ... import state
from ...mmu import counters
from ...state import core
from ...state.foreign import call1, call2, call3, load32, load64, store8, store32, store64
from ...vm import emulation, operations
from . import offsets as o
from .operand import CODE32, CODE64, DS, LOW32, OTHER_CODE, code_kind, effective_address, linear, little_endian, segment_of_prefix

MAX_INSTRUCTION = 15
PAGE = 4096
TRAP, CARRY, PARITY, ADJUST, ZERO, SIGN, OVERFLOW = 0x100, 0x1, 0x4, 0x10, 0x40, 0x80, 0x800
MOV, XCHG, CMPXCHG, CMPXCHG8B, AND, OR, XOR, BTS, BTR, BTC, UNKNOWN = range(11)
RAX, RCX, RDX, RBX, RDI = 0, 8 * 1, 8 * 2, 8 * 3, 8 * 7
ES = 0
SIGN_BIT = -(1 << 63)


@core
def two_byte_operation(second, extension):
    """Operation of opcode 0f `second` (`extension`: the ModRM's middle field)."""
    if second == 0xB1:
        return CMPXCHG
    if second == 0xC7 and extension == 1:
        return CMPXCHG8B
    if second == 0xAB or second == 0xBA and extension == 5:
        return BTS
    if second == 0xB3 or second == 0xBA and extension == 6:
        return BTR
    if second == 0xBB or second == 0xBA and extension == 7:
        return BTC
    return UNKNOWN


@core
def one_byte_operation(opcode, extension):
    if opcode == 0x89 or opcode == 0xC7 and extension == 0:
        return MOV
    if opcode == 0x87:
        return XCHG
    group = opcode == 0x81 or opcode == 0x83
    if opcode == 0x21 or group and extension == 4:
        return AND
    if opcode == 0x09 or group and extension == 1:
        return OR
    if opcode == 0x31 or group and extension == 6:
        return XOR
    return UNKNOWN


@core
def immediate_size(opcode, second):
    if opcode == 0xC7 or opcode == 0x81:
        return 4
    if opcode == 0x83 or opcode == 0x0F and second == 0xBA:
        return 1
    return 0


@core
def parity(value):
    value ^= value >> 4
    value ^= value >> 2
    value ^= value >> 1
    return 0 if value & 1 else PARITY


@core
def logic_flags(value, size):
    """Flags of AND, OR, XOR; `value` has no bits above the operand."""
    return parity(value & 0xFF) | (ZERO if value == 0 else 0) | (SIGN if value >> (8 * size - 1) & 1 else 0)


@core
def compare_flags(a, b, size):
    """Flags of CMP a, b for operands of `size` bytes."""
    result = a - b
    top = 8 * size - 1
    below = (a ^ SIGN_BIT) < (b ^ SIGN_BIT)
    if size == 4:
        result &= 0xFFFFFFFF
    flags = logic_flags(result, size) | (CARRY if below else 0) | ((a ^ b ^ result) & ADJUST)
    return flags | (OVERFLOW if ((a ^ b) & (a ^ result)) >> top & 1 else 0)


@core
def set_flags(env, flags):
    store64(env + o.CC_SRC, flags & o.CC_MASK)
    store32(env + o.CC_OP, o.CC_OP_EFLAGS)


@core
def complete(env, kind, length):
    """RIP behind the instruction, and the interrupt shadow ends."""
    rip = load64(env + o.EIP) + length
    store64(env + o.EIP, rip if kind == CODE64 else rip & LOW32)
    store8(env + o.HFLAGS, load32(env + o.HFLAGS) & 0xFF & ~o.HF_INHIBIT_IRQ)


@core
def writable_gpa(vm, vcpu, gva, size):
    """gpa of a memory operand that lies in RAM and in one page; -1 if the caller must leave it to Python."""
    if (gva & (PAGE - 1)) + size > PAGE:
        return -1
    gpa = emulation.data_gpa(vm, vcpu, gva, 1)
    if gpa < 0 or emulation.is_mmio(vm, vcpu, gva, gpa, 1):
        return -1
    return gpa


@core
def put(vm, vcpu, gpa, value, size, engine):
    """Store, forget code translated from there, tell the MMU."""
    at = emulation.ram_offset(vm, vcpu, gpa)
    operations.write_bytes(vm, at, value, size)
    start = call2(engine[1], engine[0], engine[3] + at)
    call3(engine[2], engine[0], start, start + size)
    emulation.written(vm, vcpu, gpa, size)


@core
def store_string(vm, vcpu, env, kind, size, repeat, length, address, allowed, engine):
    """STOS; with REP until RCX reaches a multiple of 1024, as KVM's emulator does, or to the end of the run."""
    mask = -1 if kind == CODE64 else LOW32
    direction = 1 if load32(env + o.DF) == 1 else -1
    first = True
    room = engine[5]
    while True:
        target = load64(env + o.REGS + RDI) & mask
        gpa = writable_gpa(vm, vcpu, linear(env, kind, ES, target), size)
        if gpa < 0:
            # what is done is done; the guest comes back for the rest
            return 0 if first else 1
        if first:
            vcpu.stat[counters.INSN_EMULATION] += 1
            if emulation.retry_instruction(vm, vcpu, address, allowed, 0):
                return 1
        first = False
        put(vm, vcpu, gpa, load64(env + o.REGS + RAX), size, engine)
        store64(env + o.REGS + RDI, target + size * direction & mask)
        if not repeat:
            break
        left = (load64(env + o.REGS + RCX) & mask) - 1
        store64(env + o.REGS + RCX, left)
        if left == 0:
            break
        room -= 1
        if left & 0x3FF == 0 or room <= 0:
            return 1
    complete(env, kind, length)
    return 1


@core
def compare_and_exchange_8(vm, vcpu, env, gpa, old, engine):
    """CMPXCHG8B: EDX:EAX against memory; ECX:EBX or the old value is stored; only ZF changes."""
    expected = load64(env + o.REGS + RAX) & LOW32 | load64(env + o.REGS + RDX) << 32
    wanted = load64(env + o.REGS + RBX) & LOW32 | load64(env + o.REGS + RCX) << 32
    put(vm, vcpu, gpa, wanted if expected == old else old, 8, engine)
    flags = call1(engine[4], env)
    set_flags(env, flags | ZERO if expected == old else flags & ~ZERO)
    if expected != old:
        store64(env + o.REGS + RAX, old & LOW32)
        store64(env + o.REGS + RDX, old >> 32 & LOW32)


@core
def result_of(operation, old, source, size):
    """(new value, flags that change, their values) of a read-modify-write; CMPXCHG and XCHG are the caller's."""
    if operation == AND:
        value = old & source
    elif operation == OR:
        value = old | source
    elif operation == XOR:
        value = old ^ source
    else:
        bit = source & (8 * size - 1)
        mask = 1 << bit
        value = old | mask
        if operation == BTR:
            value = old & ~mask
        elif operation == BTC:
            value = old ^ mask
        return value, CARRY, old >> bit & 1
    return value, o.CC_MASK, logic_flags(value, size)


@core
def emulate(vm, vcpu, env, address, allowed, engine):
    """Emulate the store at RIP: 1 when the guest may go on, 0 when Python must do it (nothing has changed).

    address: CR2 of the fault.  allowed: EMULTYPE_ALLOW_RETRY.  engine: (uc, qemu_ram_addr_from_host,
    tb_invalidate_phys_range, host address of RAM, helper_read_eflags, iterations of a REP)."""
    kind = code_kind(env)
    if kind == OTHER_CODE or load64(env + o.EFLAGS) & TRAP or vm.event_mask:
        return 0
    rip = load64(env + o.EIP)
    gpa = emulation.fetch_gpa(vm, vcpu, rip)
    at = -1
    if gpa >= 0:
        at = emulation.ram_offset(vm, vcpu, gpa)
    if at < 0:
        return 0
    code = state.octets(vm, vm.ram + at)
    limit = min(MAX_INSTRUCTION, PAGE - (rip & (PAGE - 1)))
    i = 0
    override = -1
    repeat = False
    while i < limit:
        byte = code[i]
        prefix_segment = segment_of_prefix(byte)
        if byte == 0xF3:
            repeat = True
        elif prefix_segment >= 0:
            override = prefix_segment
        elif byte != 0xF0:
            break
        i += 1
    rex = 0
    if kind == CODE64 and i < limit and code[i] & 0xF0 == 0x40:
        rex = code[i] + 0
        i += 1
    size = 8 if rex & 8 else 4
    if i + 2 >= limit:
        return 0
    opcode = code[i] + 0
    if opcode == 0xAB:
        return store_string(vm, vcpu, env, kind, size, repeat, i + 1, address, allowed, engine)
    second = code[i + 1] + 0
    extension = 0
    following = 0
    if opcode == 0xA3 and kind == CODE32:
        operation = MOV
        if i + 5 > limit:
            return 0
        offset, i, segment = little_endian(code, i + 1, 4) & LOW32, i + 5, DS
    else:
        i += 2 if opcode == 0x0F else 1
        extension = code[i] >> 3 & 7
        operation = two_byte_operation(second, extension) if opcode == 0x0F else one_byte_operation(opcode, extension)
        if operation == UNKNOWN or code[i] >= 0xC0 or operation == CMPXCHG8B and size == 8:
            return 0
        following = immediate_size(opcode, second)
        offset, i, segment = effective_address(code, limit, i, rex, env, kind, following)
        if i == 0 or i + following > limit:
            return 0
    if override >= 0 and (kind == CODE32 or override >= 4):
        segment = override
    gva = linear(env, kind, segment, offset)
    register = env + o.REGS + 8 * (extension | (rex & 4) << 1)
    source = load64(register)
    if following:
        source = little_endian(code, i, following)
    length = i + following
    if operation == CMPXCHG8B:
        size = 8
    mask = -1 if size == 8 else LOW32
    source &= mask
    if operation >= BTS and following == 0 and not 0 <= source < 8 * size:
        return 0    # the bit lies outside the operand
    gpa = writable_gpa(vm, vcpu, gva, size)
    if gpa < 0:
        return 0
    vcpu.exception_pending = 0
    vcpu.exception_injected = 0
    vcpu.stat[counters.INSN_EMULATION] += 1
    writes_tables = operation != XOR and operation != BTR
    if emulation.retry_instruction(vm, vcpu, address, allowed, 1 if writes_tables else 0):
        return 1
    if operation == MOV:
        put(vm, vcpu, gpa, source, size, engine)
        complete(env, kind, length)
        return 1
    old = operations.read_bytes(vm, emulation.ram_offset(vm, vcpu, gpa), size)
    if operation == XCHG:
        put(vm, vcpu, gpa, source, size, engine)
        store64(register, old)
    elif operation == CMPXCHG8B:
        compare_and_exchange_8(vm, vcpu, env, gpa, old, engine)
    elif operation == CMPXCHG:
        expected = load64(env + o.REGS + RAX) & mask
        put(vm, vcpu, gpa, source if expected == old else old, size, engine)
        flags = call1(engine[4], env)
        set_flags(env, flags & ~o.CC_MASK | compare_flags(expected, old, size))
        if expected != old:
            store64(env + o.REGS + RAX, old)
    else:
        value, changed, values = result_of(operation, old, source, size)
        put(vm, vcpu, gpa, value, size, engine)
        flags = call1(engine[4], env)
        set_flags(env, flags & ~changed | values)
    complete(env, kind, length)
    return 1
