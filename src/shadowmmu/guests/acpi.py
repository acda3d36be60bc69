# SPDX-License-Identifier: GPL-2.0-or-later
"""The ACPI tables of the platform "pc": enough for a stock kernel to find its CPUs and to switch the machine off.

    RSDP --> XSDT --> FADT --> FACS, DSDT (only \\_S5)         ports of devices/acpi_pm
                  +-> MADT: one local APIC a CPU, one I/O APIC if the machine has one

Layouts: ACPI specification 6.4, section 5.2.  The tables lie below 1 MiB where a BIOS would put them; the memory
map calls that range reserved.
"""

import struct

from .devices import acpi_pm, lapic

BASE, END = 0xE0000, 0xF0000
OEM = b"SHADOW", b"SHADOWMM", 1, b"SMMU", 1

LOCAL_APIC, IO_APIC, SOURCE_OVERRIDE = 0, 1, 2
PCAT_COMPAT = 1  # an 8259 pair is there too
# FADT flags: WBINVD works, no power or sleep button, a reset register, 32-bit PM timer
WBINVD, NO_POWER_BUTTON, NO_SLEEP_BUTTON, TIMER_32, RESET = 1 << 0, 1 << 4, 1 << 5, 1 << 8, 1 << 10
IAPC_LEGACY_DEVICES, IAPC_NO_VGA = 1 << 0, 1 << 2

#: AML of Name (\\_S5, Package (4) { type, type, 0, 0 })
SLEEP_STATE_5 = bytes((0x08, 0x5F, 0x53, 0x35, 0x5F, 0x12, 0x08, 0x04, 0x0A, acpi_pm.SLEEP_TYPE_OFF, 0x0A,
                       acpi_pm.SLEEP_TYPE_OFF, 0x00, 0x00))


def _sum_to_zero(data, at):
    data = bytearray(data)
    data[at] = 0
    data[at] = -sum(data) & 0xFF
    return bytes(data)


def _table(signature, revision, body):
    header = struct.pack("<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, *OEM)
    return _sum_to_zero(header + body, 9)


def _register(port, size):
    """Generic address structure of an I/O port."""
    return struct.pack("<BBBBQ", 1, 8 * size, 0, {1: 1, 2: 2, 4: 3}[size], port)


def _fadt(facs, dsdt):
    flags = WBINVD | NO_POWER_BUTTON | NO_SLEEP_BUTTON | TIMER_32 | RESET
    body = struct.pack("<IIBBHIBBBB", facs, dsdt, 0, 0, acpi_pm.SCI, 0, 0, 0, 0, 0)
    body += struct.pack("<8I", acpi_pm.EVENT, 0, acpi_pm.CONTROL, 0, 0, acpi_pm.TIMER, 0, 0)
    # lengths of PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1; GPE1 base, C-state control
    body += struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0)
    # C2 and C3 latencies above their limits: not there; flush size and stride, duty cycle, alarms, century
    body += struct.pack("<4H5BHBI", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, 0x32, IAPC_LEGACY_DEVICES | IAPC_NO_VGA, 0, flags)
    body += _register(acpi_pm.RESET, 1) + struct.pack("<BHB", acpi_pm.RESET_VALUE, 0, 4)
    body += struct.pack("<QQ", facs, dsdt)
    none = bytes(12)
    body += (_register(acpi_pm.EVENT, 4) + none + _register(acpi_pm.CONTROL, 2) + none + none
             + _register(acpi_pm.TIMER, 4) + none + none + none + none)
    return _table(b"FACP", 6, body + bytes(8))


def _madt(cpus, io_apic):
    body = struct.pack("<II", lapic.BASE, PCAT_COMPAT)
    for cpu in range(cpus):
        body += struct.pack("<BBBBI", LOCAL_APIC, 8, cpu, cpu, 1)
    if io_apic is not None:
        body += struct.pack("<BBBBII", IO_APIC, 12, cpus, 0, io_apic, 0)
        # the timer's IRQ 0 arrives at input 2, as on every PC
        body += struct.pack("<BBBBIH", SOURCE_OVERRIDE, 10, 0, 0, 2, 0)
    return _table(b"APIC", 4, body)


def tables(cpus=1, io_apic=None):
    """(address of the RSDP, [(gpa, bytes)]).  cpus: processors with APIC IDs 0...  io_apic: its address, or None."""
    parts, at = [], BASE + 64

    def place(data):
        nonlocal at
        where, at = at, (at + len(data) + 63) & -64
        parts.append((where, data))
        return where

    facs = place(struct.pack("<4sIIIIIQB", b"FACS", 64, 0, 0, 0, 0, 0, 2).ljust(64, b"\0"))
    dsdt = place(_table(b"DSDT", 2, SLEEP_STATE_5))
    roots = [place(_fadt(facs, dsdt)), place(_madt(cpus, io_apic))]
    xsdt = place(_table(b"XSDT", 1, struct.pack(f"<{len(roots)}Q", *roots)))
    rsdp = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM[0], 2, 0, 36, xsdt, 0)
    rsdp = _sum_to_zero(rsdp[:20], 8) + rsdp[20:]
    parts.append((BASE, _sum_to_zero(rsdp, 32)))
    return BASE, parts
