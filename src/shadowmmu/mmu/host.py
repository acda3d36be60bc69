# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's memory (the "primary MMU"): hva -> pfn, and guest memory by gpa.

    gfn --slot--> hva page --vm.hva[]--> level << 56 | pfn     or ABSENT (never touched, or punched out)

A page that is absent is given a fresh zeroed frame on the first non-atomic access, as the host's own fault would.
"""

from .. import state
from ..state import core
from . import geometry, memslots, warn

ABSENT = -1
LEVEL_SHIFT = 56
PFN_MASK = (1 << LEVEL_SHIFT) - 1

#: KVM_PFN_* of hva_to_pfn
PFN_NOSLOT, PFN_ERR_FAULT, PFN_ERR_RO_FAULT = -2, -3, -4


@core
def zero_frame(vm, pfn):
    """Fill a frame of RAM with zeroes."""
    n = (1 << vm.page_shift) >> 3
    ram = state.words(vm, vm.ram)
    at = (pfn - vm.ram_pfn) * n
    for i in range(n):
        ram[at + i] = 0


@core
def fault_in(vm, hva):
    """The host touches the page: its frame, allocated and zeroed if it was absent."""
    table = state.words(vm, vm.hva)
    entry = table[hva]
    if entry != ABSENT:
        return entry & PFN_MASK
    free = state.words(vm, vm.free_ram)
    if vm.n_free_ram == 0:
        warn.warn(vm, 19)
        return PFN_ERR_FAULT
    # last freed, first used, as the host's per-CPU lists do
    vm.n_free_ram -= 1
    pfn = free[vm.n_free_ram]
    zero_frame(vm, pfn)
    table[hva] = 1 << LEVEL_SHIFT | pfn
    return pfn


@core
def gfn_to_pfn_atomic(vm, i, gfn):
    """gfn_to_pfn_memslot_atomic: the frame, only if the host has it mapped (writable) now."""
    slot = state.slot(vm, i)
    if slot.flags & memslots.READONLY:
        return PFN_ERR_FAULT
    entry = state.words(vm, vm.hva)[memslots.gfn_to_hva(vm, i, gfn)]
    if entry == ABSENT:
        return PFN_ERR_FAULT
    return entry & PFN_MASK


@core
def mapping_level(vm, i, gfn):
    """host_pfn_mapping_level: size of the host's own mapping of this gfn."""
    entry = state.words(vm, vm.hva)[memslots.gfn_to_hva(vm, i, gfn)]
    if entry == ABSENT:
        return 1
    return entry >> LEVEL_SHIFT


@core
def unmap(vm, hva):
    """The host takes the page away (punched hole); the frame is the next to be used."""
    table = state.words(vm, vm.hva)
    entry = table[hva]
    if entry == ABSENT:
        return
    state.words(vm, vm.free_ram)[vm.n_free_ram] = entry & PFN_MASK
    vm.n_free_ram += 1
    table[hva] = ABSENT
    # a large host mapping that loses a page is split
    split(vm, hva)


@core
def split(vm, hva):
    """The host maps the large page around `hva` in 4K pieces from now on."""
    table = state.words(vm, vm.hva)
    for level in range(2, 4):
        unit = geometry.pages_per_hpage(vm, level)
        first = hva & -unit
        for i in range(first, min(first + unit, vm.n_hva)):
            if table[i] != ABSENT and table[i] >> LEVEL_SHIFT >= level:
                table[i] = 1 << LEVEL_SHIFT | table[i] & PFN_MASK


@core
def gpa_frame(vm, vcpu, gpa, atomic):
    """RAM frame index (from 0) behind `gpa` for reading by KVM, or -1."""
    gfn = gpa >> vm.page_shift
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    if not memslots.is_visible(vm, i):
        return -1
    hva = memslots.gfn_to_hva(vm, i, gfn)
    entry = state.words(vm, vm.hva)[hva]
    if entry == ABSENT:
        if atomic:
            return -1
        return fault_in(vm, hva) - vm.ram_pfn
    return (entry & PFN_MASK) - vm.ram_pfn


@core
def frame_at(vm, frame):
    """Byte offset in the state of RAM frame `frame`."""
    return vm.ram + (frame << vm.page_shift)


@core
def read_entry(vm, frame, offset, size):
    """A 4- or 8-byte entry at byte `offset` of RAM frame `frame`."""
    if size == 8:
        return state.words(vm, frame_at(vm, frame))[offset >> 3]
    return state.words32(vm, frame_at(vm, frame))[offset >> 2] + 0


@core
def write_entry(vm, frame, offset, size, value):
    """Store a 4- or 8-byte entry."""
    if size == 8:
        state.words(vm, frame_at(vm, frame))[offset >> 3] = value
    else:
        state.words32(vm, frame_at(vm, frame))[offset >> 2] = value


@core
def read_guest(vm, vcpu, gpa, size):
    """kvm_vcpu_read_guest of up to 8 bytes within a page; 0 where there is no memory."""
    frame = gpa_frame(vm, vcpu, gpa, False)
    if frame < 0:
        return 0
    ram = state.octets(vm, frame_at(vm, frame))
    at = geometry.page_offset(vm, gpa)
    value = 0
    for i in range(size):
        value |= (ram[at + i] + 0) << (8 * i)
    return value


@core
def write_guest(vm, vcpu, gpa, value, size):
    """kvm_vcpu_write_guest of up to 8 bytes within a page; False where memory is absent or read-only."""
    return write_guest_page(vm, memslots.vcpu_gfn_to_memslot(vm, vcpu, gpa >> vm.page_shift), gpa, value, size)


@core
def write_guest_page(vm, i, gpa, value, size):
    """__kvm_write_guest_page: the same, the memslot (an index or NONE) has been found."""
    gfn = gpa >> vm.page_shift
    if not memslots.is_visible(vm, i) or state.slot(vm, i).flags & memslots.READONLY:
        return False
    frame = fault_in(vm, memslots.gfn_to_hva(vm, i, gfn)) - vm.ram_pfn
    ram = state.octets(vm, frame_at(vm, frame))
    at = geometry.page_offset(vm, gpa)
    for k in range(size):
        ram[at + k] = (value >> (8 * k)) & 0xFF
    memslots.mark_page_dirty_in_slot(vm, i, gfn)
    return True
