# SPDX-License-Identifier: GPL-2.0-or-later
"""Each device against its datasheet's rules."""

import pytest

from shadowmmu.guests.devices.lapic import Lapic
from shadowmmu.guests.devices.pic import Pic
from shadowmmu.guests.devices.pit import FREQUENCY, Pit, tick_at, time_of
from shadowmmu.guests.devices.uart import BACKLOG, Uart

# ---- 16550 (PC16550D datasheet, 8.0)


def uart():
    sent = bytearray()
    return Uart(sent.extend), sent


def test_uart_sends_and_is_always_empty():
    u, sent = uart()
    for byte in b"hi":
        assert u.read(0x3FD) & 0x60 == 0x60
        u.write(0x3F8, byte)
    assert sent == b"hi"


def test_uart_divisor_hides_data_and_ier():
    u, sent = uart()
    u.write(0x3FB, 0x80)
    u.write(0x3F8, 0x34)
    u.write(0x3F9, 0x12)
    assert (u.read(0x3F8), u.read(0x3F9), sent) == (0x34, 0x12, b"")
    u.write(0x3FB, 3)
    assert u.read(0x3F9) == 0 and u.read(0x3FB) == 3


def test_uart_thre_interrupt_set_by_enabling_cleared_by_iir():
    u, _ = uart()
    u.write(0x3FC, 8)
    assert u.read(0x3FA) & 0xF == 1 and not u.irq()
    u.write(0x3F9, 2)
    assert u.irq() and u.read(0x3FA) & 0xF == 2
    assert not u.irq() and u.read(0x3FA) & 0xF == 1
    u.write(0x3F8, 65)
    assert u.read(0x3FA) & 0xF == 2


def test_uart_receive_has_priority_and_lasts_until_read():
    u, _ = uart()
    u.write(0x3F9, 3)
    u.receive(b"ab")
    assert [u.read(0x3FA) & 0xF for _ in range(2)] == [4, 4]
    assert u.read(0x3FD) & 1
    assert (u.read(0x3F8), u.read(0x3F8)) == (ord("a"), ord("b"))
    assert u.read(0x3FA) & 0xF == 2 and not u.read(0x3FD) & 1


def test_uart_fifo_bits_and_clear():
    u, _ = uart()
    u.write(0x3FA, 1)
    assert u.read(0x3FA) & 0xC0 == 0xC0
    u.receive(b"x" * 20)
    u.write(0x3FA, 3)
    assert [u.read(0x3F8) for _ in range(5)] == [120, 120, 120, 120, 0]  # 16 cleared, 4 waited outside


def test_uart_loopback():
    u, sent = uart()
    u.write(0x3FC, 0x1F)
    assert u.read(0x3FE) & 0xF0 == 0xF0
    u.write(0x3FC, 0x1A)  # RTS and OUT2: the 8250 probe of drivers
    assert u.read(0x3FE) & 0xF0 == 0x90
    u.write(0x3F8, 7)
    assert not sent and u.read(0x3F8) == 7 and not u.irq()
    u.write(0x3F8, 1)
    u.write(0x3F8, 2)
    assert u.read(0x3FD) & 2 and not u.read(0x3FD) & 2  # overrun, cleared by reading


def test_uart_scratch_and_bounded_backlog():
    u, _ = uart()
    u.write(0x3FF, 0xA5)
    assert u.read(0x3FF) == 0xA5
    assert u.receive(bytes(2 * BACKLOG)) <= BACKLOG + 16 and u.receive(bytes(100)) <= 1


# ---- 8259A (Intel 8259A datasheet)


def pic(icw4=1, imr=0):
    p = Pic()
    for base, vector, wire in ((0x20, 0x30, 4), (0xA0, 0x38, 2)):
        for offset, value in ((0, 0x11), (1, vector), (1, wire), (1, icw4), (1, imr)):
            p.write(base + offset, value)
    return p


def test_pic_vectors_and_priority():
    p = pic()
    for irq in (7, 12, 3, 1):
        p.set_irq(irq, True)
    order = []
    while p.pending() is not None:
        order.append(p.acknowledge())
        if order[-1] >= 0x38:
            p.write(0xA0, 0x20)
        p.write(0x20, 0x20)
    assert order == [0x31, 0x3C, 0x33, 0x37]  # 8-15 rank between 1 and 3


def test_pic_mask_keeps_the_request():
    p = pic(imr=0xFF)
    p.set_irq(4, True)
    assert p.pending() is None and p.read(0x20) == 0x10
    p.write(0x21, 0xEF)
    assert p.read(0x21) == 0xEF and p.pending() == 0x34


