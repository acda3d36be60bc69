# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that is freed while it is a root stays counted in the quota."""


@replaces("mmu.shadow_pages.list_add")
def list_add(vm, which, sp):
    if which == INVALID and sp.role & roles.INVALID:
        vm.n_used_mmu_pages += 1
    sp.list = which
    sp.prev = -1
    sp.next = vm.list_head[which]
    if sp.next >= 0:
        state.page(vm, sp.next).prev = sp.id
    else:
        vm.list_tail[which] = sp.id
    vm.list_head[which] = sp.id
