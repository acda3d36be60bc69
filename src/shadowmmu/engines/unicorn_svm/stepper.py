# SPDX-License-Identifier: GPL-2.0-or-later
"""Execute exactly one guest instruction on behalf of the MMU.

KVM has an instruction emulator for writes it must see (to write-protected page tables, to MMIO). We have a
second engine instead: it gets a copy of the CPU, the bytes of one instruction, and a memory that is not there:

    CPU copy + bytes --> second engine --read hook---> memory.read(gva, ...) --> bytes put where the load looks
                              |
                              +--------write hook--> log --(instruction complete)--> memory.write(gva, data)
                                                                             --> CPU copied back

The engine's addresses go through its virtual-TLB mode: every linear page it touches becomes a private scratch
page. The bytes of each distinct instruction get a physical page of their own, so a translation belongs to
bytes and never to an address: changed code cannot run stale, and a repeated instruction is translated once.
"""

import ctypes
from dataclasses import dataclass, field

import numpy as np

from ...state.foreign import call1, call3, callback, load8, load64, native, store8, store16, store32, store64
from . import offsets as o
from .errors import EngineError
from .hooks import get, put

PAGE = 4096
CODE_BASE = 0x1000_0000
CODE_SLOTS = 512  # pairs of pages, one pair for each distinct instruction
DATA_BASE = 0x2000_0000
DATA_SLOTS = 64
LOG_ENTRIES = 256

# Cells of the stepper's control block
(ENV, CPU, EMU_STOP, READ_CALLBACK, CODE_PAGE, CODE_FRAME, DATA_MEMORY, SLOT_COUNT, SLOTS,
 LOG, LOG_COUNT, READ_BUFFER, FAULTED, OVERFLOW, VECTOR, ERROR, SOFTWARE, CELLS) = range(18)

MEM_FETCH = 18  # UC_MEM_FETCH
STRING_OPCODES = frozenset((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF))
LEGACY_PREFIXES = b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65"
TF = 0x100

_READ_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class GuestFault(Exception):
    """Raised by a memory to abort the instruction; the CPU is then unchanged."""


@dataclass
class StepResult:
    """What one instruction did.

    `exception` is (vector, error code or None) if the instruction raised one itself; nothing else happened
    then. `reads` are (gva, size), `writes` (gva, data), both as whole operands in program order. `locked`: the
    instruction is an atomic read-modify-write. `repeats`: a REP string instruction with iterations left; RIP
    is unchanged and the caller steps again.
    """

    exception: tuple | None = None
    reads: list = field(default_factory=list)
    writes: list = field(default_factory=list)
    locked: bool = False
    repeats: bool = False


@native
def slot_of(control, page):
    """Scratch page for a linear page; the same one throughout the instruction."""
    slots = get(control, SLOTS)
    count = get(control, SLOT_COUNT)
    for index in range(count):
        if load64(slots + 8 * index) == page:
            return index
    if count == DATA_SLOTS:
        put(control, OVERFLOW, 1)
        return 0
    store64(slots + 8 * count, page)
    put(control, SLOT_COUNT, count + 1)
    return count


@native
def scratch(control, gva):
    """Host address of the scratch byte for linear address gva."""
    page = gva & ~(PAGE - 1)
    return get(control, DATA_MEMORY) + PAGE * slot_of(control, page) + (gva & (PAGE - 1))


