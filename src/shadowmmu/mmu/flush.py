# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to vCPUs, and TLB flushes: who asks, who is told, what the hardware must forget.

    MMU code                     vcpu.requests            before the next entry
    remote_tlbs()  ------------> TLB_FLUSH (all vCPUs) --> hardware forgets the guest's whole tag
    mov cr3        ------------> MMU_SYNC, TLB_FLUSH_CURRENT
    invlpg         ------------> (at once)            --> hardware forgets one address

On Hyper-V a range of guest-physical pages is flushed on all CPUs at once, without a request: it stands in `vm.range_gfn` and
`range_pages` until the hardware has seen it.

What the hardware has to do stands in `vcpu.hw_flush` (everything) and `hw_flush_gva` (single addresses); the engine
does it and clears it.  On a host whose VMRUN and #VMEXIT flush, both are empty gestures.
"""

from .. import state
from ..state import core, layout
from . import counters, geometry, roles

# KVM_REQ_*: bits of vcpu.requests
REQ_FREE_OBSOLETE_ROOTS, REQ_MMU_SYNC, REQ_LOAD_MMU_PGD = 1, 2, 4
REQ_TLB_FLUSH, REQ_TLB_FLUSH_CURRENT, REQ_TLB_FLUSH_GUEST = 8, 16, 32
REQ_TRIPLE_FAULT = 64

MAX_GVA = 16


@core
def make_all_cpus_request(vm, request):
    """kvm_make_all_cpus_request; True if some vCPU was inside the guest and had to be kicked."""
    kicked = False
    for i in range(vm.n_vcpus):
        vcpu = state.vcpu(vm, i)
        vcpu.requests |= request
        if vcpu.in_guest:
            vcpu.in_guest = 0
            kicked = True
    return kicked


@core
def remote_tlbs(vm):
    """kvm_flush_remote_tlbs: every vCPU flushes before it runs guest code again."""
    vm.stat[counters.REMOTE_TLB_FLUSH_REQUESTS] += 1
    if make_all_cpus_request(vm, REQ_TLB_FLUSH):
        vm.stat[counters.REMOTE_TLB_FLUSH] += 1


@core
def remote_tlbs_range(vm, gfn, pages):
    """kvm_flush_remote_tlbs_range: on Hyper-V a hypercall that is done when it returns (hv_flush_remote_tlbs_range); elsewhere
    everything."""
    if not state.rules(vm).hyperv_flush or vm.range_count == layout.MAX_RANGES:
        remote_tlbs(vm)
        return
    vm.range_gfn[vm.range_count] = gfn
    vm.range_pages[vm.range_count] = pages
    vm.range_count += 1


@core
def remote_tlbs_gfn(vm, gfn, level):
    """kvm_flush_remote_tlbs_gfn."""
    remote_tlbs_range(vm, gfn, geometry.pages_per_hpage(vm, level))


@core
def remote_tlbs_sptep(vm, sptep):
    """kvm_flush_remote_tlbs_sptep.  Of a page that shadows a table only the record knows the gfn, and ranges are for the direct
    MMU: there everything."""
    if not state.rules(vm).hyperv_flush:
        remote_tlbs(vm)
        return
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if not sp.role & roles.DIRECT:
        remote_tlbs(vm)
        return
    pages = geometry.pages_per_hpage(vm, roles.level(sp.role))
    remote_tlbs_range(vm, sp.gfn + geometry.sptep_index(vm, sptep) * pages, pages)


@core
def tlb_hardware(vcpu):
    """svm_flush_tlb_asid: the hardware forgets this guest's tag at the next entry."""
    vcpu.hw_flush = 1
    vcpu.hw_flush_count = 0


@core
def tlb_gva(vcpu, gva):
    """svm_flush_tlb_gva (INVLPGA): the hardware forgets one address, in every PCID."""
    if vcpu.hw_flush:
        return
    if vcpu.hw_flush_count == MAX_GVA:
        tlb_hardware(vcpu)
        return
    vcpu.hw_flush_gva[vcpu.hw_flush_count] = gva
    vcpu.hw_flush_count += 1


@core
def tlb_all(vcpu):
    """kvm_vcpu_flush_tlb_all: flushing all tags flushes the current one, too."""
    vcpu.stat[counters.TLB_FLUSH] += 1
    tlb_hardware(vcpu)
    vcpu.requests &= ~REQ_TLB_FLUSH_CURRENT


@core
def tlb_current(vcpu):
    """kvm_vcpu_flush_tlb_current."""
    vcpu.stat[counters.TLB_FLUSH] += 1
    tlb_hardware(vcpu)
