# SPDX-License-Identifier: GPL-2.0-or-later
"""One page walk as the manuals define it: translation or fault, rights, A and D.

    linear address
      |  canonical?                                                   SDM vol. 1 3.3.7.1
      v
    CR3 or PDPTE register -> [entry] -> [entry] -> leaf               SDM 4.3 - 4.5, APM 5.2, 5.3
      |                        P=0: not present   reserved bit set: RSVD
      v
    rights of the path: W and U are ANDed, NX is ORed                 SDM 4.6, APM 5.6
      |  judged with CR0.WP, CR4.SMEP/SMAP/PKE, EFER.NXE, PKRU, AC, CPL of this moment
      v
    A in every entry of the path, D in the leaf of a write            SDM 4.8, APM 5.4.2

"SDM" is Intel's manual, volume 3; "APM" is AMD's, volume 2.  What differs by mode, level or vendor is a row of a table.

Everything here works on tables of signed 64-bit words (whatever can be indexed: `state.words`, a numpy int64 array, a
list), so the same functions run compiled and interpreted:

    memory   where guest-physical memory lies (`Memory`)
    cpu      registers and CPUID facts (`CR0` ... `TAG`), derived facts (`MODE`, `RESERVED_MASKS`: see `prepare`)
    out      the result of a walk (`STATUS` ... )

Geometry: `page_shift` address bits per page, `level_bits` index bits per table of 8-byte entries (12 and 9 on x86;
smaller for search).  An entry holds its frame number at bit 12 in every geometry, so attribute bits never move.

Nested tables are walked by the same functions: NPT in a CPU table with the host's registers, EPT with FORMAT = EPT_TABLES
and the EPTP in CR3 (`oracle.ept` has its entries; U then means "may be read").  `oracle.nested` puts two walks together.

Not modelled: protection keys for supervisor pages (CR4.PKS), shadow stacks, HLAT, encryption bits, A20.
"""

from collections import namedtuple

from ..state import core
from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
    FRAME_MASK,
    NX,
    PFERR_FETCH,
    PFERR_IMPLICIT_ACCESS,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PKEY_MASK,
    PKEY_SHIFT,
    PT_ACCESSED,
    PT_DIRTY,
    PT_GLOBAL,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from ..x86.paging import MODES
from . import ept

#: Guest-physical memory.  `words`: 64-bit words of all frames, frame after frame.  `frames[gfn]`: `ram_frame(...)`, or
#: `NO_FRAME`.  `gfns`: length of `frames`.
Memory = namedtuple("Memory", "words frames gfns page_shift level_bits")
NO_FRAME = -1

# ---- the cpu table

#: Registers; CPL and AC (EFLAGS.AC, 0 or 1) of the access; CPUID facts (flags 0 or 1, MAXPHYADDR in bits); the four
#: PDPTE registers of PAE paging; TAG: 0, or which nested world the CPU is in (VPID, ASID).
(CR0, CR3, CR4, EFER, CPL, AC, PKRU, MAXPHYADDR, AMD, GBPAGES, PSE36, PDPTE, PDPTE1, PDPTE2, PDPTE3, TAG) = range(16)
#: Derived by `prepare`: index into MODES; reserved bits by [bit 7][level - 1]; the accessed and the dirty bit of an entry (0:
#: the format has none, and nothing waits for it).
MODE, RESERVED_MASKS = 16, 17
ACCESSED, DIRTY_BIT = RESERVED_MASKS + 10, RESERVED_MASKS + 11
#: What the tables are: as the registers say, or EPT; EXECUTE_ONLY: a VMX capability (IA32_VMX_EPT_VPID_CAP bit 0).
FORMAT, EXECUTE_ONLY = DIRTY_BIT + 1, DIRTY_BIT + 2
CPU_WORDS = EXECUTE_ONLY + 1
BY_REGISTERS, EPT_TABLES = 0, 1

