# SPDX-License-Identifier: GPL-2.0-or-later
"""I/O APIC at 0xfec00000: 24 inputs, each with a redirection entry that says which vector goes to which CPU.

    input ──edge, or level until EOI──> deliver(vector, destination, logical, level, lowest) ──> local APICs

Registers are reached through an index (offset 0) and a window (offset 16), as in Intel's 82093AA datasheet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BASE, SIZE = 0xFEC00000, 0x1000
INPUTS = 24
SELECT, WINDOW = 0x00, 0x10
ID, VERSION, ARBITRATION, TABLE = 0, 1, 2, 0x10
VERSION_VALUE = (INPUTS - 1) << 16 | 0x11

LOGICAL, PENDING, LOW_ACTIVE, REMOTE_IRR, LEVEL, MASKED = 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16
WRITABLE = 0xFF00_0000_0001_AFFF
MODE_FIXED, MODE_LOWEST = 0, 1


@dataclass
class IoApicState:
    select: int = 0
    id: int = 0
    lines: int = 0  # levels at the inputs
    table: list[int] = field(default_factory=lambda: [MASKED] * INPUTS)


class IoApic:
    """The chip.  ``deliver(vector, destination, logical, level, lowest)`` hands an interrupt to the local APICs."""

    def __init__(self, deliver=None) -> None:
        self.state = IoApicState()
        self.deliver = deliver

    def set_irq(self, line: int, level: bool) -> None:
        """Set the level of an input."""
        s, bit = self.state, 1 << line
        rising = level and not s.lines & bit
        s.lines = s.lines | bit if level else s.lines & ~bit
        if rising or level and s.table[line] & LEVEL:
            self._send(line)

    def _send(self, line: int) -> None:
        entry = self.state.table[line]
        level = bool(entry & LEVEL)
        if entry & MASKED or level and entry & REMOTE_IRR or entry >> 8 & 7 not in (MODE_FIXED, MODE_LOWEST):
            return
        if level:
            self.state.table[line] |= REMOTE_IRR
        self.deliver(entry & 0xFF, entry >> 56, bool(entry & LOGICAL), level, entry >> 8 & 7 == MODE_LOWEST)

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC finished a level-triggered interrupt: the line may ask again."""
        s = self.state
        for line, entry in enumerate(s.table):
            if entry & LEVEL and entry & REMOTE_IRR and entry & 0xFF == vector:
                s.table[line] &= ~REMOTE_IRR
                if s.lines >> line & 1:
                    self._send(line)

    def read(self, offset: int) -> int:
        s = self.state
        if offset == SELECT:
            return s.select
        if offset != WINDOW:
            return 0
        if s.select in (ID, ARBITRATION):
            return s.id << 24
        if s.select == VERSION:
            return VERSION_VALUE
        line = (s.select - TABLE) // 2
        return s.table[line] >> 32 * (s.select & 1) & 0xFFFF_FFFF if 0 <= line < INPUTS else 0

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == SELECT:
            s.select = value & 0xFF
        if offset != WINDOW:
            return
        line = (s.select - TABLE) // 2
        if s.select == ID:
            s.id = value >> 24 & 0xF
        elif 0 <= line < INPUTS:
            shift = 32 * (s.select & 1)
            entry = s.table[line] & ~(0xFFFF_FFFF << shift) | value << shift
            s.table[line] = entry & WRITABLE | s.table[line] & REMOTE_IRR
            if not entry & LEVEL:
                s.table[line] &= ~REMOTE_IRR
            elif s.lines >> line & 1:
                self._send(line)  # unmasking a level that waits
