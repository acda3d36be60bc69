# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk of the shadow begins a level too high where L1's nested tables have three levels and the host five.

id:      C15
year:    2021
commits: 12ec33a70574
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   nested guest
length:  2

Above pae_root lie tables that exist only for the hardware: pml4_root, and pml5_root on hosts with five levels. A walk by KVM
steps
over them, and knew of the first only: with five levels it began in pml5_root and took pml4_root for a shadow page.

Fix: whenever the root has four levels or more, and L1's tables fewer, begin at pae_root.
"""


@replaces("mmu.walk.shadow_walk_init")
def shadow_walk_init(vm, vcpu, it, root_hpa, addr):
    """shadow_walk_init_using_root."""
    ctx = state.context(vm, vcpu.mmu)
    it.it_addr = addr
    it.it_frame = geometry.entry_frame(root_hpa)
    it.it_level = roles.level(ctx.root_role)
    if it.it_level == 4 and roles.level(ctx.cpu_role) < 4 and not ctx.root_role & roles.DIRECT:
        it.it_level = 3
    if it.it_level == 3:
        entry = roots.read_pae_root(vm, ctx, (addr >> (vm.page_shift + 2 * vm.level_bits)) & 3)
        it.it_frame = geometry.entry_frame(entry)
        it.it_level = 2 if it.it_frame else 0
    if it.it_level == 5 and roles.level(ctx.cpu_role) < 4 and it.it_frame != vm.shadow_pfn:
        # the kernel goes on in a table that has no struct kvm_mmu_page
        warn.warn(vm, 42)
        it.it_level = 0
