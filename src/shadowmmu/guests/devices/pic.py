# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair of 8259A interrupt controllers of a PC.

IRQ 0,1,3-7 ──> master 0x20/0x21 ──INT──> CPU
                  ^ IR2
IRQ 8-15 ──> slave 0xa0/0xa1
"""

from __future__ import annotations

from dataclasses import dataclass, field

MASTER, SLAVE = 0x20, 0xA0
ELCR = 0x4D0
PORTS = (0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1)
LINES = 16
CASCADE = 2


@dataclass
class ChipState:
    irr: int = 0
    imr: int = 0
    isr: int = 0
    lines: int = 0  # levels at the inputs
    level_triggered: int = 0  # ELCR
    base: int = 0  # vector of IR0
    lowest: int = 7  # input of lowest priority; rotation changes it
    awaiting: int = 0  # next ICW (2, 3 or 4), 0: initialised
    needs_icw4: bool = False
    single: bool = False
    auto_eoi: bool = False
    rotate_on_auto_eoi: bool = False
    special_mask: bool = False
    fully_nested_special: bool = False
    read_isr: bool = False
    poll: bool = False


@dataclass
class PicState:
    master: ChipState = field(default_factory=ChipState)
    slave: ChipState = field(default_factory=ChipState)


def _rank(chip: ChipState, bits: int) -> int:
    """Priority of the best input in ``bits``: 0 highest, 8 none."""
    return next((rank for rank in range(8) if bits >> (chip.lowest + 1 + rank) % 8 & 1), 8)


def _request(chip: ChipState, cascade: bool) -> int | None:
    """The input for which the chip raises INT, or None."""
    rank = _rank(chip, chip.irr & ~chip.imr)
    serving = chip.isr & ~chip.imr if chip.special_mask else chip.isr
    if chip.fully_nested_special and cascade:
        serving &= ~(1 << CASCADE)  # the slave may have found something more urgent
    return (chip.lowest + 1 + rank) % 8 if rank < _rank(chip, serving) else None


def _set_line(chip: ChipState, line: int, level: bool) -> None:
    bit = 1 << line
    if chip.level_triggered & bit:
        chip.irr = chip.irr | bit if level else chip.irr & ~bit
    elif level and not chip.lines & bit:
        chip.irr |= bit
    chip.lines = chip.lines | bit if level else chip.lines & ~bit


def _accept(chip: ChipState, line: int) -> None:
    bit = 1 << line
    if not chip.level_triggered & bit:
        chip.irr &= ~bit
    if not chip.auto_eoi:
        chip.isr |= bit
    elif chip.rotate_on_auto_eoi:
        chip.lowest = line


def _command(chip: ChipState, value: int) -> None:
    if value & 0x10:  # ICW1: everything but the lines and the trigger modes is forgotten
        fresh = ChipState(lines=chip.lines, level_triggered=chip.level_triggered, base=chip.base)
        chip.__dict__.update(fresh.__dict__)
        chip.awaiting, chip.needs_icw4, chip.single = 2, bool(value & 1), bool(value & 2)
    elif value & 0x08:  # OCW3
        chip.poll = bool(value & 4)
        if value & 2:
            chip.read_isr = bool(value & 1)
        if value & 0x40:
            chip.special_mask = bool(value & 0x20)
    else:  # OCW2
        _end_of_interrupt(chip, value >> 5, value & 7)


def _end_of_interrupt(chip: ChipState, operation: int, line: int) -> None:
    rotate, specific, eoi = operation & 4, operation & 2, operation & 1
    if not eoi and not specific:
        chip.rotate_on_auto_eoi = bool(rotate)
        return
    if eoi and not specific:
        rank = _rank(chip, chip.isr & ~chip.imr if chip.special_mask else chip.isr)
        if rank == 8:
            return
        line = (chip.lowest + 1 + rank) % 8
    if eoi:
        chip.isr &= ~(1 << line)
    if rotate:
        chip.lowest = line  # operation 2 without rotate (no EOI) is a no-operation


def _data(chip: ChipState, value: int) -> None:
    if not chip.awaiting:
        chip.imr = value  # OCW1
    elif chip.awaiting == 2:
        chip.base = value & 0xF8
        chip.awaiting = 3 if not chip.single else 4 if chip.needs_icw4 else 0
    elif chip.awaiting == 3:
        chip.awaiting = 4 if chip.needs_icw4 else 0
    else:
        chip.auto_eoi = bool(value & 2)
        chip.fully_nested_special = bool(value & 0x10)
        chip.awaiting = 0


class Pic:
    """Both chips, cascaded."""

    def __init__(self) -> None:
        self.state = PicState()

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive interrupt line 0-15 (2 is the cascade and not free)."""
        chip = self.state.master if irq < 8 else self.state.slave
        _set_line(chip, irq % 8, level)
        self._cascade()

    def _cascade(self) -> None:
        _set_line(self.state.master, CASCADE, _request(self.state.slave, False) is not None)

    def pending(self) -> int | None:
        """The vector an acknowledge would give, or None while INT is low."""
        line = _request(self.state.master, True)
        if line is None:
            return None
        if line != CASCADE:
            return self.state.master.base + line
        slave = _request(self.state.slave, False)
        return self.state.slave.base + (7 if slave is None else slave)

    def acknowledge(self) -> int:
        """INTA: the vector; IR7 of the chip asked when its request has gone away (spurious)."""
        master, slave = self.state.master, self.state.slave
        line = _request(master, True)
        if line is None:
            return master.base + 7
        _accept(master, line)
        if line != CASCADE:
            return master.base + line
        line = _request(slave, False)
        if line is None:
            return slave.base + 7
        _accept(slave, line)
        # Each acknowledge lets the slave's output drop, so a further request is a new edge.
        _set_line(master, CASCADE, False)
        self._cascade()
        return slave.base + line

    def _chip(self, port: int) -> ChipState:
        return self.state.slave if port & 0x80 else self.state.master

    def read(self, port: int) -> int:
        if port & ~1 == ELCR:
            return (self.state.slave if port & 1 else self.state.master).level_triggered
        chip = self._chip(port)
        if chip.poll:
            chip.poll = False
            line = _request(chip, chip is self.state.master)
            if line is None:
                return 0
            _accept(chip, line)
            self._cascade()
            return 0x80 | line
        if port & 1:
            return chip.imr
        return chip.isr if chip.read_isr else chip.irr

    def write(self, port: int, value: int) -> None:
        if port & ~1 == ELCR:
            # IRQ 0, 1, 2, 8 and 13 are edge-triggered for ever.
            chip, allowed = (self.state.slave, 0xDE) if port & 1 else (self.state.master, 0xF8)
            chip.level_triggered = value & allowed
            return
        (_data if port & 1 else _command)(self._chip(port), value)
        self._cascade()
