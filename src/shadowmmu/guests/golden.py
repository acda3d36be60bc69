# SPDX-License-Identifier: GPL-2.0-or-later
"""Loader of the recorded guests: a flat image and a configuration file beside it.

The file has one ``key value`` a line, ``#`` starts a comment line:

    name g1          image g1.bin     mem 0x1000000    load 0      mode lm64      rip 0x8000
    rsp 0x5000       cr0 0x80010011   cr3 0x10000      cr4 0x20    efer 0xd00     pcid 0

and describes exactly the entry state of the machine that made the recordings (golden/README.md):
registers not named are 0, RFLAGS 2, tables and segments as in ``MODES``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .image import DescriptorTable, EntryState, GuestImage, GuestImageError, check_memory_size, flat_segments, read_file

MAX_CFG = 64 << 10  # bytes; the real ones have 150

# key -> largest value; every key must be present.
NUMBERS = {
    "mem": 2**64 - 1,
    "load": 2**64 - 1,
    "rip": 2**64 - 1,
    "rsp": 2**64 - 1,
    "cr0": 2**32 - 1,
    "cr3": 2**64 - 1,
    "cr4": 2**32 - 1,
    "efer": 2**16 - 1,
    "pcid": 1,
}
TEXTS = ("name", "image", "mode")

# mode -> code selector, 64-bit code, IDTR
MODES = {
    "pm32": (0x08, False, DescriptorTable(0x1200, 0xFF)),
    "lm64": (0x18, True, DescriptorTable(0x1400, 0x1FF)),
}
GDTR = DescriptorTable(0x1000, 0xFF)


def _number(file: Path, line: int, key: str, text: str) -> int:
    """The recorder's numbers: decimal or 0x."""
    try:
        # More digits than 64 bits need are refused before int() spends time on them.
        value = int(text, 16 if text[:2].lower() == "0x" else 10) if len(text) <= 20 and "_" not in text else -1
    except ValueError:
        raise GuestImageError(file, f"{key} has a bad number {text[:40]!r}", f"line {line}") from None
    if not 0 <= value <= NUMBERS[key]:
        raise GuestImageError(file, f"{key} {text[:40]!r} is not in 0..{NUMBERS[key]:#x}", f"line {line}")
    return value


def parse(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a configuration's text.

    Returns:
        The values by key, and the line of each.

    Raises:
        GuestImageError: unknown, repeated or missing key, no value, bad number; with the line.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for line, content in enumerate(text.splitlines(), 1):
        words = content.split()
        if not words or words[0].startswith("#"):
            continue
        key = words[0]
        if key not in NUMBERS and key not in TEXTS:
            raise GuestImageError(path, f"unknown key {key[:40]!r}", f"line {line}")
        if key in values:
            raise GuestImageError(path, f"{key} is given again (first in line {lines[key]})", f"line {line}")
        if len(words) != 2:
            raise GuestImageError(path, f"{key} needs exactly one value", f"line {line}")
        values[key] = _number(path, line, key, words[1]) if key in NUMBERS else words[1]
        lines[key] = line
    missing = [key for key in (*TEXTS, *NUMBERS) if key not in values]
    if missing:
        raise GuestImageError(path, f"missing {', '.join(missing)}", f"line {text.count(chr(10)) + 1} (end)")
    return values, lines


def load(path: str | Path) -> GuestImage:
    """Load a recorded guest.

    Args:
        path: the ``.cfg`` file; the image's name in it is relative to its folder.

    Returns:
        The guest, for the platform "golden".

    Raises:
        GuestImageError: unreadable files, bad configuration, or an image that does not fit.
    """
    path = Path(path)
    try:
        text = read_file(path, MAX_CFG, "configuration").decode("ascii")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise GuestImageError(path, "not ASCII text", f"line {line}") from None
    values, lines = parse(path, text)

    mode = values["mode"]
    if mode not in MODES:
        raise GuestImageError(path, f"mode {mode[:40]!r} is not one of {', '.join(MODES)}", f"line {lines['mode']}")
    size, load_at = values["mem"], values["load"]
    check_memory_size(path, size, f"line {lines['mem']}")
    if load_at >= size:
        raise GuestImageError(path, f"load address {load_at:#x} is outside memory", f"line {lines['load']}")
    contents = read_file(path.parent / values["image"], size - load_at, "image")

    selector, long, idtr = MODES[mode]
    entry = EntryState(
        **{key: values[key] for key in ("cr0", "cr3", "cr4", "efer", "rip", "rsp")},
        **flat_segments(selector, 0x10, long),
        gdtr=GDTR,
        idtr=idtr,
        mode=mode,
        pcid=bool(values["pcid"]),
    )
    return GuestImage(values["name"], size, ((load_at, contents),), entry, "golden")
