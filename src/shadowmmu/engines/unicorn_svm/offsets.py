# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything we know about Unicorn 2.1.4 that its public interface does not promise.

SVM guest mode, native event delivery and precise stops all need to reach into the engine's own CPU
record. Those offsets are private, so they live in this one module, and `find_engine_state` proves them
before anything uses them: by version, by size, and by writing values through the public interface and
finding them at the expected places. Any difference is an `EngineError`, never a wrong result.

        uc_struct                       CPUState                         CPUX86State ("env")
    +----------------+              +------------------+             +--> +-----------------+
    | 440: cpu  -----|------------> |   28 interrupt_  |             |    |   0 regs[16]    |
    | 2034: no_exit_ |              |      request     |             |    | 128 eip         |
    |       request  |              | 33208 tcg_exit_  |             |    | 176 hflags      |
    +----------------+              |      req         |             |    | 184 segs[6] ... |
                                    | 35408: env ------|-------------+    | 5520 intercept  |
                                    +------------------+                  +-----------------+
"""

import ctypes
import struct
import sys
from dataclasses import dataclass

from .errors import EngineError

SUPPORTED_VERSION = "2.1.4"

# uc_struct
UC_CPU = 440
UC_STOP_REQUEST_WINDOW = 2032  # bytes hook_insert, first_tb, no_exit_request, init_done
UC_NO_EXIT_REQUEST = 2034

# CPUState, relative to its start
CPU_CFLAGS_NEXT_TB = 24
CPU_INTERRUPT_REQUEST = 28
CPU_EXCEPTION_INDEX = 33184
CPU_CLASS = 33200
CPU_TCG_EXIT_REQ = 33208
CPU_TLB = 33216  # CPUTLB: counters; the slow part of each of 3 MMU modes; then
CPU_TLB_FAST = 35344  # CPUTLBDescFast f[3]: mask, table; the end of CPUTLB, just before icount_decr
CPU_TLB_END = CPU_TLB_FAST + 3 * 16
TLB_FIRST_MASK = 255 << 6  # of a new table: 256 entries of 64 bytes
MMU_MODES = 3
CPU_ICOUNT_HIGH = 35394
CPU_ENV = 35408

# CPUX86State, relative to its start
REGS = 0
EIP = 128
EFLAGS = 136
CC_SRC = 152
CC_OP = 168
DF = 172
HFLAGS = 176
HFLAGS2 = 180
SEGS = 184
SEG_SIZE = 24  # selector u32, pad, base u64, limit u32, flags u32
SEG_SELECTOR, SEG_BASE, SEG_LIMIT, SEG_FLAGS = 0, 8, 16, 20
LDT = 328
TR = 352
GDT = 376
IDT = 400
CR = 424
EFER = 592
SYSENTER_CS = 4800
SYSENTER_ESP = 4808
SYSENTER_EIP = 4816
STAR = 4824
LSTAR = 4840
CSTAR = 4848
SFMASK = 4856
KERNEL_GS_BASE = 4864
ERROR_CODE = 5384
EXCEPTION_IS_INT = 5388
EXCEPTION_NEXT_EIP = 5392
DR = 5400
BREAKPOINTS = 5464  # four host pointers: never copied between CPUs
OLD_EXCEPTION = 5496
VM_VMCB = 5504  # everything below this offset is guest state
INTERCEPT = 5520
INTERCEPT_CR_READ = 5528
INTERCEPT_CR_WRITE = 5530
INTERCEPT_DR_READ = 5532
INTERCEPT_DR_WRITE = 5534
INTERCEPT_EXCEPTIONS = 5536
NESTED_CR3 = 5544  # unused: the engine's own nested paging stays off (see nested_paging)
CONTEXT_DATA_SIZE = 5568  # offsetof(CPUX86State, end_reset_fields)

# hflags: what the translator knows about the mode
HF_CPL = 3
HF_INHIBIT_IRQ = 1 << 3
HF_CS32 = 1 << 4
HF_SS32 = 1 << 5
HF_ADDSEG = 1 << 6
HF_PE = 1 << 7
HF_MP, HF_EM, HF_TS = 1 << 9, 1 << 10, 1 << 11
HF_LMA = 1 << 14
HF_CS64 = 1 << 15
HF_SVME = 1 << 20
HF_GUEST = 1 << 21
HF_OSFXSR = 1 << 22
HF_SMAP = 1 << 23
HF2_GIF, HF2_HIF, HF2_NMI, HF2_VINTR = 1, 2, 4, 8

CC_OP_EFLAGS = 1
CC_MASK = 0x8D5  # O S Z A P C: kept lazily in cc_src/cc_dst/cc_op while the CPU runs
DF_FLAG = 0x400

INTERRUPT_HARD = 0x2
INTERRUPT_VIRQ = 0x100

EXCP_VMEXIT = 0x100  # exception_index of an SVM exit = 0x100 + exit code

# softmmu index of the current privilege; values of cpu_mmu_index()
MMU_KSMAP, MMU_USER, MMU_KNOSMAP = 0, 1, 2
ACCESS_FETCH = 2

# CPUTLBEntry
TLB_ENTRY_BITS = 6
TLB_READ, TLB_WRITE, TLB_CODE, TLB_PADDR, TLB_ADDEND = 0, 8, 16, 24, 32
TLB_INVALID, TLB_NOTDIRTY = 1 << 11, 1 << 10

# AMD64 VMCB control area (APM volume 2, appendix B)
VMCB_MSRPM_BASE = 0x48
VMCB_EXIT_INFO_2 = 0x80
VMCB_EVENT_INJ = 0xA8
VMCB_EVENT_INJ_ERR = 0xAC

# Exported by libunicorn.so for its own use; name without the target suffix.
_FUNCTIONS = (
    "tlb_flush",
    "tlb_flush_page",
    "x86_cpu_do_interrupt",
    "do_interrupt_x86_hardirq",
    "cpu_vmexit",
    "helper_read_eflags",
    "cpu_x86_cpuid",
    "tlb_vaddr_to_host",
    "cpu_lduw_mmuidx_ra",
    "tb_invalidate_phys_range",
    "qemu_ram_addr_from_host",
    "x86_cpu_tlb_fill",
    "tlb_set_page",
    "tlb_init",
    "tlb_flush_by_mmuidx",
    "helper_set_dr",
    "cpu_x86_update_dr7",
)


@dataclass(frozen=True)
class EngineState:
    """Where one Unicorn object keeps its CPU.

    `uc`, `cpu` and `env` are host addresses of uc_struct, CPUState and CPUX86State; `functions` maps the
    names of exported engine functions to their addresses; `library` is the loaded libunicorn.
    """

    uc: int
    cpu: int
    env: int
    functions: dict
    library: ctypes.CDLL


def import_unicorn():
    """Return the `unicorn` package, or raise EngineError if it is missing or not the known version."""
    try:
        import unicorn
    except ImportError as error:
        raise EngineError(f"the unicorn package cannot be loaded ({error}); "
                          f"install unicorn=={SUPPORTED_VERSION}") from None
    if unicorn.__version__ != SUPPORTED_VERSION:
        raise EngineError(f"unicorn {unicorn.__version__} found, but only {SUPPORTED_VERSION} is supported: "
                          "its private CPU layout is used")
    return unicorn


def library():
    """The loaded libunicorn as a ctypes library of our own: the binding's has argument types set."""
    import_unicorn()
    from unicorn.unicorn_py3 import unicorn as binding
    return ctypes.CDLL(binding.uclib._name)