#: `cpu[MODE]`: place in `x86.paging.MODES`; then EPT of 4 and of 5 levels.
NO_PAGING, BITS32, PAE, LEVEL4, LEVEL5, EPT4, EPT5 = range(7)
ROOT_LEVEL = (*(mode.root_level for mode in MODES), 4, 5)
ENTRY_BYTES = (*(mode.entry_bytes for mode in MODES), 8, 8)

# ---- the result of a walk

#: STATUS (below); ERROR: page-fault error code; GFN: frame of the accessed page in units of the smallest page; LEVEL:
#: of the leaf, or of the entry that ended the walk; WRITE, USER, NO_EXECUTE: rights of the path (0 or 1); KEY, GLOBAL,
#: DIRTY: of the leaf; TOP: level of the first entry visited; then by level - 1: guest-physical address and value of
#: every visited entry.
STATUS, ERROR, GFN, LEVEL, WRITE, USER, NO_EXECUTE, KEY, GLOBAL, DIRTY, TOP, ADDRESS = range(12)
ENTRY = ADDRESS + 5
#: By level - 1: what a partial walk that ended in this entry would hold (oracle.tlb); 0 for none.
PATH = ENTRY + 5
OUT_WORDS = PATH + 5

#: STATUS.  NO_MEMORY: a table lies where there is no memory; the manuals say nothing about what is read there, and
#: KVM reports a page that is not present, so ERROR holds that.
TRANSLATED, NOT_PRESENT, RESERVED_BIT, NO_MEMORY, DENIED, NONCANONICAL = range(6)
#: What `step` found besides those: an entry that refers to a table.
TABLE = 6

#: Kinds of access: READ, or one of WRITE_ACCESS, FETCH; `| IMPLICIT` for what the CPU does on its own behalf with
#: supervisor privilege (descriptor tables, TSS; SDM 4.6 "implicit supervisor-mode access").
READ, WRITE_ACCESS, FETCH, IMPLICIT = 0, PFERR_WRITE, PFERR_FETCH, PFERR_IMPLICIT_ACCESS

# ---- reserved bits

_ANY, _LEAF, _BRANCH = 0, 1, 2                                      # bit 7 does not matter, set, clear
_ALWAYS, _NO_NXE, _NO_1G, _AMD, _PSE36, _NO_PSE36 = range(6)        # when the row applies
#: Symbolic bit numbers: MAXPHYADDR; first bit above PSE-36's address field; last bit below the frame of a leaf of
#: level 2, 3, and of a 4-byte entry.
_M, _M36, _ALIGN2, _ALIGN3, _ALIGN32 = -1, -2, -3, -4, -5
_LONG = 1 << LEVEL4 | 1 << LEVEL5
_L1, _L2, _L3, _L4, _L5 = 1, 2, 4, 8, 16

RESERVED = (
    # modes, levels, bit 7, lowest, highest bit, when                   where it is said
    (1 << BITS32, _L2, _LEAF, 13, _ALIGN32, _NO_PSE36),               # SDM 4.3 table 4-4: bits 21:13
    (1 << BITS32, _L2, _LEAF, _M36, _ALIGN32, _PSE36),                # SDM 4.3: 21:(M-19), M = min(40, MAXPHYADDR)
    (1 << PAE, _L1 | _L2, _ANY, _M, 62, _ALWAYS),                     # SDM 4.4.2 tables 4-9..4-11: 62:MAXPHYADDR
    (1 << PAE, _L1 | _L2, _ANY, 63, 63, _NO_NXE),                     # SDM 4.4.2: XD is reserved if NXE = 0
    (1 << PAE | _LONG, _L2, _LEAF, 13, _ALIGN2, _ALWAYS),             # SDM tables 4-9, 4-18: bits 20:13
    (_LONG, _L1 | _L2 | _L3 | _L4 | _L5, _ANY, _M, 51, _ALWAYS),      # SDM 4.5.4: 51:MAXPHYADDR
    (_LONG, _L1 | _L2 | _L3 | _L4 | _L5, _ANY, 63, 63, _NO_NXE),      # SDM 4.5.4: XD is reserved if NXE = 0
    (_LONG, _L3, _LEAF, 13, _ALIGN3, _ALWAYS),                        # SDM table 4-16: bits 29:13
    (_LONG, _L3, _LEAF, 7, 7, _NO_1G),                                # SDM 4.5.4: PS is reserved without 1G pages
    (_LONG, _L4 | _L5, _LEAF, 7, 7, _ALWAYS),                         # SDM tables 4-14, 4-15: bit 7; APM fig. 5-20
    (_LONG, _L4 | _L5, _ANY, 8, 8, _AMD),                             # APM fig. 5-19, 5-20: PML5E, PML4E bit 8 MBZ
)