@native
def linear_of(control, physical):
    offset = physical - DATA_BASE
    return load64(get(control, SLOTS) + 8 * (offset // PAGE)) + (offset & (PAGE - 1))


@callback("u8", "i64", "i64", "i32", "i64", "i64")
def on_tlb_fill(uc, page, kind, entry, control):
    if kind == MEM_FETCH:
        # The page of RIP and the one after it, in case the instruction crosses.
        physical = get(control, CODE_FRAME) + ((page - get(control, CODE_PAGE)) & PAGE)
        store64(entry, physical)
        store32(entry + 8, 5)
    else:
        store64(entry, DATA_BASE + PAGE * slot_of(control, page))
        store32(entry + 8, 3)
    return True


@callback("void", "i64", "i64", "u32", "i64")
def on_block(uc, pc, size, control):
    """The block is one instruction. Ask for the end now, but let this block run: only the loop looks."""
    call1(get(control, EMU_STOP), uc)
    cpu = get(control, CPU)
    store16(cpu + o.CPU_ICOUNT_HIGH, 0)
    store32(cpu + o.CPU_TCG_EXIT_REQ, 0)


@callback("void", "i64", "i32", "i64", "i32", "i64", "i64")
def on_read(uc, kind, physical, size, value, control):
    gva = linear_of(control, physical)
    if get(control, FAULTED):
        return
    if call3(get(control, READ_CALLBACK), gva, size, 0) != 0:
        put(control, FAULTED, 1)
        return
    buffer = get(control, READ_BUFFER)
    for index in range(size):
        store8(scratch(control, gva + index), load8(buffer + index))
    # What the instruction itself wrote before is newer than memory.
    log = get(control, LOG)
    for entry in range(get(control, LOG_COUNT)):
        start = load64(log + 24 * entry)
        for index in range(load64(log + 24 * entry + 8)):
            if 0 <= start + index - gva < size:
                store8(scratch(control, start + index), load8(log + 24 * entry + 16 + index))


@callback("void", "i64", "i32", "i64", "i32", "i64", "i64")
def on_write(uc, kind, physical, size, value, control):
    count = get(control, LOG_COUNT)
    if count == LOG_ENTRIES:
        put(control, OVERFLOW, 1)
        return
    at = get(control, LOG) + 24 * count
    store64(at, linear_of(control, physical))
    store64(at + 8, size)
    store64(at + 16, value)
    put(control, LOG_COUNT, count + 1)


@callback("void", "i64", "u32", "i64")
def on_interrupt(uc, number, control):
    env = get(control, ENV)
    put(control, VECTOR, number)
    put(control, ERROR, load64(env + o.ERROR_CODE) & 0xFFFFFFFF)
    put(control, SOFTWARE, load64(env + o.EXCEPTION_IS_INT) & 1)
    store32(env + o.EXCEPTION_IS_INT, 0)
    call1(get(control, EMU_STOP), uc)


class InstructionStepper:
    """The second engine. One object serves any number of `SvmHardware` objects, one step at a time."""

    def __init__(self):
        unicorn = o.import_unicorn()
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(unicorn.x86_const.UC_CPU_X86_EPYC)
        self._uc.ctl_exits_enabled(True)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._state = state = o.find_engine_state(self._uc)
        o.make_stops_precise(state)
        self._library = state.library
        self._start = self._library.uc_emu_start
        self._arguments = (ctypes.c_void_p(state.uc), ctypes.c_uint64(0), ctypes.c_uint64(0), ctypes.c_size_t(0))
        self._env32 = (ctypes.c_uint32 * (o.CONTEXT_DATA_SIZE // 4)).from_address(state.env)
        self._env64 = (ctypes.c_uint64 * (o.CONTEXT_DATA_SIZE // 8)).from_address(state.env)
        self._next_cflags = ctypes.c_uint32.from_address(state.cpu + o.CPU_CFLAGS_NEXT_TB)
        self._flush = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(state.functions["tlb_flush"])
        self._code_address = self._map(CODE_BASE, 2 * PAGE * CODE_SLOTS)
        data_address = self._map(DATA_BASE, PAGE * DATA_SLOTS)
        self._code_slots = {}
        self._memory = None
        self._error = None
        self._reads = []

        self._slots = np.zeros(DATA_SLOTS, np.int64)
        self._log = np.zeros(3 * LOG_ENTRIES, np.int64)
        self._log_cells = (ctypes.c_int64 * (3 * LOG_ENTRIES)).from_address(self._log.ctypes.data)
        self._buffer = np.zeros(64, np.uint8)
        self._buffer_address = self._buffer.ctypes.data
        self._control = np.zeros(CELLS, np.int64)
        self._cells = (ctypes.c_int64 * CELLS).from_address(self._control.ctypes.data)
        self._callback = _READ_CALLBACK(self._on_read)
        for cell, value in ((ENV, state.env), (CPU, state.cpu), (EMU_STOP, state.functions["uc_emu_stop"]),
                            (READ_CALLBACK, ctypes.cast(self._callback, ctypes.c_void_p).value),
                            (DATA_MEMORY, data_address), (SLOTS, self._slots.ctypes.data),
                            (LOG, self._log.ctypes.data), (READ_BUFFER, self._buffer_address)):
            self._cells[cell] = value
        from unicorn import unicorn_const as uc
        for kind, hook_function in ((uc.UC_HOOK_TLB_FILL, on_tlb_fill), (uc.UC_HOOK_BLOCK, on_block),
                               (uc.UC_HOOK_MEM_READ, on_read), (uc.UC_HOOK_MEM_WRITE, on_write),
                               (uc.UC_HOOK_INTR, on_interrupt)):
            hook = ctypes.c_size_t()
            status = self._library.uc_hook_add(
                self._arguments[0], ctypes.byref(hook), ctypes.c_int(kind), ctypes.c_void_p(hook_function.address),
                ctypes.c_void_p(self._control.ctypes.data), ctypes.c_uint64(1), ctypes.c_uint64(0))
            if status:
                raise EngineError(f"the stepper cannot install hook {kind}: status {status}")

    def step(self, hardware, instruction_bytes, memory):
        """Execute the instruction `instruction_bytes` (1..15 bytes, more is ignored) at the CPU's RIP.

        `memory.read(gva, size, implicit_supervisor) -> bytes` is called for each load (up to 8 bytes each) as
        the instruction makes it, `memory.write(gva, data, implicit_supervisor)` for each whole operand after
        the instruction is complete. Both may raise, `GuestFault` or anything else: it comes out of `step` and
        `hardware` is unchanged. `implicit_supervisor` is True for descriptor table and TSS accesses from CPL 3.

        On success registers, flags and RIP go back to `hardware`. Returns a StepResult. Not for instructions
        that exit (control registers, I/O, HLT, SYSCALL): those belong to the caller.

        A store takes about 8 us, a read-modify-write 9 us: tests/engines/test_hardware_speed.py.
        """
        state = self._state
        code = bytes(instruction_bytes[:15])
        rflags = hardware.rflags
        # Everything up to the exception fields; mode flags without the guest bit, so nothing is intercepted.
        ctypes.memmove(state.env, hardware.env_address, o.ERROR_CODE)
        env32, env64, cells = self._env32, self._env64, self._cells
        env32[o.HFLAGS // 4] &= ~o.HF_GUEST
        # A trap after the instruction is the caller's business.
        flags = rflags & ~TF
        env64[o.EFLAGS // 8] = flags
        env64[o.CC_SRC // 8] = flags & o.CC_MASK
        env32[o.CC_OP // 4] = o.CC_OP_EFLAGS
        env32[o.DF // 4] = 0xFFFFFFFF if flags & o.DF_FLAG else 1
        env32[o.OLD_EXCEPTION // 4] = 0xFFFFFFFF

        rip = env64[o.EIP // 8]
        linear = self._linear(rip)
        cells[CODE_PAGE] = self._signed(linear & ~(PAGE - 1))
        cells[CODE_FRAME] = self._frame(linear & (PAGE - 1), code)
        cells[SLOT_COUNT] = cells[LOG_COUNT] = cells[FAULTED] = cells[OVERFLOW] = 0
        cells[VECTOR] = -1
        self._memory, self._error, self._reads = memory, None, []
        self._flush(state.cpu)
        self._next_cflags.value = 1  # one instruction in the block
        handle, *rest = self._arguments
        status = self._start(handle, ctypes.c_uint64(rip), *rest)
        self._memory = None

        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if status == 10:  # UC_ERR_INSN_INVALID
            return StepResult(exception=(6, None))
        if status or cells[OVERFLOW]:
            raise EngineError(f"the stepper failed (status {status}) at RIP {rip:#x}, bytes {code.hex(' ')}")
        if cells[VECTOR] >= 0:
            vector = cells[VECTOR]
            has_error = not cells[SOFTWARE] and vector in (8, 10, 11, 12, 13, 14, 17)
            return StepResult(exception=(vector, cells[ERROR] if has_error else None))

        opcode, modrm, prefixes = self._opcode(code)
        exchange = opcode in (0x86, 0x87) and modrm is not None and modrm < 0xC0
        result = StepResult(reads=_merge_reads(self._reads), writes=self._collect_writes(),
                            locked=exchange or 0xF0 in prefixes)
        result.repeats = (opcode in STRING_OPCODES and (0xF2 in prefixes or 0xF3 in prefixes)
                          and env64[o.EIP // 8] == rip)
        self._memory = memory
        for gva, data in result.writes:
            memory.write(gva, data, self._is_implicit(gva))
        self._memory = None
        self._copy_back(hardware, rflags)
        return result

    def _copy_back(self, hardware, rflags):
        self._env32[o.HFLAGS // 4] |= o.HF_GUEST
        flags = self._env64[o.EFLAGS // 8]
        ctypes.memmove(hardware.env_address, self._state.env, o.ERROR_CODE)
        hardware.rflags = flags | rflags & TF

    def _linear(self, rip):
        if self._env32[o.HFLAGS // 4] & o.HF_CS64:
            return rip
        return self._env64[(o.SEGS + o.SEG_SIZE + o.SEG_BASE) // 8] + rip & 0xFFFFFFFF

    @staticmethod
    def _signed(value):
        return value - (1 << 64) if value >> 63 else value

    def _frame(self, offset, code):
        """Physical page that holds `code` at `offset`; its second half continues on the next page."""
        key = offset, code
        slot = self._code_slots.get(key)
        if slot is None:
            if len(self._code_slots) == CODE_SLOTS:
                self._uc.ctl_flush_tb()
                self._code_slots.clear()
            slot = self._code_slots[key] = len(self._code_slots)
            at = self._code_address + 2 * PAGE * slot
            ctypes.memset(at, 0, 2 * PAGE)
            ctypes.memmove(at + offset, code, len(code))
        return CODE_BASE + 2 * PAGE * slot

    def _on_read(self, gva, size):
        gva &= (1 << 64) - 1
        try:
            data = self._memory.read(gva, size, self._is_implicit(gva))
            ctypes.memmove(self._buffer_address, bytes(data), size)
        except BaseException as error:  # noqa: BLE001 - it continues in step()
            self._error = error
            return 1
        self._reads.append((gva, size))
        return 0

    def _is_implicit(self, gva):
        if self._env32[o.HFLAGS // 4] & o.HF_CPL != 3:
            return False
        for table in (o.GDT, o.LDT, o.TR):
            base = self._env64[(table + o.SEG_BASE) // 8]
            if base <= gva <= base + self._env32[(table + o.SEG_LIMIT) // 4]:
                return True
        return False

    def _collect_writes(self):
        """The logged stores; ascending neighbours are parts of one operand (SSE, x87, CMPXCHG16B, SGDT)."""
        writes = []
        for index in range(self._cells[LOG_COUNT]):
            gva, size, value = self._log_cells[3 * index:3 * index + 3]
            gva &= (1 << 64) - 1
            data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            if writes and writes[-1][0] + len(writes[-1][1]) == gva:
                writes[-1] = writes[-1][0], writes[-1][1] + data
            else:
                writes.append((gva, data))
        return writes

    def _opcode(self, code):
        """(first opcode byte or None for two-byte opcodes, ModRM or None, prefixes)"""
        at = 0
        code64 = self._env32[o.HFLAGS // 4] & o.HF_CS64
        while at < len(code) and (code[at] in LEGACY_PREFIXES or code64 and code[at] & 0xF0 == 0x40):
            at += 1
        prefixes = code[:at]
        if at >= len(code) or code[at] == 0x0F:
            return None, None, prefixes
        return code[at], code[at + 1] if at + 1 < len(code) else None, prefixes

    def _map(self, hpa, size):
        memory = np.zeros(size + PAGE, np.uint8)
        address = -(-memory.ctypes.data // PAGE) * PAGE
        self._keep = getattr(self, "_keep", []) + [memory]
        status = self._library.uc_mem_map_ptr(ctypes.c_void_p(self._state.uc), ctypes.c_uint64(hpa),
                                              ctypes.c_uint64(size), ctypes.c_uint32(7), ctypes.c_void_p(address))
        if status:
            raise EngineError(f"the stepper cannot map its memory: status {status}")
        return address


def _merge_reads(reads):
    merged = []
    for gva, size in reads:
        if merged and merged[-1][0] + merged[-1][1] == gva:
            merged[-1] = merged[-1][0], merged[-1][1] + size
        else:
            merged.append((gva, size))
    return merged
