# SPDX-License-Identifier: GPL-2.0-or-later
"""A write that crosses an entry counts as a write to the first."""


@replaces("mmu.writes.detect_misaligned")
def detect_misaligned(vm, sp, gpa, size):
    return False
