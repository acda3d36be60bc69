# SPDX-License-Identifier: GPL-2.0-or-later
"""Loader of uncompressed kernels: vmlinux (ELF64) by the 64-bit boot protocol, or through its PVH entry.

    PT_NOTE "Xen" type 18 --> 32-bit physical entry, EBX = hvm_start_info        (entry "pvh", the default if present)
    e_entry (physical)    --> long mode, RSI = zero page without a setup header  (entry "linux64")

ELF parsing and its errors are those of the multiboot loader.
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from . import acpi, boot_params, multiboot
from .image import PAGE, GuestImage, GuestImageError, read_file

MAX_FILE = 1 << 30
PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY
MAX_CMDLINE = 2047  # COMMAND_LINE_SIZE of x86 is 2048
INITRD_MAX = 0x7FFF_FFFF
MAX_NOTES = 1 << 20


def is_elf(contents: bytes) -> bool:
    return contents[:4] == b"\x7fELF"


def pvh_entry(file, contents: bytes) -> int | None:
    """The 32-bit entry address from the Xen note, or None.  Notes that do not parse are an error."""
    elf = ELFFile(io.BytesIO(contents))
    for index in range(elf["e_phnum"]):
        header = elf.get_segment(index).header
        if header["p_type"] != "PT_NOTE":
            continue
        start, size, where = header["p_offset"], header["p_filesz"], f"segment {index}"
        if start + size > len(contents) or size > MAX_NOTES:
            raise GuestImageError(file, f"truncated or oversized notes ({size} bytes)", where)
        at, end = start, start + size
        while at + 12 <= end:
            name_size, data_size, kind = struct.unpack_from("<III", contents, at)
            name_at, data_at = at + 12, at + 12 + (name_size + 3 & ~3)
            if data_at + data_size > end:
                raise GuestImageError(file, "a note is longer than its segment", where)
            if kind == PHYS32_ENTRY and contents[name_at:name_at + name_size] == b"Xen\0":
                if data_size not in (4, 8):
                    raise GuestImageError(file, f"the PVH entry note has {data_size} bytes, 4 or 8 are defined", where)
                return int.from_bytes(contents[data_at:data_at + data_size], "little")
            at = data_at + (data_size + 3 & ~3)
    return None


def _setup_header():
    """What a kernel entered without a setup header expects in the zero page: magic, version, alignment."""
    raw = bytearray(0x78)
    struct.pack_into("<H", raw, 0x1FE - 0x1F1, 0xAA55)
    raw[0x202 - 0x1F1:0x206 - 0x1F1] = b"HdrS"
    struct.pack_into("<H", raw, 0x206 - 0x1F1, 0x020C)
    struct.pack_into("<I", raw, 0x230 - 0x1F1, 0x1000000)
    struct.pack_into("<I", raw, 0x238 - 0x1F1, MAX_CMDLINE)
    return bytes(raw)


def load(path, append="", initrd=None, machine=None, entry="auto", pcid=False) -> GuestImage:
    """Load a vmlinux.  Arguments as `bzimage.load`; entry: "auto", "pvh" or "linux64"."""
    path = Path(path)
    boot_params.check_machine(path, machine)
    contents = read_file(path, MAX_FILE, "kernel")
    parts, rip = multiboot.elf_parts(path, contents)
    pvh = pvh_entry(path, contents)
    if entry == "pvh" and pvh is None:
        raise GuestImageError(path, "no PVH entry: no Xen note of type 18")
    use_pvh = pvh is not None and entry != "linux64"
    if not use_pvh and contents[4] != 2:
        raise GuestImageError(path, "a 32-bit ELF kernel without multiboot header and without PVH entry")
    if pvh is not None and use_pvh:
        rip = pvh
    multiboot.check_parts(path, parts, rip, machine.memory_size)
    for part in parts:
        if part.gpa < 0x100000:
            raise GuestImageError(path, f"{part.gpa:#x} lies below 1 MiB, where the boot information goes", part.what)
    end = max(part.gpa + part.size for part in parts)
    cmdline = boot_params.command_line(path, append, MAX_CMDLINE)
    initrd_at, initrd_data = boot_params.place_initrd(path, initrd, machine, end + PAGE & -PAGE, INITRD_MAX)
    rsdp, tables = acpi.tables(machine.cpus, machine.io_apic)
    segments = [*tables, (boot_params.CMDLINE_AT, cmdline), *((p.gpa, bytes(p.contents)) for p in parts if p.contents)]
    if initrd_data:
        segments.append((initrd_at, initrd_data))
    if use_pvh:
        modules = [(initrd_at, len(initrd_data))] if initrd_data else []
        segments.append((boot_params.ZERO_PAGE, boot_params.start_info(machine, modules, rsdp)))
        state, gdt = boot_params.entry32(rip, rbx=boot_params.ZERO_PAGE)
    else:
        page = boot_params.zero_page(_setup_header(), machine, initrd_at, len(initrd_data), rsdp)
        segments += [(boot_params.ZERO_PAGE, page), boot_params.identity_tables()]
        state, gdt = boot_params.entry64(rip, rsi=boot_params.ZERO_PAGE)
    segments.append(gdt)
    return GuestImage(path.name, machine.memory_size, tuple(segments), replace(state, pcid=pcid), "pc")
