# SPDX-License-Identifier: GPL-2.0-or-later
"""Small 64-bit guests made by hand: identity-mapped first 4 MiB, code at 0x8000, ends with OUT to port 0xf4.

    0x10000 PML4 -> 0x11000 PDPT -> 0x12000 PD -> 0x13000, 0x14000 PT (4K pages, gpa = gva)
"""

import struct

from shadowmmu.guests.image import DescriptorTable, EntryState, GuestImage, flat_segments

MEMORY = 16 << 20
PML4, PDPT, PD, PT0, PT1 = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000
CODE, STACK = 0x8000, 0x5000
#: mov edx, 0xf4; xor eax, eax; out dx, eax
END = bytes.fromhex("ba f4000000 31c0 ef".replace(" ", ""))


def tables(flags=7):
    """The page tables as segments."""
    pt0 = b"".join(struct.pack("<Q", i << 12 | flags) for i in range(512))
    pt1 = b"".join(struct.pack("<Q", (512 + i) << 12 | flags) for i in range(512))
    return ((PML4, struct.pack("<Q", PDPT | 7)), (PDPT, struct.pack("<Q", PD | 7)),
            (PD, struct.pack("<QQ", PT0 | 7, PT1 | 7)), (PT0, pt0), (PT1, pt1))


def image(code, *, segments=(), gprs=None, cr4=0x20 | 0x600, idt=None, pcid=False):
    """A guest that runs `code` and then ends."""
    entry = EntryState(cr0=0x80010033, cr3=PML4, cr4=cr4, efer=0xD00, rip=CODE, rsp=STACK,
                       gdtr=DescriptorTable(0x1000, 0xFF), idtr=idt or DescriptorTable(0x1400, 0x1FF),
                       gprs=gprs or {}, mode="lm64", pcid=pcid, **flat_segments(0x18, 0x10, True))
    gdt = struct.pack("<4Q", 0, 0, 0x00CF93000000FFFF, 0x00AF9B000000FFFF)
    return GuestImage("test", MEMORY, (*tables(), (0x1000, gdt), (CODE, code + END), *segments), entry, "golden")
