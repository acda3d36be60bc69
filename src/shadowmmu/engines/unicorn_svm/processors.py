# SPDX-License-Identifier: GPL-2.0-or-later
"""Several processors on one engine: whoever runs next is swapped in, with its own TLB.

    SvmHardware (one CPU record, one code cache)          Processors
      env: registers, MSRs, x87/SSE, intercepts   <-swap->   [0] [1] [2] ...   at rest, between two `run`s
      TLB of the soft MMU                         <-swap->   each has its own tables, nothing is flushed
      control block: queued event, paths' blocks  <-swap->
      translated code                             shared by all
      cache virtual address -> translated code    emptied at every swap

Why one engine and not one for each processor.  Translated code is found by physical address, so what one processor writes
must be forgotten for all of them.  The engine does that by itself for its own translations only; a second engine over the
same memory would never hear of the store and run the old code.  With one engine a store to translated code is seen
whichever processor makes it: `notdirty_write` forgets the code of the bytes stored.

One thing is left.  The engine hears of a store only through a TLB entry marked "not dirty"; the mark goes after the first
store through an entry that cannot execute.  Code that another processor translated meanwhile from the same frame would
then be overwritten unseen.  So a processor that comes back after anything was translated has all its marks set again
(`tlb_reset_dirty`): the TLB stays, the next store to each page takes the slow way once.
"""

import ctypes

from . import hooks
from . import offsets as o

#: Parts of the CPU record (relative to env) that belong to one processor.  Left out: host pointers, and what `hooks` uses.
RECORD = ((0, o.BREAKPOINTS), (o.OLD_EXCEPTION, o.VM_VMCB), (o.INTERCEPT, o.NESTED_CR3))
#: Cells of the control block that belong to one processor.
CELLS = (hooks.EVENT_PENDING, hooks.EVENT_INFO, hooks.EVENT_ERROR, hooks.EVENT_LENGTH, hooks.EXIT_INT_INFO,
         hooks.EXIT_INT_ERROR, hooks.EXIT_INT_LENGTH, hooks.DELIVERY_RIP, hooks.HELD_REQUESTS, hooks.FAST_ARGUMENT,
         hooks.WALK_ARGUMENT)
EVERYWHERE = 1 << 48, (1 << 64) - (1 << 48)


class Processors:
    """The processors of one `SvmHardware`.  Number 0 is the one it was made with; it is selected at first.

    Everything here is for the time between two runs; `hardware` always shows the selected processor.
    """

    def __init__(self, hardware):
        self.hardware = hardware
        env, cpu = hardware.env_address, hardware.cpu_address
        self._places = [(env + start, end - start) for start, end in RECORD] + [(cpu + o.CPU_TLB, o.CPU_TLB_SIZE)]
        functions = hardware.state.functions
        self._new_tlb = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions["tlb_init"])
        self._forget_jumps = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint16)(functions["tlb_flush_by_mmuidx"])
        self._mark_clean = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)(
            functions["tlb_reset_dirty"])
        self._fresh = self._read()
        self._resting = [self._fresh]
        self._seen = [0]
        self.selected = 0

    def add(self):
        """A further processor in the state in which the hardware was when this object was made; its number."""
        current = self._read()
        self._write(self._fresh)
        self._new_tlb(self.hardware.cpu_address)
        self._resting.append(self._read())
        self._seen.append(self._translations())
        self._write(current)
        return len(self._resting) - 1

    def select(self, number):
        """Swap processor `number` in."""
        if number == self.selected:
            return
        self._resting[self.selected] = self._read()
        self._seen[self.selected] = self._translations()
        self._write(self._resting[number])
        self.selected = number
        cells, cpu = self.hardware.cells, self.hardware.cpu_address
        cells[hooks.PREFETCH_RIP] = -1
        self._forget_jumps(cpu, 0)      # of no MMU mode: only the cache of jumps
        if self._seen[number] != self._translations():
            self._mark_clean(cpu, *EVERYWHERE)

    def _translations(self):
        return self.hardware.cells[hooks.TRANSLATED]

    def _read(self):
        cells = self.hardware.cells
        return [ctypes.string_at(address, size) for address, size in self._places], [cells[cell] for cell in CELLS]

    def _write(self, saved):
        parts, values = saved
        for (address, size), part in zip(self._places, parts, strict=True):
            ctypes.memmove(address, part, size)
        for cell, value in zip(CELLS, values, strict=True):
            self.hardware.cells[cell] = value
