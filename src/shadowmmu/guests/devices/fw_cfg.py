# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's firmware configuration device: a 16-bit selector at 0x510, data bytes at 0x511.

Data is read byte by byte from the selected item; past its end, and for unknown items, zeroes.
"""

from __future__ import annotations

from dataclasses import dataclass

PORTS = (0x510, 0x511)

SIGNATURE, ID, RAM_SIZE, CPU_COUNT, MAX_CPUS, MAX_RAM, FILE_DIRECTORY = 0, 1, 3, 5, 0x0F, 0x11, 0x19


@dataclass
class FwCfgState:
    selector: int = 0
    offset: int = 0


class FwCfg:
    """The device of a machine with ``cpus`` CPUs and ``memory_size`` bytes."""

    def __init__(self, memory_size: int, cpus: int = 1) -> None:
        self.state = FwCfgState()
        size = memory_size.to_bytes(8, "little")
        count = cpus.to_bytes(2, "little")
        self.items = {
            SIGNATURE: b"QEMU", ID: (1).to_bytes(4, "little"), RAM_SIZE: size, CPU_COUNT: count,
            MAX_CPUS: count, MAX_RAM: size, FILE_DIRECTORY: bytes(4),
        }  # fmt: skip

    def read_wide(self, port: int, size: int) -> int:
        if port != 0x511:
            return (1 << 8 * size) - 1
        s, item = self.state, self.items.get(self.state.selector, b"")
        value = item[s.offset : s.offset + size].ljust(size, b"\0")
        s.offset = min(s.offset + size, 1 << 20)
        return int.from_bytes(value, "little")

    def write_wide(self, port: int, size: int, value: int) -> None:
        if port == 0x510:
            self.state.selector, self.state.offset = value & 0xFFFF, 0
