# SPDX-License-Identifier: GPL-2.0-or-later
"""Doing an operation and checking everything after it: `perform`, compiled or interpreted.

    perform
      host's  --> host_side.from_host
      a vCPU's    come in (requests, flushes) --> access | instruction --> come in again
                                                    |
                   tlb       a held translation  ---+
                   emulated  KVM's emulator         |
                   else      exit, fault, try again +--> checks of the walk, what may be cached, then the data
      --> verify.after_operation

An access that was only begun (`ops.BEGIN`) leaves its parameters in the vCPU's PENDING words.  The walker and the fault record
of a vCPU are part of the state, so whatever happens before `finish` meets the fault as mmu_lock would.
"""

from .. import state
from ..mmu import contexts, faults, flush, inject, memslots, mmio, reclaim, roots, walk, zap
from ..mmu import pre_fault as pre_faults
from ..state import core
from ..vm import emulation, entry, exits, hardware, invalidation, nested_guest, operations, registers, two_dimensional
from ..x86.bits import CR0_PG, CR4_PSE, EFER_LMA, EFER_LME, EFER_NX, FRAME_MASK, PFERR_FETCH, PFERR_USER, PFERR_WRITE
from . import architecture, host_side, known, l2_paging, nested_execute, ops, tlb_model, unshadowed, verify
from . import area as areas

#: PENDING: first word, and the places of the others.
NOTHING, FAULT, WRITE = 0, 1, 2
(KIND_OF_PENDING, GVA, KIND, VALUE, SIZE, FLAGS, ERROR, GPA, GENERATION) = range(9)
#: An outcome of `reach_lock` besides those of vm/operations: the fault waits for mmu_lock.
AT_LOCK = -10


@core
def pending(vm, area, v):
    return areas.part(vm, area, v, areas.PENDING)


@core
def come_in(vm, area, v):
    """The vCPU enters the guest; False if it cannot."""
    vcpu = state.vcpu(vm, v)
    if vcpu.in_guest:
        return True
    result = entry.enter(vm, vcpu)
    if result != entry.ENTER:
        dead(vm, area, v, result)
        return False
    tlb_model.obey(vm, area, vcpu, areas.part(vm, area, v, areas.HELD))
    return True


@core
def dead(vm, area, v, result):
    """The vCPU cannot run.  KVM may refuse for want of shadow pages (-ENOSPC) or when the root has no memory."""
    no_pages = result == roots.ENOSPC or result == operations.DEAD and reclaim.available(vm) == 0
    h = areas.head(vm, area)
    root = (architecture.root_of(vm, area, v) & FRAME_MASK) >> 12
    if no_pages or architecture.frame_behind(vm, area, v, root) == areas.NO_SLOT:
        h[areas.FULL] = 1
    else:
        areas.fail(vm, area, verify.DEAD, v, 0, result, 0, 0)


# ---- accesses

@core
def walked(vm, area, v, gva, kind):
    """KVM has walked the guest's tables for an access: checks of that, and what may be cached now that A and D are set."""
    host_side.look_at_host(vm, area)
    verify.marks(vm, area, v, gva, kind)
    architecture.settle(vm, area)


@core
def reached(vm, area, v, gva, kind, frame):
    """The access goes to this frame."""
    walked(vm, area, v, gva, kind)
    verify.access_done(vm, area, v, gva, kind, frame)


@core
def fetched(vm, vcpu, gva):
    """KVM's emulator fetches the instruction itself: gpa, FAULTED or MMIO."""
    gpa = emulation.fetch_gpa(vm, vcpu, gva)
    if gpa == emulation.FAULT:
        w = walk.walker_of(vm, vcpu, walk.OTHER_WALKER)
        inject.emulated_page_fault(vm, vcpu, w.fault_error, w.fault_address, w.fault_nested)
        return operations.NESTED_EXIT if vcpu.vmexit_pending else operations.FAULTED
    if emulation.is_mmio(vm, vcpu, gva, gpa, 0):
        return operations.MMIO
    return gpa