def test_pic_in_service_blocks_lower_and_equal():
    p = pic()
    p.set_irq(3, True)
    assert p.acknowledge() == 0x33
    p.write(0x20, 0x0B)
    assert p.read(0x20) == 8
    p.set_irq(5, True)
    p.set_irq(3, False)
    p.set_irq(3, True)
    assert p.pending() is None
    p.set_irq(0, True)
    assert p.acknowledge() == 0x30
    p.write(0x20, 0x20)  # non-specific: ends the highest, IRQ 0
    assert p.read(0x20) == 8
    p.write(0x20, 0x63)  # specific, IRQ 3
    assert p.pending() == 0x33


def test_pic_edge_needs_a_new_edge_level_does_not():
    p = pic()
    p.set_irq(5, True)
    p.acknowledge()
    p.write(0x20, 0x20)
    assert p.pending() is None
    p.write(0x4D0, 0x20)
    assert p.read(0x4D0) == 0x20
    p.set_irq(5, True)
    p.acknowledge()
    p.write(0x20, 0x20)
    assert p.pending() == 0x35
    p.set_irq(5, False)
    assert p.pending() is None


def test_pic_spurious():
    p = pic()
    p.write(0x4D0, 0x08)
    p.set_irq(3, True)
    p.set_irq(3, False)
    assert p.acknowledge() == 0x37
    p.write(0x20, 0x0B)
    assert p.read(0x20) == 0  # a spurious one is not in service


def test_pic_auto_eoi_and_rotation():
    p = pic(icw4=3)
    p.set_irq(2 + 4, True)
    p.acknowledge()
    p.write(0x20, 0x0B)
    assert p.read(0x20) == 0
    p = pic()
    p.write(0x20, 0xC4)  # set priority: IR4 lowest, so IR5 highest
    p.set_irq(1, True)
    p.set_irq(5, True)
    assert p.acknowledge() == 0x35
    p.write(0x20, 0xA0)  # rotate on EOI: IR5 becomes lowest
    p.set_irq(6, True)
    assert p.acknowledge() == 0x36


def test_pic_special_mask_lets_lower_in():
    p = pic()
    p.set_irq(2 + 1, True)
    p.acknowledge()
    p.set_irq(6, True)
    assert p.pending() is None
    p.write(0x20, 0x68)
    p.write(0x21, 0x08)
    assert p.pending() == 0x36


def test_pic_poll():
    p = pic()
    p.write(0x20, 0x0C)
    assert p.read(0x20) == 0
    p.set_irq(4, True)
    p.write(0x20, 0x0C)
    assert p.read(0x20) == 0x84
    p.write(0x20, 0x0B)
    assert p.read(0x20) == 0x10


def test_pic_icw1_forgets_masks_and_requests():
    p = pic(imr=0xFF)
    p.set_irq(4, True)
    p.write(0x20, 0x11)
    p.write(0x21, 0x40)
    p.write(0x21, 4)
    p.write(0x21, 1)
    assert p.read(0x21) == 0 and p.pending() is None


# ---- 8254 (Intel 8254 datasheet)


class Timer:
    """A PIT whose clock is given in ticks."""

    def __init__(self):
        self.edges = 0
        self.pit = Pit(self._edge)

    def _edge(self):
        self.edges += 1

    def to(self, tick):
        self.pit.advance(time_of(tick))

    def program(self, channel, mode, count):
        self.pit.write(0x43, channel << 6 | 0x30 | mode << 1)
        self.pit.write(0x40 + channel, count & 255)
        self.pit.write(0x40 + channel, count >> 8)

    def count(self, channel=0):
        self.pit.write(0x43, channel << 6)
        return self.pit.read(0x40 + channel) | self.pit.read(0x40 + channel) << 8

    def status(self, channel=0):
        self.pit.write(0x43, 0xE0 | 2 << channel)
        return self.pit.read(0x40 + channel)


def test_pit_time_conversion_is_consistent():
    for tick in (0, 1, 2, 999, FREQUENCY, 10**12 + 7):
        assert tick_at(time_of(tick)) == tick and tick_at(time_of(tick + 1) - 1) == tick


def test_pit_mode_2_periods():
    t = Timer()
    t.program(0, 2, 1000)
    for period in range(1, 4):
        assert tick_at(t.pit.next_event()) == 1000 * period
        t.to(1000 * period - 1)
        assert t.edges == period - 1 and not t.pit.output(0) and t.count() == 1
        t.to(1000 * period)
        assert t.edges == period and t.pit.output(0) and t.count() == 1000
    t.to(10_000)
    assert t.edges == 4  # seven edges missed are one request


@pytest.mark.parametrize("n", [10, 11])
def test_pit_mode_3_square_wave(n):
    t = Timer()
    t.program(0, 3, n)
    wave = []
    for tick in range(2 * n):
        t.to(tick)
        wave.append(t.pit.output(0))
    high = (n + 1) // 2  # an odd count is high for one tick longer
    assert wave == 2 * ([True] * high + [False] * (n - high))
    t.to(3 * n + 2)
    assert t.count() == (n & ~1) - 4  # counts by two


