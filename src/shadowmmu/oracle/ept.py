# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of extended page tables (SDM vol. 3 29.3), in the terms of `oracle.walker`.

    63        51      12 11 10   9  8  7   6    5..3     2 1 0
    | ignored | frame   |  .  |  D | A | PS | IPAT | memtype | X W R |     present: any of R, W, X
                                 EPTP bit 6       leaf only

A guest-physical address has no supervisor and no user: R is what `walker` calls USER, X the contrary of NO_EXECUTE.  An access
that is refused is an EPT violation, an entry that must not be an EPT misconfiguration (SDM 29.3.3):

    ERROR = exit qualification of the violation, bits 0 to 5     | MISCONFIGURATION

Sections are of the SDM, vol. 3, as numbered since 2022 (29 is 28 in older issues).
"""

from ..state import core
from ..x86.bits import FRAME_MASK, PFERR_FETCH, PFERR_WRITE
from . import walker

READ, WRITE, EXECUTE, RWX = 1, 2, 4, 7
PAGE = 1 << 7
#: EPTP (table 25-9): A and D bits are used; walk length less 1.
USE_ACCESSED_DIRTY, LENGTH_SHIFT = 1 << 6, 3
ACCESSED, DIRTY = 1 << 8, 1 << 9
#: In ERROR: not a violation.  Exit qualification (table 28-7): access in bits 0 to 2, what the entries permit in 3 to 5.
MISCONFIGURATION = 1 << 16
RIGHTS_SHIFT = 3

#: Bits that must be 0 by (bit 7 set, level - 1), MAXPHYADDR and the alignment of large pages apart (tables 29-1 to 29-7).
RESERVED = ((0, 0x78, 0x78, 0xF8, 0xF8), (0, 0, 0, 0xF8, 0xF8))


@core
def prepare(cpu, level_bits):
    """Derived facts of a CPU table whose CR3 is an EPTP."""
    eptp = cpu[walker.CR3]
    cpu[walker.MODE] = walker.EPT5 if eptp >> LENGTH_SHIFT & 7 == 4 else walker.EPT4
    used = eptp & USE_ACCESSED_DIRTY
    cpu[walker.ACCESSED] = ACCESSED if used else 0
    cpu[walker.DIRTY_BIT] = DIRTY if used else 0
    high = walker.bits(cpu[walker.MAXPHYADDR], 51)
    for large in range(2):
        for level in range(1, 6):
            mask = high | RESERVED[large][level - 1]
            if large and (level == 2 or level == 3):
                mask |= walker.bits(12, 11 + level_bits * (level - 1))
            if large and level == 3 and not cpu[walker.GBPAGES]:
                mask |= PAGE
            cpu[walker.RESERVED_MASKS + large * 5 + level - 1] = mask


@core
def is_misconfigured(cpu, entry, level):
    """29.3.3.1: rights or a memory type that do not exist, execute-only where VMX does not offer it, a reserved bit."""
    rights = entry & RWX
    if rights == WRITE or rights == WRITE | EXECUTE or rights == EXECUTE and not cpu[walker.EXECUTE_ONLY]:
        return True
    large = entry & PAGE != 0
    if entry & cpu[walker.RESERVED_MASKS + (5 if large else 0) + level - 1]:
        return True
    memory_type = entry >> 3 & 7
    return (level == 1 or large) and (memory_type == 2 or memory_type == 3 or memory_type == 7)


@core
def step(memory, cpu, gpa, level, table, out):
    """`walker.step` for an EPT."""
    index = gpa >> (memory.page_shift + memory.level_bits * (level - 1)) & ((1 << memory.level_bits) - 1)
    at = (table << memory.page_shift) + index * 8
    out[walker.LEVEL] = level
    out[walker.ADDRESS + level - 1] = at
    entry, there = walker.read_entry(memory, at, 8)
    out[walker.ENTRY + level - 1] = entry
    if not there:
        return walker.NO_MEMORY
    if not entry & RWX:
        return walker.NOT_PRESENT
    if is_misconfigured(cpu, entry, level):
        return walker.RESERVED_BIT
    if not entry & READ:
        out[walker.USER] = 0
    if not entry & WRITE:
        out[walker.WRITE] = 0
    if not entry & EXECUTE:
        out[walker.NO_EXECUTE] = 1
    if level > 1 and not entry & PAGE:
        return walker.TABLE
    pages = 1 << memory.level_bits * (level - 1)
    out[walker.GFN] = (entry & FRAME_MASK) >> 12 & -pages | gpa >> memory.page_shift & (pages - 1)
    out[walker.GLOBAL] = 0
    out[walker.DIRTY] = 1 if entry & cpu[walker.DIRTY_BIT] == cpu[walker.DIRTY_BIT] else 0
    out[walker.KEY] = 0
    return walker.TRANSLATED


@core
def access_bit(kind):
    """Bits 0 to 2 of the exit qualification; also the right that the access needs."""
    if kind & PFERR_FETCH:
        return EXECUTE
    return WRITE if kind & PFERR_WRITE else READ


@core
def judge(kind, write, user, no_execute):
    """0, or the exit qualification of the violation (table 28-7)."""
    rights = (READ if user else 0) | (WRITE if write else 0) | (0 if no_execute else EXECUTE)
    needed = access_bit(kind)
    return 0 if rights & needed else needed | rights << RIGHTS_SHIFT


@core
def fault_of(kind, status):
    """ERROR of a walk that ended with `status`.  An entry that is not present permits nothing."""
    return MISCONFIGURATION if status == walker.RESERVED_BIT else access_bit(kind)