@core
def locked_gpa(vm, vcpu, gva):
    """Where emulator_cmpxchg_emulated finds its operand in writable memory by itself: gpa, or -1 for the ordinary path."""
    gpa = walk.gva_to_gpa(vm, vcpu, gva, PFERR_WRITE | (PFERR_USER if vcpu.cpl == 3 else 0))
    if gpa == walk.INVALID_GPA:
        return -1
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gpa >> vm.page_shift)
    if not memslots.is_visible(vm, i) or state.slot(vm, i).flags & memslots.READONLY:
        return -1
    return gpa


@core
def emulate(vm, area, v, gva, kind, value, size, flags):
    """KVM's emulator executes the access: RAM offset, or another outcome.  A write with BEGIN stops before the MMU hears."""
    vcpu = state.vcpu(vm, v)
    gpa = -1
    if kind & PFERR_FETCH:
        gpa = fetched(vm, vcpu, gva)
    else:
        if flags & ops.LOCKED:
            gpa = locked_gpa(vm, vcpu, gva)
        if gpa < 0:
            gpa = operations.operand_gpa(vm, vcpu, gva, kind & PFERR_WRITE)
    if gpa < 0:
        return gpa
    at = emulation.ram_offset(vm, vcpu, gpa)
    reached(vm, area, v, gva, kind, (at >> vm.page_shift) + vm.ram_pfn)
    if kind & PFERR_WRITE:
        operations.write_bytes(vm, at, value, size)
        if flags & ops.BEGIN:
            leave_open(vm, area, v, WRITE, gva, kind, value, size, flags, 0, gpa)
            areas.head(vm, area)[areas.UNTRACKED] += 1
        else:
            emulation.written(vm, vcpu, gpa, size)
    return at


@core
def leave_open(vm, area, v, what, gva, kind, value, size, flags, error, gpa):
    """Note what `finish` needs."""
    p = pending(vm, area, v)
    p[KIND_OF_PENDING] = what
    p[GVA] = gva
    p[KIND] = kind
    p[VALUE] = value
    p[SIZE] = size
    p[FLAGS] = flags
    p[ERROR] = error
    p[GPA] = gpa
    p[GENERATION] = memslots.mmio_generation(vm, state.vcpu(vm, v))


@core
def by_tlb(vm, area, v, gva, access):
    """RAM offset by a translation that is held and that the shadow tables do not give now; -1 for none."""
    vcpu = state.vcpu(vm, v)
    held = areas.part(vm, area, v, areas.HELD)
    row = tlb_model.find(vm, area, v, gva, access)
    if row < 0:
        return -1
    offset = ((tlb_model.frame_of(vm, held, row, gva) - vm.ram_pfn) << vm.page_shift) + (gva & ((1 << vm.page_shift) - 1))
    return -1 if hardware.translate(vm, vcpu, gva, access) == offset else offset


@core
def reach_lock(vm, area, v, gva, kind, value, size, flags):
    """Make the hardware reach `gva` as operations.reach does, but stop where the first fault needs mmu_lock (AT_LOCK)."""
    vcpu = state.vcpu(vm, v)
    address = gva
    if state.rules(vm).tdp_enabled:
        result = operations.hardware_walk(vm, vcpu, gva, kind | (PFERR_USER if vcpu.cpl == 3 else 0))
        if result == two_dimensional.OK:
            return state.hw_walk(vm).hpa - (vm.ram_pfn << vm.page_shift)
        if result != two_dimensional.NESTED_FAULT:
            return operations.reach(vm, vcpu, gva, kind)
        error = state.hw_walk(vm).error + 0
        address = state.hw_walk(vm).address + 0
    else:
        result = hardware.translate(vm, vcpu, gva, kind | (PFERR_USER if vcpu.cpl == 3 else 0))
        if result >= 0:
            return result
        error = -1 - result
    exits.leave_guest(vm, vcpu, address, error)
    result = exits.before_lock(vm, vcpu, address, error)
    if result == faults.CONTINUE:
        leave_open(vm, area, v, FAULT, gva, kind, value, size, flags, error, address)
        return AT_LOCK
    if result == exits.MMIO_EMULATE:
        return operations.EMULATED
    return after_fault(vm, vcpu, gva, kind, exits.conclude(vm, vcpu, address, error, result))


