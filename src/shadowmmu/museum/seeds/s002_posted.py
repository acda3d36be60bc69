# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 as posted: a change of role keeps the roots.

id:      S002.posted
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  2

kvm_mmu_reset_context no longer unloads all roots; it computes the new roles and looks for a root of the new role in the
cache. What the unloading had done along the way is now done explicitly for CR0.PG, for SMEP, for CPUID and for INIT. The
chain of conditions for CR4 stays an else-if chain, which was right only because a reset of the context flushed everything.

Fix: not merged. The flushes were separated from the reset (82518a181e6c); roots are still unloaded.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Seed 002: roots of the new role may be in the cache."""
    init_mmu(vm, vcpu)
    roots.new_pgd(vm, vcpu, vcpu.cr3)


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


@replaces("vm.registers.post_set_cr0")
def post_set_cr0(vm, vcpu, old, new):
    """kvm_post_set_cr0."""
    if old ^ new == CR0_WP:
        if not new & CR0_PG:
            return
        if state.rules(vm).tdp_enabled:
            # only walks that KVM makes itself depend on it
            contexts.init_mmu(vm, vcpu)
            return
    if (old ^ new) & roles.CR0_ROLE_BITS:
        if old & CR0_PG and not new & CR0_PG:
            contexts.unload(vm, vcpu)
        contexts.reset(vm, vcpu)


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """As posted: one event of a MOV CR4 hides the others."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
        if new & CR4_SMEP and not old & CR4_SMEP:
            vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PCIDE:
        contexts.unload(vm, vcpu)
    elif (new ^ old) & CR4_PGE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