def find_engine_state(uc) -> EngineState:
    """Locate and verify the CPU record of `uc`, a fresh `Uc(UC_ARCH_X86, UC_MODE_64)` that never ran.

    Raises EngineError when any known fact about the layout does not hold.
    """
    if not (sys.platform.startswith("linux") and struct.calcsize("P") == 8):
        raise EngineError(f"the Unicorn SVM engine knows the layout on 64-bit Linux only, not on {sys.platform}")
    lib = library()
    from unicorn.x86_const import UC_X86_REG_RIP
    uc.reg_read(UC_X86_REG_RIP)  # the first call of any kind makes the engine build its CPU
    handle = uc._uch.value if hasattr(uc._uch, "value") else uc._uch
    cpu = ctypes.c_uint64.from_address(handle + UC_CPU).value
    env = cpu + CPU_ENV
    _verify_layout(uc, lib, handle, cpu, env)
    functions = {}
    for name in _FUNCTIONS:
        try:
            functions[name] = ctypes.cast(getattr(lib, name + "_x86_64"), ctypes.c_void_p).value
        except AttributeError:
            raise EngineError(f"libunicorn does not export {name}_x86_64") from None
    for name in ("uc_emu_stop",):
        functions[name] = ctypes.cast(getattr(lib, name), ctypes.c_void_p).value
    return EngineState(handle, cpu, env, functions, lib)