@core
def after_fault(vm, vcpu, gva, kind, verdict):
    """Go on after a page fault exit: the outcome of the access."""
    if verdict < 0:
        return operations.DEAD
    if vcpu.exception_pending:
        return operations.FAULTED
    if verdict & exits.EMULATE:
        return operations.EMULATED
    return operations.reach(vm, vcpu, gva, kind)


@core
def access(vm, area, v, gva, kind, value, size, flags):
    """A guest access within one page: done, and checked."""
    vcpu = state.vcpu(vm, v)
    if areas.nested(vm, area):
        if nested_execute.out_of_reach(vm, area, v, gva):
            areas.skip(vm, area)
            return
        if not l2_paging.active(vm, area, v):
            # who does not page has no privileges, and L1 pages as a supervisor
            flags &= ~(ops.USER | ops.AC)
    architecture.set_access(vm, area, v, 3 if flags & ops.USER else 0, 1 if flags & ops.AC else 0)
    architecture.walk_before(vm, area, v, gva, kind)
    if flags & ops.BY_TLB:
        if areas.head(vm, area)[areas.UNSHADOWED]:
            areas.skip(vm, area)
            return
        at = by_tlb(vm, area, v, gva, kind | (PFERR_USER if flags & ops.USER else 0))
        if at < 0:
            areas.skip(vm, area)
            return
    elif flags & ops.EMULATED:
        vcpu.in_guest = 0
        at = operations.EMULATED
    elif flags & ops.BEGIN:
        at = reach_lock(vm, area, v, gva, kind, value, size, flags)
    else:
        at = operations.reach(vm, vcpu, gva, kind)
    tlb_model.obey(vm, area, vcpu, areas.part(vm, area, v, areas.HELD))
    if at == AT_LOCK:
        walked(vm, area, v, gva, kind)
    else:
        conclude(vm, area, v, gva, kind, value, size, flags, at)


@core
def conclude(vm, area, v, gva, kind, value, size, flags, at):
    """The access has this outcome: move the data, check."""
    h = areas.head(vm, area)
    vcpu = state.vcpu(vm, v)
    if at == operations.FAULTED and l2_paging.active(vm, area, v):
        # a #PF that the hardware itself delivered
        l2_paging.flush_address(vm, area, v, gva)
    elif at == operations.FAULTED and h[areas.UNSHADOWED]:
        unshadowed.drop(vm, area, v, -1, gva, True)
    if at == operations.EMULATED:
        at = emulate(vm, area, v, gva, kind, value, size, flags)
        h[areas.OUTCOME] = at
        if at >= 0:
            return
    h[areas.OUTCOME] = at
    if at >= 0:
        if l2_paging.active(vm, area, v):
            l2_paging.hold(vm, area, v, gva)
        reached(vm, area, v, gva, kind, (at >> vm.page_shift) + vm.ram_pfn)
        if kind & PFERR_WRITE:
            operations.write_bytes(vm, at, value, size)
    elif at == operations.MMIO:
        reached(vm, area, v, gva, kind, architecture.UNBACKED_WRITE if kind & PFERR_WRITE else areas.NO_SLOT)
    elif at == operations.FAULTED:
        host_side.look_at_host(vm, area)
        verify.marks(vm, area, v, gva, kind)
        architecture.settle(vm, area)
        verify.fault_delivered(vm, area, v, gva, kind)
        inject.clear_queue(vcpu)
    elif at == operations.NESTED_EXIT:
        nested_execute.table_fault(vm, area, v, gva, kind)
    elif at == operations.STUCK:
        # while a notifier is under way, the fault waits for its end
        if not vm.invalidate_in_progress:
            areas.fail(vm, area, verify.LIVELOCK, v, gva, kind, 0, 0)
    else:
        dead(vm, area, v, at)


@core
def under_lock(vm, vcpu, generation):
    """The rest of the fault.  It began in an SRCU section, and memslots that changed meanwhile get their new generation only
    when that section has ended (kvm_swap_active_memslots): what the fault marks as MMIO carries the old one."""
    space = 1 if vcpu.smm else 0
    now = vm.mmio_generation[space] + 0
    vm.mmio_generation[space] = generation
    result = faults.finish(vm, vcpu)
    vm.mmio_generation[space] = now
    return result


