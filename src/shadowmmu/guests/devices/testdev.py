# SPDX-License-Identifier: GPL-2.0-or-later
"""The test device of other people's images (QEMU's pc-testdev), without its memory: that is the platform's.

    0x0e0  four bytes that keep what is written        0x2000 + n  the level of interrupt line n (n < 24)
"""

from __future__ import annotations

from dataclasses import dataclass

LATCH, IRQ = 0xE0, 0x2000
LATCH_SIZE, LINES = 4, 24
PORTS = (*range(LATCH, LATCH + LATCH_SIZE), *range(IRQ, IRQ + LINES))


@dataclass
class TestDeviceState:
    latch: int = 0


class TestDevice:
    """The latch.  Interrupt lines are the platform's business (`line`)."""

    __test__ = False    # no pytest class

    def __init__(self) -> None:
        self.state = TestDeviceState()

    def read(self, port: int) -> int:
        return self.state.latch >> 8 * (port - LATCH) & 0xFF if port < IRQ else 0

    def write(self, port: int, value: int) -> None:
        if port < IRQ:
            shift = 8 * (port - LATCH)
            self.state.latch = self.state.latch & ~(0xFF << shift) | value << shift

    @staticmethod
    def line(port: int) -> int | None:
        """The interrupt line that a write to this port sets, or None."""
        return port - IRQ if IRQ <= port < IRQ + LINES else None
