# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things lie on the small machines, and how an entry is written: what `geometry` and the alphabets share."""

from . import ops

P, W, U, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
FULL = P | W | U | A | D
PML4, ROOT_A, PDPT, PD, T, U_TABLE, ROOT_B, PD_B = range(8)
DATA, MMIO = 8, 14
#: No memory either, and the second entry of a table of level 4.
FAR_MMIO = 64
PAGE = 32
#: Host pages; the last one is what SMM has at gfn 11.
MEMORY_PAGES, SPARE_PAGES = 17, 2
SMRAM = 16
#: On machines with nested paging L1's own tables lie behind everything else.
L1_TABLES, L1_PAGES = 16, 4
#: PDPTEs of a PAE hypervisor's nested tables, which nobody edits: the manual does not say when a CPU reads them, nor what becomes
#: of their reserved bits.
PDPTES_A, PDPTES_B = 18, 19
#: In the same places, of a 64-bit hypervisor: the fifth level of its tables, and its table for 32-bit paging.
L1_TOP, L1_TABLE32 = 18, 19
#: Where an L2 that pages itself has its page directory: at page 7 of its physical addresses, which is this gfn at the start.
L2_TABLE, L2_ROOT = DATA + 3, 7

#: Entries of EPT: rights, bit 7, A and D, and the memory type of a leaf.
READ, WRITE, EXECUTE, RWX = 1, 2, 4, 7
EPT_A, EPT_D = 1 << 8, 1 << 9
WRITE_BACK = 6 << 3
EPT_TABLE, EPT_LEAF = RWX | EPT_A, RWX | EPT_A | EPT_D | WRITE_BACK


#: Protection key 1, and a PKRU that denies it.
KEY_1, KEY_1_DENIED = 1 << 59, 1 << 2


def entry(gfn, flags=FULL):
    """A paging entry."""
    return ops.signed(gfn << 12 | flags)


def eptp(gfn, ad=True, levels=4):
    """An EPTP: write-back, so many levels, A and D bits."""
    return gfn << 12 | 6 | levels - 1 << 3 | (1 << 6 if ad else 0)
