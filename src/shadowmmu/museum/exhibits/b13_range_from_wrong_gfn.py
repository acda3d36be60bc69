# SPDX-License-Identifier: GPL-2.0-or-later
"""A flush by range begins at the first gfn of the table, not at that of the entry.

id:      B13
year:    2022
commits: 873f68d8dac3
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   host
length:  4

As a guest of Hyper-V, KVM can have a range of guest-physical addresses flushed on all CPUs by one hypercall. For an entry
that was dropped the range was made of the gfn of the shadow page that holds it and the size of one entry: right for entry 0,
and another page for all the rest. What the CPU had cached of the entry stayed.

Fix: the range begins at the gfn of the entry (kvm_flush_remote_tlbs_sptep).
"""


@replaces("mmu.flush.remote_tlbs_sptep")
def remote_tlbs_sptep(vm, sptep):
    """kvm_flush_remote_tlbs_with_address(kvm, sp->gfn, KVM_PAGES_PER_HPAGE(sp->role.level))."""
    if not state.rules(vm).hyperv_flush:
        remote_tlbs(vm)
        return
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if not sp.role & roles.DIRECT:
        remote_tlbs(vm)
        return
    remote_tlbs_range(vm, sp.gfn, geometry.pages_per_hpage(vm, roles.level(sp.role)))
