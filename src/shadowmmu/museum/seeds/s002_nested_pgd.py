# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 looks for a root by CR3, also where a nested guest's tables are what is shadowed.

id:      S002.nested
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-cache
needs:   nested guest
length:  2

The draft calls kvm_mmu_new_pgd with the vCPU's CR3 after every reset. While L2 runs on nested page tables CR3 is L2's, and the
roots in the cache are those of L1's tables for L2. S002.repaired with the draft's argument.

Fix: the table where a walk of this MMU starts, get_guest_pgd().
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    roots.new_pgd(vm, vcpu, vcpu.cr3)
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