@core
def finish(vm, area, v):
    """The rest of what the vCPU began."""
    p = pending(vm, area, v)
    vcpu = state.vcpu(vm, v)
    what = p[KIND_OF_PENDING] + 0
    p[KIND_OF_PENDING] = NOTHING
    if what == WRITE:
        areas.head(vm, area)[areas.UNTRACKED] -= 1
        emulation.written(vm, vcpu, p[GPA], p[SIZE])
        if areas.head(vm, area)[areas.ASIDE] & known.WRITE_WINDOW:
            # nor has a vCPU noted an address without memory in between
            for i in range(vm.n_vcpus):
                mmio.clear_info(state.vcpu(vm, i), mmio.GVA_ANY)
        return
    gva = p[GVA] + 0
    kind = p[KIND] + 0
    flags = p[FLAGS] + 0
    architecture.set_access(vm, area, v, 3 if flags & ops.USER else 0, 1 if flags & ops.AC else 0)
    architecture.walk_before(vm, area, v, gva, kind)
    at = after_fault(vm, vcpu, gva, kind, exits.conclude(vm, vcpu, p[GPA] + 0, p[ERROR] + 0, under_lock(vm, vcpu, p[GENERATION])))
    tlb_model.obey(vm, area, vcpu, areas.part(vm, area, v, areas.HELD))
    conclude(vm, area, v, gva, kind, p[VALUE], p[SIZE], flags & ~ops.BEGIN, at)


@core
def pre_fault(vm, area, v, gfn):
    """KVM_PRE_FAULT_MEMORY: the vCPU does not run, and what it was asked for waits."""
    vcpu = state.vcpu(vm, v)
    h = areas.head(vm, area)
    stale = vcpu.requests & flush.REQ_FREE_OBSOLETE_ROOTS and not state.rules(vm).reload_frees_obsolete
    if not state.rules(vm).pre_fault or stale and h[areas.ASIDE] & known.PRE_FAULT_STALE:
        areas.skip(vm, area)
        return
    vcpu.in_guest = 0
    result = pre_faults.map_page(vm, vcpu, gfn << vm.page_shift)
    # while a notifier is under way, the fault waits for its end
    if result == pre_faults.ENDLESS and not vm.invalidate_in_progress:
        areas.fail(vm, area, verify.LIVELOCK, v, gfn << vm.page_shift, 0, 0, 0)


# ---- instructions

@core
def foreign_pages(vm, area, code, vcpu, a, c, d):
    """Would this operation alone make shadow pages be used that were made under another EFER.NXE, CR4.PSE or MAXPHYADDR,
    a deviation that is not looked for?  They are in no role."""
    aside = areas.head(vm, area)[areas.ASIDE]
    cr4 = a if code == ops.MOV_CR4 else c if code == ops.SET_SREGS else vcpu.cr4
    efer = a if code == ops.WRMSR_EFER or code == ops.SET_MSRS else d if code == ops.SET_SREGS else vcpu.efer
    if code == ops.INIT:
        cr4 = 0
        efer = 0
    if code == ops.VM_EXIT and vcpu.guest_mode:
        cr4 = vcpu.l1_cr4
        efer = vcpu.l1_efer
    if aside & known.NX_ROLE and (efer ^ vcpu.efer) & EFER_NX:
        return True
    if aside & known.CPUID_ROLE and code == ops.SET_CPUID and a != vcpu.maxphyaddr:
        return True
    return aside & known.PSE_ROLE != 0 and (cr4 ^ vcpu.cr4) & CR4_PSE != 0


