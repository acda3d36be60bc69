# SPDX-License-Identifier: GPL-2.0-or-later
"""Where compiled code is kept, what it depends on, and telling the user when it has to be made.

    ~/.cache/shadowmmu/<unit>-<key>.o         key: hash of the sources that the unit may reach, the patch, LLVM, CPU

Which sources those are follows from the house: a room reaches only rooms above it.
"""

import functools
import hashlib
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: Rooms with core functions, each with the rooms above it that its functions may call.
_MMU = ("state", "x86", "mmu", "rules")
REACHES = {
    "state": ("state",), "x86": ("state", "x86"), "rules": _MMU, "mmu": _MMU, "vm": (*_MMU, "vm"),
    "oracle": ("state", "x86", "oracle"), "engines": (*_MMU, "vm", "engines"),
    "checker": (*_MMU, "vm", "oracle", "checker"), "lab": (*_MMU, "vm", "lab"),
}
EVERYTHING = tuple(REACHES)


@functools.cache
def _digest(room):
    """Hash of a room's sources."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / room).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.digest()


def key(path, patch_text="", host=""):
    """Hash of everything that decides the machine code of functions in the file `path` (hex, 20 characters)."""
    path = pathlib.Path(path).resolve()
    digest = hashlib.sha256()
    inside = ROOT in path.parents
    for room in REACHES.get(path.relative_to(ROOT).parts[0], EVERYTHING) if inside else EVERYTHING:
        digest.update(_digest(room))
    if not inside:
        for source in sorted(path.parent.glob("*.py")):
            digest.update(source.read_bytes())
    digest.update(f"{host} {sys.version}\0{patch_text}".encode())
    return digest.hexdigest()[:20]


def folder():
    """The user's cache folder for shadowmmu, made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    target = pathlib.Path(os.environ.get("SHADOWMMU_CACHE", os.path.join(base, "shadowmmu")))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"shadowmmu: cannot create the cache folder {target}: {error.strerror}") from None
    return target


class Progress:
    """What is being compiled, on stderr: a line that is rewritten on a terminal, else one line per unit that takes long."""

    started, count, last, told = None, 0, 0.0, False

    @classmethod
    def begin(cls):
        """A unit is wanted; nothing is shown unless it has to be compiled."""
        cls.started, cls.count, cls.told = time.monotonic(), 0, False

    @classmethod
    def _show(cls, text):
        if sys.stderr.isatty():
            sys.stderr.write(f"\rshadowmmu: compiling the core (kept in the cache): {text}\x1b[K")
            sys.stderr.flush()
        elif not cls.told:
            print("shadowmmu: compiling the core (kept in the cache)", file=sys.stderr)
        cls.told = True

    @classmethod
    def compiling(cls, name):
        """A function is being translated."""
        cls.count += 1
        now = time.monotonic()
        if now - cls.started > 0.5 and now - cls.last > 0.1:
            cls.last = now
            cls._show(f"{cls.count} functions, {now - cls.started:.0f} s")

    @classmethod
    def optimising(cls):
        """All functions are translated."""
        if cls.count > 50:
            cls._show(f"{cls.count} functions, optimising")

    @classmethod
    def done(cls):
        """Take the line away."""
        if cls.told and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