# ---- rights

_NEEDS_W, _NEEDS_W_IF_WP, _NEEDS_X, _SMAP, _SMEP, _NEVER = 1, 2, 4, 8, 16, 32

RIGHTS = (
    # read     write                     fetch                          SDM 4.6.1; APM 5.6
    (0,        _NEEDS_W_IF_WP,           _NEEDS_X),                   # supervisor access, supervisor address
    (_SMAP,    _SMAP | _NEEDS_W_IF_WP,   _SMEP | _NEEDS_X),           # supervisor access, user address
    (_NEVER,   _NEVER,                   _NEVER),                     # user access, supervisor address
    (0,        _NEEDS_W,                 _NEEDS_X),                   # user access, user address
)


@core
def ram_frame(frame, read_only):
    """An element of `Memory.frames`: guest writes and the CPU's A and D updates of read-only memory are lost."""
    return frame << 1 | read_only


# ---- registers

@core
def paging_mode(cr0, cr4, efer):
    """Index into MODES (SDM 4.1.1, table 4-1)."""
    if not cr0 & CR0_PG:
        return NO_PAGING
    if efer & EFER_LMA:
        return LEVEL5 if cr4 & CR4_LA57 else LEVEL4
    return PAE if cr4 & CR4_PAE else BITS32


@core
def bit_number(cpu, level_bits, code):
    """What a symbolic bit number of RESERVED means now."""
    if code >= 0:
        return code
    if code == _M:
        return cpu[MAXPHYADDR]
    if code == _M36:
        # the field starts at bit 13 with address bit 32
        return min(40, cpu[MAXPHYADDR]) - 32 + 13
    if code == _ALIGN2:
        return 11 + level_bits
    if code == _ALIGN3:
        return 11 + 2 * level_bits
    return 12 + level_bits


@core
def bits(low, high):
    """Mask of bits low..high; 0 if there is none."""
    if low > high:
        return 0
    if high == 63:
        return -(1 << low)
    return (1 << (high + 1)) - (1 << low)


@core
def uses_pse36(cpu, level_bits):
    """PDE bits of a 4M page extend the address (SDM 4.3).  Scaled-down tables have no room for the field."""
    return cpu[PSE36] != 0 and level_bits == 9


@core
def applies(cpu, level_bits, when):
    """Whether the condition of a row of RESERVED holds."""
    if when == _NO_NXE:
        return cpu[EFER] & EFER_NX == 0
    if when == _NO_1G:
        return cpu[GBPAGES] == 0
    if when == _AMD:
        return cpu[AMD] != 0
    if when == _PSE36:
        return uses_pse36(cpu, level_bits)
    if when == _NO_PSE36:
        return not uses_pse36(cpu, level_bits)
    return True


