# SPDX-License-Identifier: GPL-2.0-or-later
"""The two platforms as a guest sees them: dispatch, wiring, snapshots."""

import pytest

from shadowmmu.guests import platform

LAPIC = 0xFEE00000


def golden(**callbacks):
    return platform.make("golden", 16 << 20, **callbacks)


def test_golden_reports_like_the_recorder():
    lines, marks, values, operations = [], [], [], []
    p = golden(on_line=lines.append, on_mark=marks.append, on_value=values.append, on_host_operation=operations.append)
    for port, value in (
        (0xE0, 3), (0xE1, 0x2A), (0xE4, 0x15), (0xE8, 0xDEADBEEF), (0xEC, 6), (0xE2, 4), (0x99, 0xAB), (0xF4, 0),
    ):  # fmt: skip
        p.io_write(port, 4, value)
    assert lines == [
        "MARK 3", "VAL 0000002a", "PFEC 00000015", "PFCR2 deadbeef", "EXC vector 6", "IO port 99 val ab", "EXIT 0",
    ]  # fmt: skip
    assert (marks, values, operations, p.exit_code) == ([3], [0x2A], [4], 0)
    assert p.io_read(0x60, 4) == 0


def test_golden_mmio():
    lines = []
    p = golden(on_line=lines.append)
    gpa = 0x1234568
    assert p.mmio_regions() == [(16 << 20, (1 << 52) - (16 << 20))]
    assert p.mmio_read(gpa, 8) == 0x5A5A5A5A5A5A5A5A ^ gpa
    assert p.mmio_read(gpa, 1) == 0x5A ^ 0x68
    assert p.mmio_read(gpa, 4) == 0x5A5A5A5A ^ gpa
    p.mmio_write(gpa, 2, 0x12345)
    assert lines[0] == "MMIO R 1234568 len 8 val 5a5a5a5a5b791f32" and lines[-1] == "MMIO W 1234568 len 2 val 2345"


def test_golden_has_no_interrupts_and_no_events():
    p = golden()
    p.advance(10**9)
    assert p.pending_interrupt() is None and p.next_event() is None and p.exit_code is None
    with pytest.raises(RuntimeError):
        p.acknowledge_interrupt()


def test_unknown_platform():
    with pytest.raises(ValueError, match="'xt' is not one of golden, pc"):
        platform.make("xt", 1 << 20)


def pc(**callbacks):
    return platform.make("pc", 128 << 20, **callbacks)


