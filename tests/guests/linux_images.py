# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiny kernels for the loaders: they print the command line they were given and switch the machine off.

    bzimage(...)   setup header (Documentation/arch/x86/boot.rst) + 32-bit code at 0 + 64-bit code at 0x200
    elf(...)       ELF64 with one segment, and a Xen note if it has a PVH entry
"""

import struct

SERIAL = bytes.fromhex("66baf803")              # mov $0x3f8, %dx
OFF = bytes.fromhex("66ba0406 66b80034 66ef f4")  # mov $0x604, %dx; mov $0x3400, %ax (SLP_EN, type 5); out; hlt
LOOP64 = bytes.fromhex("8a03 84c0 7406 ee 48ffc3 ebf4")  # print the string at (%rbx)
LOOP32 = bytes.fromhex("8a03 84c0 7404 ee 43 ebf6")
FROM_ZERO_PAGE = bytes.fromhex("8b9e28020000")  # mov 0x228(%rsi), %ebx: cmd_line_ptr
FROM_START_INFO = bytes.fromhex("8b5b18")       # mov 0x18(%ebx), %ebx: cmdline_paddr
CODE64 = FROM_ZERO_PAGE + SERIAL + LOOP64 + OFF
CODE32 = FROM_ZERO_PAGE + SERIAL + LOOP32 + OFF
CODE_PVH = FROM_START_INFO + SERIAL + LOOP32 + OFF

#: field -> (offset, struct format, value of a good image)
FIELDS = {
    "setup_sects": (0x1F1, "B", 1), "syssize": (0x1F4, "<I", 0), "boot_flag": (0x1FE, "<H", 0xAA55),
    "jump": (0x201, "B", 0x66), "magic": (0x202, "<I", 0x53726448), "version": (0x206, "<H", 0x020F),
    "loadflags": (0x211, "B", 1), "initrd_addr_max": (0x22C, "<I", 0x7FFFFFFF), "kernel_alignment": (0x230, "<I", 0x200000),
    "relocatable": (0x234, "B", 1), "xloadflags": (0x236, "<H", 1), "cmdline_size": (0x238, "<I", 255),
    "pref_address": (0x258, "<Q", 0x1000000), "init_size": (0x260, "<I", 0x100000),
}


def bzimage(**changed):
    """A bzImage; fields by name as in FIELDS."""
    image = bytearray(1024) + CODE32.ljust(0x200, b"\xf4") + CODE64
    for name, (offset, form, value) in FIELDS.items():
        struct.pack_into(form, image, offset, changed.get(name, value))
    return bytes(image)


def elf(*, pvh=False, at=0x1000000, note_size=4, memory_size=None, kind=2):
    """A vmlinux: code for the 64-bit entry at `at`, for the PVH entry at `at` + 0x200."""
    code = CODE64.ljust(0x200, b"\xf4") + CODE_PVH
    note = struct.pack("<III4s", 4, note_size, 18, b"Xen\0") + struct.pack("<Q", at + 0x200)[:(note_size + 3) & ~3]
    headers = 2 if pvh else 1
    start = 64 + 56 * headers
    out = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    out += struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, at, 64, 0, 0, 64, 56, headers, 0, 0, 0)
    out += struct.pack("<IIQQQQQQ", 1, 7, start, at, at, len(code), memory_size or len(code), 4096)
    if pvh:
        out += struct.pack("<IIQQQQQQ", 4, 4, start + len(code), 0, 0, len(note), len(note), 4)
    return out + code + (note if pvh else b"")
