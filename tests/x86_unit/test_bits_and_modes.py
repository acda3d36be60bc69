# SPDX-License-Identifier: GPL-2.0-or-later
"""Register and entry bits against the manuals' numbers (SDM vol. 3: 2.5, 4.1-4.7; APM vol. 2: 3.1, 5.3)."""

import pytest

from shadowmmu.x86 import bits, paging


@pytest.mark.parametrize("name, bit", [
    ("CR0_PE", 0), ("CR0_ET", 4), ("CR0_WP", 16), ("CR0_NW", 29), ("CR0_CD", 30), ("CR0_PG", 31),
    ("CR4_PSE", 4), ("CR4_PAE", 5), ("CR4_PGE", 7), ("CR4_LA57", 12), ("CR4_PCIDE", 17), ("CR4_SMEP", 20),
    ("CR4_SMAP", 21), ("CR4_PKE", 22), ("EFER_LME", 8), ("EFER_LMA", 10), ("EFER_NX", 11), ("EFER_SVME", 12),
    ("PT_PRESENT", 0), ("PT_WRITABLE", 1), ("PT_USER", 2), ("PT_ACCESSED", 5), ("PT_DIRTY", 6), ("PT_PAGE_SIZE", 7),
    ("PT_GLOBAL", 8), ("PFERR_PRESENT", 0), ("PFERR_WRITE", 1), ("PFERR_USER", 2), ("PFERR_RSVD", 3),
    ("PFERR_FETCH", 4), ("PFERR_PK", 5), ("RFLAGS_AC", 18),
])
def test_bit_numbers(name, bit):
    assert getattr(bits, name) == 1 << bit


def test_bit_63_is_the_sign():
    """The core computes in signed 64-bit words."""
    assert bits.NX == bits.CR3_NOFLUSH == -(1 << 63)
    assert bits.NX_SHIFT == 63
    assert bits.FRAME_MASK == 0x000F_FFFF_FFFF_F000


def test_vectors():
    assert (bits.DF, bits.TS, bits.NP, bits.SS, bits.GP, bits.PF, bits.AC) == (8, 10, 11, 12, 13, 14, 17)


@pytest.mark.parametrize("mode, level, size, width, nx", [
    (paging.BITS32, 2, 4, 32, False), (paging.PAE, 3, 8, 32, True), (paging.LEVEL4, 4, 8, 48, True),
    (paging.LEVEL5, 5, 8, 57, True),
])
def test_modes(mode, level, size, width, nx):
    """SDM vol. 3, table 4-1."""
    assert (mode.root_level, mode.entry_bytes, mode.address_bits, mode.nx) == (level, size, width, nx)
    bits_per_level = {4: 10, 8: 9}[size]
    covered = 12 + bits_per_level * (2 if mode is paging.PAE else level) + (2 if mode is paging.PAE else 0)
    assert covered == width


def test_modes_are_frozen():
    with pytest.raises(AttributeError):
        paging.PAE.root_level = 4
