# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested paging on the engine: our two-dimensional walker in the place of the engine's page walker.

    guest instruction --TLB hit--> memory
                      --miss--> CPUClass.tlb_fill = hooks.on_tlb_fill --> walk (vm.two_dimensional, compiled or Python)
                                    OK ................ fill the engine's TLB, go on
                                    guest entry bad ... #PF exit code, which `hooks` reflects into the guest
                                    nested entry bad .. NPF exit (0x400), EXITINFO1 with all its 64 bits

The engine has nested paging of its own (HF2_NPT_MASK, get_hphys in QEMU 5.0's excp_helper.c), and it cannot be used:

    * EXITINFO1 passes through the 32-bit env.error_code: bits 32 and 33 (final address, guest table) are lost;
    * the A and D bits of the leaf entry are never set, so ageing, PML and the recorded A bits are impossible;
    * a guest table on a no-execute nested page is a NULL dereference (`*prot &= ~PAGE_EXEC` with prot == NULL);
    * a failed probe (tlb_vaddr_to_host, as at every exit) jumps out of the middle of our hook (the source says FIXME).

The contract of `walk` (argument: a block of cells, see WalkBlock): WALK_GVA, WALK_KIND, WALK_WHO, WALK_PEEK in the control
block say what to walk; it returns a status of `two_dimensional` and leaves WALK_HPA, WALK_PROT, WALK_SIZE, or WALK_ERROR
and WALK_ADDRESS.
"""

import ctypes

from ... import state
from ...state import core
from ...state.foreign import callback, load64, store64
from ...vm import two_dimensional
from . import hooks
from . import offsets as o

#: Cells of the walker's argument.
HANDLE, VCPU, CONTROL, RSVD_WITHOUT_PRESENT, PDPTE_ACCESSED, PHYS_BITS, CELLS = range(7)
#: Status of a walker that raised a Python exception: leave the guest.
FAILED = 9


@core
def walk(vm, vcpu, h, block):
    """One TLB miss with the registers of the engine's CPU."""
    control = load64(block + 8 * CONTROL)
    env = load64(control + 8 * hooks.ENV)
    h.cr0 = load64(env + o.CR)
    h.cr3 = load64(env + o.CR + 24)
    h.cr4 = load64(env + o.CR + 32)
    h.efer = load64(env + o.EFER)
    h.nested_root = vcpu.hw_root
    h.nested_level = vcpu.tdp_level
    h.ept = 0
    h.phys_bits = load64(block + 8 * PHYS_BITS)
    h.pkru = 0
    h.rsvd_without_present = load64(block + 8 * RSVD_WITHOUT_PRESENT)
    h.pdpte_accessed = load64(block + 8 * PDPTE_ACCESSED)
    h.peek = load64(control + 8 * hooks.WALK_PEEK)
    status = two_dimensional.walk(vm, vcpu, h, load64(control + 8 * hooks.WALK_GVA), load64(control + 8 * hooks.WALK_KIND),
                                  load64(control + 8 * hooks.WALK_WHO))
    store64(control + 8 * hooks.WALK_HPA, h.hpa)
    store64(control + 8 * hooks.WALK_PROT, h.prot)
    store64(control + 8 * hooks.WALK_SIZE, h.page_size)
    store64(control + 8 * hooks.WALK_ERROR, h.error)
    store64(control + 8 * hooks.WALK_ADDRESS, h.address)
    return status


if state.JIT:
    @callback("i64", "i64")
    def compiled_walk(block):
        vm = state.attach(load64(block + 8 * HANDLE))
        return walk(vm, state.vcpu(vm, load64(block + 8 * VCPU)), state.hw_walk(vm), block)


class Walker:
    """The walker of one vCPU, ready for `SvmHardware.enable_nested_paging`: `address` and `argument`.

    `failed(error)` is called with an exception of the interpreted walker, which must not cross the engine.
    """

    def __init__(self, vm, vcpu, hardware, profile, failed):
        self._block = block = (ctypes.c_int64 * CELLS)()
        block[HANDLE], block[VCPU], block[CONTROL] = vm.store.address, vcpu.index, hardware.control_address
        block[RSVD_WITHOUT_PRESENT] = int(profile.rsvd_without_present)
        block[PDPTE_ACCESSED] = int(profile.pdpte_accessed)
        block[PHYS_BITS] = profile.maxphyaddr
        self.argument = ctypes.addressof(block)
        if state.JIT:
            self.address = compiled_walk.address
            return
        self._vm, self._vcpu, self._failed = vm, vcpu, failed
        self._control = (ctypes.c_int64 * hooks.CELLS).from_address(hardware.control_address)
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self._interpreted)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value

    def _interpreted(self, _block):
        try:
            return _walk_in_python(self._vm, self._vcpu, self._control, self._block)
        except BaseException as error:  # noqa: BLE001 - it continues in SvmHardware.run
            self._failed(error)
            return FAILED


def _walk_in_python(vm, vcpu, control, block):
    """`walk` for the interpreted core: the same, with ctypes for the loads and stores."""
    view = vm.view
    env = (ctypes.c_int64 * (o.CONTEXT_DATA_SIZE // 8)).from_address(control[hooks.ENV])
    h = state.hw_walk(view)
    h.cr0, h.cr3, h.cr4, h.efer = (env[at // 8] for at in (o.CR, o.CR + 24, o.CR + 32, o.EFER))
    h.nested_root, h.nested_level, h.phys_bits, h.pkru = vcpu.record.hw_root, vcpu.record.tdp_level, block[PHYS_BITS], 0
    h.ept = 0
    h.rsvd_without_present, h.pdpte_accessed = block[RSVD_WITHOUT_PRESENT], block[PDPTE_ACCESSED]
    h.peek = control[hooks.WALK_PEEK]
    status = two_dimensional.walk(view, vcpu.record, h, control[hooks.WALK_GVA], control[hooks.WALK_KIND],
                                  control[hooks.WALK_WHO])
    for cell, value in ((hooks.WALK_HPA, h.hpa), (hooks.WALK_PROT, h.prot), (hooks.WALK_SIZE, h.page_size),
                        (hooks.WALK_ERROR, h.error), (hooks.WALK_ADDRESS, h.address)):
        control[cell] = value
    return status