def make_stops_precise(state: EngineState):
    """Let the engine test for stop requests only where an instruction has not begun.

    Unicorn normally tests after every memory access and then restarts the instruction whose store already
    happened (unicorn issue 823). Must be called before the first translation.
    """
    ctypes.c_uint8.from_address(state.uc + UC_NO_EXIT_REQUEST).value = 1


def _verify_layout(uc, lib, handle, cpu, env):
    from unicorn import x86_const as x86

    def refuse(what):
        raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs ({what}); "
                          "this build of the library is not the one that was studied")

    window = bytes((ctypes.c_uint8 * 4).from_address(handle + UC_STOP_REQUEST_WINDOW))
    if window != b"\0\0\0\1":
        refuse(f"uc_struct+{UC_STOP_REQUEST_WINDOW} is {window.hex()}")
    # The pointer is followed only after the kernel said the memory is readable: a wrong one must be an
    # error message, not a crash.
    try:
        with open("/proc/self/mem", "rb", 0) as memory:
            memory.seek(env)
            if len(memory.read(CONTEXT_DATA_SIZE)) != CONTEXT_DATA_SIZE:
                refuse("CPU record is not readable")
    except (OSError, ValueError, OverflowError):
        refuse("CPU record is not readable")
    header = 40
    size = lib.uc_context_size(ctypes.c_void_p(handle))
    if size != CONTEXT_DATA_SIZE + header:
        refuse(f"context size {size}")

    tables = (ctypes.c_uint64 * (2 * MMU_MODES)).from_address(cpu + CPU_TLB_FAST)
    if list(tables[::2]) != [TLB_FIRST_MASK] * MMU_MODES or len({*tables[1::2]}) != MMU_MODES:
        refuse("TLB")
    if ctypes.c_uint32.from_address(cpu + CPU_CFLAGS_NEXT_TB).value != 0xFFFFFFFF:
        refuse("cflags_next_tb")

    def u64(offset):
        return ctypes.c_uint64.from_address(env + offset).value

    if u64(EFER) != 0x500:
        refuse("EFER")
    mark = 0x1122334455667700
    plain = [(f"R{n}", getattr(x86, f"UC_X86_REG_R{n}"), REGS + 8 * n) for n in range(8, 16)]
    plain += [("RAX", x86.UC_X86_REG_RAX, REGS), ("RDI", x86.UC_X86_REG_RDI, REGS + 56),
              ("RIP", x86.UC_X86_REG_RIP, EIP), ("CR2", x86.UC_X86_REG_CR2, CR + 16)]
    for number, (name, register, offset) in enumerate(plain):
        uc.reg_write(register, mark + number)
        if u64(offset) != mark + number:
            refuse(name)
        uc.reg_write(register, 0)
    for name, register, offset in (("GDTR", x86.UC_X86_REG_GDTR, GDT), ("IDTR", x86.UC_X86_REG_IDTR, IDT),
                                   ("LDTR", x86.UC_X86_REG_LDTR, LDT), ("TR", x86.UC_X86_REG_TR, TR)):
        saved = uc.reg_read(register)
        uc.reg_write(register, (0x28, mark, 0x4321, 0x8900))
        if u64(offset + SEG_BASE) != mark or ctypes.c_uint32.from_address(env + offset + SEG_LIMIT).value != 0x4321:
            refuse(name)
        uc.reg_write(register, saved)
    for name, index, offset in (("STAR", 0xC0000081, STAR), ("LSTAR", 0xC0000082, LSTAR),
                                ("CSTAR", 0xC0000083, CSTAR), ("SFMASK", 0xC0000084, SFMASK),
                                ("KERNEL_GS_BASE", 0xC0000102, KERNEL_GS_BASE),
                                ("SYSENTER_ESP", 0x175, SYSENTER_ESP), ("SYSENTER_EIP", 0x176, SYSENTER_EIP)):
        uc.msr_write(index, mark)
        if u64(offset) != mark:
            refuse(name)
        uc.msr_write(index, 0)
    uc.msr_write(0x174, 0x4321)
    if ctypes.c_uint32.from_address(env + SYSENTER_CS).value != 0x4321:
        refuse("SYSENTER_CS")
    uc.msr_write(0x174, 0)


