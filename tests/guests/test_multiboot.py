# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot images made here byte by byte: good ones load where they say, bad ones fail in one line."""

import random
import struct

import pytest

from shadowmmu.guests import multiboot
from shadowmmu.guests.image import GuestImageError

MAGIC = 0x1BADB002


def header(flags=3, checksum=None, addresses=b""):
    return struct.pack("<3I", MAGIC, flags, -(MAGIC + flags) & 0xFFFFFFFF if checksum is None else checksum) + addresses


def elf32(segments, entry=0x100000, body=None, machine=3, kind=2, cut=None):
    """``segments``: (vaddr, paddr, offset, filesz, memsz); the body starts at offset 0x200."""
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    start = struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, entry, 52, 0, 0, 52, 32, len(segments), 40, 0, 0)
    table = b"".join(struct.pack("<8I", 1, o, v, p, f, m, 7, 4096) for v, p, o, f, m in segments)
    image = (ident + start + table).ljust(0x200, b"\0") + (header() + b"\x90" * 100 if body is None else body)
    return image[:cut]


def elf64(paddr=0x100000, vaddr=0xFFFFFFFF80100000, entry=0x100000):
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    start = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    table = struct.pack("<IIQQQQQQ", 1, 7, 0x200, vaddr, paddr, 64, 128, 4096)
    return (ident + start + table).ljust(0x200, b"\0") + header() + bytes(100)


ONE = [(0x100000, 0x100000, 0x200, 64, 0x3000)]


def load(folder, contents, *arguments, **options):
    path = folder / "kernel.elf"
    path.write_bytes(contents)
    return multiboot.load(path, *arguments, **options)


def memory_of(image):
    memory = bytearray(image.memory_size)
    image.load_into(memory)
    return memory


def info_of(image):
    memory, at = memory_of(image), image.entry.gprs["rbx"]
    names = ("flags", "lower", "upper", "boot", "cmdline", "mods", "mods_addr")
    return memory, dict(zip(names, struct.unpack_from("<7I", memory, at), strict=True))


def text_at(memory, at):
    return bytes(memory[at : memory.index(0, at)]).decode()


def test_elf32(tmp_path):
    image = load(tmp_path, elf32(ONE), "one two=3", memory_size=16 << 20)
    memory, info = info_of(image)
    entry = image.entry
    assert (entry.rip, entry.gprs["rax"], entry.cr0 & 0x80000001, entry.rflags) == (0x100000, 0x2BADB002, 1, 2)
    assert (entry.cs.base, entry.cs.limit, entry.cs.default_big, entry.cs.long) == (0, 0xFFFFFFFF, True, False)
    assert memory[0x100000:0x10000C] == header()
    assert not any(memory[0x100040:0x103000])  # bss
    assert info["flags"] & 5 == 5 and not info["flags"] & 0x48
    assert (info["lower"], info["upper"], info["mods"]) == (640, 15 * 1024, 0)
    assert text_at(memory, info["cmdline"]) == "kernel.elf one two=3"
    assert not any(memory[:4096])  # nothing in page 0


def test_modules_lie_page_aligned_behind_bss(tmp_path):
    (tmp_path / "a").write_bytes(b"A" * 5000)
    (tmp_path / "b").write_bytes(b"NR_CPUS=1\n")
    image = load(tmp_path, elf32(ONE), modules=[(tmp_path / "a", "first"), (tmp_path / "b", "initrd x")])
    memory, info = info_of(image)
    assert info["flags"] & 8 and info["mods"] == 2
    first, second = (struct.unpack_from("<4I", memory, info["mods_addr"] + 16 * i) for i in range(2))
    assert first[:2] == (0x103000, 0x103000 + 5000) and second[:2] == (0x105000, 0x105000 + 10)
    assert [text_at(memory, m[2]) for m in (first, second)] == ["first", "initrd x"]
    assert memory[slice(*second[:2])] == b"NR_CPUS=1\n"


def test_elf64_with_high_link_address(tmp_path):
    assert load(tmp_path, elf64()).entry.rip == 0x100000
    assert load(tmp_path, elf64(entry=0xFFFFFFFF80100010)).entry.rip == 0x100010


def test_block_moves_away_from_a_low_kernel(tmp_path):
    image = load(tmp_path, elf32([(0x8000, 0x8000, 0x200, 64, 0x4000)], entry=0x8000))
    assert image.entry.gprs["rbx"] >= 1 << 20


def kludge(header_addr=0x100010, load=0x100000, load_end=0, bss_end=0, entry=0x100040, size=256):
    fields = struct.pack("<5I", header_addr, load, load_end, bss_end, entry)
    return (b"\xcc" * 16 + header(0x10003, addresses=fields)).ljust(size, b"\x90")


