# SPDX-License-Identifier: GPL-2.0-or-later
"""INVLPG looks at the current root only: a global translation of another PCID stays."""


@replaces("vm.invalidation.invlpg")
def invlpg(vm, vcpu, gva):
    walk.invalidate_addr(vm, vcpu, vcpu.walk_mmu, gva, roots.CURRENT)
    vcpu.stat[counters.INVLPG] += 1