@core
def prepare(cpu, level_bits):
    """Derive MODE, RESERVED_MASKS, ACCESSED and DIRTY_BIT.  Due after a change of CR0, CR4, EFER, EPTP or a CPUID fact."""
    for i in range(10):
        cpu[RESERVED_MASKS + i] = 0
    if cpu[FORMAT] == EPT_TABLES:
        ept.prepare(cpu, level_bits)
        return
    mode = paging_mode(cpu[CR0], cpu[CR4], cpu[EFER])
    cpu[MODE] = mode
    cpu[ACCESSED] = PT_ACCESSED
    cpu[DIRTY_BIT] = PT_DIRTY
    for row in range(len(RESERVED)):
        modes, levels, shape, low, high, when = RESERVED[row]
        if not modes >> mode & 1 or not applies(cpu, level_bits, when):
            continue
        mask = bits(bit_number(cpu, level_bits, low), bit_number(cpu, level_bits, high))
        for level in range(1, 6):
            if levels >> (level - 1) & 1:
                if shape != _LEAF:
                    cpu[RESERVED_MASKS + level - 1] |= mask
                if shape != _BRANCH:
                    cpu[RESERVED_MASKS + 5 + level - 1] |= mask


@core
def load_pdptes(memory, cpu, cr3):
    """Load the PDPTE registers as MOV CR3, CR0 or CR4 does in PAE paging (SDM 4.4.1).

    False: a present entry has a reserved bit (2:1, 8:5, 63:MAXPHYADDR), the instruction raises #GP(0) and the registers
    stay; or the table has no memory.
    """
    table = cr3 & 0xFFFFFFE0
    offset = table & ((1 << memory.page_shift) - 1) if memory.page_shift >= 12 else 0
    gfn = (table & FRAME_MASK) >> 12
    reserved = bits(1, 2) | bits(5, 8) | bits(cpu[MAXPHYADDR], 63)
    for check in range(2):
        for i in range(4):
            entry, present = read_entry(memory, (gfn << memory.page_shift) + offset + 8 * i, 8)
            if not present or (entry & PT_PRESENT and entry & reserved):
                return False
            if check == 1:
                cpu[PDPTE + i] = entry
    return True


# ---- memory

@core
def locate(memory, gpa):
    """Index of the 64-bit word at `gpa` in `memory.words`, and whether it can be written; -1 without memory."""
    gfn = gpa >> memory.page_shift
    if gfn < 0 or gfn >= memory.gfns:
        return -1, False
    place = memory.frames[gfn]
    if place < 0:
        return -1, False
    offset = gpa & ((1 << memory.page_shift) - 1)
    return ((place >> 1) << memory.page_shift | offset) >> 3, place & 1 == 0


@core
def read_entry(memory, gpa, size):
    """Entry of 4 or 8 bytes (a 4-byte one unsigned) and True; 0 and False without memory."""
    at, _ = locate(memory, gpa)
    if at < 0:
        return 0, False
    word = memory.words[at]
    if size == 4:
        word = word >> (8 * (gpa & 4)) & 0xFFFFFFFF
    return word, True


@core
def replace_entry(memory, gpa, size, old, new):
    """Locked compare-exchange of an entry (SDM 4.8: A and D are set by locked accesses).  False: it was not `old`."""
    at, writable = locate(memory, gpa)
    current, _ = read_entry(memory, gpa, size)
    if current != old:
        return False
    if writable:
        if size == 4:
            word = memory.words[at]
            half = new - ((new & 0x80000000) << 1)
            if gpa & 4:
                new = half << 32 | word & 0xFFFFFFFF
            else:
                new = (word >> 32) << 32 | new
        memory.words[at] = new
    return True


# ---- the walk

@core
def linear_bits(memory, mode):
    """Significant bits of a linear address in a 64-bit mode."""
    return memory.page_shift + memory.level_bits * ROOT_LEVEL[mode]


@core
def is_canonical(memory, cpu, gva):
    """Bits above the translated ones all equal the highest translated one (SDM vol. 1 3.3.7.1).  Outside 64-bit
    paging a linear address has 32 bits and is always good."""
    mode = cpu[MODE]
    if mode < LEVEL4 or mode >= EPT4:
        return True
    sign = linear_bits(memory, mode) - 1
    if sign >= 63:
        return True
    above = gva >> sign
    return above == 0 or above == -1


@core
def index_bits(memory, mode):
    """Index bits per table: one more for 4-byte entries."""
    return memory.level_bits + 1 if ENTRY_BYTES[mode] == 4 else memory.level_bits


