# SPDX-License-Identifier: GPL-2.0-or-later
"""What Linux is told at its entry: memory map, command line, initrd, ACPI; and the entry states of its protocols.

    0x0f000   GDT and, for 64-bit entry, page tables (identity, 4 GiB of 2 MiB pages) at 0x10000..0x16000
    0x18000   zero page (struct boot_params) or hvm_start_info
    0x20000   command line
    0x9fc00   reserved
    0xe0000   ACPI tables                      1 MiB ... kernel ............ initrd | end of RAM

Sources: Documentation/arch/x86/boot.rst and zero-page.rst; Documentation of the PVH start info in Xen's headers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from . import acpi
from .devices import ioapic
from .image import CR0_PE, EFER_LMA, PAGE, DescriptorTable, EntryState, GuestImageError, flat_segments, read_file

GDT_AT, TABLES_AT, ZERO_PAGE, CMDLINE_AT = 0xF000, 0x10000, 0x18000, 0x20000
MAX_CMDLINE = 0x10000
LOW_END = 0x9FC00
MEMORY_LIMIT = 0xC000_0000  # RAM is one piece; what lies above is for devices
MIN_MEMORY = 8 << 20
MAX_INITRD = 1 << 30

RAM, RESERVED = 1, 2
BOOT_CS, BOOT_DS = 0x10, 0x18
CODE64, CODE32, DATA32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
CR0_ET, CR0_PG, CR4_PAE, EFER_LME = 1 << 4, 1 << 31, 1 << 5, 1 << 8


@dataclass(frozen=True)
class Machine:
    """What loaders need to know of the machine: bytes of RAM, CPUs, address of the I/O APIC or None."""

    memory_size: int
    cpus: int = 1
    io_apic: int | None = ioapic.BASE


def check_machine(path, machine):
    """Raise `GuestImageError` for a memory size that Linux's platform cannot have."""
    if not MIN_MEMORY <= machine.memory_size <= MEMORY_LIMIT:
        raise GuestImageError(path, f"memory of {machine.memory_size >> 20} MiB: a Linux guest takes 8 to 3072 MiB")


def command_line(path, text, limit):
    """The NUL-terminated command line; ``limit`` is what the kernel takes, without the NUL."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise GuestImageError(path, "the command line has a NUL byte")
    if len(data) > min(limit, MAX_CMDLINE - 1):
        raise GuestImageError(path, f"the command line has {len(data)} bytes, the kernel takes {limit}")
    return data + b"\0"


def memory_map(memory_size):
    """e820 entries: (address, size, type)."""
    return ((0, LOW_END, RAM), (LOW_END, 0xA0000 - LOW_END, RESERVED), (acpi.BASE, 0x100000 - acpi.BASE, RESERVED),
            (0x100000, memory_size - 0x100000, RAM))


def place_initrd(path, initrd, machine, kernel_end, highest):
    """(address, bytes): as high as the kernel allows, page-aligned, above the kernel.  (0, b"") without one."""
    if initrd is None:
        return 0, b""
    data = read_file(Path(initrd), MAX_INITRD, "initrd")
    top = min(machine.memory_size, highest + 1)
    at = (top - len(data)) & -PAGE
    if at < kernel_end:
        raise GuestImageError(initrd, f"{len(data)} bytes do not fit between the kernel's end at {kernel_end:#x} and "
                                      f"{top:#x}; give more memory")
    return at, data


def zero_page(header, machine, initrd_at, initrd_size, rsdp):
    """struct boot_params with the setup header ``header`` (bytes from offset 0x1f1)."""
    page = bytearray(PAGE)
    page[0x1F1:0x1F1 + len(header)] = header
    struct.pack_into("<Q", page, 0x070, rsdp)
    page[0x210] = 0xFF  # type_of_loader: none of the registered ones
    page[0x211] = page[0x211] | 0x01  # loadflags: the protected-mode code is loaded high
    struct.pack_into("<II", page, 0x218, initrd_at, initrd_size)
    struct.pack_into("<I", page, 0x228, CMDLINE_AT)
    entries = memory_map(machine.memory_size)
    page[0x1E8] = len(entries)
    for number, entry in enumerate(entries):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * number, *entry)
    return bytes(page)


def start_info(machine, modules, rsdp):
    """struct hvm_start_info, its module list and memory map, to lie at ZERO_PAGE.  modules: (address, size) each."""
    entries = memory_map(machine.memory_size)
    modules_at, map_at = ZERO_PAGE + 0x40, ZERO_PAGE + 0x400
    info = struct.pack("<4I4QII", 0x336E_C578, 1, 0, len(modules), modules_at if modules else 0, CMDLINE_AT, rsdp, map_at,
                       len(entries), 0)
    data = bytearray(info.ljust(0x400, b"\0"))
    for number, (at, size) in enumerate(modules):
        struct.pack_into("<4Q", data, 0x40 + 32 * number, at, size, 0, 0)
    return bytes(data) + b"".join(struct.pack("<QQII", *entry, 0) for entry in entries)


def gdt():
    """The descriptors the 32-bit and 64-bit protocols ask for: __BOOT_CS and __BOOT_DS, flat."""
    return GDT_AT, {32: struct.pack("<4Q", 0, 0, CODE32, DATA32), 64: struct.pack("<4Q", 0, 0, CODE64, DATA32)}


def identity_tables():
    """Page tables that map the first 4 GiB to themselves, for 64-bit entry."""
    root = struct.pack("<Q", TABLES_AT + 0x1003).ljust(PAGE, b"\0")
    pointers = b"".join(struct.pack("<Q", TABLES_AT + 0x2003 + i * PAGE) for i in range(4)).ljust(PAGE, b"\0")
    pages = b"".join(struct.pack("<Q", i << 21 | 0x83) for i in range(4 * 512))
    return TABLES_AT, root + pointers + pages


def entry32(rip, **gprs):
    """Protected mode without paging, flat segments, interrupts off."""
    at, data = gdt()
    return EntryState(cr0=CR0_PE | CR0_ET, cr3=0, cr4=0, efer=0, rip=rip, rsp=0, gprs=gprs,
                      gdtr=DescriptorTable(at, len(data[32]) - 1), **flat_segments(BOOT_CS, BOOT_DS, False)), (at, data[32])


def entry64(rip, **gprs):
    """Long mode on `identity_tables`."""
    at, data = gdt()
    return EntryState(cr0=CR0_PE | CR0_ET | CR0_PG, cr3=TABLES_AT, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA, rip=rip, rsp=0,
                      gprs=gprs, mode="lm64", gdtr=DescriptorTable(at, len(data[64]) - 1),
                      **flat_segments(BOOT_CS, BOOT_DS, True)), (at, data[64])
