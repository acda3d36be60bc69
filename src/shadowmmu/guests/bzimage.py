# SPDX-License-Identifier: GPL-2.0-or-later
"""Loader of Linux's bzImage: 64-bit and 32-bit boot protocol.

    file: | boot sector + setup, (setup_sects + 1) * 512 bytes | protected-mode code ... |
                 0x1f1 setup header                            --> load address; entry +0x200 (64-bit) or +0 (32-bit)

The kernel is loaded where it prefers; a relocatable one elsewhere when that does not fit.  The 64-bit entry is
used when the kernel has one (xloadflags bit 0).  Documentation/arch/x86/boot.rst has the meaning of every field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

from . import acpi, boot_params
from .image import PAGE, GuestImage, GuestImageError, read_file

MAX_FILE = 1 << 30
HEADER = 0x1F1
MIN_VERSION = 0x0206  # cmdline_size; every kernel since 2.6.22
LOADED_HIGH = 1
KERNEL_64 = 1
ENTRY_64 = 0x200
LEGACY_LOAD = 0x100000


@dataclass(frozen=True)
class SetupHeader:
    """The fields that matter to a loader."""

    version: int
    setup_size: int
    relocatable: bool
    alignment: int
    entry64: bool
    cmdline_size: int
    initrd_max: int
    preferred: int
    init_size: int
    raw: bytes


def is_bzimage(contents: bytes) -> bool:
    """Does the file carry the setup header's magic?"""
    return contents[0x202:0x206] == b"HdrS"


def read_header(file: object, contents: bytes) -> SetupHeader:
    """Read and check the setup header.  Raises GuestImageError, which names the field and its offset."""
    if len(contents) < 0x264:
        raise GuestImageError(file, f"{len(contents)} bytes are less than a Linux setup header")
    if struct.unpack_from("<H", contents, 0x1FE)[0] != 0xAA55:
        raise GuestImageError(file, "boot_flag is not 0xaa55", "offset 0x1fe")
    if not is_bzimage(contents):
        raise GuestImageError(file, "no HdrS magic: not a Linux kernel image", "offset 0x202")
    version = struct.unpack_from("<H", contents, 0x206)[0]
    if version < MIN_VERSION:
        raise GuestImageError(file, f"boot protocol {version >> 8}.{version & 0xFF:02}, 2.06 or later is needed",
                              "offset 0x206")
    if not contents[0x211] & LOADED_HIGH:
        raise GuestImageError(file, "loadflags has no LOADED_HIGH: a zImage, not a bzImage", "offset 0x211")
    setup_size = ((contents[HEADER] or 4) + 1) * 512
    if setup_size >= len(contents):
        raise GuestImageError(file, f"truncated: the setup code needs {setup_size} bytes, the file has {len(contents)}",
                              "offset 0x1f1")
    end = 0x202 + contents[0x201]
    if not 0x22C + 4 <= end <= 0x290:
        raise GuestImageError(file, f"the jump at 0x200 ends the setup header at {end:#x}", "offset 0x201")
    alignment, relocatable, flags = struct.unpack_from("<I", contents, 0x230)[0], contents[0x234], 0
    preferred, init_size = LEGACY_LOAD, 0
    cmdline_size = struct.unpack_from("<I", contents, 0x238)[0]
    if version >= 0x020A:
        preferred, init_size = struct.unpack_from("<QI", contents, 0x258)
        if relocatable and (not alignment or alignment & (alignment - 1) or alignment < PAGE):
            raise GuestImageError(file, f"kernel_alignment {alignment:#x} is no power of two of at least 4 KiB", "offset 0x230")
        if preferred % PAGE or preferred < LEGACY_LOAD:
            raise GuestImageError(file, f"pref_address {preferred:#x} is no page above 1 MiB", "offset 0x258")
    if version >= 0x020C:
        flags = struct.unpack_from("<H", contents, 0x236)[0]
    code = len(contents) - setup_size
    declared = struct.unpack_from("<I", contents, 0x1F4)[0] * 16
    if version >= 0x0204 and declared > (code + 15 & ~15):
        raise GuestImageError(file, f"truncated: syssize says {declared} bytes of code, the file has {code}", "offset 0x1f4")
    initrd_max = struct.unpack_from("<I", contents, 0x22C)[0]
    return SetupHeader(version, setup_size, bool(relocatable), alignment, bool(flags & KERNEL_64), cmdline_size, initrd_max,
                       preferred, max(init_size, code), contents[HEADER:end])


def load_address(file, header: SetupHeader, memory_size):
    """Where the protected-mode code goes: the preferred place, or the lowest aligned one if only that fits."""
    if header.preferred + header.init_size <= memory_size:
        return header.preferred
    if header.relocatable:
        at = -(-LEGACY_LOAD // header.alignment) * header.alignment
        if at + header.init_size <= memory_size:
            return at
    raise GuestImageError(file, f"the kernel needs {header.init_size:#x} bytes at {header.preferred:#x}, memory ends at "
                                f"{memory_size:#x}", "init_size, offset 0x260")


def load(path, append="", initrd=None, machine=None, entry="auto", pcid=False) -> GuestImage:
    """Load a bzImage.

    append: command line.  initrd: file or None.  machine: a `boot_params.Machine`.  entry: "auto", "linux64" or
    "linux32".  Raises GuestImageError for anything about the files or sizes that cannot work.
    """
    path = Path(path)
    boot_params.check_machine(path, machine)
    contents = read_file(path, MAX_FILE, "kernel")
    header = read_header(path, contents)
    if entry == "linux64" and not header.entry64:
        raise GuestImageError(path, "the kernel has no 64-bit entry (xloadflags bit 0)", "offset 0x236")
    at = load_address(path, header, machine.memory_size)
    cmdline = boot_params.command_line(path, append, header.cmdline_size)
    initrd_at, initrd_data = boot_params.place_initrd(path, initrd, machine, at + header.init_size, header.initrd_max)
    rsdp, tables = acpi.tables(machine.cpus, machine.io_apic)
    page = bytearray(boot_params.zero_page(header.raw, machine, initrd_at, len(initrd_data), rsdp))
    struct.pack_into("<I", page, 0x214, at)  # code32_start
    segments = [*tables, (boot_params.ZERO_PAGE, bytes(page)), (boot_params.CMDLINE_AT, cmdline),
                (at, contents[header.setup_size:])]
    if initrd_data:
        segments.append((initrd_at, initrd_data))
    if header.entry64 and entry != "linux32":
        segments.append(boot_params.identity_tables())
        state, gdt = boot_params.entry64(at + ENTRY_64, rsi=boot_params.ZERO_PAGE)
    else:
        state, gdt = boot_params.entry32(at, rsi=boot_params.ZERO_PAGE)
    segments.append(gdt)
    return GuestImage(path.name, machine.memory_size, tuple(segments), replace(state, pcid=pcid), "pc")