@core
def pages_of(memory, mode, level):
    """Smallest pages under an entry of `level`."""
    return 1 << (index_bits(memory, mode) * (level - 1))


@core
def is_leaf(cpu, level, entry):
    """The entry maps a page.  Bit 7 of a PTE is PAT; in 32-bit paging bit 7 of a PDE counts only with CR4.PSE (SDM
    4.3); in PAE and 64-bit paging CR4.PSE plays no role (SDM 4.4, 4.5)."""
    if level == 1:
        return True
    if cpu[MODE] == BITS32 and not cpu[CR4] & CR4_PSE:
        return False
    return entry & PT_PAGE_SIZE != 0


@core
def start(memory, cpu, gva, out):
    """Level and gfn of the first table, -1 if a PDPTE register is not present.

    CR3 has bits 31:12 in 32-bit paging (SDM table 4-3), MAXPHYADDR-1:12 in 64-bit paging (tables 4-12, 4-13); PAE
    paging starts at a PDPTE register (SDM 4.4.1), which has no W, U or XD bit.
    """
    mode = cpu[MODE]
    if mode == PAE:
        entry = cpu[PDPTE + (gva >> (memory.page_shift + 2 * memory.level_bits) & 3)]
        if not entry & PT_PRESENT:
            out[LEVEL] = 3
            return 2, -1
        return 2, (entry & FRAME_MASK) >> 12
    cr3 = cpu[CR3]
    if mode == BITS32:
        cr3 &= 0xFFFFFFFF
    return ROOT_LEVEL[mode], (cr3 & FRAME_MASK) >> 12


@core
def step(memory, cpu, gva, level, table, out):
    """Visit the entry of `level` in the table at gfn `table`: TABLE, TRANSLATED, NOT_PRESENT, RESERVED_BIT or
    NO_MEMORY.

    Fills ADDRESS, ENTRY and LEVEL; a present entry is ANDed (ORed) into the rights.
    """
    mode = cpu[MODE]
    if mode >= EPT4:
        return ept.step(memory, cpu, gva, level, table, out)
    width = index_bits(memory, mode)
    size = ENTRY_BYTES[mode]
    index = gva >> (memory.page_shift + width * (level - 1)) & ((1 << width) - 1)
    gpa = (table << memory.page_shift) + index * size
    out[LEVEL] = level
    out[ADDRESS + level - 1] = gpa
    entry, there = read_entry(memory, gpa, size)
    out[ENTRY + level - 1] = entry
    if not there:
        return NO_MEMORY
    if not entry & PT_PRESENT:
        # every other bit of an entry that is not present is ignored (SDM 4.3 - 4.5)
        return NOT_PRESENT
    leaf = is_leaf(cpu, level, entry)
    # in 32-bit paging without PSE bit 7 of a PDE is ignored and nothing is reserved
    shape = 5 if entry & PT_PAGE_SIZE and (mode != BITS32 or leaf) else 0
    if entry & cpu[RESERVED_MASKS + shape + level - 1]:
        return RESERVED_BIT
    if not entry & PT_WRITABLE:
        out[WRITE] = 0
    if not entry & PT_USER:
        out[USER] = 0
    if entry & NX:
        out[NO_EXECUTE] = 1
    if not leaf:
        return TABLE
    pages = pages_of(memory, mode, level)
    gfn = (entry & FRAME_MASK) >> 12
    if level > 1 and mode == BITS32 and uses_pse36(cpu, memory.level_bits):
        # PDE bits 20:13 are address bits 39:32; bits above MAXPHYADDR are reserved and have been checked
        gfn |= (entry >> 13 & 0xFF) << 20
    out[GFN] = gfn & -pages | gva >> memory.page_shift & (pages - 1)
    out[GLOBAL] = 1 if entry & PT_GLOBAL else 0
    out[DIRTY] = 1 if entry & PT_DIRTY else 0
    out[KEY] = entry >> PKEY_SHIFT & PKEY_MASK if mode >= LEVEL4 else 0
    return TRANSLATED


