# SPDX-License-Identifier: GPL-2.0-or-later
"""MC146818 real-time clock and CMOS memory at 0x70/0x71.

The date is a fixed one plus the virtual clock, so runs repeat exactly. No interrupts, no alarm,
and no update is ever in progress.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

PORTS = (0x70, 0x71)
EPOCH = datetime.datetime(2007, 2, 4)  # the clock's reading at time 0
SIZE = 128

STATUS_A, STATUS_B, STATUS_C, STATUS_D, CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x32
B_24_HOURS, B_BINARY = 0x02, 0x04
D_BATTERY_GOOD = 0x80

# register -> its value from a datetime; weekday 1 is Sunday
FIELDS = {
    0x00: lambda t: t.second,
    0x02: lambda t: t.minute,
    0x04: lambda t: t.hour,
    0x06: lambda t: t.isoweekday() % 7 + 1,
    0x07: lambda t: t.day,
    0x08: lambda t: t.month,
    0x09: lambda t: t.year % 100,
    CENTURY: lambda t: t.year // 100,
}


@dataclass
class CmosState:
    now: int = 0  # ns
    index: int = 0
    memory: list[int] = field(default_factory=lambda: [0] * SIZE)


class Cmos:
    """Clock and memory; ``memory_size`` (bytes) fills the size registers a BIOS would."""

    def __init__(self, memory_size: int) -> None:
        self.state = CmosState()
        memory = self.state.memory
        memory[STATUS_A], memory[STATUS_B] = 0x26, B_24_HOURS
        above_1m = min(max(memory_size - (1 << 20), 0) >> 10, 0xFFFF)
        above_16m = min(max(memory_size - (16 << 20), 0) >> 16, 0xFFFF)
        for at, value in ((0x15, 640), (0x17, above_1m), (0x30, above_1m), (0x34, above_16m)):
            memory[at], memory[at + 1] = value & 0xFF, value >> 8

    def _time(self, register: int) -> int:
        time = EPOCH + datetime.timedelta(seconds=self.state.now // 10**9 % 10**9)
        value = FIELDS[register](time)
        mode, afternoon = self.state.memory[STATUS_B], 0
        if register == 0x04 and not mode & B_24_HOURS:
            value, afternoon = (value - 1) % 12 + 1, 0x80 if value >= 12 else 0
        return (value if mode & B_BINARY else value // 10 << 4 | value % 10) | afternoon

    def read(self, port: int) -> int:
        if port == 0x70:
            return 0xFF  # write-only
        index = self.state.index
        if index in FIELDS:
            return self._time(index)
        if index == STATUS_D:
            return D_BATTERY_GOOD
        return 0 if index == STATUS_C else self.state.memory[index]

    def write(self, port: int, value: int) -> None:
        if port == 0x70:
            self.state.index = value & 0x7F  # bit 7 is the NMI mask
        elif self.state.index not in FIELDS and self.state.index not in (STATUS_C, STATUS_D):
            self.state.memory[self.state.index] = value & (0x7F if self.state.index == STATUS_A else 0xFF)
