# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of nested paging: L1's and L2's instructions, L2's exits.

    L1 runs   the direct MMU: physical address -> frame, everything permitted
    VMRUN, VM entry   the oracle's CPU table becomes that of L1's nested tables, with their tag; linear pages of interest
                      are then L2's physical ones.  L2 itself does not page
    L2's access       the nested tables decide (`execute.access`).  A fault of theirs is an exit to L1, checked as a #PF is

Registers of L1 while L2 runs stand in `vcpu.l1_*`, as in a VMCS or the saved VMCB01.
"""

from .. import state
from ..mmu import contexts, ept, inject, nested, roots
from ..oracle import nested as oracle
from ..oracle import tlb, walker
from ..state import core
from ..vm import invalidation, nested_guest, registers
from ..x86.bits import CR0_ET, CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA, EFER_LME, PFERR_RSVD
from . import architecture, host_side, l2_paging, ops, places, verify
from . import area as areas

#: TLB_CONTROL of a VMCB -> the oracle's event.
FLUSHES = (oracle.VMRUN, oracle.VMRUN_FLUSH_ALL, oracle.VMRUN, oracle.VMRUN_FLUSH_ASID)


@core
def out_of_reach(vm, area, v, gva):
    """L1 has everything at its own place, and nothing beyond."""
    return not state.vcpu(vm, v).guest_mode and gva >= 16 << vm.page_shift


@core
def save_l1(vcpu):
    vcpu.l1_cr0 = vcpu.cr0
    vcpu.l1_cr3 = vcpu.cr3
    vcpu.l1_cr4 = vcpu.cr4
    vcpu.l1_efer = vcpu.efer


@core
def leave(vm, area, v):
    """L2 leaves for L1."""
    vcpu = state.vcpu(vm, v)
    if vcpu.is_amd:
        refused = nested_guest.leave_svm(vm, vcpu, vcpu.l1_cr0, vcpu.l1_cr3, vcpu.l1_cr4, vcpu.l1_efer)
    else:
        refused = nested_guest.leave_vmx(vm, vcpu, vcpu.l1_cr0, vcpu.l1_cr3, vcpu.l1_cr4, vcpu.l1_efer)
    if refused:
        # a slot of L1's own tables is gone: this machine ends here
        areas.head(vm, area)[areas.FULL] = 1
        return
    host_side.look_at_host(vm, area)
    if not vcpu.is_amd:
        transition_without_vpid(vm, area, v, vcpu.vpid)
    architecture.take_registers(vm, area, v)


@core
def vmrun(vm, area, v, ncr3, asid, flush):
    """VMRUN: L2 without paging of its own, so that its linear addresses are its physical ones."""
    vcpu = state.vcpu(vm, v)
    save_l1(vcpu)
    cpu = architecture.cpu_of(vm, area, v)
    h = areas.head(vm, area)
    if nested_guest.enter_svm(vm, vcpu, l2_cr0(h), h[areas.L2_CR3] + 0, h[areas.L2_CR4] + 0, 0, 1, ncr3):
        leave(vm, area, v)
        return
    host_side.look_at_host(vm, area)
    h[areas.KEPT] = 1
    cpu[walker.TAG] = asid
    architecture.nested_event(vm, area, v, FLUSHES[flush & 3], asid, 0)
    architecture.take_registers(vm, area, v)
    architecture.load_nested_pdptes(vm, area, v)
    if h[areas.L2_CR0]:
        l2_paging.entered(vm, area, v, asid)


@core
def ept_entry(vm, area, v, eptp, vpid):
    """VM entry with EPT."""
    vcpu = state.vcpu(vm, v)
    if not eptp_is_good(vcpu, eptp):
        # VM entry fails before anything is loaded (SDM vol. 3 27.2.1.1)
        if ept.is_valid_eptp(vcpu, eptp):
            areas.fail(vm, area, verify.NOT_REFUSED, v, 0, eptp, 0, 0)
        areas.skip(vm, area)
        return
    save_l1(vcpu)
    h = areas.head(vm, area)
    if nested_guest.enter_vmx(vm, vcpu, l2_cr0(h), h[areas.L2_CR3] + 0, h[areas.L2_CR4] + 0, 0, vpid, 1, eptp):
        areas.fail(vm, area, verify.DEAD, v, 0, -1, 0, 0)
        return
    host_side.look_at_host(vm, area)
    h[areas.KEPT] = 1
    transition_without_vpid(vm, area, v, vpid)
    architecture.take_registers(vm, area, v)
    if h[areas.L2_CR0]:
        l2_paging.entered(vm, area, v, vpid)


@core
def transition_without_vpid(vm, area, v, vpid):
    """VM entry or exit where L2 has no VPID."""
    if not vpid:
        architecture.nested_event(vm, area, v, oracle.ENTRY_OR_EXIT_VPID_0, 0, 0)


@core
def l2_cr0(h):
    """CR0 of an L2 that does not page, unless the machine says otherwise."""
    return h[areas.L2_CR0] if h[areas.L2_CR0] else CR0_PE | CR0_ET


@core
def eptp_is_good(vcpu, eptp):
    """SDM vol. 3 27.2.1.1: memory type 0 or 6, walk length 4 (or 5), bits 11:7 and above MAXPHYADDR 0."""
    memory_type = eptp & 7
    length = (eptp >> 3 & 7) + 1
    if memory_type != 0 and memory_type != 6 or length != 4 and not (length == 5 and vcpu.tdp_level == 5):
        return False
    return eptp >> 7 & 31 == 0 and eptp >> vcpu.maxphyaddr == 0


@core
def from_l1(vm, area, code, v, a, b, c):
    """An instruction of L1."""
    vcpu = state.vcpu(vm, v)
    if code == ops.VMRUN and vcpu.is_amd:
        vmrun(vm, area, v, a, b, c)
    elif code == ops.EPT_ENTRY and not vcpu.is_amd:
        ept_entry(vm, area, v, a, b)
    elif code == ops.INVLPGA and vcpu.is_amd:
        # invlpga_interception treats it as INVLPG
        invalidation.invlpg(vm, vcpu, a)
        architecture.nested_event(vm, area, v, oracle.INVLPGA, b, a)
    elif code == ops.INVEPT and not vcpu.is_amd and 1 <= a <= 2:
        invept(vm, area, v, a, b)
    elif code == ops.INVVPID and not vcpu.is_amd and 0 <= a <= 2:
        nested_guest.invvpid(vm, vcpu, a == 0, c)
        architecture.nested_event(vm, area, v, oracle.INVVPID_ADDRESS + a, b, c)
    elif code == ops.LEVELS and (a == 2 or a == 4 or a == 5 and vcpu.tdp_level == 5):
        change_levels(vm, area, v, a)
    else:
        areas.skip(vm, area)


@core
def change_levels(vm, area, v, levels):
    """Paging off, CR4, EFER, CR3, paging on: what decides on levels changes in no other way (APM vol. 2 5.3.1; SDM vol. 3 5.1.2).
    What the CPU holds of L2 is under L2's tag, and none of this takes it."""
    vcpu = state.vcpu(vm, v)
    if not vcpu.is_amd:
        # CR0.PG is fixed in VMX operation, and VMXOFF frees the roots (free_nested)
        roots.free_roots(vm, state.context(vm, 3 * vcpu.id + nested.GUEST_MMU), roots.ALL)
    cr0 = vcpu.cr0 + 0
    cr4 = vcpu.cr4 & ~(CR4_PAE | CR4_LA57) | CR4_PSE
    if levels > 2:
        cr4 |= CR4_PAE
    if levels == 5:
        cr4 |= CR4_LA57
    efer = vcpu.efer & ~(EFER_LME | EFER_LMA)
    table = places.L1_TABLE32 + 0
    if levels > 2:
        efer |= EFER_LME
        table = places.L1_TOP if levels == 5 else places.L1_TABLES
    refused = registers.set_cr0(vm, vcpu, cr0 & ~CR0_PG)
    refused = registers.set_cr4(vm, vcpu, cr4) or refused
    refused = registers.set_efer(vm, vcpu, efer, False) or refused
    refused = registers.set_cr3(vm, vcpu, table << 12) or refused
    if registers.set_cr0(vm, vcpu, cr0) or refused:
        areas.fail(vm, area, verify.DEAD, v, 0, -1, 0, 0)