@core
def reset(out):
    """Before the first entry everything is permitted."""
    out[ERROR] = 0
    out[GFN] = 0
    out[LEVEL] = 0
    out[WRITE] = 1
    out[USER] = 1
    out[NO_EXECUTE] = 0
    out[KEY] = 0
    out[GLOBAL] = 0
    out[DIRTY] = 0
    out[TOP] = 0


@core
def walk(memory, cpu, gva, out):
    """Read the tables for `gva`: STATUS, also returned.  Judges no rights and writes nothing.

    NO_PAGING: the translation is the identity, all rights, and DIRTY (there is no bit to set).
    """
    reset(out)
    if cpu[MODE] == NO_PAGING:
        out[GFN] = gva >> memory.page_shift
        out[DIRTY] = 1
        out[STATUS] = TRANSLATED
        return TRANSLATED
    level, table = start(memory, cpu, gva, out)
    if table < 0:
        out[STATUS] = NOT_PRESENT
        return NOT_PRESENT
    return walk_from(memory, cpu, gva, level, table, out)


@core
def walk_from(memory, cpu, gva, level, table, out):
    """Go on from the table at gfn `table`, whose entries are of `level`, with the rights that `out` holds already."""
    out[TOP] = level
    while True:
        status = step(memory, cpu, gva, level, table, out)
        if status != TABLE:
            out[STATUS] = status
            return status
        table = (out[ENTRY + level - 1] & FRAME_MASK) >> 12
        level -= 1


# ---- rights and error codes

@core
def is_user_access(cpu, kind):
    """SDM 4.6: an explicit access at CPL 3; implicit accesses are supervisor accesses at any CPL."""
    return cpu[CPL] == 3 and not kind & IMPLICIT


@core
def error_bits(cpu, kind):
    """The error-code bits that describe the access (SDM 4.7).

    I/D only if SMEP, or NXE with CR4.PAE: SDM 4.7; APM 8.4.2 "only defined if NXE = 1 and PAE = 1".
    """
    error = kind & PFERR_WRITE
    if is_user_access(cpu, kind):
        error |= PFERR_USER
    if kind & FETCH:
        if cpu[CR4] & CR4_SMEP or (cpu[CR4] & CR4_PAE and cpu[EFER] & EFER_NX):
            error |= PFERR_FETCH
    return error


@core
def key_denies(cpu, kind, user_page, key):
    """Protection keys (SDM 4.6.2, APM 5.6.7): data accesses to user addresses in 64-bit paging; WD binds a supervisor
    only with CR0.WP."""
    if not cpu[CR4] & CR4_PKE or cpu[MODE] < LEVEL4 or not user_page or kind & FETCH:
        return False
    rights = cpu[PKRU] >> (2 * key)
    if rights & 1:
        return True
    binding = is_user_access(cpu, kind) or cpu[CR0] & CR0_WP
    return kind & WRITE_ACCESS != 0 and rights & 2 != 0 and binding


@core
def judge(cpu, kind, write, user, no_execute, key):
    """May the CPU, as its registers are now, do this through a translation with these rights?  0, or the error code of
    the page fault (SDM 4.6, 4.7)."""
    if cpu[MODE] == NO_PAGING:
        return 0
    if cpu[MODE] >= EPT4:
        return ept.judge(kind, write, user, no_execute)
    user_access = is_user_access(cpu, kind)
    column = 2 if kind & FETCH else 1 if kind & WRITE_ACCESS else 0
    rules = RIGHTS[(2 if user_access else 0) + (1 if user else 0)][column]
    denied = rules & _NEVER != 0
    if rules & _NEEDS_W and not write:
        denied = True
    if rules & _NEEDS_W_IF_WP and not write and cpu[CR0] & CR0_WP:
        denied = True
    if rules & _NEEDS_X and no_execute and cpu[EFER] & EFER_NX:
        denied = True
    if rules & _SMEP and cpu[CR4] & CR4_SMEP:
        denied = True
    if rules & _SMAP and cpu[CR4] & CR4_SMAP and (not cpu[AC] or kind & IMPLICIT):
        denied = True
    error = PFERR_PRESENT
    if key_denies(cpu, kind, user, key):
        # the flag says that the key forbids it, whether or not something else does, too
        error |= PFERR_PK
        denied = True
    return error | error_bits(cpu, kind) if denied else 0


