# SPDX-License-Identifier: GPL-2.0-or-later
"""8254 interval timer at 0x40-0x43 and the system control port 0x61.

Channel 0's output is IRQ 0; channel 2 has its gate and output in port 0x61; channel 1 only counts.
Time is the platform's virtual clock in nanoseconds; a tick is 1/1193182 s. A channel stores the
tick at which it (last) began to count, and everything else is computed when asked:

    out, mode 0  ____n‾‾‾‾‾      mode 2  ‾‾‾‾_‾‾‾‾_ (period n)     mode 3  ‾‾‾___‾‾‾___ (period n)
"""

from __future__ import annotations

from dataclasses import dataclass, field

FREQUENCY = 1_193_182  # Hz
PORTS = (0x40, 0x41, 0x42, 0x43, 0x61)
REFRESH_NS = 15_085  # port 0x61 bit 4 changes this often

ONE_SHOT = (0, 1, 4, 5)
TRIGGERED = (1, 5)  # start at the gate's rising edge, not at the count's writing


@dataclass
class ChannelState:
    mode: int = 0
    access: int = 3  # 1 low byte, 2 high byte, 3 low then high
    bcd: bool = False
    reload: int = 0x10000
    counting: bool = False  # a count has been loaded (null count is its opposite)
    begin: int = 0  # tick at which the count was `reload`
    gate: bool = True
    stopped_at: int | None = None  # elapsed ticks while the gate is low
    low_written: int | None = None  # first byte of a two-byte write
    high_next: bool = False  # reads: the high byte is next
    latched: int | None = None
    status: int | None = None


@dataclass
class PitState:
    now: int = 0  # ns
    channels: list[ChannelState] = field(default_factory=lambda: [ChannelState() for _ in range(3)])
    speaker: bool = False


def tick_at(ns: int) -> int:
    """The number of whole ticks by this time."""
    return ns * FREQUENCY // 1_000_000_000


