# SPDX-License-Identifier: GPL-2.0-or-later
"""16550A serial port, COM1 at 0x3f8, IRQ 4.

    +0 RBR/THR (DLL)   +1 IER (DLM)   +2 IIR/FCR   +3 LCR   +4 MCR   +5 LSR   +6 MSR   +7 SCR

The line is infinitely fast: a byte written is gone at once, so the transmitter is always empty.
Only the interrupt logic, the receive FIFO and the loop-back that drivers probe are real.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE, PORTS = 0x3F8, range(0x3F8, 0x400)
BACKLOG = 1 << 20  # bytes of host input kept while the guest does not read

IER_RX, IER_TX, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_TX, IIR_RX, IIR_LINE, IIR_MODEM = 0x01, 0x02, 0x04, 0x06, 0x00
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 1, 2
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 0x10
LSR_READY, LSR_OVERRUN, LSR_EMPTY = 0x01, 0x02, 0x60
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80


@dataclass
class UartState:
    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scratch: int = 0
    divisor: int = 12
    msr: int = MSR_CTS | MSR_DSR | MSR_DCD  # a terminal is connected
    msr_delta: int = 0
    overrun: bool = False
    tx_pending: bool = False  # "transmitter empty" not yet reported through IIR
    fifo: bytes = b""
    backlog: bytes = b""


class Uart:
    """The port. ``on_output(bytes)`` gets what the guest sends."""

    def __init__(self, on_output=None) -> None:
        self.state = UartState()
        self.on_output = on_output

    def receive(self, data: bytes) -> int:
        """Send bytes to the guest; they wait until its FIFO has room.

        Returns:
            How many were taken; the rest is refused when `BACKLOG` bytes already wait.
        """
        taken = data[: BACKLOG - len(self.state.backlog)]
        self.state.backlog += taken
        self._refill()
        return len(taken)

    def _refill(self) -> None:
        s = self.state
        room = (16 if s.fcr & FCR_ENABLE else 1) - len(s.fifo)
        if room > 0 and s.backlog and not s.mcr & MCR_LOOP:
            s.fifo, s.backlog = s.fifo + s.backlog[:room], s.backlog[room:]

    def _source(self) -> int:
        """The interrupt source of highest priority, as IIR codes it."""
        s = self.state
        if s.ier & IER_LINE and s.overrun:
            return IIR_LINE
        if s.ier & IER_RX and s.fifo:
            return IIR_RX
        if s.ier & IER_TX and s.tx_pending:
            return IIR_TX
        if s.ier & IER_MODEM and s.msr_delta:
            return IIR_MODEM
        return IIR_NONE

    def irq(self) -> bool:
        """The level of IRQ 4: a PC gates the chip's INTR with OUT2 (and loop-back turns that off)."""
        return self._source() != IIR_NONE and self.state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2

    def _modem_lines(self) -> int:
        s = self.state
        if not s.mcr & MCR_LOOP:
            return s.msr
        pairs = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))
        return sum(line for output, line in pairs if s.mcr & output)

    def may_transmit(self) -> bool:
        """Whether sending a byte or reading LSR changes nothing but `transmitted`."""
        s = self.state
        return not (s.ier & IER_TX or s.lcr & LCR_DLAB or s.mcr & MCR_LOOP or s.overrun)

    def transmitted(self, data: bytes) -> None:
        """Bytes sent while `may_transmit`."""
        self.state.tx_pending = True
        if self.on_output:
            self.on_output(data)

    def line_status(self) -> int:
        """LSR, without the side effect of reading it."""
        return LSR_EMPTY | (LSR_READY if self.state.fifo else 0) | (LSR_OVERRUN if self.state.overrun else 0)

    def read(self, port: int) -> int:
        s, register = self.state, port - BASE
        if s.lcr & LCR_DLAB and register < 2:
            return s.divisor >> 8 * register & 0xFF
        if register == 0:
            value, s.fifo = (s.fifo[0], s.fifo[1:]) if s.fifo else (0, b"")
            self._refill()
            return value
        if register == 1:
            return s.ier
        if register == 2:
            source = self._source()
            if source == IIR_TX:
                s.tx_pending = False
            return source | (IIR_FIFO if s.fcr & FCR_ENABLE else 0)
        if register == 3:
            return s.lcr
        if register == 4:
            return s.mcr
        if register == 5:
            value = self.line_status()
            s.overrun = False
            return value
        if register == 6:
            value = self._modem_lines() | s.msr_delta
            s.msr_delta = 0
            return value
        return s.scratch

    def write(self, port: int, value: int) -> None:
        s, register = self.state, port - BASE
        if s.lcr & LCR_DLAB and register < 2:
            shift = 8 * register
            s.divisor = s.divisor & ~(0xFF << shift) | value << shift
        elif register == 0:
            self._transmit(value)
        elif register == 1:
            if value & IER_TX and not s.ier & IER_TX:
                s.tx_pending = True  # the datasheet: enabling with an empty transmitter interrupts at once
            s.ier = value & 0x0F
        elif register == 2:
            if value & FCR_CLEAR_RX or (value ^ s.fcr) & FCR_ENABLE:
                s.fifo = b""
            s.fcr = value & 0xC9
            self._refill()
        elif register == 3:
            s.lcr = value
        elif register == 4:
            before = self._modem_lines()
            s.mcr = value & 0x1F
            changed = before ^ self._modem_lines()
            # Delta bits 0-3; RI (bit 6) reports only its falling edge.
            s.msr_delta |= changed >> 4 & ~(4 if self._modem_lines() & MSR_RI else 0)
            self._refill()
        elif register == 7:
            s.scratch = value

    def _transmit(self, value: int) -> None:
        s = self.state
        s.tx_pending = True
        if not s.mcr & MCR_LOOP:
            if self.on_output:
                self.on_output(bytes((value,)))
        elif len(s.fifo) < (16 if s.fcr & FCR_ENABLE else 1):
            s.fifo += bytes((value,))
        else:
            s.overrun = True
