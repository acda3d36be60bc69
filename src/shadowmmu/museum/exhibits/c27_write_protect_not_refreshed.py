# SPDX-License-Identifier: GPL-2.0-or-later
"""CR0.WP belongs to the guest, and KVM's own walks go by the old one.

id:      C27
year:    2023
commits: cf9f4c0eb169, fb509f76acc8
cve:     -
rules:   linux-6.12
change:  -
breaks:  fault
needs:   -
length:  3

With EPT a guest may toggle CR0.WP without an exit (fb509f76acc8): with two-dimensional paging no table of KVM's depends on
it. What does depend on it are the permissions by which KVM walks the guest's tables when it emulates an instruction. They
were computed when CR0 was last written through KVM, so an emulated write of a supervisor to a read-only page went through
with WP=1, or faulted with WP=0.

Fix: permission_fault looks at CR0.WP first and computes the permissions anew if it has changed
(kvm_mmu_refresh_passthrough_bits).
"""


@replaces("vm.registers.post_set_cr0")
def post_set_cr0(vm, vcpu, old, new):
    """kvm_post_set_cr0, where a change of WP alone is the guest's own and KVM does not hear of it."""
    if old ^ new == CR0_WP:
        if state.rules(vm).tdp_enabled:
            return
        if not new & CR0_PG:
            return
    if (old ^ new) & CR0_PG and not new & CR0_PG:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    if (old ^ new) & roles.CR0_ROLE_BITS:
        contexts.reset(vm, vcpu)
