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
base:    s002_reuse_with_final_flushes.py

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
