# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch of the checker: invariants and the kernel's warnings are not asked, so that what is found is something that a guest
or its host sees.

    shadowmmu museum --role-audit
    shadowmmu check --patch src/shadowmmu/museum/patches/guest_sees.py:src/shadowmmu/museum/seeds/s003_no_first_check.py
"""


@replaces("checker.invariants.violated")
def violated(vm):
    """No invariant is asked."""
    return 0


@replaces("mmu.warn.warn")
def warn(vm, what):
    """The kernel writes a line into its log and goes on."""
    return