#: CPUX86State.features, one 64-bit word for each FeatureWord; the words that we look at or change.
FEATURES = 5632
FEATURES_1_EDX, FEATURES_1_ECX, FEATURES_7_EBX, FEATURES_XSAVE = 0, 1, 2, 21
OSXSAVE, RDRAND, AVX_STATE = 1 << 27, 1 << 30, 1 << 2   # OSXSAVE is no feature, it shows CR4


def hide_features(state: EngineState, cpuid):
    """Take what we cannot have out of the CPU model, for CPUID and for the instructions alike.

    RDRAND, which the engine seeds from the host: no run would repeat.  AVX's registers in XCR0: the engine has no AVX.
    `cpuid(leaf, subleaf)` is the model's answer.  Raises EngineError unless the words are where they should be.
    """
    words = (ctypes.c_uint64 * (FEATURES_XSAVE + 1)).from_address(state.env + FEATURES)
    leaf1 = cpuid(1, 0)
    expected = leaf1[3], leaf1[2] & ~OSXSAVE, cpuid(7, 0)[1], cpuid(0xD, 0)[0]
    if tuple(words[i] for i in (FEATURES_1_EDX, FEATURES_1_ECX, FEATURES_7_EBX, FEATURES_XSAVE)) != expected:
        raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs (CPU features)")
    words[FEATURES_1_ECX] &= ~RDRAND
    words[FEATURES_XSAVE] &= ~AVX_STATE
    if cpuid(1, 0)[2] & RDRAND or cpuid(0xD, 0)[0] & AVX_STATE:
        raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs (CPU features do not change)")


def verify_tlb(state: EngineState, gva, hpa, host):
    """Raise EngineError unless exactly one MMU index's TLB entry of code page `gva` maps it to `hpa` at `host`."""
    found = 0
    for index in range(3):
        mask, table = (ctypes.c_uint64.from_address(state.cpu + CPU_TLB_FAST + 16 * index + at).value for at in (0, 8))
        entries = (mask >> TLB_ENTRY_BITS) + 1
        if mask & (1 << TLB_ENTRY_BITS) - 1 or entries & entries - 1 or not 64 <= entries <= 1 << 22 or not table:
            raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs (TLB {index}: mask {mask:#x})")
        entry = (ctypes.c_uint64 * 5).from_address(table + (gva >> 12 << TLB_ENTRY_BITS & mask))
        found += entry[TLB_CODE // 8] == gva and entry[TLB_PADDR // 8] == hpa and entry[TLB_ADDEND // 8] + gva == host
    if found != 1:
        raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs (TLB entries)")


#: The CPU class lies so near behind the CPU's start; its tlb_fill, and the word beside it.
CPU_OBJECT_SIZE, CLASS_TLB_FILL = 65536, 72


def find_page_walker(state: EngineState):
    """Host address of the word through which the engine calls its page walker (CPUClass.tlb_fill).

    The class object lies inside the CPU object, which has a pointer to it.  It holds the walker's address twice, in the
    word that is called and in the one beside it, from which "CPU" mode restores it.  Raises EngineError unless both are
    where they should be.  (What lies behind the class may be the class of an engine that was freed.)
    """
    start = ctypes.c_uint64.from_address(state.cpu + CPU_CLASS).value
    walker = state.functions["x86_cpu_tlb_fill"]
    if not 0 < start - state.cpu < CPU_OBJECT_SIZE \
            or list((ctypes.c_uint64 * 2).from_address(start + CLASS_TLB_FILL)) != [walker, walker]:
        raise EngineError(f"unicorn {SUPPORTED_VERSION}: private layout differs (page walker of the CPU class)")
    return start + CLASS_TLB_FILL
