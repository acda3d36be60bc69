# SPDX-License-Identifier: GPL-2.0-or-later
"""Unicorn used as AMD SVM hardware: a CPU that is always in guest mode.

The engine still contains QEMU's SVM code. With the guest bit of its mode flags set and intercepts armed, it
behaves as a processor after VMRUN without nested paging: its own MMU walks the page tables at hardware CR3,
and what the hypervisor must see arrives as an SVM exit. We never leave guest mode; the exit handler edits the
CPU and returns, and the guest goes on.

    guest address --engine TLB / walker--> tables at hardware CR3 --> host-physical memory (map_ram, map_mmio)
                                             ^ written by the shadow MMU
         exit (code of the APM) --> fast path (compiled, optional) --> on_exit(code) --> guest

Host-physical space is `2**max_phys_bits` bytes; its last 64 KiB hold the VMCB and the MSR bitmap.
"""

import ctypes
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from . import code_pages, hooks, quick, signals
from . import exits as ex
from . import offsets as o
from .code_pages import CodePages
from .errors import EngineError

ES, CS, SS, DS, FS, GS = range(6)

CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << 16, 1 << 31
CR4_PAE, CR4_OSFXSR, CR4_SMAP = 1 << 5, 1 << 9, 1 << 21
# Control bits whose effect the engine's TLB entries already contain.
CR0_TRANSLATION = CR0_PE | CR0_WP | CR0_PG
CR4_TRANSLATION = (1 << 4) | CR4_PAE | (1 << 7) | (1 << 12) | (1 << 20) | CR4_SMAP | (1 << 22)
EFER_LMA, EFER_NXE, EFER_SVME = 1 << 10, 1 << 11, 1 << 12
EFER_TRANSLATION = EFER_LMA | EFER_NXE

RFLAGS_RF = 1 << 16
DR7_FIXED = 0x400
DESC_L, DESC_B = 1 << 21, 1 << 22
TSS_BUSY = 1 << 9

PRIVATE_SIZE = 0x10000

EVENT_KINDS = {"interrupt": ex.EVENT_INTERRUPT, "nmi": ex.EVENT_NMI,
               "exception": ex.EVENT_EXCEPTION, "software": ex.EVENT_SOFTWARE}
EVENT_NAMES = {number: name for name, number in EVENT_KINDS.items()}

# MSRs the guest uses directly, as KVM lets it; every other MSR exits. Value: (offset in the CPU, bytes).
DIRECT_MSRS = {
    0x174: (o.SYSENTER_CS, 4),
    0x175: (o.SYSENTER_ESP, 8),
    0x176: (o.SYSENTER_EIP, 8),
    0xC0000081: (o.STAR, 8),
    0xC0000082: (o.LSTAR, 8),
    0xC0000083: (o.CSTAR, 8),
    0xC0000084: (o.SFMASK, 8),
    0xC0000100: (o.SEGS + FS * o.SEG_SIZE + o.SEG_BASE, 8),
    0xC0000101: (o.SEGS + GS * o.SEG_SIZE + o.SEG_BASE, 8),
    0xC0000102: (o.KERNEL_GS_BASE, 8),
}

# INTR VINTR RDPMC CPUID SWINT HLT INVLPG INVLPGA MSR TASK_SWITCH SHUTDOWN, the SVM instructions, and
# MONITOR/MWAIT, which the engine would treat as the end of emulation.
DEFAULT_INTERCEPTS = (ex.INTR, ex.VINTR, ex.RDPMC, ex.CPUID, ex.SWINT, ex.HLT, ex.INVLPG, ex.INVLPGA,
                      ex.MSR, ex.TASK_SWITCH, ex.SHUTDOWN, ex.VMRUN, ex.VMMCALL, ex.VMLOAD, ex.VMSAVE, ex.STGI,
                      ex.CLGI, ex.SKINIT, ex.ICEBP, ex.MONITOR, ex.MWAIT)
CR_INTERCEPTS = (1 << 0) | (1 << 3) | (1 << 4) | (1 << 8)

_EXIT_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
_MMIO_READ = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_MMIO_WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64,
                               ctypes.c_void_p)


@dataclass(frozen=True)
class Segment:
    """A segment register with its hidden part.

    `flags` are bits 8..23 of the descriptor's upper half, in place: type 8..11, S 12, DPL 13..14, P 15,
    AVL 20, L 21, D/B 22, G 23. `limit` is in bytes.
    """

    selector: int
    base: int
    limit: int
    flags: int


@dataclass(frozen=True)
class Event:
    """An interrupt or exception on its way to the guest; see `SvmHardware.queue_event`."""

    vector: int
    kind: str
    error_code: int | None = None
    instruction_length: int = 0


@dataclass
class IoAccess:
    """The I/O instruction of an IOIO exit. For IN the handler stores the result in `value`.

    `size` is 1, 2 or 4 bytes. A string instruction exits once per element, from the middle of the
    instruction: RIP must not be changed then, and leaving or a queued event take effect just after it.
    """

    port: int
    size: int
    is_in: bool
    string: bool
    rep: bool
    value: int


