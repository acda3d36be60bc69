# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of table entries that operations write, the most telling first: by the machine's format."""

from ..x86.bits import CR4_PGE, EFER_LMA, NX
from .places import (
    DATA,
    EPT_A,
    EPT_D,
    EPT_LEAF,
    EPT_TABLE,
    EXECUTE,
    FULL,
    KEY_1,
    MMIO,
    PD,
    PD_B,
    PDPT,
    PS,
    READ,
    ROOT_A,
    RWX,
    U_TABLE,
    WRITE,
    WRITE_BACK,
    A,
    D,
    G,
    P,
    T,
    U,
    W,
    entry,
)

#: Bits of an entry that lie above MAXPHYADDR of 40 bits, and above one of 36.
ABOVE_40, ABOVE_36 = 1 << 45, 1 << 38


# ---- values of entries, the most telling first

def leaf_values(m):
    """(for every search, for the long list) of a page table's entries."""
    values = [entry(DATA + 1), entry(DATA), 0, entry(DATA, FULL & ~W), entry(U_TABLE), entry(MMIO), entry(T), entry(PD)]
    more = [entry(DATA, FULL & ~U), entry(DATA, P | W | U | A), entry(DATA, P | W | U), entry(12), entry(ROOT_A),
            entry(DATA + 1, FULL | G), entry(13, FULL & ~W), entry(U_TABLE, FULL & ~W), entry(PDPT), entry(15)]
    if m.cr4 & CR4_PGE:
        more += [entry(DATA, FULL | G), entry(DATA + 1, FULL | G), entry(DATA, FULL & ~W | G)]
    if m.entry_bytes == 8:
        more += [entry(DATA + 1, FULL | NX), entry(DATA, FULL | ABOVE_40), entry(DATA, FULL | ABOVE_36)]
    return values, more


def directory_values(m):
    """The same of a page directory's entries."""
    values = [entry(T), entry(U_TABLE), 0, entry(U_TABLE, FULL & ~W), entry(DATA, FULL | PS), entry(T, FULL & ~U),
              entry(DATA), entry(PD)]
    more = [entry(DATA, FULL & ~D | PS), entry(T, FULL & ~A), entry(DATA, FULL & ~W | PS), entry(12, FULL | PS),
            entry(T + 4, FULL & ~U | PS), entry(T, FULL | PS)]
    if m.entry_bytes == 8:
        more += [entry(T, FULL | NX), entry(DATA, FULL | NX | PS), entry(U_TABLE, FULL | ABOVE_40)]
    return values, more


def upper_values(m):
    """What the guest writes into the table above its directories."""
    if m.entry_bytes == 4:
        return [entry(T), 0, entry(U_TABLE), entry(DATA, FULL | PS)]
    if not m.efer & EFER_LMA:
        return [entry(PD, P), entry(PD_B, P), 0, entry(T, P), entry(PD, P | W)]
    return [entry(PD), entry(PD_B), 0, entry(PD, FULL & ~W), entry(PD_B, FULL & ~U), entry(PDPT), entry(PDPT, FULL & ~W),
            entry(DATA, FULL | PS), entry(PD, FULL & ~A)]


# ---- EPT

def ept_leaf_values():
    """(for every search, for the long list) of an EPT page table's entries."""
    a, d = EPT_A, EPT_D
    values = [entry(DATA + 1, EPT_LEAF), entry(DATA, EPT_LEAF), 0, entry(DATA, EPT_LEAF & ~WRITE), entry(U_TABLE, EPT_LEAF),
              entry(MMIO, EPT_LEAF), entry(T, EPT_LEAF), entry(PD, EPT_LEAF)]
    more = [entry(DATA, EXECUTE | WRITE_BACK | a | d), entry(DATA, READ | WRITE_BACK | a | d), entry(DATA, EPT_LEAF & ~EXECUTE),
            entry(DATA, EPT_LEAF & ~d), entry(DATA, EPT_LEAF & ~(a | d)), entry(DATA + 1, EPT_LEAF & ~READ),
            entry(DATA, WRITE | WRITE_BACK), entry(DATA, RWX | 2 << 3), entry(DATA, RWX), entry(12, EPT_LEAF),
            entry(15, EPT_LEAF), entry(13, EPT_LEAF & ~WRITE), entry(ROOT_A, EPT_LEAF), entry(PDPT, EPT_LEAF),
            entry(U_TABLE, EPT_LEAF & ~WRITE),
            entry(DATA, EPT_LEAF | ABOVE_40), entry(T, EPT_LEAF & ~(WRITE | EXECUTE))]
    return values, more


def ept_directory_values():
    """The same of a directory's entries."""
    values = [entry(T, EPT_TABLE), entry(U_TABLE, EPT_TABLE), 0, entry(U_TABLE, EPT_TABLE & ~WRITE), entry(DATA, EPT_LEAF | PS),
              entry(T, EPT_TABLE & ~READ & ~WRITE), entry(DATA, EPT_TABLE), entry(PD, EPT_TABLE)]
    more = [entry(DATA, EPT_LEAF & ~EPT_D | PS), entry(T, EPT_TABLE & ~EPT_A), entry(DATA, EPT_LEAF & ~WRITE | PS),
            entry(12, EPT_LEAF | PS), entry(T, EPT_LEAF | PS), entry(T, EPT_TABLE & ~EXECUTE), entry(T, EPT_TABLE | WRITE_BACK),
            entry(DATA, EPT_LEAF & ~EXECUTE | PS), entry(U_TABLE, EPT_TABLE | ABOVE_40)]
    return values, more


def ept_upper_values():
    """What is written into the table above the directories."""
    return [entry(PD, EPT_TABLE), entry(PD_B, EPT_TABLE), 0, entry(PD, EPT_TABLE & ~WRITE), entry(PD_B, EPT_TABLE & ~EXECUTE),
            entry(PDPT, EPT_TABLE), entry(DATA, EPT_LEAF | PS), entry(PD, EPT_TABLE & ~EPT_A), entry(PD, EPT_TABLE | 1 << 6)]


def of_nested(m):
    """Leaf, directory and upper values of a machine with nested paging."""
    if m.nested == "ept":
        return ept_leaf_values(), ept_directory_values(), ept_upper_values()
    values, more = leaf_values(m)
    if m.entry_bytes == 8 and m.efer & EFER_LMA:
        more = [*more, entry(DATA, FULL | KEY_1)]
    return (values, more), directory_values(m), upper_values(m)
