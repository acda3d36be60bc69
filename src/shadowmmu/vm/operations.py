# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest loads, stores and fetches without a guest program: access, exit, handle, try again.

    outcome >= 0            done; RAM byte offset of the access
            = FAULTED       the guest got an exception (see vcpu.exception_*; it is taken off the queue by the caller)
            = MMIO          no memory there; the address is emulated
            = STUCK         the access did not succeed in `MAX_EXITS` exits
            = DEAD          shutdown, or no root could be made
            = NESTED_EXIT   L2 must leave for L1 first (`vcpu.vmexit_pending`)
"""

from .. import state
from ..mmu import inject, walk
from ..state import core
from ..x86.bits import CR4_SMAP, GP, PF, PFERR_FETCH, PFERR_USER, PFERR_WRITE
from . import emulation, entry, exits, hardware, two_dimensional

FAULTED, MMIO, STUCK, DEAD, EMULATED, NESTED_EXIT = -1, -2, -3, -4, -5, -6
MAX_EXITS = 64


@core
def reach(vm, vcpu, gva, access):
    """Make the hardware reach `gva`: RAM offset, EMULATED when the write must be emulated, or another outcome."""
    if vcpu.cpl == 3:
        access |= PFERR_USER
    if state.rules(vm).tdp_enabled:
        return reach_nested(vm, vcpu, gva, access)
    for _ in range(MAX_EXITS):
        result = entry.enter(vm, vcpu)
        if result == entry.NESTED_EXIT:
            return NESTED_EXIT
        if result != entry.ENTER:
            return DEAD
        result = hardware.translate(vm, vcpu, gva, access)
        if result >= 0:
            return result
        verdict = exits.handle_page_fault(vm, vcpu, gva, -1 - result)
        if verdict < 0:
            return DEAD
        if vcpu.exception_pending:
            return FAULTED
        if verdict & exits.EMULATE:
            return EMULATED
    return STUCK


@core
def hardware_walk(vm, vcpu, gva, access):
    """What the hardware's nested paging does with an access: see vm/two_dimensional."""
    kind = two_dimensional.STORE if access & PFERR_WRITE else two_dimensional.FETCH if access & PFERR_FETCH \
        else two_dimensional.LOAD
    who = two_dimensional.USER if access & PFERR_USER else two_dimensional.SUPERVISOR_SMAP \
        if vcpu.cr4 & CR4_SMAP and not vcpu.ac else two_dimensional.SUPERVISOR
    h = state.hw_walk(vm)
    two_dimensional.load_registers(vm, vcpu, h)
    return two_dimensional.walk(vm, vcpu, h, gva, kind, who)


@core
def reach_nested(vm, vcpu, gva, access):
    """The same on hardware with nested paging: #PF goes to the guest without an exit, #NPF to the MMU."""
    h = state.hw_walk(vm)
    for _ in range(MAX_EXITS):
        result = entry.enter(vm, vcpu)
        if result == entry.NESTED_EXIT:
            return NESTED_EXIT
        if result != entry.ENTER:
            return DEAD
        result = hardware_walk(vm, vcpu, gva, access)
        if result == two_dimensional.OK:
            return h.hpa - (vm.ram_pfn << vm.page_shift)
        if result == two_dimensional.PAGE_FAULT and vcpu.guest_mode and (vcpu.nested_exceptions >> PF) & 1:
            inject.queue_vmexit(vcpu, PF, 1, h.error, 1, h.address)
            return NESTED_EXIT
        if result == two_dimensional.PAGE_FAULT:
            inject.store(vcpu, PF, 1, h.error, 1, h.address, False)
            return FAULTED
        if result == two_dimensional.NOT_CANONICAL:
            inject.store(vcpu, GP, 1, 0, 0, 0, False)
            return FAULTED
        verdict = exits.handle_page_fault(vm, vcpu, h.address, h.error)
        if verdict < 0:
            return DEAD
        if verdict & exits.EMULATE:
            return EMULATED
    return STUCK


@core
def operand_gpa(vm, vcpu, gva, write):
    """The memory operand of an emulated instruction: gpa, FAULTED or MMIO."""
    gpa = emulation.data_gpa(vm, vcpu, gva, write)
    if gpa == emulation.FAULT:
        w = walk.walker_of(vm, vcpu, walk.OTHER_WALKER)
        inject.emulated_page_fault(vm, vcpu, w.fault_error, w.fault_address, w.fault_nested)
        return NESTED_EXIT if vcpu.vmexit_pending else FAULTED
    if emulation.is_mmio(vm, vcpu, gva, gpa, write):
        return MMIO
    return gpa


@core
def load(vm, vcpu, gva, size, access):
    """A load (or fetch, by `access`) of up to 8 bytes within a page: outcome and value."""
    at = reach(vm, vcpu, gva, access)
    if at == EMULATED:
        at = operand_gpa(vm, vcpu, gva, 0)
        if at >= 0:
            at = emulation.ram_offset(vm, vcpu, at)
    if at < 0:
        return at, 0
    return at, read_bytes(vm, at, size)


@core
def store(vm, vcpu, gva, value, size):
    """A store of up to 8 bytes within a page: outcome."""
    at = reach(vm, vcpu, gva, PFERR_WRITE)
    if at == EMULATED:
        gpa = operand_gpa(vm, vcpu, gva, 1)
        if gpa < 0:
            return gpa
        at = emulation.ram_offset(vm, vcpu, gpa)
        write_bytes(vm, at, value, size)
        emulation.written(vm, vcpu, gpa, size)
        return at
    if at >= 0:
        write_bytes(vm, at, value, size)
    return at


@core
def read_bytes(vm, at, size):
    """Little-endian value at RAM byte offset `at`."""
    ram = state.octets(vm, vm.ram + at)
    value = 0
    for i in range(size):
        value |= (ram[i] + 0) << (8 * i)
    return value


@core
def write_bytes(vm, at, value, size):
    ram = state.octets(vm, vm.ram + at)
    for i in range(size):
        ram[i] = (value >> (8 * i)) & 0xFF

