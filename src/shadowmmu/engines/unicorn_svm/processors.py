# SPDX-License-Identifier: GPL-2.0-or-later
"""Several processors on one engine: whoever runs next is swapped in, with its own TLB.

    SvmHardware (one CPU record, one code cache)          Processors
      env: registers, MSRs, x87/SSE, intercepts   <-swap->   [0] [1] [2] ...   at rest, between two `run`s
      TLB of the soft MMU                         <-swap->   each has its own tables, nothing is flushed
      control block: queued event, CR3, blocks    <-swap->
      translated code                             shared by all
      cache virtual address -> translated code    emptied at every swap

Why one engine and not one for each processor.  Translated code is found by physical address, and what one processor
stores must be forgotten for all of them.  An engine does that for its own translations only; a second engine over the
same memory would never hear of the store and run the old code.  With one engine a store to a page with code is seen
whichever processor makes it (`code_pages`).

One thing is left.  A store is seen only through a TLB entry made after its page was marked as one with code; `code_pages`
therefore empties the TLB when it marks a page, but reaches only the TLB of the processor that runs.  So a processor that
comes back after any page was marked starts with an empty TLB.  Pages are marked once; later nothing is lost.
"""

import ctypes

from . import hooks
from . import offsets as o

#: Parts of the CPU record (relative to env) that belong to one processor.  Left out: host pointers, and what `hooks` uses.
RECORD = ((0, o.BREAKPOINTS), (o.OLD_EXCEPTION, o.VM_VMCB), (o.INTERCEPT, o.NESTED_CR3))
#: Cells of the control block that belong to one processor.
CELLS = (hooks.EVENT_PENDING, hooks.EVENT_INFO, hooks.EVENT_ERROR, hooks.EVENT_LENGTH, hooks.EXIT_INT_INFO,
         hooks.EXIT_INT_ERROR, hooks.EXIT_INT_LENGTH, hooks.DELIVERY_RIP, hooks.HELD_REQUESTS, hooks.FAST_ARGUMENT,
         hooks.WALK, hooks.WALK_ARGUMENT, hooks.ROOT)
DR7_ENABLES = 0xFF


class Processors:
    """The processors of one `SvmHardware`.  Number 0 is the one it was made with; it is selected at first.

    Everything here is for the time between two runs; `hardware` always shows the selected processor.
    """

    def __init__(self, hardware):
        self.hardware = hardware
        env, cpu = hardware.env_address, hardware.cpu_address
        self._places = [(env + start, end - start) for start, end in RECORD]
        self._places.append((cpu + o.CPU_TLB, o.CPU_TLB_END - o.CPU_TLB))
        functions = hardware.state.functions
        self._new_tlb = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions["tlb_init"])
        self._flush_modes = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint16)(functions["tlb_flush_by_mmuidx"])
        self._fresh = self._read()
        self._resting = [self._fresh]
        self._marked = [0]
        self.selected = 0

    def add(self):
        """A further processor in the state in which the hardware was when this object was made; its number."""
        current = self._read()
        self._write(self._fresh)
        self._new_tlb(self.hardware.cpu_address)
        self._resting.append(self._read())
        self._marked.append(self.hardware.pages_marked)
        self._write(current)
        return len(self._resting) - 1

    def select(self, number):
        """Swap processor `number` in."""
        if number == self.selected:
            return
        hw = self.hardware
        breakpoints = hw.dr[7]
        if breakpoints & DR7_ENABLES:
            # the engine keeps them in a list of its own
            hw.write_dr(7, breakpoints & ~DR7_ENABLES)
            hw.dr[7] = breakpoints
        self._resting[self.selected] = self._read()
        self._marked[self.selected] = hw.pages_marked
        self._write(self._resting[number])
        self.selected = number
        breakpoints = hw.dr[7]
        if breakpoints & DR7_ENABLES:
            hw.dr[7] = breakpoints & ~DR7_ENABLES
            hw.write_dr(7, breakpoints)
        hw.cells[hooks.PREFETCH_RIP] = -1
        self._flush_modes(hw.cpu_address, 0)      # of no MMU mode: this empties only the cache of jumps
        if self._marked[number] != hw.pages_marked:
            hw.flush_tlb()

    def _read(self):
        cells = self.hardware.cells
        return [ctypes.string_at(address, size) for address, size in self._places], [cells[cell] for cell in CELLS]

    def _write(self, saved):
        parts, values = saved
        for (address, size), part in zip(self._places, parts, strict=True):
            ctypes.memmove(address, part, size)
        for cell, value in zip(CELLS, values, strict=True):
            self.hardware.cells[cell] = value
