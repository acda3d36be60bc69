# SPDX-License-Identifier: GPL-2.0-or-later
"""Arithmetic on addresses, frames and tables, for any geometry.

    linear address, 9 index bits (real)         2 index bits (scaled down for search)
    |  9  |  9  |  9  |  9  |   12   |          | 2 | 2 | 2 | 2 |  5  |   a table of 4 entries is a page of 32 bytes

An entry holds its frame number at bit 12 in every geometry (so attribute bits are where they are on x86); only
addresses use `page_shift`.  `hpa` of a table means frame << 12, as in an entry.
"""

from .. import state
from ..state import core
from ..x86.bits import FRAME_MASK, FRAME_SHIFT


@core
def pages_per_hpage(vm, level):
    """4K pages that a page of `level` covers (KVM_PAGES_PER_HPAGE)."""
    return 1 << (vm.level_bits * (level - 1))


@core
def index(vm, addr, level):
    """Index of `addr` in an 8-byte-entry table of `level` (SPTE_INDEX)."""
    return (addr >> (vm.page_shift + vm.level_bits * (level - 1))) & ((1 << vm.level_bits) - 1)


@core
def round_gfn(vm, gfn, level):
    """gfn_round_for_level."""
    return gfn & -pages_per_hpage(vm, level)


@core
def entry_frame(entry):
    """Frame number in an entry."""
    return (entry & FRAME_MASK) >> FRAME_SHIFT


@core
def page_offset(vm, addr):
    return addr & ((1 << vm.page_shift) - 1)


@core
def frame_to_page(vm, pfn):
    """Index of the shadow page whose table is `pfn`, or -1 for a special or foreign frame (root_to_sp)."""
    i = pfn - vm.shadow_pfn - vm.special_frames
    if 0 <= i < vm.n_pages:
        return i
    return -1


@core
def page_frame(vm, i):
    """Frame of the table of shadow page `i`."""
    return vm.shadow_pfn + vm.special_frames + i


@core
def sptep_page(vm, sptep):
    """Index of the shadow page that holds the entry at `sptep` (sptep_to_sp)."""
    return (sptep >> vm.level_bits) - vm.special_frames


@core
def sptep_index(vm, sptep):
    """Index of the entry in its table (spte_index)."""
    return sptep & ((1 << vm.level_bits) - 1)


@core
def first_sptep(vm, i):
    """Place of entry 0 of shadow page `i`."""
    return (vm.special_frames + i) << vm.level_bits


@core
def frame_sptep(vm, pfn):
    """Place of entry 0 of the shadow frame `pfn`."""
    return (pfn - vm.shadow_pfn) << vm.level_bits


@core
def is_table(vm, pfn):
    """Is the frame a shadow table?  Whoever follows an entry like the hardware asks first: the hardware does not, and takes what
    lies in any other frame for entries."""
    return vm.shadow_pfn <= pfn < vm.shadow_pfn + vm.special_frames + vm.n_pages


@core
def entries(vm):
    """Entries of a shadow table."""
    return 1 << vm.level_bits


@core
def read_spte(vm, sptep):
    return state.words(vm, vm.spt)[sptep]


@core
def write_spte(vm, sptep, value):
    state.words(vm, vm.spt)[sptep] = value