def test_pit_mode_0_one_shot_and_wrap():
    t = Timer()
    t.program(0, 0, 100)
    t.to(99)
    assert not t.pit.output(0) and t.edges == 0
    t.to(100)
    assert t.pit.output(0) and t.edges == 1 and t.pit.next_event() is None
    t.to(103)
    assert t.count() == 0xFFFD


def test_pit_mode_4_strobe():
    t = Timer()
    t.program(0, 4, 50)
    assert t.pit.output(0) and tick_at(t.pit.next_event()) == 51
    t.to(50)
    assert not t.pit.output(0)
    t.to(51)
    assert t.pit.output(0) and t.edges == 1 and t.pit.next_event() is None


def test_pit_zero_is_65536_and_bcd():
    t = Timer()
    t.program(0, 2, 0)
    assert tick_at(t.pit.next_event()) == 0x10000
    t.pit.write(0x43, 0x35)
    t.pit.write(0x40, 0x34)
    t.pit.write(0x40, 0x12)
    assert tick_at(t.pit.next_event()) == 1234
    t.to(4)
    assert t.count() == 0x1230


def test_pit_latch_holds_and_second_latch_is_ignored():
    t = Timer()
    t.program(0, 2, 1000)
    t.to(10)
    t.pit.write(0x43, 0x00)
    t.to(20)
    t.pit.write(0x43, 0x00)
    t.to(30)
    assert t.pit.read(0x40) | t.pit.read(0x40) << 8 == 990
    assert t.pit.read(0x40) | t.pit.read(0x40) << 8 == 970


def test_pit_readback_status_then_count():
    t = Timer()
    t.program(0, 3, 0x1234)
    t.to(4)
    t.pit.write(0x43, 0xC2)
    assert t.pit.read(0x40) == 0x80 | 0x30 | 3 << 1
    assert t.pit.read(0x40) | t.pit.read(0x40) << 8 == 0x1234 - 8
    t.pit.write(0x43, 0x36)
    assert t.status() & 0x40  # null count until loaded


def test_pit_byte_access_modes():
    t = Timer()
    t.pit.write(0x43, 0x14)
    t.pit.write(0x40, 200)
    assert tick_at(t.pit.next_event()) == 200
    t.pit.write(0x43, 0x24)
    t.pit.write(0x40, 2)
    assert tick_at(t.pit.next_event()) == 512 and t.pit.read(0x40) == 2


def test_pit_channel_2_gate_and_port_61():
    t = Timer()
    t.pit.write(0x61, 0)
    t.program(2, 0, 100)
    t.to(500)
    assert not t.pit.read(0x61) & 0x20 and t.count(2) == 100
    t.pit.write(0x61, 1)
    t.to(560)
    assert t.count(2) == 40
    t.pit.write(0x61, 2)
    t.to(900)
    assert t.count(2) == 40 and t.pit.read(0x61) & 3 == 2
    t.pit.write(0x61, 1)
    t.to(940)
    assert t.pit.read(0x61) & 0x21 == 0x21


def test_pit_refresh_bit_toggles():
    p = Pit()
    seen = set()
    for ns in range(0, 100_000, 5_000):
        p.advance(ns)
        seen.add(p.read(0x61) & 0x10)
    assert seen == {0, 0x10}


# ---- local APIC (SDM vol. 3, chapter 11)


def lapic():
    a = Lapic()
    a.write(0xF0, 0x1FF)
    return a


def test_lapic_identity_and_reset():
    a = Lapic()
    assert a.read(0x20) == 0 and a.read(0x30) & 0xFF == 0x14 and a.read(0x30) >> 16 == 5
    assert a.read(0xF0) == 0xFF and a.read(0x320) == 0x10000 and a.read(0xE0) == 0xFFFFFFFF


def test_lapic_priorities():
    a = lapic()
    for vector in (0x31, 0x52, 0x58):
        a.write(0x300, 0x40000 | vector)
    assert a.pending() == 0x58
    a.acknowledge(0x58)
    assert a.pending() is None and a.ppr() == 0x50  # 0x52 is of the same class
    assert a.read(0x120) == 1 << 24 and a.read(0x220) == 1 << 18
    a.write(0xB0, 0)
    assert a.pending() == 0x52
    a.write(0x80, 0x50)
    assert a.pending() is None and a.read(0xA0) == 0x50
    a.write(0x80, 0x4F)
    assert a.pending() == 0x52


def test_lapic_eoi_ends_the_highest():
    a = lapic()
    for vector in (0x31, 0x52):
        a.request(vector)
        a.acknowledge(vector)
    a.write(0xB0, 0)
    assert a.state.isr == 1 << 0x31