class SvmHardware:
    """One virtual processor and its host-physical address space.

    Parameters: `max_phys_bits`, width of host-physical addresses (32..40, the engine's walker treats bits 40
    and up as reserved); `counting`, "blocks", "exact" or None: how guest instructions are counted (see
    `instruction_count`).

    Attributes for everyone: `gpr` (16 writable 64-bit words in x86 order RAX RCX RDX RBX RSP RBP RSI RDI
    R8..R15), `dr` (8 words; written with `write_dr`), `exception_intercepts` (mask of vectors that exit; the others
    are delivered to the guest inside the engine).

    For compiled code: `cpu_address` is the argument of `void f(int64)` at `flush_tlb_address` and the first
    argument of `void f(int64, int64 gva)` at `flush_page_address`.

    Raises EngineError if the engine cannot be used.
    """

    def __init__(self, *, max_phys_bits=40, counting="blocks"):
        unicorn = o.import_unicorn()
        if not 32 <= max_phys_bits <= 40:
            raise EngineError(f"max_phys_bits must be 32..40, not {max_phys_bits}")
        if counting not in (None, "blocks", "exact"):
            raise EngineError(f"counting must be None, 'blocks' or 'exact', not {counting!r}")
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(unicorn.x86_const.UC_CPU_X86_EPYC)
        # No address means "stop here": guests may execute anything.
        self._uc.ctl_exits_enabled(True)
        self.state = o.find_engine_state(self._uc)
        o.make_stops_precise(self.state)
        self._library = self.state.library
        self._handle = ctypes.c_void_p(self.state.uc)
        self._running = False
        self._handler = None
        self._error = None
        self._keep = []
        self._regions = []
        self._counting = counting

        env, cpu = self.state.env, self.state.cpu
        self._env64 = (ctypes.c_uint64 * (o.CONTEXT_DATA_SIZE // 8)).from_address(env)
        self._env32 = (ctypes.c_uint32 * (o.CONTEXT_DATA_SIZE // 4)).from_address(env)
        self._env16 = (ctypes.c_uint16 * (o.CONTEXT_DATA_SIZE // 2)).from_address(env)
        self._requests = (ctypes.c_uint8 * 2).from_address(cpu + o.CPU_INTERRUPT_REQUEST)
        self._icount_high = ctypes.c_uint16.from_address(cpu + o.CPU_ICOUNT_HIGH)
        self._tcg_exit = ctypes.c_uint32.from_address(cpu + o.CPU_TCG_EXIT_REQ)
        self.gpr = (ctypes.c_uint64 * 16).from_address(env + o.REGS)
        self.dr = (ctypes.c_uint64 * 8).from_address(env + o.DR)

        functions = self.state.functions
        self.cpu_address = cpu
        self.env_address = env
        self.flush_page_address = functions["tlb_flush_page"]
        self.flush_tlb_address = functions["tlb_flush"]
        self._flush_all = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.flush_tlb_address)
        self._flush_page = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)(self.flush_page_address)
        self._invalidate = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)(
            functions["tb_invalidate_phys_range"])
        self._ram_address = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(
            functions["qemu_ram_addr_from_host"])
        self._read_eflags = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(functions["helper_read_eflags"])
        self._cpuid = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32,
                                       *[ctypes.POINTER(ctypes.c_uint32)] * 4)(functions["cpu_x86_cpuid"])

        self._page_walker = ctypes.c_uint64.from_address(o.find_page_walker(self.state))
        self._code_pages = None
        self._set_dr = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)(functions["helper_set_dr"])
        self._update_dr7 = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32)(functions["cpu_x86_update_dr7"])

        o.hide_features(self.state, self.native_cpuid)
        self._private = (1 << max_phys_bits) - PRIVATE_SIZE
        self._map_private()
        self._make_control_block()
        self._enter_guest_mode()
        self._install_hooks()
        self._prove_guest_mode()

    # Memory -----------------------------------------------------------------------------------------------

    def map_ram(self, hpa, address, length):
        """Back host-physical `hpa .. hpa+length` with the process memory at `address` (all multiples of 4096).

        The memory must stay alive as long as this object. Raises EngineError on overlap or misalignment.
        """
        if hpa + length > self._private:
            raise EngineError(f"RAM {hpa:#x}+{length:#x} reaches the engine's private pages at {self._private:#x}")
        self._check(self._library.uc_mem_map_ptr(self._handle, ctypes.c_uint64(hpa), ctypes.c_uint64(length),
                                                 ctypes.c_uint32(7), ctypes.c_void_p(address)),
                    f"mapping RAM {hpa:#x}+{length:#x}")
        self._regions.append((hpa, length, address))
        self._regions.sort()

    def map_mmio(self, hpa, length, read, write):
        """Call `read(offset, size) -> int` and `write(offset, size, value)` for accesses to a physical range.

        They run in the middle of an instruction: they may call `kick`, `stop` and `queue_event`, which act
        after the current block, and must not change registers. An exception in them ends `run`.
        """
        def on_read(_uc, offset, size, _data):
            return self._guarded(read, 0, offset, size) & ((1 << 64) - 1)

        def on_write(_uc, offset, size, value, _data):
            self._guarded(write, None, offset, size, value)

        callbacks = _MMIO_READ(on_read), _MMIO_WRITE(on_write)
        self._keep.extend(callbacks)
        self._check(self._library.uc_mmio_map(self._handle, ctypes.c_uint64(hpa), ctypes.c_uint64(length),
                                              callbacks[0], None, callbacks[1], None),
                    f"mapping MMIO {hpa:#x}+{length:#x}")

    def invalidate_code(self, hpa, length):
        """Forget translated code of a RAM range. Needed after host-side writes to memory the guest executes.

        Nothing else does it: uc_mem_write, for one, leaves translations alone.
        """
        while length > 0:
            base, size, address = self._region(hpa)
            part = min(length, base + size - hpa)
            start = self._ram_address(self.state.uc, address + hpa - base)
            self._invalidate(self.state.uc, start, start + part)
            hpa += part
            length -= part

    def forget_code(self):
        """Drop all translated code and what is known of its blocks; outside `run` only."""
        self._uc.ctl_flush_tb()
        self._count_table[:] = 0
        if self._code_pages is not None:
            self._code_pages.clear()
            self.flush_tlb()

    @property
    def pages_marked(self):
        """`CodePages.marked`."""
        return self._code_pages.marked

    def watch_code(self, hpa, length):
        """Watch the stores to these pages by whether code was fetched from them, not by their mapping (`code_pages`)."""
        self._code_pages = CodePages(hpa, length, self._page_walker.value, self.flush_tlb_address)
        self._cells[hooks.CODE_WATCH] = self._code_pages.block
        self._page_walker.value = code_pages.on_tlb_fill.address
        self.flush_tlb()

    @property
    def cells(self):
        """The control block (`hooks`), for snapshots."""
        return self._cells

    # Translation ------------------------------------------------------------------------------------------

    def load_root(self, hpa):
        """Set hardware CR3 to the root page at `hpa`. The TLB is left alone: the caller decides on flushes."""
        self._env64[o.CR // 8 + 3] = hpa
        if self._cells[hooks.ROOT] != hooks.ANY_ROOT:
            self._cells[hooks.ROOT] = hpa

    def set_mode(self, cr0, cr4, efer):
        """Set the *hardware* control registers; SVME is added to EFER.

        What the MMU combined (PG, WP, PAE, NXE ... forced on) is taken as is. PG=1 with PE=0 is allowed, as
        on SVM. The engine's TLB entries contain the effect of some control bits, so it is flushed when one of
        those changes; a real CPU needs no flush there.
        """
        env = self._env64
        efer |= EFER_SVME
        stale = ((env[o.CR // 8] ^ cr0) & CR0_TRANSLATION | (env[o.CR // 8 + 4] ^ cr4) & CR4_TRANSLATION
                 | (env[o.EFER // 8] ^ efer) & EFER_TRANSLATION)
        env[o.CR // 8] = cr0
        env[o.CR // 8 + 4] = cr4
        env[o.EFER // 8] = efer
        self._refresh_hflags()
        if stale:
            self.flush_tlb()

    @property
    def mode(self):
        """(cr0, cr4, efer) as the hardware has them."""
        env = self._env64
        return env[o.CR // 8], env[o.CR // 8 + 4], env[o.EFER // 8]

    @property
    def root(self):
        """Hardware CR3."""
        return self._env64[o.CR // 8 + 3]

    def flush_tlb(self):
        """Drop every cached translation."""
        self._flush_all(self.cpu_address)

    def flush_page(self, gva):
        """Drop the cached translation of one linear page."""
        self._flush_page(self.cpu_address, gva)

    # Registers --------------------------------------------------------------------------------------------

    @property
    def rip(self):
        """Instruction pointer, relative to the CS base outside 64-bit code."""
        return self._env64[o.EIP // 8]

    @rip.setter
    def rip(self, value):
        self._env64[o.EIP // 8] = value

    @property
    def rflags(self):
        # The engine's function leaves VM and RF out.
        return self._read_eflags(self.env_address) | self._env64[o.EFLAGS // 8] & 0x30000

    @rflags.setter
    def rflags(self, value):
        value |= 2
        self._env64[o.CC_SRC // 8] = value & o.CC_MASK
        self._env32[o.CC_OP // 4] = o.CC_OP_EFLAGS
        self._env32[o.DF // 4] = 0xFFFFFFFF if value & o.DF_FLAG else 1
        # While it runs the engine keeps these bits elsewhere; at rest they belong into the register.
        self._env64[o.EFLAGS // 8] = value & ~(o.CC_MASK | o.DF_FLAG) if self._running else value
        self._refresh_hflags()

    @property
    def cr2(self):
        return self._env64[o.CR // 8 + 2]

    @cr2.setter
    def cr2(self, value):
        self._env64[o.CR // 8 + 2] = value

    def write_dr(self, number, value):
        """Set DR0..DR3, DR6 or DR7 and with it the engine's breakpoints; reading `dr` needs no call."""
        if number == 7:
            self._update_dr7(self.env_address, value)
        elif number == 6:
            self.dr[6] = value
        else:
            self._set_dr(self.env_address, number, value)

    @property
    def cpl(self):
        """Current privilege level."""
        return self._env32[o.HFLAGS // 4] & o.HF_CPL

    @cpl.setter
    def cpl(self, value):
        self._env32[o.HFLAGS // 4] = self._env32[o.HFLAGS // 4] & ~o.HF_CPL | value

    def segment(self, number):
        """The segment register `number` (0..5 = ES CS SS DS FS GS)."""
        return self._read_segment(o.SEGS + number * o.SEG_SIZE)

    def set_segment(self, number, selector, base, limit, flags):
        """Load a segment register with its hidden part, unchecked. Loading SS sets CPL to its DPL."""
        self._write_segment(o.SEGS + number * o.SEG_SIZE, selector, base, limit, flags)
        if number == SS:
            self.cpl = flags >> 13 & 3
        self._refresh_hflags()

    @property
    def gdtr(self):
        """(base, limit)"""
        return self._env64[(o.GDT + o.SEG_BASE) // 8], self._env32[(o.GDT + o.SEG_LIMIT) // 4]

    @gdtr.setter
    def gdtr(self, value):
        self._env64[(o.GDT + o.SEG_BASE) // 8], self._env32[(o.GDT + o.SEG_LIMIT) // 4] = value

    @property
    def idtr(self):
        """(base, limit)"""
        return self._env64[(o.IDT + o.SEG_BASE) // 8], self._env32[(o.IDT + o.SEG_LIMIT) // 4]

    @idtr.setter
    def idtr(self, value):
        self._env64[(o.IDT + o.SEG_BASE) // 8], self._env32[(o.IDT + o.SEG_LIMIT) // 4] = value

    @property
    def tr(self):
        """Task register as a Segment. The setter takes (selector, base, limit, flags) of a present TSS."""
        tr = self._read_segment(o.TR)
        return Segment(tr.selector, tr.base, tr.limit, tr.flags | TSS_BUSY)

    @tr.setter
    def tr(self, value):
        selector, base, limit, flags = value
        # The engine caches TR as it was before LTR marked it busy, and aborts the process on anything else.
        if not flags & 0x8000 or flags >> 8 & 5 != 1:
            raise EngineError(f"TR flags {flags:#x} are not those of a present TSS")
        self._write_segment(o.TR, selector, base, limit, flags & ~TSS_BUSY)

    @property
    def ldtr(self):
        return self._read_segment(o.LDT)

    @ldtr.setter
    def ldtr(self, value):
        self._write_segment(o.LDT, *value)

    def read_msr(self, index):
        """Value of an MSR the guest uses directly (see DIRECT_MSRS); others raise EngineError."""
        offset, size = self._msr(index)
        return self._env32[offset // 4] if size == 4 else self._env64[offset // 8]

    def write_msr(self, index, value):
        """Set an MSR the guest uses directly; others raise EngineError."""
        offset, size = self._msr(index)
        if size == 4:
            self._env32[offset // 4] = value
        else:
            self._env64[offset // 8] = value

    def native_cpuid(self, leaf, subleaf=0):
        """(eax, ebx, ecx, edx) that the engine's CPU model answers."""
        result = [ctypes.c_uint32() for _ in range(4)]
        self._cpuid(self.env_address, leaf, subleaf, *map(ctypes.byref, result))
        return tuple(word.value for word in result)

    def save_context(self):
        """The guest's whole register state, including x87, SSE, MSRs and a queued event, as bytes.

        Restorable into any SvmHardware of the same engine version. Not callable from MMIO or string I/O
        callbacks.
        """
        flags = self.rflags
        raw = bytearray(ctypes.string_at(self.env_address, o.VM_VMCB))
        raw[o.BREAKPOINTS:o.OLD_EXCEPTION] = bytes(o.OLD_EXCEPTION - o.BREAKPOINTS)
        event = [self._cells[cell] for cell in (hooks.EVENT_PENDING, hooks.EVENT_INFO, hooks.EVENT_ERROR,
                                                hooks.EVENT_LENGTH)]
        return np.array([flags, *event], np.int64).tobytes() + bytes(raw)

    def restore_context(self, context):
        """Undo to a `save_context`. Flushes the TLB, which is not part of the context."""
        flags, *event = np.frombuffer(context[:40], np.int64).tolist()
        raw = context[40:]
        if len(raw) != o.VM_VMCB:
            raise EngineError("this context was not saved by the same engine version")
        self._update_dr7(self.env_address, DR7_FIXED)
        ctypes.memmove(self.env_address, raw, o.BREAKPOINTS)
        ctypes.memmove(self.env_address + o.OLD_EXCEPTION, raw[o.OLD_EXCEPTION:], o.VM_VMCB - o.OLD_EXCEPTION)
        for cell, value in zip((hooks.EVENT_PENDING, hooks.EVENT_INFO, hooks.EVENT_ERROR, hooks.EVENT_LENGTH),
                               event):
            self._cells[cell] = value
        self.rflags = flags
        self.load_root(self.root)
        # the breakpoints that DR7 asks for are not part of the context
        dr7, self.dr[7] = self.dr[7], DR7_FIXED
        self._update_dr7(self.env_address, dr7)
        self.flush_tlb()

    # Exits and events -------------------------------------------------------------------------------------

    @property
    def fault_address(self):
        """Linear address of the last page fault exit, guest-physical one of an NPF (EXITINFO2)."""
        return self._cells[hooks.EXIT_ADDRESS] & ((1 << 64) - 1)

    @property
    def error_code(self):
        """EXITINFO1 of the last exit: exception error code, MSR direction, I/O description."""
        return self._cells[hooks.EXIT_ERROR]

    @property
    def exit_int_info(self):
        """EXITINTINFO of the last exit (APM 15.7.2 format), 0 if no event was being delivered."""
        return self._cells[hooks.EXIT_INT_INFO]

    @property
    def interrupted_event(self):
        """The Event whose delivery the last exit interrupted, ready for `queue_event(*...)`, or None.

        It is lost unless queued again.
        """
        info = self._cells[hooks.EXIT_INT_INFO]
        if not info:
            return None
        error = self._cells[hooks.EXIT_INT_ERROR] & 0xFFFFFFFF if info & ex.EVENT_ERROR_VALID else None
        kind = EVENT_NAMES[info >> 8 & 7]
        return Event(info & 0xFF, kind, error, self._cells[hooks.EXIT_INT_LENGTH])

    @property
    def instruction_bytes(self):
        """Up to 15 bytes at RIP as the hardware sees them; empty after a page fault exit."""
        words = self._control[hooks.CODE_0:hooks.CODE_1 + 1].tobytes()
        return words[:self._cells[hooks.CODE_COUNT]]

    @property
    def software_vector(self):
        """Vector of a SWINT exit."""
        opcode, following = self._software_interrupt()
        return {0xCC: 3, 0xCE: 4}.get(opcode, following)

    @property
    def instruction_length(self):
        """Length in bytes of the INT n, INT3 or INTO of a SWINT exit."""
        code = self.instruction_bytes
        opcode, _ = self._software_interrupt()
        return self._prefixes(code) + (2 if opcode == 0xCD else 1)

    def skip_instruction(self, length):
        """RIP += `length`; the interrupt shadow and RFLAGS.RF end, as after a completed instruction."""
        rip = self.rip + length
        self.rip = rip if self._env32[o.HFLAGS // 4] & o.HF_CS64 else rip & 0xFFFFFFFF
        self.in_interrupt_shadow = False
        self._env64[o.EFLAGS // 8] &= ~RFLAGS_RF

    @property
    def in_interrupt_shadow(self):
        """True for one instruction after STI or MOV SS: interrupts wait."""
        return bool(self._env32[o.HFLAGS // 4] & o.HF_INHIBIT_IRQ)

    @in_interrupt_shadow.setter
    def in_interrupt_shadow(self, value):
        hflags = self._env32[o.HFLAGS // 4]
        self._env32[o.HFLAGS // 4] = hflags | o.HF_INHIBIT_IRQ if value else hflags & ~o.HF_INHIBIT_IRQ

    @property
    def nmi_masked(self):
        """An NMI is being handled: set by whoever queues one, cleared by the guest's IRET."""
        return bool(self._env32[o.HFLAGS2 // 4] & o.HF2_NMI)

    @nmi_masked.setter
    def nmi_masked(self, value):
        hflags2 = self._env32[o.HFLAGS2 // 4]
        self._env32[o.HFLAGS2 // 4] = hflags2 | o.HF2_NMI if value else hflags2 & ~o.HF2_NMI

    def queue_event(self, vector, kind, error_code=None, instruction_length=0):
        """Deliver an event through the guest's IDT before its next instruction.

        `kind` is "interrupt", "nmi", "exception" or "software"; a software event (INT n, INT3, INTO) pushes
        RIP + `instruction_length` and checks the gate's DPL. The caller has checked IF and the shadow. If a
        page the delivery needs is missing, a page fault exit follows with `interrupted_event` set.
        Raises EngineError if an event is already queued.
        """
        cells = self._cells
        if cells[hooks.EVENT_PENDING]:
            raise EngineError(f"event {cells[hooks.EVENT_INFO] & 0xFF:#x} is queued already, cannot queue {vector:#x}")
        info = vector | EVENT_KINDS[kind] << 8 | ex.EVENT_VALID
        if error_code is not None:
            info |= ex.EVENT_ERROR_VALID
        cells[hooks.EVENT_INFO] = info
        cells[hooks.EVENT_ERROR] = error_code or 0
        cells[hooks.EVENT_LENGTH] = instruction_length
        cells[hooks.EVENT_PENDING] = 1
        if not cells[hooks.IN_EXIT]:
            self._kick()

    def drop_event(self):
        """Forget a queued event."""
        self._cells[hooks.EVENT_PENDING] = 0
        self._cells[hooks.EXIT_INT_INFO] = 0

    @property
    def event_queued(self):
        return bool(self._cells[hooks.EVENT_PENDING])

    @property
    def interrupt_window_requested(self):
        """Between two runs: does `request_interrupt_window` still wait?"""
        return bool(self._cells[hooks.HELD_REQUESTS])

    def request_interrupt_window(self):
        """Ask for one VINTR exit (0x64) as soon as IF=1 and there is no interrupt shadow."""
        if self._running:
            self._requests[1] = o.INTERRUPT_VIRQ >> 8
            self._icount_high.value = 0xFFFF
            self._tcg_exit.value = 1
        else:
            self._cells[hooks.HELD_REQUESTS] = o.INTERRUPT_VIRQ

    def cancel_interrupt_window(self):
        """Take back `request_interrupt_window`."""
        self._requests[1] = 0
        self._cells[hooks.HELD_REQUESTS] = 0

    @property
    def exception_intercepts(self):
        """Mask of exception vectors that exit. Without nested paging page faults always do. Default: only those."""
        return self._cells[hooks.EXCEPTION_INTERCEPTS]

    @exception_intercepts.setter
    def exception_intercepts(self, mask):
        self._cells[hooks.EXCEPTION_INTERCEPTS] = mask if self._cells[hooks.WALK] else mask | 1 << 14

    def set_faults_push_rf(self, value):
        """Whether a fault that the hardware itself delivers pushes RFLAGS with RF set, as real CPUs do (the default)."""
        self._cells[hooks.FAULTS_PUSH_RF] = int(value)

    def intercept(self, code, enable=True):
        """Arm or disarm one of the exits 0x60..0x9f, for example RDTSC."""
        if not 0x60 <= code < 0xA0:
            raise EngineError(f"exit {code:#x} has no intercept bit of its own")
        bit = 1 << (code - 0x60)
        mask = self._env64[o.INTERCEPT // 8]
        self._env64[o.INTERCEPT // 8] = mask | bit if enable else mask & ~bit

    def intercepted(self, code):
        """Is one of the exits 0x60..0x9f armed?"""
        return bool(self._env64[o.INTERCEPT // 8] >> (code - 0x60) & 1)

    def intercept_cr(self, number, read, write):
        """Choose whether MOV from and to CR0, CR3, CR4 or CR8 exit.  Default: all do."""
        for place, enable in ((o.INTERCEPT_CR_READ, read), (o.INTERCEPT_CR_WRITE, write)):
            mask = self._env16[place // 2]
            self._env16[place // 2] = mask | 1 << number if enable else mask & ~(1 << number)

    def enable_nested_paging(self, walk, argument, ram_hpa, ram_host, ram_length):
        """Two-dimensional paging from now on: hardware CR3 and CR0.PG are the guest's own.

        walk: address of the walker, `int64 f(int64 argument)`, argument its argument; the contract is in `nested_paging`.
        ram_hpa, ram_host, ram_length: where guest memory lies.  #PF goes to the guest; NPF exits come instead.
        """
        cells = self._cells
        for cell, value in ((hooks.WALK, walk), (hooks.WALK_ARGUMENT, argument), (hooks.RAM_HPA, ram_hpa),
                            (hooks.RAM_HOST, ram_host), (hooks.RAM_LENGTH, ram_length),
                            (hooks.TLB_SET_PAGE, self.state.functions["tlb_set_page"])):
            cells[cell] = value
        cells[hooks.EXCEPTION_INTERCEPTS] &= ~(1 << 14)
        cells[hooks.ROOT] = hooks.ANY_ROOT
        self._replace_page_walker(hooks.on_tlb_fill.address)
        self.intercept_cr(3, False, False)
        self.intercept(ex.INVLPG, False)
        self.flush_tlb()

    def count_walks(self, count, argument):
        """Call `int64 count(int64 argument)` before every page walk of the engine; WALK_GVA has the address."""
        for cell, value in ((hooks.COUNT_WALK, count), (hooks.COUNT_ARGUMENT, argument),
                            (hooks.ENGINE_WALKER, self.state.functions["x86_cpu_tlb_fill"])):
            self._cells[cell] = value
        self._replace_page_walker(hooks.on_tlb_fill_counted.address)

    def _replace_page_walker(self, address):
        """From now on the engine's TLB misses go to `address`, which finds the control block through the CPU."""
        if self._code_pages is None:
            self._page_walker.value = address
        else:
            self._code_pages.set_walker(address)

    def intercept_msr(self, index, read=True, write=True):
        """Choose whether RDMSR and WRMSR of one MSR exit. Raises EngineError outside the bitmap's ranges."""
        for first, start in ((0, 0), (0xC0000000, 0x800), (0xC0010000, 0x1000)):
            if first <= index < first + 0x2000:
                byte, shift = start + (index - first) // 4, (index - first) % 4 * 2
                bits = int(self._msr_bitmap[byte]) & ~(3 << shift) | read << shift | write << shift + 1
                self._msr_bitmap[byte] = bits
                return
        raise EngineError(f"MSR {index:#x} is outside the SVM bitmap and always exits")

    @property
    def io(self):
        """The access of an IOIO exit."""
        cells = self._cells
        access = _LiveIoAccess(cells[hooks.IO_PORT], cells[hooks.IO_SIZE], bool(cells[hooks.IO_IN]),
                               bool(cells[hooks.IO_STRING]), bool(cells[hooks.IO_REP]), cells[hooks.IO_VALUE])
        access.cells = cells
        return access

    @property
    def io_length(self):
        """Length in bytes of the instruction of an IOIO exit."""
        return self._cells[hooks.IO_LENGTH]

    def complete_io(self):
        """Complete the instruction of an IOIO exit now, not after the handler: the register of an IN, then RIP."""
        cells = self._cells
        if cells[hooks.IO_IN]:
            size, value, rax = cells[hooks.IO_SIZE], cells[hooks.IO_VALUE], self.gpr[0]
            mask = (1 << 8 * size) - 1
            self.gpr[0] = value & mask if size == 4 else rax & ~mask | value & mask
        self.skip_instruction(cells[hooks.IO_LENGTH])
        cells[hooks.IO_LENGTH] = 0

    def abandon_io(self):
        """Leave the instruction of an IOIO exit undone: RIP stays on it."""
        self._cells[hooks.IO_LENGTH] = 0

    @property
    def control_address(self):
        """Address of the control block (`hooks`), for a fast path that queues events."""
        return self._control.ctypes.data

    def install_fast_path(self, function_address, argument_address):
        """Give exits for #PF, MOV CR3 and INVLPG to compiled code first.

        `int64 f(int64 argument)` is called with `argument_address`, an int64 block whose first five cells
        hold gva, error code, RIP, EXITINTINFO and code of the exit. It returns 1 when the guest may go on (an
        interrupted event is then delivered again), 0 to call `on_exit`. It does its own flushes. Address 0
        removes it.

        Such a page fault costs about 0.1 us with a function that does next to nothing, against 1 us through
        `on_exit`: `PYTHONPATH=src python tests/engines/test_hardware_speed.py`.
        """
        self._cells[hooks.FAST_PATH] = function_address
        self._cells[hooks.FAST_ARGUMENT] = argument_address

    def install_quick_exits(self, block_address):
        """Let module `quick` answer exits with the block at this address (0: no more); RDTSC then exits."""
        if block_address:
            cell = block_address + 8 * quick.LIMIT_AT
            ctypes.c_int64.from_address(cell).value = self._control.ctypes.data + 8 * hooks.LIMIT
        self._cells[hooks.QUICK] = block_address
        self.intercept(ex.RDTSC, block_address != 0)

    @property
    def room(self):
        """Iterations of a REP that the handler of this exit may emulate at once."""
        return self._cells[hooks.ROOM]

    def limit_run(self, count):
        """End the current `run` at this instruction count, if that is earlier than its budget."""
        self._cells[hooks.LIMIT] = min(self._cells[hooks.LIMIT], count)

    @property
    def exit_counts(self):
        """(all exits, exits the fast path handled, events delivered)"""
        return tuple(self._cells[cell] for cell in (hooks.EXITS, hooks.FAST_EXITS, hooks.NATIVE_EVENTS))

    @property
    def instruction_count(self):
        """Guest instructions executed.

        With counting="exact" this counts every instruction the engine completed (one that exits and is
        completed by the caller is not counted; each REP iteration counts). With "blocks" whole translated
        blocks are counted, and a block left early by an exit is counted in proportion to the bytes executed:
        the error is below one block per exit. Both are deterministic.
        """
        return self._cells[hooks.COUNT]

    # Running ----------------------------------------------------------------------------------------------

    def run(self, on_exit, *, max_instructions=None):
        """Run the guest until `on_exit` returns False, the budget is used up, or `stop` is called.

        `on_exit(exit_code)` is called for each exit (table in `exits`) and returns True to go on. An exception
        in it, KeyboardInterrupt included, ends the run and is raised here.

        `max_instructions` is a budget from now on. With counting="exact" it is met exactly; with "blocks" the
        run ends at the first block boundary at or after it (a block has at most a few hundred instructions).

        Returns "handler", "budget" or "stop".
        """
        cells = self._cells
        if self._running:
            raise EngineError("run called from inside run")
        if max_instructions is not None and self._counting is None:
            raise EngineError("an instruction budget needs counting='blocks' or 'exact'")
        if cells[hooks.LEAVE] == hooks.LEAVE_STOP:
            cells[hooks.LEAVE] = 0
            return "stop"
        cells[hooks.LIMIT] = quick.NO_LIMIT if max_instructions is None else cells[hooks.COUNT] + max_instructions
        cells[hooks.BLOCK_SIZE] = cells[hooks.STARTED] = 0
        self._handler = on_exit
        self._error = None
        if cells[hooks.HELD_REQUESTS]:
            cells[hooks.HELD_REQUESTS] = 0
            self._requests[1] = o.INTERRUPT_VIRQ >> 8
        if cells[hooks.EVENT_PENDING] or cells[hooks.USER_KICK]:
            self._requests[0] = o.INTERRUPT_HARD
        armed = signals.arm(self._leave_for_signal)
        self._running = True
        try:
            reason = hooks.LEAVE_SIGNAL
            while reason == hooks.LEAVE_SIGNAL and not signals.interrupted():
                cells[hooks.LEAVE] = 0
                status = self._library.uc_emu_start(self._handle, ctypes.c_uint64(self.rip), ctypes.c_uint64(0),
                                                    ctypes.c_uint64(0), ctypes.c_size_t(0))
                reason = cells[hooks.LEAVE]
        finally:
            self._running = False
            self._handler = None
            cells[hooks.LEAVE] = 0
            if armed:
                signals.disarm()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._check(status, "running the guest")
        if not reason:
            raise EngineError(f"the engine stopped by itself at {self._where()}")
        return {hooks.LEAVE_HANDLER: "handler", hooks.LEAVE_BUDGET: "budget"}.get(reason, "stop")

    def kick(self):
        """Cause one INTR exit (0x60) at the next block boundary. For other threads and signal handlers too."""
        self._cells[hooks.USER_KICK] = 1
        self._kick()

    def stop(self):
        """Make `run` return "stop" at the next block boundary. For other threads and signal handlers too.

        Outside `run` it makes the next `run` return at once.
        """
        self._cells[hooks.LEAVE] = hooks.LEAVE_STOP
        self._kick()

    # Inside -----------------------------------------------------------------------------------------------

    def _kick(self):
        # Plain stores, each to a field only ever set from outside: safe from any thread.
        self._requests[0] = o.INTERRUPT_HARD
        self._icount_high.value = 0xFFFF
        self._tcg_exit.value = 1

    def _leave_for_signal(self):
        # Back in run(), CPython executes bytecode and with it the signal's handler.
        if not self._cells[hooks.LEAVE]:
            self._cells[hooks.LEAVE] = hooks.LEAVE_SIGNAL
        self._kick()

    def _on_exit(self, code):
        try:
            if code < 0:
                raise EngineError(f"the engine raised its internal exception {code + o.EXCP_VMEXIT:#x} "
                                  f"at {self._where()}")
            if self._handler(code):
                return 0
        except BaseException as error:  # noqa: BLE001 - it continues in run()
            self._error = error
        self._cells[hooks.LEAVE] = hooks.LEAVE_HANDLER
        if not self._cells[hooks.IN_EXIT]:
            self._kick()
        return 0

    def fail(self, error):
        """Python code called from inside the engine raised `error`: end the run, which raises it."""
        self._error = error
        self._cells[hooks.LEAVE] = hooks.LEAVE_HANDLER
        self._kick()

    def _guarded(self, function, default, *arguments):
        try:
            return function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it continues in run()
            self._error = error
            self._cells[hooks.LEAVE] = hooks.LEAVE_HANDLER
            self._kick()
            return default

    def _map_private(self):
        """The VMCB and the MSR permission bitmap, in pages of their own."""
        self._private_memory = np.zeros(PRIVATE_SIZE + 4096, np.uint8)
        start = -self._private_memory.ctypes.data % 4096
        pages = self._private_memory[start:start + PRIVATE_SIZE]
        self._check(self._library.uc_mem_map_ptr(self._handle, ctypes.c_uint64(self._private),
                                                 ctypes.c_uint64(PRIVATE_SIZE), ctypes.c_uint32(7),
                                                 ctypes.c_void_p(pages.ctypes.data)), "mapping the VMCB")
        self._vmcb_address = pages.ctypes.data
        self._msr_bitmap = pages[0x1000:0x3000]
        vmcb = pages[:0x1000].view(np.uint64)
        vmcb[o.VMCB_MSRPM_BASE // 8] = self._private + 0x1000

    def _make_control_block(self):
        self._control = np.zeros(hooks.CELLS, np.int64)
        self._cells = (ctypes.c_int64 * hooks.CELLS).from_address(self._control.ctypes.data)
        self._count_table = np.zeros(2 << hooks.COUNT_TABLE_BITS, np.int64)
        self._exit_callback = _EXIT_CALLBACK(self._on_exit)
        functions = self.state.functions
        for cell, value in (
                (hooks.ENV, self.env_address), (hooks.CPU, self.cpu_address), (hooks.VMCB, self._vmcb_address),
                (hooks.EXIT_CALLBACK, ctypes.cast(self._exit_callback, ctypes.c_void_p).value),
                (hooks.DO_INTERRUPT, functions["x86_cpu_do_interrupt"]),
                (hooks.DO_HARDIRQ, functions["do_interrupt_x86_hardirq"]),
                (hooks.CPU_VMEXIT, functions["cpu_vmexit"]),
                (hooks.READ_EFLAGS, functions["helper_read_eflags"]),
                (hooks.VADDR_TO_HOST, functions["tlb_vaddr_to_host"]),
                (hooks.LOAD16_MMU, functions["cpu_lduw_mmuidx_ra"]),
                (hooks.EMU_STOP, functions["uc_emu_stop"]),
                (hooks.EXCEPTION_INTERCEPTS, 1 << 14),
                (hooks.COUNT_TABLE, self._count_table.ctypes.data),
                (hooks.LIMIT, quick.NO_LIMIT), (hooks.PREFETCH_RIP, -1), (hooks.FAULTS_PUSH_RF, 1)):
            self._cells[cell] = value

    def _enter_guest_mode(self):
        env32 = self._env32
        self._env64[o.VM_VMCB // 8] = self._private
        self._env64[o.NESTED_CR3 // 8] = self._control.ctypes.data   # where a page walker finds the control block
        mask = 0
        for code in DEFAULT_INTERCEPTS:
            mask |= 1 << (code - 0x60)
        self._env64[o.INTERCEPT // 8] = mask
        self._env16[o.INTERCEPT_CR_READ // 2] = CR_INTERCEPTS
        self._env16[o.INTERCEPT_CR_WRITE // 2] = CR_INTERCEPTS
        self._env16[o.INTERCEPT_DR_READ // 2] = 0xFF
        self._env16[o.INTERCEPT_DR_WRITE // 2] = 0xFF
        # Every exception reaches on_interrupt, which delivers those nobody asked for. The engine's own way
        # would make an undefined opcode end the emulation.
        env32[o.INTERCEPT_EXCEPTIONS // 4] = 0xFFFFFFFF
        env32[o.OLD_EXCEPTION // 4] = 0xFFFFFFFF
        # V_INTR_MASKING with host IF: a kick exits whatever the guest's IF says.
        env32[o.HFLAGS2 // 4] |= o.HF2_GIF | o.HF2_HIF | o.HF2_VINTR
        self._msr_bitmap[:] = 0xFF
        for index in DIRECT_MSRS:
            self.intercept_msr(index, False, False)
        for number in range(6):
            self._write_segment(o.SEGS + number * o.SEG_SIZE, 0, 0, 0xFFFF, 0x9B00 if number == CS else 0x9300)
        self.tr = 0, 0, 0xFFFF, 0x8B00
        self.set_mode(0x10, 0, 0)
        self.rflags = 2

    def _prove_guest_mode(self):
        """Run JMP +0; HLT on the engine's private page: HLT must arrive as an SVM exit, at its own address.

        The JMP is there because the engine reports blocks to the block counter only after one has ended
        without an exit.
        """
        at = self._private + 0x4000
        ctypes.memmove(self._vmcb_address + 0x4000, b"\xeb\x00\xf4", 3)
        self.set_mode(0x11, 0x20, 0x500)
        self.set_segment(CS, 8, 0, 0xFFFFFFFF, 0xA09B00)
        self.rip = at
        seen = []
        self.run(seen.append)
        if seen != [ex.HLT] or self.rip != at + 2:
            raise EngineError(f"unicorn {o.SUPPORTED_VERSION} did not make an SVM exit of HLT (got {seen})")
        o.verify_tlb(self.state, at, at, self._vmcb_address + 0x4000)
        self.rip = 0
        self._cells[hooks.COUNT] = self._cells[hooks.EXITS] = 0
        self.set_segment(CS, 0, 0, 0xFFFF, 0x9B00)
        self.set_mode(0x10, 0, 0)

    def _install_hooks(self):
        from unicorn import unicorn_const as uc
        from unicorn import x86_const as x86
        wanted = [(uc.UC_HOOK_INTR, hooks.on_interrupt, None),
                  (uc.UC_HOOK_INSN, hooks.on_in, x86.UC_X86_INS_IN),
                  (uc.UC_HOOK_INSN, hooks.on_out, x86.UC_X86_INS_OUT),
                  (uc.UC_HOOK_INSN, hooks.on_syscall, x86.UC_X86_INS_SYSCALL),
                  (uc.UC_HOOK_INSN, hooks.on_sysenter, x86.UC_X86_INS_SYSENTER)]
        if self._counting == "blocks":
            wanted += [(uc.UC_HOOK_EDGE_GENERATED, hooks.on_translated, None), (uc.UC_HOOK_BLOCK, hooks.on_block, None)]
        elif self._counting == "exact":
            wanted += [(uc.UC_HOOK_CODE, hooks.on_instruction, None)]
        for kind, callback, instruction in wanted:
            hook = ctypes.c_size_t()
            arguments = [self._handle, ctypes.byref(hook), ctypes.c_int(kind), ctypes.c_void_p(callback.address),
                         ctypes.c_void_p(self._control.ctypes.data), ctypes.c_uint64(1), ctypes.c_uint64(0)]
            if instruction is not None:
                arguments.append(ctypes.c_int(instruction))
            self._check(self._library.uc_hook_add(*arguments), "installing a hook")

    def watch(self, address, callback):
        """Call `callback()` whenever the guest is about to execute the instruction at this linear address."""
        from unicorn import unicorn_const as uc
        self._uc.hook_add(uc.UC_HOOK_CODE, lambda *_: callback(), begin=address, end=address)

    def _refresh_hflags(self):
        """Recompute what the translator knows about the mode from CR0, CR4, EFER, EFLAGS and the segments."""
        env = self._env64
        cr0, cr4, efer = self.mode
        old = self._env32[o.HFLAGS // 4]
        code = self._env32[(o.SEGS + CS * o.SEG_SIZE + o.SEG_FLAGS) // 4]
        stack = self._env32[(o.SEGS + SS * o.SEG_SIZE + o.SEG_FLAGS) // 4]
        virtual = env[o.EFLAGS // 8] >> 17 & 1
        hflags = old & (o.HF_CPL | o.HF_INHIBIT_IRQ) | o.HF_GUEST | o.HF_SVME
        if not cr0 & CR0_PE:
            hflags &= ~o.HF_CPL
        elif virtual:
            hflags |= o.HF_CPL
        hflags |= (cr0 & CR0_PE) << 7
        hflags |= (cr0 & 0xE) << 8
        if cr4 & CR4_OSFXSR:
            hflags |= o.HF_OSFXSR
        if cr4 & CR4_SMAP:
            hflags |= o.HF_SMAP
        if efer & EFER_LMA:
            hflags |= o.HF_LMA
        if efer & EFER_LMA and code & DESC_L:
            hflags |= o.HF_CS64 | o.HF_CS32 | o.HF_SS32
        else:
            if code & DESC_B:
                hflags |= o.HF_CS32
            if stack & DESC_B:
                hflags |= o.HF_SS32
            bases = (env[(o.SEGS + number * o.SEG_SIZE + o.SEG_BASE) // 8] for number in (DS, ES, SS))
            if not cr0 & CR0_PE or virtual or not code & DESC_B or any(bases):
                hflags |= o.HF_ADDSEG
        self._env32[o.HFLAGS // 4] = hflags

    def _read_segment(self, offset):
        return Segment(self._env32[(offset + o.SEG_SELECTOR) // 4], self._env64[(offset + o.SEG_BASE) // 8],
                       self._env32[(offset + o.SEG_LIMIT) // 4], self._env32[(offset + o.SEG_FLAGS) // 4])

    def _write_segment(self, offset, selector, base, limit, flags):
        self._env32[(offset + o.SEG_SELECTOR) // 4] = selector
        self._env64[(offset + o.SEG_BASE) // 8] = base
        self._env32[(offset + o.SEG_LIMIT) // 4] = limit
        self._env32[(offset + o.SEG_FLAGS) // 4] = flags

    def _msr(self, index):
        try:
            return DIRECT_MSRS[index]
        except KeyError:
            raise EngineError(f"MSR {index:#x} is not kept by the hardware; it exits") from None

    def _prefixes(self, code):
        count = 0
        code64 = self._env32[o.HFLAGS // 4] & o.HF_CS64
        while count < len(code) and (code[count] in b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65"
                                     or code64 and code[count] & 0xF0 == 0x40):
            count += 1
        return count

    def _software_interrupt(self):
        code = self.instruction_bytes
        at = self._prefixes(code)
        if at >= len(code) or code[at] not in (0xCC, 0xCD, 0xCE):
            raise EngineError(f"no software interrupt at {self._where()}")
        return code[at], code[at + 1] if code[at] == 0xCD else None

    def _region(self, hpa):
        index = bisect_right(self._regions, hpa, key=lambda region: region[0]) - 1
        if index >= 0 and hpa < self._regions[index][0] + self._regions[index][1]:
            return self._regions[index]
        raise EngineError(f"host-physical address {hpa:#x} is not RAM")

    def _where(self):
        return (f"CS:RIP {self.segment(CS).selector:#06x}:{self.rip:#x}, "
                f"bytes {self.instruction_bytes.hex(' ') or 'unknown'}")

    def _check(self, status, what):
        if status:
            text = ctypes.string_at(ctypes.cast(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(
                ("uc_strerror", self._library))(status), ctypes.c_void_p).value).decode()
            raise EngineError(f"{what}: {text}; at {self._where()}")


class _LiveIoAccess(IoAccess):
    """An IoAccess whose `value` goes to the engine."""

    cells = None

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "value" and self.cells is not None:
            self.cells[hooks.IO_VALUE] = value & 0xFFFFFFFF
