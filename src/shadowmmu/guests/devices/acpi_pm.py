# SPDX-License-Identifier: GPL-2.0-or-later
"""ACPI power management: events, control, timer, and the reset register.

    0x600 PM1 status (16)   0x602 PM1 enable (16)   0x604 PM1 control (16)   0x608 timer (32, 3.579545 MHz)
    0xcf9 reset: writing bit 2; a byte port inside PCI's address register, so the platform looks at the size

Switching off is writing SLP_EN with the sleep type of \\_S5 to the control register.  No event ever happens, so
the SCI line stays low.  ACPI 6.4, sections 4.8.3 and 4.8.4.
"""

from __future__ import annotations

from dataclasses import dataclass

EVENT, CONTROL, TIMER, RESET = 0x600, 0x604, 0x608, 0xCF9
PORTS = (*range(EVENT, EVENT + 4), CONTROL, CONTROL + 1, *range(TIMER, TIMER + 4))
SCI = 9
FREQUENCY = 3_579_545  # Hz
SCI_ENABLE, SLEEP_ENABLE, SLEEP_TYPE = 1 << 0, 1 << 13, 7
SLEEP_TYPE_OFF = 5
RESET_VALUE = 0x06

OFF, RESTART = "off", "reset"


@dataclass
class AcpiPmState:
    now: int = 0  # ns
    enable: int = 0
    control: int = SCI_ENABLE  # the machine starts in ACPI mode
    timer_read: int = 0  # the value a byte-wise reader is in the middle of
    request: str | None = None  # OFF or RESTART


class AcpiPm:
    """The registers.  ``state.request`` tells the platform what the guest asked for."""

    def __init__(self) -> None:
        self.state = AcpiPmState()

    def read(self, port: int) -> int:
        s = self.state
        if port < EVENT + 2:
            return 0  # status: nothing has happened
        if port < EVENT + 4:
            return s.enable >> 8 * (port & 1) & 0xFF
        if port < TIMER:
            return s.control >> 8 * (port & 1) & 0xFF
        if port == TIMER:
            s.timer_read = s.now * FREQUENCY // 1_000_000_000 & 0xFFFF_FFFF
        return s.timer_read >> 8 * (port - TIMER) & 0xFF

    def write(self, port: int, value: int) -> None:
        s = self.state
        shift = 8 * (port & 1)
        if EVENT + 2 <= port < EVENT + 4:
            s.enable = s.enable & ~(0xFF << shift) | value << shift
        elif port in (CONTROL, CONTROL + 1):
            s.control = (s.control & ~(0xFF << shift) | value << shift) & ~SLEEP_ENABLE | SCI_ENABLE
            if shift and value & SLEEP_ENABLE >> 8 and value >> 2 & SLEEP_TYPE == SLEEP_TYPE_OFF:
                s.request = OFF
