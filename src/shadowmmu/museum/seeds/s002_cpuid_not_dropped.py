# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002's reuse after a new CPUID.

id:      S002.cpuid
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  -
needs:   host
length:  -

The reviewer's eighth point: what CPUID says about reserved bits is in no role, so roots must go when it changes.

Fix: as posted, CPUID unloads.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Seed 002: roots of the new role may be in the cache."""
    init_mmu(vm, vcpu)
    roots.new_pgd(vm, vcpu, vcpu.cr3)


@replaces("vm.registers.reset")
def reset(vm, vcpu):
    """The MMU's part of kvm_vcpu_reset for INIT: registers to their start values, and the TLB goes (df37ed38e6c2)."""
    old_cr0 = vcpu.cr0
    vcpu.smm = 0
    vcpu.efer = 0
    vcpu.cr0 = CR0_ET | old_cr0 & (CR0_NW | CR0_CD)
    vcpu.cr4 = 0
    vcpu.cr3 = 0
    vcpu.cs_l = 0
    vcpu.cpl = 0
    vcpu.ac = 0
    if old_cr0 & CR0_PG:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        contexts.unload(vm, vcpu)
        contexts.init_mmu(vm, vcpu)
    else:
        contexts.init_mmu(vm, vcpu)
