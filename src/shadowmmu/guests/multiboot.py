# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 1 loader: ELF kernels and a.out-kludge images, modules, command line.

Memory after loading (sizes not to scale):

    0       4 KiB      36 KiB             640 KiB  1 MiB
    | free  |          | boot block |     |        | kernel | bss | module 0 | module 1 | ... RAM end
                         info, strings, module list
                         (moved behind the modules if the kernel lies there)

Page 0 stays free: a guest may use it for start-up code of other CPUs before it reads the block.
The memory map (info flag 6) is not given: kvm-unit-tests then asks nobody for memory above 4 GiB.
"""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from .image import CR0_PE, PAGE, EntryState, GuestImage, GuestImageError, check_memory_size, flat_segments, read_file

HEADER_MAGIC = 0x1BADB002
HEADER_SEARCH = 8192  # the header lies within this many bytes, 4-byte aligned
BOOT_MAGIC = 0x2BADB002  # EAX at entry

FLAG_PAGE_ALIGN = 1 << 0
FLAG_MEMORY_INFO = 1 << 1
FLAG_ADDRESSES = 1 << 16  # the header's address fields describe the image, not an ELF header
MUST_UNDERSTAND = 0xFFFF
UNDERSTOOD = FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO

INFO_MEMORY = 1 << 0
INFO_CMDLINE = 1 << 2
INFO_MODULES = 1 << 3
INFO_SIZE = 120  # through the VBE fields, all zero here
MODULE_ENTRY = struct.Struct("<4I")  # start, end, string, reserved

BLOCK_AT = 0x9000
BLOCK_END = 0x9F000  # below the extended BIOS data area a PC would have
LOWER_KIB = 640
MAX_FILE = 1 << 30
REACH = 1 << 32  # 32-bit entry: kernel, modules and block lie below 4 GiB
MAX_CMDLINE = 64 << 10
MAX_MODULES = 1024


@dataclass(frozen=True)
class Header:
    """The multiboot header; the address fields count only with `FLAG_ADDRESSES`."""

    offset: int
    flags: int
    header_addr: int
    load_addr: int
    load_end_addr: int
    bss_end_addr: int
    entry_addr: int


@dataclass(frozen=True)
class _Part:
    """A piece of the kernel: ``size`` bytes at ``gpa``, of which the file gives the first."""

    gpa: int
    size: int
    contents: memoryview  # of the file: a thousand segments of the same bytes cost nothing
    what: str


def has_magic(contents: bytes) -> bool:
    """Does the magic number stand where a multiboot header may be?"""
    return any(contents[at:at + 4] == HEADER_MAGIC.to_bytes(4, "little")
               for at in range(0, min(len(contents), HEADER_SEARCH) - 11, 4))


def find_header(file: object, contents: bytes) -> Header:
    """Find and check the header.

    Raises:
        GuestImageError: none in the first 8 KiB, bad checksum, or demands we do not know.
    """
    bad = None
    for offset in range(0, min(len(contents), HEADER_SEARCH) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<3I", contents, offset)
        if magic != HEADER_MAGIC:
            continue
        if (magic + flags + checksum) & 0xFFFF_FFFF:
            bad = bad or offset  # the magic may occur by chance before the header
            continue
        if flags & MUST_UNDERSTAND & ~UNDERSTOOD:
            unknown = flags & MUST_UNDERSTAND & ~UNDERSTOOD
            raise GuestImageError(file, f"multiboot header demands flags {unknown:#x}", f"offset {offset:#x}")
        fields = (0,) * 5
        if flags & FLAG_ADDRESSES:
            if offset + 32 > min(len(contents), HEADER_SEARCH):
                raise GuestImageError(file, "multiboot header's address fields are cut off", f"offset {offset:#x}")
            fields = struct.unpack_from("<5I", contents, offset + 12)
        return Header(offset, flags, *fields)
    if bad is not None:
        raise GuestImageError(file, "multiboot header has a bad checksum", f"offset {bad:#x}")
    raise GuestImageError(file, "no multiboot header in the first 8 KiB")


def _kludge_parts(file: object, contents: bytes, header: Header) -> tuple[list[_Part], int]:
    where = f"offset {header.offset:#x}"
    if header.header_addr < header.load_addr:
        raise GuestImageError(file, "header_addr is below load_addr", where)
    start = header.offset - (header.header_addr - header.load_addr)
    if start < 0:
        raise GuestImageError(file, "load_addr lies before the file's first byte", where)
    if header.load_end_addr and header.load_end_addr < header.load_addr:
        raise GuestImageError(file, "load_end_addr is below load_addr", where)
    length = header.load_end_addr - header.load_addr if header.load_end_addr else len(contents) - start
    if start + length > len(contents):
        raise GuestImageError(file, f"truncated: text and data need {start + length} bytes", where)
    if header.bss_end_addr and header.bss_end_addr < header.load_addr + length:
        raise GuestImageError(file, "bss_end_addr is below the end of data", where)
    size = max(length, header.bss_end_addr - header.load_addr)
    return [_Part(header.load_addr, size, memoryview(contents)[start : start + length], "image")], header.entry_addr


def elf_parts(file: object, contents: bytes) -> tuple[list[_Part], int]:
    """The loadable pieces of an ELF kernel and its physical entry address.  Raises GuestImageError."""
    try:
        elf = ELFFile(io.BytesIO(contents))
        machine, kind, entry, count = elf["e_machine"], elf["e_type"], elf["e_entry"], elf["e_phnum"]
        if machine not in ("EM_386", "EM_X86_64") or not elf.little_endian:
            raise GuestImageError(file, f"ELF machine {machine} is not x86", "offset 0x12")
        if kind != "ET_EXEC":
            raise GuestImageError(file, f"ELF type {kind} is not an executable (ET_EXEC)", "offset 0x10")
        if elf["e_phoff"] + count * elf["e_phentsize"] > len(contents):
            raise GuestImageError(file, f"truncated: {count} program headers", f"offset {elf['e_phoff']:#x}")
        if count and elf["e_phentsize"] != elf.structs.Elf_Phdr.sizeof():
            raise GuestImageError(file, f"program headers of {elf['e_phentsize']} bytes", "ELF header")
        headers = [(i, elf.get_segment(i).header) for i in range(count)]
    except GuestImageError:
        raise
    # pyelftools checks little and raises what its parts raise on fields that make no sense.
    except (ELFError, ConstructError, ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise GuestImageError(file, f"not a readable ELF file ({error or type(error).__name__})") from None

    parts = []
    for index, header in headers:
        where, file_size, size = f"segment {index}", header["p_filesz"], header["p_memsz"]
        if header["p_type"] != "PT_LOAD" or not (size or file_size):
            continue
        if file_size > size:
            raise GuestImageError(file, f"file size {file_size:#x} exceeds memory size {size:#x}", where)
        if header["p_offset"] + file_size > len(contents):
            raise GuestImageError(file, f"truncated: needs {header['p_offset'] + file_size} bytes of file", where)
        data = memoryview(contents)[header["p_offset"] : header["p_offset"] + file_size]
        parts.append(_Part(header["p_paddr"], size, data, where))
        # An entry given as a linear address of a kernel linked elsewhere means this physical one.
        if header["p_vaddr"] != header["p_paddr"] and header["p_vaddr"] <= entry < header["p_vaddr"] + size:
            if not any(p.gpa <= entry < p.gpa + p.size for p in parts):
                entry += header["p_paddr"] - header["p_vaddr"]
    if not parts:
        raise GuestImageError(file, "no segment to load")
    return parts, entry


def check_parts(file: object, parts: list[_Part], entry: int, room: int) -> None:
    """Raise GuestImageError for pieces outside `room` bytes, overlaps, and an entry in no piece."""
    ordered = sorted(parts, key=lambda part: part.gpa)
    for part in ordered:
        if part.gpa + part.size > room:
            span = f"{part.gpa:#x}..{part.gpa + part.size:#x}"
            raise GuestImageError(file, f"{span} is outside the {room:#x} bytes of memory in reach", part.what)
    for lower, upper in itertools.pairwise(ordered):
        if lower.gpa + lower.size > upper.gpa:
            raise GuestImageError(file, f"overlaps {lower.what} at {upper.gpa:#x}", upper.what)
    if not any(part.gpa <= entry < part.gpa + part.size for part in parts):
        raise GuestImageError(file, f"entry {entry:#x} is in no loaded segment")


def _string(file: object, text: str, what: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    if b"\0" in encoded or len(encoded) > MAX_CMDLINE:
        raise GuestImageError(file, f"{what} has a NUL byte or more than {MAX_CMDLINE} bytes")
    return encoded + b"\0"


def _page_up(value: int) -> int:
    return (value + PAGE - 1) & -PAGE


def boot_block(base: int, memory_size: int, cmdline: bytes, modules: list[tuple[int, int, bytes]]) -> bytes:
    """Lay out the info structure, the module list and all strings.

    Args:
        base: where the block will lie.
        memory_size: bytes of RAM; mem_upper is what lies above 1 MiB, in KiB.
        cmdline: NUL-terminated.
        modules: ``(start, end, NUL-terminated string)`` each.
    """
    list_at = base + INFO_SIZE
    strings_at = list_at + MODULE_ENTRY.size * len(modules)
    table, strings = b"", cmdline
    for start, end, text in modules:
        table += MODULE_ENTRY.pack(start, end, strings_at + len(strings), 0)
        strings += text
    flags = INFO_MEMORY | INFO_CMDLINE | (INFO_MODULES if modules else 0)
    upper = min((memory_size - (1 << 20)) >> 10, 2**32 - 1)
    info = struct.pack("<7I", flags, LOWER_KIB, upper, 0, strings_at, len(modules), list_at if modules else 0)
    return info.ljust(INFO_SIZE, b"\0") + table + strings


def load(
    path: str | Path,
    arguments: str = "",
    modules: list[tuple[str | Path, str]] | None = None,
    memory_size: int = 128 << 20,
    pcid: bool = False,
) -> GuestImage:
    """Load a multiboot 1 kernel.

    Args:
        path: the kernel; its file name becomes the command line's first word.
        arguments: the rest of the command line.
        modules: ``(file, string)`` each, e.g. an initrd; loaded page-aligned behind the kernel.
        memory_size: bytes of RAM.
        pcid: whether CPUID shows PCID.

    Returns:
        The guest, for the platform "pc".

    Raises:
        GuestImageError: anything about the files or sizes that cannot work.
    """
    path = Path(path)
    modules = modules or []
    check_memory_size(path, memory_size)
    if memory_size < 2 << 20:
        raise GuestImageError(path, f"memory of {memory_size:#x} bytes is less than 2 MiB")
    if len(modules) > MAX_MODULES:
        raise GuestImageError(path, f"{len(modules)} modules, at most {MAX_MODULES}")
    contents = read_file(path, MAX_FILE, "kernel")
    header = find_header(path, contents)
    kludge = header.flags & FLAG_ADDRESSES
    parts, entry = _kludge_parts(path, contents, header) if kludge else elf_parts(path, contents)
    room = min(memory_size, REACH)
    check_parts(path, parts, entry, room)
    cmdline = _string(path, f"{path.name} {arguments}".strip(), "command line")

    # bss is not stored: memory is zero before loading, and nothing else is put there.
    segments = [(part.gpa, bytes(part.contents)) for part in parts if part.contents]
    end = _page_up(max(max(part.gpa + part.size for part in parts), 1 << 20))
    placed = []
    for number, (module, text) in enumerate(modules):
        data = read_file(Path(module), MAX_FILE, f"module {number}")
        if end + len(data) > room:
            raise GuestImageError(module, f"{len(data)} bytes at {end:#x} do not fit into memory", f"module {number}")
        segments.append((end, data))
        placed.append((end, end + len(data), _string(module, text, f"module {number}'s string")))
        end = _page_up(end + len(data))

    base = BLOCK_AT
    size = len(boot_block(base, memory_size, cmdline, placed))
    if base + size > BLOCK_END or any(p.gpa < base + size and base < p.gpa + p.size for p in parts):
        base = end
        if base + size > room:
            raise GuestImageError(path, f"no room for {size} bytes of boot information at {base:#x}")
    segments.append((base, boot_block(base, memory_size, cmdline, placed)))

    state = EntryState(
        cr0=CR0_PE | 0x10, cr3=0, cr4=0, efer=0, rip=entry, rsp=0,
        gprs={"rax": BOOT_MAGIC, "rbx": base}, pcid=pcid, **flat_segments(0x08, 0x10, False),
    )  # fmt: skip
    return GuestImage(path.name, memory_size, tuple(segments), state, "pc")