@core
def invept(vm, area, v, kind, eptp):
    """INVEPT of one context or of all."""
    ept.invept(vm, state.vcpu(vm, v), kind == 2, eptp)
    architecture.nested_event(vm, area, v, oracle.INVEPT_ALL if kind == 2 else oracle.INVEPT_CONTEXT, oracle.ep4ta(eptp), 0)


@core
def from_l2(vm, area, code, v, a, flags):
    """An instruction of L2, or its exit.  MOV CR3 and INVLPG do not exit: the hardware empties its TLB by itself."""
    vcpu = state.vcpu(vm, v)
    paged = l2_paging.active(vm, area, v)
    if code == ops.VM_EXIT:
        leave(vm, area, v)
    elif code == ops.MOV_CR3 and paged:
        vcpu.cr3 = a
        l2_paging.flush(vm, area, v)
        l2_paging.guest_event(vm, area, v, tlb.MOV_CR3, 0)
        l2_paging.take_registers(vm, area, v)
        architecture.outdated(vm, area, v)
    elif code == ops.INVLPG and paged:
        if flags & ops.EMULATED:
            invalidation.invlpg(vm, vcpu, a)
        else:
            l2_paging.flush_address(vm, area, v, a)
        l2_paging.guest_event(vm, area, v, tlb.INVLPG, a)
        architecture.outdated(vm, area, v)
    elif code == ops.VMFUNC and not vcpu.is_amd:
        if nested_guest.switch_eptp(vm, vcpu, a):
            areas.skip(vm, area)
        else:
            if not eptp_is_good(vcpu, a):
                areas.fail(vm, area, verify.NOT_REFUSED, v, 0, a, 0, 0)
            architecture.take_registers(vm, area, v)
    else:
        areas.skip(vm, area)


