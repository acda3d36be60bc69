# SPDX-License-Identifier: GPL-2.0-or-later
"""Local APICs, one for each CPU, xAPIC page at 0xfee00000 (SDM vol. 3, chapter 11).

    request (timer, ICR, error) ──> IRR ──priority above PPR──> ISR ──EOI──> done
    8259 ──LINT0 as ExtINT──────────────────────────────────────────────> CPU
    ICR of any APIC ──bus──> fixed, lowest priority: IRR   NMI: `nmi`   INIT, start-up: `signals`

The timer runs at 1 GHz (as KVM's does) over the divider. At reset the boot processor's LINT0 passes the 8259 through, as
firmware leaves it and KVM starts it. NMI, INIT and start-up messages are for the CPU: it takes them when it can.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BASE, SIZE = 0xFEE00000, 0x1000
VERSION = 0x50014  # integrated APIC, LVT entries 0-5

ID, VER, TPR, APR, PPR, EOI, LDR, DFR, SPIV = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR = 0x100, 0x180, 0x200, 0x280
ICR, ICR_HIGH, TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x300, 0x310, 0x380, 0x390, 0x3E0
LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370

# LVT entry -> writable bits
LVT = {
    LVT_TIMER: 0x300FF, LVT_THERMAL: 0x107FF, LVT_PMC: 0x107FF,
    LVT_LINT0: 0x1A7FF, LVT_LINT1: 0x1A7FF, LVT_ERROR: 0x100FF,
}  # fmt: skip
MASKED, PERIODIC = 1 << 16, 1 << 17
MODE_FIXED, MODE_LOWEST, MODE_NMI, MODE_INIT, MODE_STARTUP, MODE_EXTINT = 0, 1, 4, 5, 6, 7
ICR_LOGICAL, ICR_ASSERT, ICR_LEVEL = 1 << 11, 1 << 14, 1 << 15
NO_SHORTHAND, SELF, ALL, ALL_BUT_SELF = range(4)
#: Bits of `signals`.
SIGNAL_INIT, SIGNAL_STARTUP = 1, 2
SPIV_ENABLE = 1 << 8
ESR_SENT_ILLEGAL, ESR_RECEIVED_ILLEGAL = 1 << 5, 1 << 6


@dataclass
class LapicState:
    now: int = 0  # ns
    id: int = 0
    tpr: int = 0
    ldr: int = 0
    dfr: int = 0xFFFF_FFFF
    spiv: int = 0xFF
    irr: int = 0  # 256 bits, vector n is bit n
    isr: int = 0
    tmr: int = 0  # which of the interrupts accepted were level-triggered
    esr: int = 0  # as read
    esr_new: int = 0  # gathered since the last write to ESR
    icr: int = 0
    icr_high: int = 0
    divide: int = 0
    initial: int = 0
    armed_at: int | None = None  # ns at which the count was `initial`; None: timer idle
    nmi: int = 0  # NMIs that the CPU has not taken
    signals: int = 0  # SIGNAL_*
    startup_vector: int = 0
    arbitration: int = 0  # interrupts won with lowest-priority delivery
    lvt: dict[int, int] = field(
        default_factory=lambda: {**dict.fromkeys(LVT, MASKED), LVT_LINT0: MODE_EXTINT << 8, LVT_LINT1: 4 << 8}
    )


def _best(bits: int) -> int:
    """The highest vector in a 256-bit set, or -1."""
    return bits.bit_length() - 1


class Lapic:
    """One APIC.  ``number``: of its CPU, and its ID; ``bus``: all APICs, this one too (default: it alone)."""

    def __init__(self, on_eoi=None, number=0, bus=None) -> None:
        self.bus = [self] if bus is None else bus
        self.on_eoi = on_eoi  # called with the vector of a level-triggered interrupt that ends
        self.sent = False  # a message to another CPU, since somebody asked
        self.state = LapicState(id=number)
        if number:
            self.state.lvt = dict.fromkeys(LVT, MASKED)

    def initialise(self) -> None:
        """INIT: registers as after power-on, but the ID stays (SDM vol. 3 11.4.7.3); KVM opens LINT0 of no CPU but the first."""
        old = self.state
        self.state = LapicState(now=old.now, id=old.id, signals=old.signals, startup_vector=old.startup_vector)
        if self is not self.bus[0]:
            self.state.lvt = dict.fromkeys(LVT, MASKED)

    # ---- interrupts

    def enabled(self) -> bool:
        """Software has switched it on."""
        return bool(self.state.spiv & SPIV_ENABLE)

    def ppr(self) -> int:
        """Processor priority: the TPR, or the class of what is in service."""
        serving = max(_best(self.state.isr), 0)
        tpr = self.state.tpr
        return tpr if tpr >> 4 >= serving >> 4 else serving & 0xF0

    def request(self, vector: int, level: bool = False) -> None:
        """Set an interrupt pending; vectors below 16 are an error the APIC notes."""
        s = self.state
        if vector < 16:
            self._error(ESR_RECEIVED_ILLEGAL)
        elif self.enabled():
            s.irr |= 1 << vector
            s.tmr = s.tmr | 1 << vector if level else s.tmr & ~(1 << vector)

    def _error(self, bit: int) -> None:
        self.state.esr_new |= bit
        lvt = self.state.lvt[LVT_ERROR]
        if not lvt & MASKED and lvt & 0xFF >= 16:
            self.request(lvt & 0xFF)

    def pending(self) -> int | None:
        """The vector whose class is above PPR, or None."""
        vector = _best(self.state.irr)
        return vector if vector >> 4 > self.ppr() >> 4 and self.enabled() else None

    def acknowledge(self, vector: int) -> None:
        """Move a pending vector into service."""
        self.state.irr &= ~(1 << vector)
        self.state.isr |= 1 << vector

    def accepts_extint(self) -> bool:
        """Whether the 8259's output reaches the CPU through LINT0."""
        lint0 = self.state.lvt[LVT_LINT0]
        return not lint0 & MASKED and lint0 >> 8 & 7 == MODE_EXTINT

    # ---- timer

    def _period(self) -> int:
        """Nanoseconds of a full count."""
        code = self.state.divide & 3 | self.state.divide >> 1 & 4
        return self.state.initial << (code + 1) % 8

    def _timer_current(self) -> int:
        s = self.state
        if s.armed_at is None:
            return 0
        left = self._period() - (s.now - s.armed_at)
        return max(left, 0) // max(self._period() // s.initial, 1)

    def advance(self, now: int) -> None:
        """Move to an absolute time in ns; expiries in between become one."""
        s = self.state
        s.now = now
        if s.armed_at is None or now < s.armed_at + self._period():
            return
        if s.lvt[LVT_TIMER] & PERIODIC:
            s.armed_at += (now - s.armed_at) // self._period() * self._period()
        else:
            s.armed_at = None
        if not s.lvt[LVT_TIMER] & MASKED:
            self.request(s.lvt[LVT_TIMER] & 0xFF)

    def next_event(self) -> int | None:
        """The absolute time in ns at which the timer next expires audibly, or None."""
        s = self.state
        return None if s.armed_at is None or s.lvt[LVT_TIMER] & MASKED else s.armed_at + self._period()

    # ---- registers

    def read(self, offset: int) -> int:
        """A 32-bit register at a 16-byte boundary; reserved ones read 0."""
        s = self.state
        for base, bits in ((ISR, s.isr), (TMR, s.tmr), (IRR, s.irr)):
            if base <= offset < base + 0x80:
                return bits >> (offset - base) // 16 * 32 & 0xFFFF_FFFF
        if offset in LVT:
            return s.lvt[offset]
        values = {
            ID: s.id << 24, VER: VERSION, TPR: s.tpr, PPR: self.ppr(), LDR: s.ldr, DFR: s.dfr, SPIV: s.spiv,
            ESR: s.esr, ICR: s.icr, ICR_HIGH: s.icr_high, TIMER_INITIAL: s.initial,
            TIMER_CURRENT: self._timer_current(), TIMER_DIVIDE: s.divide,
        }  # fmt: skip
        return values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit register; read-only and reserved ones ignore it."""
        s = self.state
        if offset in LVT:
            s.lvt[offset] = value & LVT[offset] | (0 if self.enabled() else MASKED)
        elif offset == ID:
            s.id = value >> 24
        elif offset == TPR:
            s.tpr = value & 0xFF
        elif offset == EOI:
            self._end_of_interrupt()
        elif offset == LDR:
            s.ldr = value & 0xFF00_0000
        elif offset == DFR:
            s.dfr = value | 0x0FFF_FFFF
        elif offset == SPIV:
            s.spiv = value & 0x3FF
            if not self.enabled():
                for entry in s.lvt:
                    s.lvt[entry] |= MASKED
        elif offset == ESR:
            s.esr, s.esr_new = s.esr_new, 0
        elif offset == ICR:
            s.icr = value & 0xCCFFF & ~(1 << 12)  # delivery status: never pending
            self._send()
        elif offset == ICR_HIGH:
            s.icr_high = value & 0xFF00_0000
        elif offset == TIMER_INITIAL:
            s.initial = value
            s.armed_at = s.now if value else None
        elif offset == TIMER_DIVIDE:
            elapsed_counts = s.initial - self._timer_current()
            s.divide = value & 0x0B
            if s.armed_at is not None:  # the count stands, its speed changes
                s.armed_at = s.now - elapsed_counts * (self._period() // s.initial)

    def _end_of_interrupt(self) -> None:
        s, vector = self.state, _best(self.state.isr)
        if vector < 0:
            return
        s.isr &= ~(1 << vector)
        if s.tmr >> vector & 1 and self.on_eoi:
            self.on_eoi(vector)

    def is_destination(self, destination: int, logical: bool) -> bool:
        """Whether a message to this destination is for this CPU."""
        s = self.state
        if destination == 0xFF:
            return True
        if not logical:
            return destination == s.id
        mine = s.ldr >> 24
        if s.dfr >> 28 == 0xF:  # flat: one bit for each CPU
            return bool(mine & destination)
        return mine >> 4 == destination >> 4 and bool(mine & destination & 0xF)

    def _send(self) -> None:
        """Deliver an IPI."""
        icr, shorthand, mode = self.state.icr, self.state.icr >> 18 & 3, self.state.icr >> 8 & 7
        if mode in (MODE_FIXED, MODE_LOWEST) and icr & 0xFF < 16:
            self._error(ESR_SENT_ILLEGAL)
            return
        if shorthand == NO_SHORTHAND:
            targets = destinations(self.bus, self.state.icr_high >> 24, bool(icr & ICR_LOGICAL), mode == MODE_LOWEST)
        else:
            targets = [apic for apic in self.bus
                       if shorthand == ALL or (apic is self) == (shorthand == SELF)]
        for apic in targets:
            self.sent |= apic is not self
            apic.accept(mode, icr & 0xFF, bool(icr & ICR_LEVEL), bool(icr & ICR_ASSERT))

    def accept(self, mode: int, vector: int, level: bool, asserted: bool) -> None:
        """A message from the bus (__apic_accept_irq)."""
        s = self.state
        if mode in (MODE_FIXED, MODE_LOWEST):
            if asserted or not level:
                self.request(vector, level)
        elif mode == MODE_NMI:
            s.nmi += 1
        elif mode == MODE_INIT and (asserted or not level):
            s.signals = SIGNAL_INIT
        elif mode == MODE_STARTUP:
            s.startup_vector = vector
            s.signals |= SIGNAL_STARTUP


def destinations(bus: list[Lapic], destination: int, logical: bool, lowest: bool) -> list[Lapic]:
    """The APICs that a message is for.  lowest: only the one that has won least of those that are switched on
    (kvm_irq_delivery_to_apic: CPUs take turns)."""
    named = [apic for apic in bus if apic.is_destination(destination, logical)]
    if not lowest:
        return named
    able = [apic for apic in named if apic.enabled()]
    if not able:
        return []
    winner = min(able, key=lambda apic: apic.state.arbitration)
    winner.state.arbitration += 1
    return [winner]
