# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a machine with nested paging at the start.

    gfn   0 .. 7                       8 .. 11   12, 13   14, 15      16 .. 19
          nested tables, as the        data      slot 1   no memory   L1's own tables: linear address = physical address,
          guest's on other machines                                   large pages, supervisor, never written by anybody

    ngpa  the nested tables map L2's physical pages as the guest's tables of other machines map linear ones (`geometry`):
          page 0, 1, 2 are the nested tables T, U and PD themselves, so L2 can edit what translates it

L1 reaches every page of the machine by its number; a store to page T is a store to the nested table.
"""

from ..x86.bits import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PSE
from . import places
from .places import (
    DATA,
    EPT_LEAF,
    EPT_TABLE,
    FULL,
    L1_TABLES,
    MMIO,
    PD,
    PD_B,
    PDPT,
    PML4,
    PS,
    ROOT_A,
    ROOT_B,
    U_TABLE,
    P,
    T,
    U,
    entry,
)

#: L2 in 32-bit paging with 4M pages: one page holds all of its tables.  CR0, CR3, CR4.
L2_REGISTERS = (CR0_PE | CR0_PG | CR0_WP | CR0_ET, places.L2_ROOT << 12, CR4_PSE)


def l2_tables():
    """gfn -> L2's own page directory: two pages of eight, everything at its own place."""
    return {places.L2_TABLE: [entry(0, FULL | PS), entry(8, FULL | PS)]}


def pae_roots(t):
    """The nested PDPTEs out of everybody's reach."""
    t[places.PDPTES_A], t[places.PDPTES_B] = t.pop(ROOT_A), t.pop(ROOT_B)
    return t


def l1_tables(long_mode, entry_bytes):
    """gfn -> entries of L1's own tables: everything at its own place.  A 64-bit
    hypervisor has some for other modes, too: with five levels, and for 32-bit paging."""
    rights = FULL & ~U
    if entry_bytes == 4:
        return {L1_TABLES: [entry(8 * i, rights | PS) for i in range(2)]}
    if not long_mode:
        return {L1_TABLES: [entry(L1_TABLES + 1, P)], L1_TABLES + 1: [entry(4 * i, rights | PS) for i in range(4)]}
    large = [entry(8 * i, rights | PS) for i in range(2)]
    return {L1_TABLES: [entry(L1_TABLES + 1, rights)], L1_TABLES + 1: [entry(0, rights | PS)],
            places.L1_TOP: [entry(L1_TABLES, rights)], places.L1_TABLE32: [large[1] << 32 | large[0]]}


def ept_tables(edits, levels):
    """gfn -> entries of EPT tables, the shape of `geometry.Machine.tables`."""
    read_only = places.WRITE
    t = {
        PD: [entry(T, EPT_TABLE), entry(U_TABLE, EPT_TABLE), entry(DATA, EPT_LEAF | PS), entry(U_TABLE, EPT_TABLE & ~read_only)],
        T: [entry(gfn, EPT_LEAF) for gfn in (T, U_TABLE, PD, edits)],
        U_TABLE: [entry(DATA + 1, EPT_LEAF), entry(DATA + 2, EPT_LEAF), entry(MMIO, EPT_LEAF),
                  entry(DATA + 3, EPT_LEAF & ~(places.EPT_A | places.EPT_D))],
        PD_B: [entry(U_TABLE, EPT_TABLE), entry(T, EPT_TABLE)],
        PDPT: [entry(PD, EPT_TABLE), entry(PD_B, EPT_TABLE)],
        ROOT_A: [entry(PDPT, EPT_TABLE)],
        ROOT_B: [entry(PDPT, EPT_TABLE & ~read_only)],
    }
    if levels == 5:
        t[PML4], t[ROOT_A], t[ROOT_B] = t[ROOT_A], [entry(PML4, EPT_TABLE)], [entry(PML4, EPT_TABLE & ~read_only)]
    return t