def test_lapic_ipi_destinations():
    a = lapic()
    a.write(0x310, 1 << 24)
    a.write(0x300, 0x41)  # physical, to APIC 1
    a.write(0x300, 0xC0042)  # all but self
    a.write(0x300, 0xC4500)  # INIT, start-up: nobody is there
    a.write(0x300, 0xC0600)
    assert a.pending() is None and not a.read(0x300) & 0x1000
    a.write(0xD0, 2 << 24)
    a.write(0x310, 2 << 24)
    a.write(0x300, 0x843)  # logical, flat
    assert a.pending() == 0x43
    a.write(0x300, 0x80044)  # all including self
    assert a.pending() == 0x44


def bus(count):
    """So many APICs, switched on."""
    apics = []
    apics += [Lapic(None, number, apics) for number in range(count)]
    for a in apics:
        a.write(0xF0, 0x1FF)
    return apics


def test_lapic_messages_between_cpus():
    a, b, c = bus(3)
    assert [x.read(0x20) >> 24 for x in (a, b, c)] == [0, 1, 2]
    a.write(0x310, 2 << 24)
    a.write(0x300, 0x4041)  # fixed, to APIC 2
    assert (a.pending(), b.pending(), c.pending()) == (None, None, 0x41)
    b.write(0x300, 0xC4052)  # to all but itself
    assert (a.pending(), b.pending(), c.pending()) == (0x52, None, 0x52)
    b.write(0x300, 0x84063)  # to all
    assert (a.pending(), b.pending(), c.pending()) == (0x63, 0x63, 0x63)
    b.write(0x300, 0x44400)  # NMI to itself
    assert [x.state.nmi for x in (a, b, c)] == [0, 1, 0]


def test_lapic_init_and_start_up():
    a, b = bus(2)
    a.write(0x310, 1 << 24)
    a.write(0x300, 0x4500)
    assert (a.state.signals, b.state.signals) == (0, 1)
    a.write(0x300, 0x8500)  # INIT level de-assert does nothing
    a.write(0x300, 0x4612)
    assert (b.state.signals, b.state.startup_vector) == (3, 0x12)
    b.write(0x320, 0x20)
    b.initialise()
    # SDM vol. 3 11.4.7.3: as after power-on, but the ID stays
    assert b.read(0x20) == 1 << 24 and b.read(0xF0) == 0xFF and b.read(0x320) == b.read(0x350) == 0x10000


def test_lapic_lowest_priority_takes_turns_among_those_switched_on():
    a, b, c = bus(3)
    c.write(0xF0, 0xFF)
    for x in (a, b, c):
        x.write(0xD0, 1 << 24)
    for vector in (0x41, 0x42, 0x43):
        a.write(0x310, 1 << 24)
        a.write(0x300, 0x4900 | vector)  # logical destination
    assert [bin(x.state.irr).count("1") for x in (a, b, c)] == [2, 1, 0]


def test_lapic_illegal_vector():
    a = lapic()
    a.write(0x370, 0x60)
    a.write(0x300, 0x4000F)
    assert a.read(0x280) == 0
    a.write(0x280, 0)
    assert a.read(0x280) == 0x20 and a.pending() == 0x60


def test_lapic_disabled_masks_lvt_and_takes_nothing():
    a = lapic()
    a.write(0x320, 0x40)
    a.write(0xF0, 0xFF)
    assert a.read(0x320) == 0x10040
    a.write(0x320, 0x40)
    assert a.read(0x320) == 0x10040
    a.request(0x50)
    assert a.pending() is None


def test_lapic_one_shot():
    a = lapic()
    a.write(0x3E0, 0x3)  # divide by 16
    a.write(0x320, 0x40)
    a.write(0x380, 100)
    assert a.next_event() == 1600
    a.advance(160)
    assert a.read(0x390) == 90
    a.advance(1599)
    assert a.pending() is None and a.read(0x390) == 0
    a.advance(1600)
    assert a.pending() == 0x40 and a.read(0x390) == 0 and a.next_event() is None


def test_lapic_periodic_and_divider():
    a = lapic()
    a.write(0x3E0, 0xB)  # divide by 1
    a.write(0x320, 0x20040)
    a.write(0x380, 1000)
    for period in (1, 2, 3):
        assert a.next_event() == 1000 * period
        a.advance(1000 * period)
        assert a.pending() == 0x40
        a.acknowledge(0x40)
        a.write(0xB0, 0)
    a.advance(3250)
    assert a.read(0x390) == 750
    a.write(0x380, 0)
    assert a.next_event() is None and a.read(0x390) == 0


def test_lapic_masked_timer_counts_silently():
    a = lapic()
    a.write(0x3E0, 0xB)
    a.write(0x380, 1000)
    a.advance(400)
    assert a.next_event() is None and a.read(0x390) == 600
    a.advance(2000)
    assert a.pending() is None
