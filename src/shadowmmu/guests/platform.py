# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine around the CPU: what answers ports, MMIO and the interrupt pin.

Two platforms with one interface (`Platform`):

    golden   the recorder's: report ports, no devices, no interrupts
    pc       0x20 PIC  0x40 PIT  0x70 CMOS  0xf4 exit  0x3f8 UART  0x510 fw_cfg  0x600 ACPI
             0xfec00000 I/O APIC  0xfee00000 LAPIC

            UART ─IRQ4─┬─ I/O APIC ──────┐
            PIT ─IRQ0──┴─ PIC ─LINT0─ LAPIC ── pending_interrupt(cpu) / acknowledge_interrupt(cpu)
                                      LAPIC    one for each CPU, joined by a bus

Time is virtual: nothing moves until the caller says ``advance(ns)``.
"""

from __future__ import annotations

import copy
from typing import ClassVar

from .devices import acpi_pm, cmos, fw_cfg, ioapic, lapic, pic, pit, testdev, uart

IRQ_TIMER, IRQ_UART = 0, 4
IOAPIC_TIMER = 2  # where IRQ 0 arrives at the I/O APIC
EXIT_PORT = 0xF4
KEYBOARD_CONTROLLER, PULSE_RESET = 0x64, 0xFE
#: The test device's plain memory behind MMIO (pc-testdev of QEMU): emulator tests run on it.
TEST_RAM, TEST_RAM_SIZE = 0xFF00_0000, 0x10000
#: What a port access takes on an ISA bus, ns.  Guests measure their clocks in such accesses.
IO_TIME = 1000
RESET_EXIT_CODE = 1


def ones(size: int) -> int:
    """What a bus without a device reads: all bits of ``size`` bytes."""
    return (1 << 8 * size) - 1


class Platform:
    """A machine without devices; also the interface.

    Attributes:
        memory_size: bytes of RAM from guest-physical 0; the rest is MMIO or nothing.
        exit_code: how the guest ended: what it wrote to the exit port, 0 for power-off; None while it runs.
        exit_text: the same in words.
        on_output: called with the bytes the guest sends to its serial port.
        on_mark, on_value, on_host_operation: called with the 32-bit value (golden only).
        on_line: called with each line the recorder would have logged (golden only).
        now: the virtual clock, ns since the start.
        cpus: number of CPUs.
        running: number of the CPU that makes the accesses which follow.
    """

    name = "none"
    cpus = 1
    running = 0

    def __init__(
        self, memory_size, on_output=None, on_mark=None, on_value=None, on_host_operation=None, on_line=None
    ) -> None:
        self.memory_size = memory_size
        self.exit_code: int | None = None
        self.exit_text = ""
        self.now = 0
        self.on_output = on_output
        self.on_mark = on_mark
        self.on_value = on_value
        self.on_host_operation = on_host_operation
        self.on_line = on_line

    def end(self, code: int, text: str) -> None:
        """The guest ended itself."""
        self.exit_code, self.exit_text = code, text

    def io_read(self, port: int, size: int) -> int:
        """The value of an IN of ``size`` (1, 2 or 4) bytes."""
        return ones(size)

    def io_write(self, port: int, size: int, value: int) -> None:
        """An OUT of ``size`` (1, 2 or 4) bytes."""

    #: ns that a port access takes; first port of the serial port, or -1.
    io_time = 0
    serial_base = -1
    #: gpa of the local APIC, or None.
    apic_base: int | None = None

    def claimed_ports(self) -> range | set[int]:
        """Ports that must be asked; the others read all ones and ignore writes."""
        return range(1 << 16)

    def serial_state(self) -> tuple[int, int]:
        """(whether bytes may be sent without asking, the line status register)"""
        return 0, 0

    def transmitted(self, data: bytes) -> None:
        """The guest sent these bytes while `serial_state` allowed it."""

    def receive(self, data: bytes) -> int:
        """Type bytes at the console; returns how many were taken."""
        return 0

    def mmio_regions(self) -> list[tuple[int, int]]:
        """``(gpa, bytes)`` of every range `mmio_read` and `mmio_write` answer."""
        return []

    def mmio_read(self, gpa: int, size: int) -> int:
        """The value of a load of ``size`` (1, 2, 4 or 8) bytes outside RAM."""
        return ones(size)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A store of ``size`` (1, 2, 4 or 8) bytes outside RAM."""

    def pending_interrupt(self, cpu: int = 0) -> int | None:
        """The vector waiting at a CPU's interrupt pin, or None."""
        return None

    def acknowledge_interrupt(self, cpu: int = 0) -> int:
        """Take the waiting interrupt and return its vector; only after `pending_interrupt`."""
        raise RuntimeError("no interrupt is pending")

    def pending_nmis(self, cpu: int = 0) -> int:
        """How many NMIs wait at a CPU."""
        return 0

    def set_pending_nmis(self, cpu: int, count: int) -> None:
        """Some were taken, or lost."""

    def sent_message(self, cpu: int) -> bool:
        """Did a CPU send an IPI to another one since the last call?"""
        return False

    def has_signal(self, cpu: int) -> bool:
        """Does INIT or a start-up message wait at a CPU?"""
        return False

    def take_signal(self, cpu: int) -> tuple[bool, int | None]:
        """Take them: (INIT, vector of a start-up message or None)."""
        return False, None

    def advance(self, ns: int) -> None:
        """Let ``ns`` nanoseconds pass."""
        self.now += ns

    def next_event(self) -> int | None:
        """Nanoseconds until a device will act by itself, or None if none will."""
        return None

    def snapshot(self) -> dict:
        """All state that changes, as plain data independent of this object."""
        return {"now": self.now, "exit_code": self.exit_code}

    def restore(self, snapshot: dict) -> None:
        """Return to the state of a `snapshot` of the same platform."""
        self.now, self.exit_code = snapshot["now"], snapshot["exit_code"]