@core
def fault_of(cpu, kind, status):
    """Error code of a walk that ended with `status` (SDM 4.7); of an EPT: see `oracle.ept`."""
    if cpu[MODE] >= EPT4:
        return ept.fault_of(kind, status)
    if status == RESERVED_BIT:
        return PFERR_PRESENT | PFERR_RSVD | error_bits(cpu, kind)
    return error_bits(cpu, kind)


# ---- accesses

@core
def set_accessed_dirty(memory, cpu, kind, out):
    """A in every visited entry, D in the leaf of a write (SDM 4.8).  False: an entry is no longer what the walk read,
    the walk must be done again.  Entries of `out` are brought up to date."""
    size = ENTRY_BYTES[cpu[MODE]]
    level = out[TOP]
    while level >= out[LEVEL] and level > 0:
        old = out[ENTRY + level - 1]
        new = old | cpu[ACCESSED]
        if level == out[LEVEL] and kind & WRITE_ACCESS:
            new |= cpu[DIRTY_BIT]
            out[DIRTY] = 1
        if new != old:
            if not replace_entry(memory, out[ADDRESS + level - 1], size, old, new):
                return False
            out[ENTRY + level - 1] = new
        level -= 1
    return True


@core
def is_accessed(cpu, entry):
    """A is set, or there is none in this format."""
    return entry & cpu[ACCESSED] == cpu[ACCESSED]


@core
def access(memory, cpu, gva, kind, out):
    """One access with nothing cached: STATUS (also returned), and ERROR if it is a page fault.

    memory, cpu (after `prepare`), out: tables as above.  gva: linear address, sign-extended to 64 bits.  kind: READ,
    WRITE_ACCESS or FETCH, with or without IMPLICIT.  A successful access sets A and D.  A faulting one sets nothing
    here; a CPU may set A in the entries that it visited with P=1 and no reserved bit (see `may_set`).
    """
    if not is_canonical(memory, cpu, gva):
        reset(out)
        out[STATUS] = NONCANONICAL
        return NONCANONICAL
    while True:
        status = walk(memory, cpu, gva, out)
        if status != TRANSLATED:
            out[ERROR] = fault_of(cpu, kind, status)
            return status
        error = judge(cpu, kind, out[WRITE], out[USER], out[NO_EXECUTE], out[KEY])
        if error:
            out[ERROR] = error
            out[STATUS] = DENIED
            return DENIED
        if set_accessed_dirty(memory, cpu, kind, out):
            return TRANSLATED


@core
def may_set(cpu, kind, out, level):
    """Bits that the CPU may have set in the visited entry of `level` after the access in `out`.

    A of any entry that translation used, even if the access faulted further down (SDM 4.8, APM 5.4.2: "used"); D only
    for a write that happened; nothing in an entry that is not present or has a reserved bit.
    """
    status = out[STATUS]
    if level > out[TOP] or level < out[LEVEL]:
        return 0
    if level == out[LEVEL] and status != TRANSLATED and status != DENIED:
        return 0
    if level == out[LEVEL] and status == TRANSLATED and kind & WRITE_ACCESS:
        return cpu[ACCESSED] | cpu[DIRTY_BIT]
    return cpu[ACCESSED] + 0


@core
def must_set(kind, out, level):
    """Bits that must be set in the entry of `level` after the access in `out` (SDM 4.8)."""
    if out[STATUS] != TRANSLATED or level > out[TOP] or level < out[LEVEL]:
        return 0
    return PT_ACCESSED | PT_DIRTY if level == out[LEVEL] and kind & WRITE_ACCESS else PT_ACCESSED