def test_address_fields(tmp_path):
    image = load(tmp_path, kludge(bss_end=0x102000))
    assert image.entry.rip == 0x100040 and memory_of(image)[0x100000:0x100100] == kludge(bss_end=0x102000)
    assert load(tmp_path, kludge(load_end=0x100080)).segments[0] == (0x100000, kludge(load_end=0x100080)[:128])


def segment(paddr=0x100000, offset=0x200, filesz=64, memsz=64):
    return (paddr, paddr, offset, filesz, memsz)


BAD = {
    "no multiboot header": b"",
    "no multiboot header in the first 8 KiB": b"\0" * 8192 + header(),
    "no multiboot header in": elf32(ONE, body=b"\0" + header()),  # not aligned
    "offset 0x200: multiboot header has a bad checksum": elf32(ONE, body=header(checksum=1)),
    "demands flags 0x4": elf32(ONE, body=header(7)),
    "demands flags 0x8000": elf32(ONE, body=header(0x8000)),
    "not a readable ELF": header() + bytes(100),
    "not a readable ELF file": b"\x7fELF" + header() + bytes(100),
    "is not x86": elf32(ONE, machine=40),
    "not an executable": elf32(ONE, kind=3),
    "no segment to load": elf32([]),
    "segment 0: file size 0x40 exceeds memory size 0x20": elf32([segment(memsz=0x20)]),
    "segment 0: truncated": elf32([segment(filesz=0x10000, memsz=0x10000)]),
    "segment 0: truncated: needs": elf32([segment(offset=0xFFFFFFF0)]),
    "is outside the 0x8000000": elf32([segment(0x8000000)]),
    "0xfffffff0..0x100000030 is outside": elf32([segment(0xFFFFFFF0)]),
    "segment 0: 0x100000..0x1000fffff is outside": elf32([segment(memsz=0xFFFFFFFF)]),
    "segment 1: overlaps segment 0 at 0x101000": elf32([segment(memsz=0x2000), segment(0x101000)]),
    "segment 0: overlaps segment 1": elf32([segment(0x101000), segment(memsz=0x2000)]),
    "entry 0x200000 is in no loaded": elf32(ONE, entry=0x200000),
    "truncated: 900 program headers": elf32(ONE)[:44] + struct.pack("<H", 900) + elf32(ONE)[46:],
    "program headers of 48 bytes": elf32(ONE)[:42] + struct.pack("<H", 48) + elf32(ONE)[44:],
    "header_addr is below": kludge(header_addr=0xFFFFF),
    "before the file's first byte": kludge(header_addr=0x100011),
    "load_end_addr is below": kludge(load_end=0xFFFFF),
    "truncated: text and data": kludge(load_end=0x101000),
    "bss_end_addr is below": kludge(bss_end=0x100001),
    "address fields are cut off": header(0x10003) + bytes(8),
    "image: 0x100000..0xfffff000 is outside": kludge(bss_end=0xFFFFF000),
    "0x200000000..0x200000080 is outside": elf64(paddr=0x200000000),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_images(tmp_path, message):
    with pytest.raises(GuestImageError) as error:
        load(tmp_path, BAD[message])
    text = str(error.value)
    assert message in text and "\n" not in text and "kernel.elf" in text


def test_nothing_above_4_gib_even_with_more_memory(tmp_path):
    with pytest.raises(GuestImageError, match="in reach"):
        load(tmp_path, elf64(paddr=0x100000000), memory_size=8 << 30)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"memory_size": 1 << 20}, "less than 2 MiB"),
        ({"memory_size": 12345}, "memory size"),
        ({"memory_size": 1 << 60}, "memory size"),
        ({"arguments": "x" * 70000}, "command line"),
        ({"arguments": "a\0b"}, "NUL"),
        ({"modules": [("/nonexistent", "")]}, "cannot read the module 0"),
        ({"modules": [("BIG", "")], "memory_size": 2 << 20}, "module 0: 2097152 bytes at 0x103000 do not fit"),
        ({"modules": [("/nonexistent", "")] * 1025}, "1025 modules"),
    ],
)
def test_bad_options(tmp_path, options, message):
    if options.get("modules", [("",)])[0][0] == "BIG":
        (tmp_path / "big").write_bytes(bytes(2 << 20))
        options = {**options, "modules": [(tmp_path / "big", "")]}
    with pytest.raises(GuestImageError) as error:
        load(tmp_path, elf32(ONE), **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_give_no_other_exception(tmp_path):
    """Every byte of the ELF structures damaged at random: loads or fails properly."""
    dice, good, loaded = random.Random(1), bytearray(elf32(ONE)), 0
    for _ in range(1500):
        image = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            image[dice.randrange(84)] = dice.choice((0, 1, 2, 3, 0x40, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        if dice.random() < 0.1:
            del image[dice.randrange(len(image)) :]
        try:
            load(tmp_path, bytes(image))
            loaded += 1
        except GuestImageError as error:
            assert "\n" not in str(error)
    assert loaded