class GoldenPlatform(Platform):
    """The machine of the recordings; ``on_line`` gets exactly the recorder's text."""

    name = "golden"

    # port -> format of the recorder's line
    LINES: ClassVar[dict[int, str]] = {
        0xE0: "MARK {}", 0xE1: "VAL {:08x}", 0xE4: "PFEC {:08x}", 0xE8: "PFCR2 {:08x}",
        0xEC: "EXC vector {}", EXIT_PORT: "EXIT {}", 0xD0: "L2EXIT {:08x}", 0xD1: "L2INFO1 {:08x}",
        0xD2: "L2INFO2 {:08x}", 0xD3: "L2RIP {:08x}", 0xD4: "STEP {}",
    }  # fmt: skip
    MARK, VALUE, HOST_OPERATION = 0xE0, 0xE1, 0xE2

    def _line(self, text: str) -> None:
        if self.on_line:
            self.on_line(text)

    def io_read(self, port: int, size: int) -> int:
        return 0

    def io_write(self, port: int, size: int, value: int) -> None:
        value &= ones(size)
        if port != self.HOST_OPERATION:  # the host prints its own lines about what it does
            self._line(self.LINES.get(port, f"IO port {port:x} val {{:x}}").format(value))
        callbacks = {self.MARK: self.on_mark, self.VALUE: self.on_value, self.HOST_OPERATION: self.on_host_operation}
        if callbacks.get(port):
            callbacks[port](value)
        if port == EXIT_PORT:
            self.end(value, f"the guest ended with code {value}")

    def mmio_regions(self) -> list[tuple[int, int]]:
        return [(self.memory_size, (1 << 52) - self.memory_size)]

    def mmio_read(self, gpa: int, size: int) -> int:
        value = 0x5A5A5A5A5A5A5A5A ^ gpa
        self._line(f"MMIO R {gpa:x} len {size} val {value:x}")
        return value & ones(size)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        self._line(f"MMIO W {gpa:x} len {size} val {value & ones(size):x}")