def time_of(tick: int) -> int:
    """The first nanosecond that belongs to a tick."""
    return -(-tick * 1_000_000_000 // FREQUENCY)


def _elapsed(channel: ChannelState, tick: int) -> int:
    return channel.stopped_at if channel.stopped_at is not None else tick - channel.begin


def _output(channel: ChannelState, tick: int) -> bool:
    n, t = channel.reload, _elapsed(channel, tick)
    if not channel.counting:
        return channel.mode != 0
    if channel.mode in (0, 1):
        return t >= n
    if channel.mode in (4, 5):
        return t != n
    if channel.stopped_at is not None:
        return True  # modes 2 and 3: a low gate sets the output high
    return t % n != n - 1 if channel.mode == 2 else t % n < (n + 1) // 2


def _count(channel: ChannelState, tick: int) -> int:
    n, t = channel.reload, _elapsed(channel, tick)
    if not channel.counting:
        value = n
    elif channel.mode in ONE_SHOT:
        value = n - t  # wraps and goes on
    elif channel.mode == 2:
        value = n - t % n
    else:  # each half counts down by two from n; an odd n stays at 0 for a tick before the first half ends
        high = (n + 1) // 2
        value = (n & ~1) - 2 * (t % n if t % n < high else t % n - high)
    if channel.bcd:
        return int(f"{value % 10000}", 16)
    return value & 0xFFFF


def _rising_edges(channel: ChannelState, tick: int) -> int:
    """How many rising edges of the output lie at or before this tick since the count began."""
    if not channel.counting:
        return 0
    n, t = channel.reload, _elapsed(channel, tick)
    if channel.mode in (0, 1):
        return int(t >= n)
    if channel.mode in (4, 5):
        return int(t > n)
    return t // n


def _next_edge(channel: ChannelState, tick: int) -> int | None:
    """The tick of the next rising edge after this one, or None."""
    if not channel.counting or channel.stopped_at is not None:
        return None
    done = _rising_edges(channel, tick)
    if channel.mode in ONE_SHOT:
        return None if done else channel.begin + channel.reload + (channel.mode in (4, 5))
    return channel.begin + (done + 1) * channel.reload


class Pit:
    """The timer. ``on_edge()`` is called for a rising edge of channel 0's output."""

    def __init__(self, on_edge=None) -> None:
        self.state = PitState()
        self.on_edge = on_edge

    def _tick(self) -> int:
        return tick_at(self.state.now)

    def advance(self, now: int) -> None:
        """Move to an absolute time in ns. Edges in between become one, as at a latch."""
        channel = self.state.channels[0]
        before = _rising_edges(channel, self._tick())
        self.state.now = now
        if _rising_edges(channel, self._tick()) > before and self.on_edge:
            self.on_edge()

    def next_event(self) -> int | None:
        """The absolute time in ns of channel 0's next rising edge, or None."""
        edge = _next_edge(self.state.channels[0], self._tick())
        return None if edge is None else time_of(edge)

    def output(self, number: int) -> bool:
        """The level of a channel's OUT pin."""
        return _output(self.state.channels[number], self._tick())

    def _load(self, channel: ChannelState, value: int) -> None:
        if channel.bcd:
            value = int(f"{value:x}") if all(c in "0123456789" for c in f"{value:x}") else 0
        channel.reload = value or (10000 if channel.bcd else 0x10000)
        if channel.mode in TRIGGERED:
            return
        channel.begin, channel.counting = self._tick(), True
        channel.stopped_at = None if channel.gate else 0

    def _set_gate(self, channel: ChannelState, gate: bool) -> None:
        if gate == channel.gate:
            return
        channel.gate, tick = gate, self._tick()
        if channel.mode in TRIGGERED:
            if gate:
                channel.begin, channel.counting, channel.stopped_at = tick, True, None
        elif not gate:
            channel.stopped_at = tick - channel.begin if channel.counting else None
        elif channel.counting:
            # Modes 2 and 3 start anew at the gate's rising edge, 0 and 4 go on where they stopped.
            channel.begin = tick - ((channel.stopped_at or 0) if channel.mode in ONE_SHOT else 0)
            channel.stopped_at = None

    def read(self, port: int) -> int:
        if port == 0x61:
            gate = self.state.channels[2].gate
            refresh = self.state.now // REFRESH_NS & 1
            return int(gate) | self.state.speaker << 1 | refresh << 4 | self.output(2) << 5
        if port == 0x43:
            return 0xFF
        channel = self.state.channels[port - 0x40]
        if channel.status is not None:
            value, channel.status = channel.status, None
            return value
        count = channel.latched if channel.latched is not None else _count(channel, self._tick())
        if channel.access == 3:
            high, channel.high_next = channel.high_next, not channel.high_next
            if high:
                channel.latched = None
        else:
            high, channel.latched = channel.access == 2, None
        return count >> 8 & 0xFF if high else count & 0xFF

    def write(self, port: int, value: int) -> None:
        if port == 0x61:
            self.state.speaker = bool(value & 2)
            self._set_gate(self.state.channels[2], bool(value & 1))
        elif port == 0x43:
            self._control(value)
        else:
            self._write_count(self.state.channels[port - 0x40], value)

    def _write_count(self, channel: ChannelState, value: int) -> None:
        if channel.access == 1:
            self._load(channel, value)
        elif channel.access == 2:
            self._load(channel, value << 8)
        elif channel.low_written is None:
            channel.low_written = value
            if channel.mode == 0:
                channel.counting = False  # writing the first byte stops the count
        else:
            low, channel.low_written = channel.low_written, None
            self._load(channel, value << 8 | low)

    def _control(self, value: int) -> None:
        if value >> 6 == 3:  # read-back: bits 5 and 4 low select count and status
            for number, channel in enumerate(self.state.channels):
                if value >> (number + 1) & 1:
                    if not value & 0x20:
                        self._latch(channel)
                    if not value & 0x10 and channel.status is None:
                        channel.status = self._status(channel)
            return
        channel = self.state.channels[value >> 6]
        if not value & 0x30:
            self._latch(channel)
            return
        mode = value >> 1 & 7
        channel.access, channel.bcd = value >> 4 & 3, bool(value & 1)
        channel.mode = mode - 4 if mode > 5 else mode  # 6 and 7 are 2 and 3
        channel.counting, channel.stopped_at = False, None
        channel.low_written, channel.high_next = None, False
        channel.latched = channel.status = None

    def _latch(self, channel: ChannelState) -> None:
        if channel.latched is None:  # a second latch before the read is ignored
            channel.latched = _count(channel, self._tick())
            channel.high_next = False

    def _status(self, channel: ChannelState) -> int:
        out = _output(channel, self._tick())
        return out << 7 | (not channel.counting) << 6 | channel.access << 4 | channel.mode << 1 | channel.bcd
