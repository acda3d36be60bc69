# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest ready to start: memory contents and the CPU's entry state, as plain data.

Loaders make a `GuestImage` from files; engines copy its segments into guest memory, load the
entry state and go. Nothing here knows a file format or an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = 4096
MAX_MEMORY = 64 << 30  # bytes; more is taken for a mistake, not for a wish

CR0_PE = 1 << 0
EFER_LMA = 1 << 10

# Descriptor types (SDM vol. 3, table 3-1), accessed bit set as a loaded register has it.
TYPE_DATA = 3
TYPE_CODE = 11

GPRS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")


class GuestImageError(Exception):
    """A guest's file cannot be used. The message is one line: file, what, where."""

    def __init__(self, file: object, what: str, where: str = "") -> None:
        place = f"{file}: {where}" if where else f"{file}"
        super().__init__(" ".join(f"{place}: {what}".split()))


@dataclass(frozen=True)
class Segment:
    """A segment register as the CPU holds it, hidden part included.

    ``type`` is the descriptor's 4-bit type, ``limit`` in bytes after granularity, ``long`` is L and
    ``default_big`` is D/B.
    """

    selector: int
    base: int = 0
    limit: int = 0xFFFF_FFFF
    type: int = TYPE_DATA
    dpl: int = 0
    present: bool = True
    long: bool = False
    default_big: bool = True
    system: bool = False
    granularity: bool = True


@dataclass(frozen=True)
class DescriptorTable:
    """GDTR or IDTR: linear base address, limit in bytes minus one."""

    base: int = 0
    limit: int = 0


@dataclass(frozen=True)
class EntryState:
    """The CPU at the guest's first instruction.

    General registers not named in ``gprs`` are 0. ``mode`` is the loader's name for the state
    ("pm32", "lm64"); ``pcid`` says whether CPUID shows PCID to the guest.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    rip: int
    rsp: int
    cs: Segment
    ds: Segment
    es: Segment
    ss: Segment
    fs: Segment
    gs: Segment
    gdtr: DescriptorTable = DescriptorTable()
    idtr: DescriptorTable = DescriptorTable()
    rflags: int = 2
    gprs: dict[str, int] = field(default_factory=dict)
    mode: str = "pm32"
    pcid: bool = False


@dataclass(frozen=True)
class GuestImage:
    """A guest: its memory and how it starts.

    Attributes:
        name: for messages and reports.
        memory_size: bytes of RAM from guest-physical 0.
        segments: ``(gpa, bytes)`` to copy, in order; all other memory is zero.
        entry: the CPU's state.
        platform: "golden" or "pc", see `platform.make`.
    """

    name: str
    memory_size: int
    segments: tuple[tuple[int, bytes], ...]
    entry: EntryState
    platform: str

    def load_into(self, memory: memoryview | bytearray) -> None:
        """Copy the segments into zeroed guest memory of at least ``memory_size`` bytes."""
        for gpa, contents in self.segments:
            memory[gpa : gpa + len(contents)] = contents


def flat_segments(code_selector: int, data_selector: int, long: bool) -> dict[str, Any]:
    """The six registers of a flat memory model, base 0 and limit 4 GiB, ring 0."""
    code = Segment(code_selector, type=TYPE_CODE, long=long, default_big=not long)
    data = Segment(data_selector)
    return {"cs": code, **dict.fromkeys(("ds", "es", "ss", "fs", "gs"), data)}


def check_memory_size(file: object, size: int, where: str = "") -> None:
    """Raise `GuestImageError` unless ``size`` (bytes) is whole pages within reason."""
    if not PAGE <= size <= MAX_MEMORY or size % PAGE:
        raise GuestImageError(file, f"memory size {size:#x} is not whole pages between 4 KiB and 64 GiB", where)


def read_file(path: Path, limit: int, what: str) -> bytes:
    """Read a whole file of at most ``limit`` bytes; ``what`` names it in the `GuestImageError`."""
    try:
        with path.open("rb") as file:
            contents = file.read(limit + 1)
    except OSError as error:
        raise GuestImageError(path, f"cannot read the {what}: {error.strerror or error}") from None
    except ValueError:  # an embedded NUL in the name
        raise GuestImageError(repr(str(path)), f"the {what}'s name is not a file name") from None
    if len(contents) > limit:
        raise GuestImageError(path, f"the {what} is larger than {limit} bytes")
    return contents