class PcPlatform(Platform):
    """A small PC: CPUs with their APICs, serial console, timers, interrupt controllers."""

    name = "pc"
    io_time = IO_TIME
    serial_base = uart.BASE
    apic_base = lapic.BASE

    def __init__(self, memory_size, cpus=1, **callbacks) -> None:
        super().__init__(memory_size, **callbacks)
        self.cpus = cpus
        self.uart = uart.Uart(lambda data: self.on_output(data) if self.on_output else None)
        self.pic = pic.Pic()
        self.pit = pit.Pit(self._timer_edge)
        self.cmos = cmos.Cmos(memory_size)
        self.fw_cfg = fw_cfg.FwCfg(memory_size, cpus)
        self.ioapic = ioapic.IoApic(self._deliver)
        self.lapics: list[lapic.Lapic] = []
        self.lapics += [lapic.Lapic(self.ioapic.end_of_interrupt, number, self.lapics) for number in range(cpus)]
        self.acpi_pm = acpi_pm.AcpiPm()
        self.testdev = testdev.TestDevice()
        self.test_ram = bytearray(TEST_RAM_SIZE)
        bytewide = ((uart.PORTS, self.uart), (pic.PORTS, self.pic), (pit.PORTS, self.pit), (cmos.PORTS, self.cmos),
                    (acpi_pm.PORTS, self.acpi_pm), (testdev.PORTS, self.testdev))
        self._bytewide = {port: device for ports, device in bytewide for port in ports}

    def claimed_ports(self) -> range | set[int]:
        return {*self._bytewide, *fw_cfg.PORTS, EXIT_PORT, KEYBOARD_CONTROLLER, acpi_pm.RESET}

    def serial_state(self) -> tuple[int, int]:
        return self.uart.may_transmit(), self.uart.line_status()

    def transmitted(self, data: bytes) -> None:
        self.uart.transmitted(data)

    def _set_irq(self, irq: int, level: bool) -> None:
        if irq < pic.LINES:
            self.pic.set_irq(irq, level)
        self.ioapic.set_irq(IOAPIC_TIMER if irq == IRQ_TIMER else irq, level)

    @property
    def lapic(self) -> lapic.Lapic:
        """The APIC of the CPU that is running."""
        return self.lapics[self.running]

    def _deliver(self, vector: int, destination: int, logical: bool, level: bool, lowest: bool) -> None:
        for apic in lapic.destinations(self.lapics, destination, logical, lowest):
            apic.request(vector, level)

    def _timer_edge(self) -> None:
        self._set_irq(IRQ_TIMER, False)
        self._set_irq(IRQ_TIMER, True)

    def _wires(self) -> None:
        self._set_irq(IRQ_UART, self.uart.irq())

    def io_read(self, port: int, size: int) -> int:
        if port in fw_cfg.PORTS:
            return self.fw_cfg.read_wide(port, size)
        value = 0
        for i in range(size):  # a wide access to byte-wide devices is one access to each port
            device = self._bytewide.get(port + i)
            value |= (device.read(port + i) if device else 0xFF) << 8 * i
        self._wires()
        return value

    def io_write(self, port: int, size: int, value: int) -> None:
        value &= ones(size)
        if port == EXIT_PORT:
            self.end(value, f"the guest ended with code {value}")
            return
        if port in fw_cfg.PORTS:
            self.fw_cfg.write_wide(port, size, value)
            return
        line = self.testdev.line(port)
        if line is not None:
            self._set_irq(line, bool(value))
            return
        for i in range(size):
            device = self._bytewide.get(port + i)
            if device:
                device.write(port + i, value >> 8 * i & 0xFF)
        if port == KEYBOARD_CONTROLLER and value == PULSE_RESET or (port, size) == (acpi_pm.RESET, 1) and value & 4:
            self.acpi_pm.state.request = acpi_pm.RESTART
        if self.acpi_pm.state.request == acpi_pm.OFF:
            self.end(0, "the guest switched the machine off")
        elif self.acpi_pm.state.request == acpi_pm.RESTART:
            self.end(RESET_EXIT_CODE, "the guest asked for a reset")
        self._wires()

    def mmio_regions(self) -> list[tuple[int, int]]:
        return [(ioapic.BASE, ioapic.SIZE), (lapic.BASE, lapic.SIZE), (TEST_RAM, TEST_RAM_SIZE)]

    def _apic_at(self, gpa: int):
        """(device, offset) of an APIC page, or (None, 0)."""
        for base, device in ((ioapic.BASE, self.ioapic), (lapic.BASE, self.lapic)):
            if base <= gpa < base + ioapic.SIZE:
                return device, gpa - base
        return None, 0

    def mmio_read(self, gpa: int, size: int) -> int:
        device, offset = self._apic_at(gpa)
        if TEST_RAM <= gpa <= TEST_RAM + TEST_RAM_SIZE - size:
            return int.from_bytes(self.test_ram[gpa - TEST_RAM : gpa - TEST_RAM + size], "little")
        if device is None:
            return ones(size)
        return device.read(offset & ~15) >> 8 * (offset & 15) & ones(size) if offset & 15 < 4 else 0

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        device, offset = self._apic_at(gpa)
        if TEST_RAM <= gpa <= TEST_RAM + TEST_RAM_SIZE - size:
            self.test_ram[gpa - TEST_RAM : gpa - TEST_RAM + size] = (value & ones(size)).to_bytes(size, "little")
        # Only aligned 32-bit stores are defined; the upper half of a longer one falls on reserved bytes.
        if device is not None and not offset & 15 and size >= 4:
            device.write(offset, value & ones(4))

    def receive(self, data: bytes) -> int:
        """Type bytes at the serial console; returns how many were taken."""
        taken = self.uart.receive(data)
        self._wires()
        return taken

    def pending_interrupt(self, cpu: int = 0) -> int | None:
        vector = self.lapics[cpu].pending()
        if vector is None and self.lapics[cpu].accepts_extint():
            vector = self.pic.pending()
        return vector

    def acknowledge_interrupt(self, cpu: int = 0) -> int:
        vector = self.lapics[cpu].pending()
        if vector is None:
            return self.pic.acknowledge()
        self.lapics[cpu].acknowledge(vector)
        return vector

    def pending_nmis(self, cpu: int = 0) -> int:
        return self.lapics[cpu].state.nmi

    def set_pending_nmis(self, cpu: int, count: int) -> None:
        self.lapics[cpu].state.nmi = count

    def sent_message(self, cpu: int) -> bool:
        sent, self.lapics[cpu].sent = self.lapics[cpu].sent, False
        return sent

    def has_signal(self, cpu: int) -> bool:
        return bool(self.lapics[cpu].state.signals)

    def take_signal(self, cpu: int) -> tuple[bool, int | None]:
        apic = self.lapics[cpu]
        signals, apic.state.signals = apic.state.signals, 0
        if signals & lapic.SIGNAL_INIT:
            apic.initialise()
        return bool(signals & lapic.SIGNAL_INIT), apic.state.startup_vector if signals & lapic.SIGNAL_STARTUP else None

    def advance(self, ns: int) -> None:
        super().advance(ns)
        self.cmos.state.now = self.acpi_pm.state.now = self.now
        self.pit.advance(self.now)
        for apic in self.lapics:
            apic.advance(self.now)

    def next_event(self) -> int | None:
        ends = (self.pit.next_event(), *(apic.next_event() for apic in self.lapics))
        times = [time for time in ends if time is not None]
        return max(min(times) - self.now, 0) if times else None

    def _devices(self) -> dict:
        found = {name: getattr(self, name) for name in ("uart", "pic", "pit", "cmos", "fw_cfg", "acpi_pm", "ioapic", "testdev")}
        return found | {f"lapic{number or ''}": apic for number, apic in enumerate(self.lapics)}

    def snapshot(self) -> dict:
        states = {name: copy.deepcopy(device.state) for name, device in self._devices().items()}
        return {**super().snapshot(), "devices": states, "test_ram": bytes(self.test_ram)}

    def restore(self, snapshot: dict) -> None:
        super().restore(snapshot)
        self.test_ram[:] = snapshot["test_ram"]
        for name, device in self._devices().items():
            device.state = copy.deepcopy(snapshot["devices"][name])


PLATFORMS = {platform.name: platform for platform in (GoldenPlatform, PcPlatform)}


def make(name: str, memory_size: int, cpus: int = 1, **callbacks) -> Platform:
    """Make the platform a `GuestImage` asks for.

    Args:
        name: "golden" or "pc".
        memory_size: bytes of RAM.
        cpus: number of CPUs; more than one only with "pc".
        callbacks: any of Platform's ``on_...`` attributes.

    Raises:
        ValueError: no such platform.
    """
    if name not in PLATFORMS:
        raise ValueError(f"platform {name!r} is not one of {', '.join(PLATFORMS)}")
    more = {} if cpus == 1 else {"cpus": cpus}
    return PLATFORMS[name](memory_size, **more, **callbacks)
