# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, without a flush when paging is switched off.

id:      S002.pg
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3

The reviewer's second point: clearing CR0.PG empties the TLB. With roots that survive the change of role, an unsync page below
a cached root is out of date when the guest switches paging on again and loads that root without a flush.

Fix: a flush of the guest's TLB, which frees cached roots that are unsync.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    roots.new_pgd(vm, vcpu, nested.guest_pgd(vcpu, state.context(vm, vcpu.mmu)))
    vcpu.requests |= 16     # KVM_REQ_TLB_FLUSH_CURRENT


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
        contexts.reset(vm, vcpu)


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if new & CR4_PCIDE and not old & CR4_PCIDE and not state.rules(vm).tdp_enabled:
        # no flush is due, but a stale previous root could come back by a NOFLUSH load (509bfe3d9796)
        contexts.unload(vm, vcpu)
    if (new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PAE or new & CR4_SMEP and not old & CR4_SMEP:
        vcpu.requests |= flush.REQ_TLB_FLUSH_CURRENT | flush.REQ_MMU_SYNC


@replaces("vm.registers.smm_changed")
def smm_changed(vm, vcpu, entering):
    """kvm_smm_changed: a change of the root no longer implies that it is up to date."""
    vcpu.smm = 1 if entering else 0
    contexts.reset(vm, vcpu)
    vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