def test_unknown_ports_and_addresses_read_all_ones():
    p = pc()
    assert [p.io_read(0xCF8, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    assert p.mmio_read(0xFED00000, 8) == 2**64 - 1
    p.io_write(0xCFC, 4, 1)
    p.mmio_write(0xFED00000, 4, 1)


def test_exit_port():
    p = pc()
    p.io_write(0xF4, 4, 38)
    assert p.exit_code == 38


def fw_cfg(p, selector, count):
    p.io_write(0x510, 2, selector)
    return bytes(p.io_read(0x511, 1) for _ in range(count))


def test_fw_cfg():
    p = pc()
    assert fw_cfg(p, 0, 6) == b"QEMU\0\0"
    assert fw_cfg(p, 5, 2) == b"\1\0" and fw_cfg(p, 0xF, 2) == b"\1\0"
    assert int.from_bytes(fw_cfg(p, 3, 8), "little") == int.from_bytes(fw_cfg(p, 0x11, 8), "little") == 128 << 20
    assert fw_cfg(p, 0x1234, 4) == bytes(4)


def test_cmos_clock_runs_on_virtual_time():
    p = pc()

    def cmos(index):
        p.io_write(0x70, 1, index)
        return p.io_read(0x71, 1)

    assert [cmos(i) for i in (0, 2, 4, 7, 8, 9, 0x32)] == [0, 0, 0, 0x04, 0x02, 0x07, 0x20]
    p.advance((13 * 3600 + 59 * 60 + 48) * 10**9)
    assert [cmos(i) for i in (4, 2, 0)] == [0x13, 0x59, 0x48]  # BCD, 24 hours
    p.io_write(0x70, 1, 0x0B)
    p.io_write(0x71, 1, 0x04)  # binary, 12 hours
    assert [cmos(i) for i in (4, 2, 0)] == [0x80 | 1, 59, 48]
    assert not cmos(0x0A) & 0x80 and cmos(0x0D) == 0x80
    assert cmos(0x34) | cmos(0x35) << 8 == (128 - 16) * 16  # 64 KiB units above 16 MiB
    assert p.io_read(0x70, 1) == 0xFF


def start_pic(p):
    for port, value in ((0x20, 0x11), (0xA0, 0x11), (0x21, 0x20), (0xA1, 0x28), (0x21, 4), (0xA1, 2), (0x21, 1),
                        (0xA1, 1), (0x21, 0), (0xA1, 0)):  # fmt: skip
        p.io_write(port, 1, value)


def test_timer_interrupt_reaches_the_cpu():
    p = pc()
    start_pic(p)
    p.io_write(0x43, 1, 0x34)
    p.io_write(0x40, 1, 1193 & 255)
    p.io_write(0x40, 1, 1193 >> 8)
    for _ in range(3):
        wait = p.next_event()
        assert 990_000 < wait < 1_010_000  # 1 ms
        p.advance(wait - 1)
        assert p.pending_interrupt() is None
        p.advance(1)
        assert p.pending_interrupt() == p.acknowledge_interrupt() == 0x20
        assert p.pending_interrupt() is None
        p.io_write(0x20, 1, 0x20)


def test_serial_interrupt_follows_the_receiver():
    p = pc()
    start_pic(p)
    p.io_write(0x3F9, 1, 1)
    p.receive(b"x")
    assert p.pending_interrupt() is None  # OUT2 still low
    p.io_write(0x3FC, 1, 8)
    assert p.acknowledge_interrupt() == 0x24
    p.io_write(0x20, 1, 0x20)
    assert p.io_read(0x3F8, 1) == ord("x") and p.pending_interrupt() is None


def test_lapic_before_pic_and_lint0_gate():
    p = pc()
    start_pic(p)
    p.mmio_write(LAPIC + 0xF0, 4, 0x1FF)
    p.mmio_write(LAPIC + 0x350, 4, 0x700)
    p.pic.set_irq(1, True)
    p.mmio_write(LAPIC + 0x300, 4, 0x40000 | 0x51)
    assert [p.acknowledge_interrupt() for _ in range(2)] == [0x51, 0x21]
    p.pic.set_irq(3, True)
    p.io_write(0x20, 1, 0x20)
    assert p.pending_interrupt() == 0x23
    p.mmio_write(LAPIC + 0x350, 4, 0x10700)
    assert p.pending_interrupt() is None


def test_snapshot_is_independent_and_complete():
    p = pc()
    start_pic(p)
    p.receive(b"abc")
    p.io_write(0x40, 1, 5)
    saved = p.snapshot()
    p.io_write(0x21, 1, 0xFF)
    p.io_read(0x3F8, 1)
    p.advance(10**9)
    p.io_write(0xF4, 4, 1)
    assert p.snapshot() != saved
    p.restore(saved)
    assert p.snapshot() == saved and p.io_read(0x3F8, 1) == ord("a") and p.exit_code is None
    assert p.snapshot() != saved  # restoring copied


def test_a_wide_access_is_one_byte_access_to_each_port():
    p = pc()
    p.io_write(0x3FB, 1, 0x80)
    p.io_write(0x3F8, 2, 0x0102)  # DLL and DLM
    assert p.io_read(0x3F8, 1) == 2 and p.io_read(0x3F9, 1) == 1


def test_acpi_switches_off_and_a_reset_needs_a_byte():
    p = pc()
    p.io_write(0xCF8, 4, 0x80000400)    # PCI's address register: 0xcf9 is inside
    p.io_write(0x604, 2, 1)
    assert p.exit_code is None
    p.io_write(0x604, 2, 0x3401)
    assert (p.exit_code, p.exit_text) == (0, "the guest switched the machine off")
    q = pc()
    q.io_write(0xCF9, 1, 6)
    assert (q.exit_code, q.exit_text) == (1, "the guest asked for a reset")


def test_acpi_timer_runs_at_its_frequency():
    p = pc()
    p.advance(1_000_000_000)
    assert p.io_read(0x608, 4) == 3_579_545


def test_serial_bytes_taken_without_asking_look_as_if_written():
    sent = []
    p = pc(on_output=sent.append)
    assert p.serial_state() == (True, 0x60)
    p.transmitted(b"ab")
    assert sent == [b"ab"] and p.io_read(0x3FA, 1) == 1     # IER is off: nothing pending
    p.io_write(0x3F9, 1, 2)
    assert not p.serial_state()[0]
