# SPDX-License-Identifier: GPL-2.0-or-later
"""How many page walks the engine makes on shadow tables, and how many entries they read.

    TLB miss --> hooks.on_tlb_fill_counted --> count (here): follow the shadow tables, only looking
                                           --> the engine's own walker, which does the work

The figures land where those of nested paging do (`state.hw_walk`), so both can be read the same way.  The four PDPTEs of
a PAE root count as registers, as on a CPU.
"""

import ctypes

from ... import state
from ...mmu import geometry, roles
from ...state import core
from ...state.foreign import callback, load64
from ...x86.bits import PT_PAGE_SIZE, PT_PRESENT
from . import hooks
from .errors import EngineError

#: Cells of the counter's argument.
HANDLE, VCPU, CONTROL, CELLS = range(4)


@core
def count(vm, vcpu, h, gva):
    """One walk of the current root for `gva`."""
    level = roles.level(state.context(vm, vcpu.mmu).root_role)
    frame = geometry.entry_frame(vcpu.hw_root)
    refs = 0
    if level == 3:
        entry = geometry.read_spte(vm, geometry.frame_sptep(vm, frame) + ((gva >> (vm.page_shift + 2 * vm.level_bits)) & 3))
        if not entry & PT_PRESENT:
            level = 0
        else:
            frame = geometry.entry_frame(entry)
            level = 2
    while level > 0:
        spte = geometry.read_spte(vm, geometry.frame_sptep(vm, frame) + geometry.index(vm, gva, level))
        refs += 1
        if not spte & PT_PRESENT or spte & PT_PAGE_SIZE:
            break
        frame = geometry.entry_frame(spte)
        level -= 1
    h.walks += 1
    h.nested_refs += refs
    h.most_refs = max(h.most_refs, refs)


if state.JIT:
    @callback("i64", "i64")
    def counter(block):
        """The counter as the engine calls it."""
        vm = state.attach(load64(block + 8 * HANDLE))
        gva = load64(load64(block + 8 * CONTROL) + 8 * hooks.WALK_GVA)
        count(vm, state.vcpu(vm, load64(block + 8 * VCPU)), state.hw_walk(vm), gva)
        return 0


def install(machine):
    """Count the walks of a `KvmRun` from now on.  Raises EngineError with the interpreted core."""
    if not state.JIT:
        raise EngineError("walks on shadow tables are counted by compiled code only (unset SHADOWMMU_JIT=0)")
    block = (ctypes.c_int64 * CELLS)(machine.vm.store.address, machine.vcpu.index, machine.hardware.control_address)
    machine.walk_counter = block
    machine.hardware.count_walks(counter.address, ctypes.addressof(block))
