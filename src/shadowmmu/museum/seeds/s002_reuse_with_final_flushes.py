# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002's reuse of roots with the flush rules that were merged.

id:      S002.reuse
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2

The question behind the reviewer's first point ("too risky"): is the reuse itself wrong, or only the flushes of the draft?
Roots are reused on every change of role, and every flush stands in the table of today's kernel. That is not enough:
TLB_FLUSH_CURRENT for SMEP and PAE empties the hardware's TLB only. Today that suffices because a change of role unloads the
root, and loading one synchronises it; with the root kept, an unsync page below it is out of date after a flush that the
architecture promises. And where a role changes without any flush by the architecture (CR0.WP), the hardware's TLB still holds
what the tables of the old role allowed, under the same tag.

Fix: with reuse, SMEP and PAE need MMU_SYNC, too, and every change of role a flush of the hardware; see S002.repaired.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Seed 002: roots of the new role may be in the cache."""
    init_mmu(vm, vcpu)
    roots.new_pgd(vm, vcpu, nested.guest_pgd(vcpu, state.context(vm, vcpu.mmu)))


@replaces("mmu.contexts.after_set_cpuid")
def after_set_cpuid(vm, vcpu):
    """kvm_mmu_after_set_cpuid: reserved bits are not in the role, so every role must be computed anew."""
    base = vcpu.id * 3
    for i in range(base, base + 3):
        ctx = state.context(vm, i)
        ctx.valid = 0
        ctx.cpu_ext &= ~roles.EXT_VALID
        # until 4fa96da3e6fe (6.13, stable) the role was zeroed
        ctx.root_role = ctx.root_role | roles.INVALID if state.rules(vm).cpuid_invalidates_role else 0
    unload(vm, vcpu)
    reset(vm, vcpu)


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