@core
def instruction(vm, area, code, v, a, b, c, d):
    """A guest instruction that exits, or what the host does to this vCPU."""
    vcpu = state.vcpu(vm, v)
    if areas.head(vm, area)[areas.UNSHADOWED] and unshadowed.by_hardware(code, d):
        unshadowed.instruction(vm, area, code, v, a, b, c)
        return
    if vcpu.guest_mode and (code == ops.SMM_ENTER or code == ops.INIT or ops.SET_SREGS <= code <= ops.SET_CPUID):
        # these make L2 exit first, which is L1's business
        areas.skip(vm, area)
        return
    if foreign_pages(vm, area, code, vcpu, a, c, d):
        if vm.n_vcpus > 1:
            areas.skip(vm, area)
            return
        zap.zap_all_fast(vm)
    vcpu.in_guest = 0
    if code == ops.MOV_CR0:
        if registers.set_cr0(vm, vcpu, a):
            areas.skip(vm, area)
        else:
            host_side.look_at_host(vm, area)
            architecture.cr0_written(vm, area, v)
    elif code == ops.MOV_CR3:
        refused = architecture.cr3_refused(vm, area, v, a)
        if registers.set_cr3(vm, vcpu, a):
            areas.skip(vm, area)
        else:
            if refused:
                areas.fail(vm, area, verify.NOT_REFUSED, v, 0, a, 0, 0)
            if a < 0:
                areas.head(vm, area)[areas.KEPT] = 1
            host_side.look_at_host(vm, area)
            architecture.cr3_written(vm, area, v, a)
    elif code == ops.MOV_CR4:
        if registers.set_cr4(vm, vcpu, a):
            areas.skip(vm, area)
            architecture.cr4_refused(vm, area, v, a)
        else:
            host_side.look_at_host(vm, area)
            architecture.cr4_written(vm, area, v)
    elif code == ops.WRMSR_EFER:
        if registers.set_efer(vm, vcpu, a, False):
            areas.skip(vm, area)
        else:
            architecture.take_registers(vm, area, v)
    elif code == ops.SET_MSRS:
        if registers.set_efer(vm, vcpu, a, True):
            areas.skip(vm, area)
        else:
            architecture.take_registers(vm, area, v)
    elif code == ops.SET_CPUID:
        if a == vcpu.maxphyaddr:
            areas.skip(vm, area)
        else:
            vcpu.maxphyaddr = a
            contexts.after_set_cpuid(vm, vcpu)
            architecture.take_cpuid(vm, area, v)
    elif code == ops.INVLPG:
        invalidation.invlpg(vm, vcpu, a)
        architecture.event(vm, area, v, architecture.INVLPG, -1, a)
    elif code == ops.INVPCID:
        other = areas.head(vm, area)[areas.UNSHADOWED] and a == invalidation.INVPCID_ADDRESS \
            and b != tlb_model.current_pcid(vm, area, vcpu)
        if invalidation.invpcid(vm, vcpu, a, b, c):
            areas.skip(vm, area)
        elif not (other and areas.head(vm, area)[areas.ASIDE] & known.INVPCID_OTHER):
            architecture.event(vm, area, v, architecture.INVPCID_ADDRESS + a, b, c)
    elif code == ops.SMM_ENTER or code == ops.SMM_LEAVE:
        if vcpu.smm == (1 if code == ops.SMM_ENTER else 0):
            areas.skip(vm, area)
        else:
            architecture.event(vm, area, v, architecture.SMM, -1, 0)
            registers.smm_changed(vm, vcpu, code == ops.SMM_ENTER)
    elif code == ops.INIT:
        # INIT is blocked in SMM (SDM vol. 3 32.3.1; kvm_apic_init_sipi_allowed)
        if vcpu.smm:
            areas.skip(vm, area)
        else:
            architecture.event(vm, area, v, architecture.INIT, -1, 0)
            registers.reset(vm, vcpu)
            architecture.take_registers(vm, area, v)
    elif code == ops.VM_ENTRY or code == ops.VM_EXIT:
        nested_transition(vm, area, v, code, a)
    elif code == ops.SET_SREGS:
        if registers.set_sregs(vm, vcpu, a, b, c, d):
            areas.skip(vm, area)
        else:
            host_side.look_at_host(vm, area)
            architecture.host_wrote_registers(vm, area, v)