@core
def instruction(vm, area, code, v, a, b, c, d):
    """An instruction, most of which exit."""
    vcpu = state.vcpu(vm, v)
    vcpu.in_guest = 0
    refused = False
    if code == ops.MOV_CR0:
        # CR0.PG of L1 stays, and an L2 without paging stays so
        paging = not vcpu.guest_mode or l2_paging.active(vm, area, v) and a & CR0_PG
        refused = registers.set_cr0(vm, vcpu, a | CR0_PG if paging else a & ~CR0_PG)
    elif code == ops.MOV_CR4:
        # and L2 pages in 32 bits
        refused = registers.set_cr4(vm, vcpu, a & ~CR4_PAE if l2_paging.active(vm, area, v) else a)
    elif code == ops.WRMSR_EFER:
        refused = registers.set_efer(vm, vcpu, a, False)
    elif vcpu.guest_mode:
        from_l2(vm, area, code, v, a, d)
    else:
        from_l1(vm, area, code, v, a, b, c)
    if refused:
        areas.skip(vm, area)
    elif l2_paging.active(vm, area, v) and (code == ops.MOV_CR0 or code == ops.MOV_CR4):
        l2_paging.registers_written(vm, area, v)
        architecture.outdated(vm, area, v)
    host_side.look_at_host(vm, area)


@core
def exit_error(vm, vcpu):
    """What an exit for a fault of nested tables tells L1, in the oracle's words."""
    if state.context(vm, vcpu.mmu).kind != contexts.PAGING_EPT:
        return vcpu.vmexit_error & 0xFFFFFFFF
    if vcpu.vmexit_error & PFERR_RSVD:
        return oracle.MISCONFIGURATION + 0
    return vcpu.vmexit_qualification & 0x3F


@core
def table_fault(vm, area, v, gva, kind):
    """An access of L2 was refused by L1's nested tables: L2 leaves, and L1 is told."""
    vcpu = state.vcpu(vm, v)
    host_side.look_at_host(vm, area)
    verify.marks(vm, area, v, gva, kind)
    architecture.settle(vm, area)
    verify.nested_fault(vm, area, v, gva, kind, vcpu.vmexit_payload, exit_error(vm, vcpu))
    inject.clear_queue(vcpu)
    vcpu.in_guest = 0
    leave(vm, area, v)
