# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores to executable pages at full speed, and code that is overwritten through another mapping.

A store has to be watched when its page holds translated code.  The engine (cputlb.c, notdirty_write) goes by the TLB entry:
with execute permission every store is slow, six times the price, though a decompressor's or a small kernel's
memory is mapped executable and never executed; without it only the first store is watched, so code written through a second,
non-executable mapping stays translated.  Here it goes by the physical page, and by whether code was ever fetched from it:

    TLB miss --> the engine's walker fills the entry --> page never fetched from: entry without execute permission
                                                    |       fetch ...... mark the page, empty the TLB, walk again
                                                    +--> page marked: every store is watched, whatever the mapping

Execute permission that was left out is no lost permission: the fetch misses, and the walker decides again.  For an entry
whose walk gave none, but whose page is marked, `addr_code` gets a value that no address matches and that is not the -1 by
which the engine knows a page without code.  Marks are taken back only when all translated code goes.
"""

import ctypes

import numpy as np

from ...state.foreign import call1, call4, call7, callback, load8, load64, native, store8, store64
from . import exits as ex
from . import hooks
from . import offsets as o

#: Cells of the block at hooks.CODE_WATCH: the walker that fills the entry, tlb_flush, RAM in pages, one byte for each,
#: how many pages were marked so far.
WALKER, FLUSH_TLB, FIRST_PAGE, PAGES, MARKS, MARKED, CELLS = range(7)
NO_PAGE = -1
PAGE_BITS = 12


@native
def tlb_entry(cpu, address, index):
    """Address of the engine's TLB entry for a linear address and an MMU index."""
    fast = cpu + o.CPU_TLB_FAST + 16 * index
    return load64(fast + 8) + ((address >> PAGE_BITS << o.TLB_ENTRY_BITS) & load64(fast))


@native
def ram_page(block, entry):
    """Number of the RAM page that an entry maps; NO_PAGE for anything else."""
    page = (load64(entry + o.TLB_PADDR) >> PAGE_BITS) - load64(block + 8 * FIRST_PAGE)
    return page if 0 <= page < load64(block + 8 * PAGES) else NO_PAGE


@native
def settle(block, cpu, address, index):
    """An entry filled for a load or store: may it keep execute permission, must its stores be watched?"""
    entry = tlb_entry(cpu, address, index)
    page = ram_page(block, entry)
    if page == NO_PAGE:
        return
    if load8(load64(block + 8 * MARKS) + page) == 0:
        store64(entry + o.TLB_CODE, -1)
    elif load64(entry + o.TLB_CODE) == -1:
        store64(entry + o.TLB_CODE, address & -hooks.PAGE | o.TLB_INVALID)


@native
def first_fetch(block, cpu, address, index):
    """A page from which code is fetched: mark it.  True when it was not marked."""
    page = ram_page(block, tlb_entry(cpu, address, index))
    if page == NO_PAGE or load8(load64(block + 8 * MARKS) + page):
        return False
    store8(load64(block + 8 * MARKS) + page, 1)
    store64(block + 8 * MARKED, load64(block + 8 * MARKED) + 1)
    return True


@callback("u32", "i64", "i64", "i32", "i32", "i32", "u32", "i64")
def on_tlb_fill(cpu, address, size, kind, index, probe, retaddr):
    """CPUClass.tlb_fill around another one."""
    control = load64(cpu + o.CPU_ENV + o.NESTED_CR3)
    root = hooks.get(control, hooks.ROOT)
    if root != hooks.ANY_ROOT and root != load64(cpu + o.CPU_ENV + o.CR + 24):
        # only a hardware task switch loads CR3 without an exit; nothing was accessed through it yet
        store64(cpu + o.CPU_ENV + o.CR + 24, root)
        call4(hooks.get(control, hooks.CPU_VMEXIT), cpu + o.CPU_ENV, ex.ROOT_CHANGED, 0, retaddr)
    block = hooks.get(control, hooks.CODE_WATCH)
    walker = load64(block + 8 * WALKER)
    filled = call7(walker, cpu, address, size, kind, index, probe & 0xFF, retaddr) & 0xFF
    if filled:
        if kind != o.ACCESS_FETCH:
            settle(block, cpu, address, index)
        elif first_fetch(block, cpu, address, index):
            # entries for the same page made so far let stores pass
            call1(load64(block + 8 * FLUSH_TLB), cpu)
            call7(walker, cpu, address, size, kind, index, probe & 0xFF, retaddr)
    return filled


class CodePages:
    """The marks of one engine's RAM: `length` bytes from host-physical `hpa`.  `block` is the address for CODE_WATCH."""

    def __init__(self, hpa, length, walker, flush_tlb):
        self.marks = np.zeros(length >> PAGE_BITS, np.uint8)
        self._cells = (ctypes.c_int64 * CELLS)(walker, flush_tlb, hpa >> PAGE_BITS, len(self.marks), self.marks.ctypes.data)
        self.block = ctypes.addressof(self._cells)

    @property
    def marked(self):
        """How often a page was marked: a TLB that was filled before the last time lets stores pass."""
        return self._cells[MARKED]

    def set_walker(self, address):
        """Who fills entries from now on."""
        self._cells[WALKER] = address

    def clear(self):
        """No code is translated any more (and the TLB is empty)."""
        self.marks[:] = 0