@core
def nested_transition(vm, area, v, code, cr3):
    """VM entry or VM exit of VMX without VPID: L1 and L2 share tag 0, so all linear translations go (SDM vol. 3 29.4.3.1)."""
    vcpu = state.vcpu(vm, v)
    possible = vcpu.guest_mode != 0
    if code == ops.VM_ENTRY:
        possible = vcpu.cr0 & CR0_PG != 0 and not vcpu.guest_mode and not vcpu.smm
    if not possible:
        areas.skip(vm, area)
        return
    leaving = code == ops.VM_EXIT
    if not leaving:
        # an entry that fails on CR3 or the PDPTEs loads L1's state as an exit does
        leaving = nested_guest.enter_vmx(vm, vcpu, vcpu.cr0, cr3, vcpu.cr4, vcpu.efer, 0, 0, 0)
    if leaving and nested_guest.leave_vmx(vm, vcpu, vcpu.l1_cr0, vcpu.l1_cr3, vcpu.l1_cr4, vcpu.l1_efer):
        # a VMX abort: L1 has destroyed its own PDPTEs; this machine ends here
        areas.head(vm, area)[areas.FULL] = 1
        return
    host_side.look_at_host(vm, area)
    architecture.host_wrote_registers(vm, area, v)
    architecture.event(vm, area, v, architecture.INVPCID_ADDRESS + 2, 0, 0)


@core
def perform(vm, area, op, at):
    """Do the operation in words at.. of `op` and check everything: 0, or the number of the failure."""
    h = areas.head(vm, area)
    h[areas.SKIPPED] = 0
    h[areas.OUTCOME] = 0
    if h[areas.FULL]:
        # nothing is known of such a state any more
        areas.skip(vm, area)
        return h[areas.FAIL] + 0
    code = op[at]
    if code >= ops.HOST_WRITE:
        host_side.from_host(vm, area, code, op[at + 2], op[at + 3], op[at + 4], op[at + 5], op[at + 6])
    else:
        from_vcpu(vm, area, code, op[at + 1], op, at)
    if vm.range_count:
        unshadowed.flush_ranges(vm, area)
    if not h[areas.FULL]:
        host_side.look_at_host(vm, area)
        verify.after_operation(vm, area)
    return h[areas.FAIL] + 0


@core
def beyond_judgement(vm, area, v):
    """Is the vCPU in a mode that is not judged?  PAE paging of an unshadowed guest: whether the PDPTEs are registers or memory
    then, SVM and VMX say differently.  EFER.LMA without LME, which only the host can make (KVM_SET_MSRS): no CPU is in it."""
    vcpu = state.vcpu(vm, v)
    if areas.head(vm, area)[areas.UNSHADOWED] and registers.is_pae_paging(vcpu):
        return True
    return vcpu.efer & EFER_LMA != 0 and not vcpu.efer & EFER_LME


@core
def from_vcpu(vm, area, code, v, op, at):
    """What a vCPU does; one that has begun something can only finish it."""
    if (pending(vm, area, v)[KIND_OF_PENDING] != NOTHING) != (code == ops.FINISH):
        areas.skip(vm, area)
        return
    if code == ops.FINISH:
        finish(vm, area, v)
    elif code == ops.PRE_FAULT:
        pre_fault(vm, area, v, op[at + 2])
    elif come_in(vm, area, v):
        if code == ops.LOAD:
            access(vm, area, v, op[at + 2], 0, 0, 8, op[at + 5])
        elif code == ops.FETCH:
            access(vm, area, v, op[at + 2], PFERR_FETCH, 0, 1, op[at + 5])
        elif code == ops.STORE:
            access(vm, area, v, op[at + 2], PFERR_WRITE, op[at + 3], op[at + 4], op[at + 5])
        elif areas.nested(vm, area) and code != ops.ENTER:
            nested_execute.instruction(vm, area, code, v, op[at + 2], op[at + 3], op[at + 4], op[at + 5])
        elif code != ops.ENTER:
            instruction(vm, area, code, v, op[at + 2], op[at + 3], op[at + 4], op[at + 5])
            if beyond_judgement(vm, area, v):
                areas.head(vm, area)[areas.FULL] = 1
    if not areas.head(vm, area)[areas.FULL] and pending(vm, area, v)[KIND_OF_PENDING] == NOTHING:
        come_in(vm, area, v)
