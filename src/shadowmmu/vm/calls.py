# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry points of the core: what Python calls, with the state's handle and plain integers.

Compiled, the handle is an address; interpreted, it is the state itself (`state.attach`).
"""

from .. import state
from ..mmu import contexts, dirty, ept, flush, geometry, host, inject, memslots, roles, roots, tdp_mmu, walk, writes, zap
from ..state import core, entry_point
from . import emulation, entry, exits, invalidation, nested_guest, operations, registers


@entry_point
def create_vcpu(handle, v):
    """kvm_mmu_create and the first kvm_init_mmu: contexts without roots, their special frames."""
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, v)
    vcpu.id = v
    vcpu.tdp_level = roles.TDP_LEVEL
    # VMX capabilities of the host: EPT A/D bits, execute-only, 1G pages
    vcpu.ept_ad = 1
    vcpu.ept_execonly = 1
    vcpu.ept_huge_level = 3
    vcpu.mmu = v * 3
    vcpu.walk_mmu = v * 3
    for c in range(v * 3, v * 3 + 3):
        ctx = state.context(vm, c)
        ctx.id = c - v * 3
        ctx.root_hpa = roots.INVALID_PAGE
        for i in range(3):
            ctx.prev_hpa[i] = roots.INVALID_PAGE
            ctx.prev_pgd[i] = -1
    # frame 0 is the dummy root; then pae_root, pml4_root, pml5_root of root_mmu and of guest_mmu
    first = vm.shadow_pfn + 1 + v * 6
    for m in range(2):
        ctx = state.context(vm, v * 3 + m)
        ctx.pae_root = first + 3 * m
        ctx.pml4_root = first + 3 * m + 1
        ctx.pml5_root = first + 3 * m + 2
    if v == 0:
        clear_frame(vm, vm.shadow_pfn)
    for f in range(first, first + 6):
        clear_frame(vm, f)
    contexts.init_mmu(vm, vcpu)


@core
def clear_frame(vm, pfn):
    """A special frame with nothing present."""
    at = geometry.frame_sptep(vm, pfn)
    for i in range(geometry.entries(vm)):
        geometry.write_spte(vm, at + i, 0)


@entry_point
def set_cr0(handle, v, value):
    vm = state.attach(handle)
    return registers.set_cr0(vm, state.vcpu(vm, v), value)


@entry_point
def set_cr3(handle, v, value):
    vm = state.attach(handle)
    return registers.set_cr3(vm, state.vcpu(vm, v), value)


@entry_point
def set_cr4(handle, v, value):
    vm = state.attach(handle)
    return registers.set_cr4(vm, state.vcpu(vm, v), value)


@entry_point
def set_efer(handle, v, value, from_host):
    vm = state.attach(handle)
    return registers.set_efer(vm, state.vcpu(vm, v), value, from_host)


@entry_point
def set_sregs(handle, v, cr0, cr3, cr4, efer):
    vm = state.attach(handle)
    return registers.set_sregs(vm, state.vcpu(vm, v), cr0, cr3, cr4, efer)


@entry_point
def smm_changed(handle, v, entering):
    vm = state.attach(handle)
    registers.smm_changed(vm, state.vcpu(vm, v), entering)


@entry_point
def reset_vcpu(handle, v):
    vm = state.attach(handle)
    registers.reset(vm, state.vcpu(vm, v))


@entry_point
def after_set_cpuid(handle, v):
    vm = state.attach(handle)
    contexts.after_set_cpuid(vm, state.vcpu(vm, v))


@entry_point
def hardware_registers(handle, v):
    """CR0, CR4, EFER that the CPU really runs with."""
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, v)
    return registers.hardware_cr0(vm, vcpu), registers.hardware_cr4(vm, vcpu), registers.hardware_efer(vm, vcpu)


@entry_point
def guest_loaded(handle, v, cr0, cr3):
    vm = state.attach(handle)
    registers.guest_loaded(vm, state.vcpu(vm, v), cr0, cr3)


@entry_point
def invlpg(handle, v, gva):
    vm = state.attach(handle)
    invalidation.invlpg(vm, state.vcpu(vm, v), gva)


@entry_point
def invpcid(handle, v, kind, pcid, gva):
    vm = state.attach(handle)
    return invalidation.invpcid(vm, state.vcpu(vm, v), kind, pcid, gva)


@entry_point
def enter(handle, v):
    vm = state.attach(handle)
    return entry.enter(vm, state.vcpu(vm, v))


@entry_point
def handle_page_fault(handle, v, gva, error_code):
    vm = state.attach(handle)
    return exits.handle_page_fault(vm, state.vcpu(vm, v), gva, error_code)


@entry_point
def gva_to_gpa(handle, v, gva, access):
    vm = state.attach(handle)
    return walk.gva_to_gpa(vm, state.vcpu(vm, v), gva, access)


@entry_point
def fetch_gpa(handle, v, gva):
    vm = state.attach(handle)
    return emulation.fetch_gpa(vm, state.vcpu(vm, v), gva)


@entry_point
def system_gpa(handle, v, gva, write):
    vm = state.attach(handle)
    return emulation.system_gpa(vm, state.vcpu(vm, v), gva, write)


@entry_point
def std_gpa(handle, v, gva):
    vm = state.attach(handle)
    return emulation.std_gpa(vm, state.vcpu(vm, v), gva)


@entry_point
def data_gpa(handle, v, gva, write):
    vm = state.attach(handle)
    return emulation.data_gpa(vm, state.vcpu(vm, v), gva, write)


@entry_point
def is_mmio(handle, v, gva, gpa, write):
    vm = state.attach(handle)
    return emulation.is_mmio(vm, state.vcpu(vm, v), gva, gpa, write)


@entry_point
def ram_offset(handle, v, gpa):
    vm = state.attach(handle)
    return emulation.ram_offset(vm, state.vcpu(vm, v), gpa)


@entry_point
def written(handle, v, gpa, size):
    vm = state.attach(handle)
    emulation.written(vm, state.vcpu(vm, v), gpa, size)


@entry_point
def retry_instruction(handle, v, addr, allowed, writes_page_table):
    vm = state.attach(handle)
    return emulation.retry_instruction(vm, state.vcpu(vm, v), addr, allowed, writes_page_table)


@entry_point
def unprotect_and_retry(handle, v, addr):
    vm = state.attach(handle)
    return writes.unprotect_gfn_and_retry(vm, state.vcpu(vm, v), addr)


@entry_point
def queue_exception(handle, v, vector, has_error, error):
    vm = state.attach(handle)
    inject.queue(state.vcpu(vm, v), vector, has_error, error, 0, 0)


@entry_point
def emulated_page_fault(handle, v, error, address, of_nested_table):
    vm = state.attach(handle)
    inject.emulated_page_fault(vm, state.vcpu(vm, v), error, address, of_nested_table)


@entry_point
def enter_nested_svm(handle, v, cr0, cr3, cr4, efer, npt, nested_cr3):
    vm = state.attach(handle)
    return nested_guest.enter_svm(vm, state.vcpu(vm, v), cr0, cr3, cr4, efer, npt, nested_cr3)


@entry_point
def leave_nested_svm(handle, v, cr0, cr3, cr4, efer):
    vm = state.attach(handle)
    return nested_guest.leave_svm(vm, state.vcpu(vm, v), cr0, cr3, cr4, efer)


@entry_point
def enter_nested_vmx(handle, v, cr0, cr3, cr4, efer, vpid, use_ept, eptp):
    vm = state.attach(handle)
    return nested_guest.enter_vmx(vm, state.vcpu(vm, v), cr0, cr3, cr4, efer, vpid, use_ept, eptp)


@entry_point
def leave_nested_vmx(handle, v, cr0, cr3, cr4, efer):
    vm = state.attach(handle)
    return nested_guest.leave_vmx(vm, state.vcpu(vm, v), cr0, cr3, cr4, efer)


@entry_point
def switch_eptp(handle, v, eptp):
    vm = state.attach(handle)
    return nested_guest.switch_eptp(vm, state.vcpu(vm, v), eptp)


@entry_point
def invept(handle, v, every, eptp):
    vm = state.attach(handle)
    ept.invept(vm, state.vcpu(vm, v), every, eptp)


@entry_point
def invvpid(handle, v, one_address, gva):
    vm = state.attach(handle)
    nested_guest.invvpid(vm, state.vcpu(vm, v), one_address, gva)


@entry_point
def mark_page_dirty(handle, v, gpa):
    vm = state.attach(handle)
    memslots.mark_page_dirty(vm, state.vcpu(vm, v), gpa >> vm.page_shift)


@entry_point
def create_memslot(handle, as_id, slot_id, base_gfn, npages, hva, flags):
    return dirty.create_memslot(state.attach(handle), as_id, slot_id, base_gfn, npages, hva, flags)


@entry_point
def delete_memslot(handle, as_id, slot_id):
    return dirty.delete_memslot(state.attach(handle), as_id, slot_id)


@entry_point
def move_memslot(handle, as_id, slot_id, base_gfn):
    return dirty.move_memslot(state.attach(handle), as_id, slot_id, base_gfn)


@entry_point
def set_memslot_flags(handle, as_id, slot_id, flags):
    return dirty.set_flags(state.attach(handle), as_id, slot_id, flags)


@entry_point
def get_dirty_log(handle, as_id, slot_id, out: state.Array):
    return dirty.get_dirty_log(state.attach(handle), as_id, slot_id, out)


@entry_point
def unmap_host_pages(handle, hva, npages):
    dirty.unmap_host_pages(state.attach(handle), hva, npages)


@entry_point
def age_memslot(handle, as_id, slot_id, start, end, test_only):
    vm = state.attach(handle)
    return dirty.age_gfn_range(vm, dirty.find_slot(vm, as_id, slot_id), start, end, test_only)


@entry_point
def recover_nx_huge_pages(handle, ratio):
    return zap.recover_nx_huge_pages(state.attach(handle), ratio)


@entry_point
def set_nr_mmu_pages(handle, n):
    return dirty.set_nr_mmu_pages(state.attach(handle), n)


@entry_point
def zap_all_fast(handle):
    zap.zap_all_fast(state.attach(handle))


@entry_point
def destroy(handle):
    """kvm_destroy_vm: the MMU notifier is released (everything is zapped), then each vCPU puts its roots."""
    vm = state.attach(handle)
    zap.zap_all(vm)
    for v in range(vm.n_vcpus):
        contexts.unload(vm, state.vcpu(vm, v))
    # kvm_mmu_uninit_tdp_mmu
    tdp_mmu.invalidate_all_roots(vm)
    tdp_mmu.zap_invalidated_roots(vm)


@entry_point
def remote_tlbs(handle):
    flush.remote_tlbs(state.attach(handle))


@entry_point
def read_guest(handle, v, gpa, size):
    vm = state.attach(handle)
    return host.read_guest(vm, state.vcpu(vm, v), gpa, size)


@entry_point
def write_guest(handle, v, gpa, value, size):
    """A write from outside the guest (KVM's kvm_write_guest): memory changes, the MMU is not told."""
    vm = state.attach(handle)
    return host.write_guest(vm, state.vcpu(vm, v), gpa, value, size)


@entry_point
def track_write(handle, v, gpa, size):
    vm = state.attach(handle)
    writes.track_write(vm, state.vcpu(vm, v), gpa, size)


@entry_point
def load(handle, v, gva, size, access):
    vm = state.attach(handle)
    return operations.load(vm, state.vcpu(vm, v), gva, size, access)


@entry_point
def store(handle, v, gva, value, size):
    vm = state.attach(handle)
    return operations.store(vm, state.vcpu(vm, v), gva, value, size)
