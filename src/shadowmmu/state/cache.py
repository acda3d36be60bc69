# SPDX-License-Identifier: GPL-2.0-or-later
"""Where compiled code is kept, and telling the user when it has to be made.

numba's own cache looks at one file at a time: a changed callee in another file leaves a stale caller.  So the cache
folder carries a hash of *all* core sources, of the patch in force, and of the versions that generate code.

    ~/.cache/shadowmmu/<hash of sources + patch + versions>/
"""

import hashlib
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: Rooms whose functions are compiled.
CORE_ROOMS = ("state", "x86", "mmu", "rules", "vm", "oracle", "checker", "engines", "lab")


def key(patch_text=""):
    """Hash of everything that decides the machine code (hex, 20 characters)."""
    digest = hashlib.sha256()
    for room in CORE_ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    import llvmlite
    import numba
    digest.update(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    digest.update(patch_text.encode())
    return digest.hexdigest()[:20]


def folder():
    """The user's cache folder for shadowmmu."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(os.environ.get("SHADOWMMU_CACHE", os.path.join(base, "shadowmmu")))


def place(patch_text=""):
    """Point numba at the folder that belongs to these sources.  Called before the first function is defined."""
    import numba
    target = folder() / key(patch_text)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"shadowmmu: cannot create the cache folder {target}: {error.strerror}") from None
    numba.config.CACHE_DIR = str(target)
    _Progress.install(cold=not any(target.iterdir()))


class _Progress:
    """A line on stderr while functions are being compiled; silent when everything comes from the cache."""

    count = 0
    started = None
    last = 0.0

    @classmethod
    def install(cls, cold):
        from numba.core import event

        class Listener(event.Listener):
            def on_start(self, ev):
                cls.compiling()

            def on_end(self, ev):
                pass

        event.register("numba:compile", Listener())
        cls.cold = cold

    @classmethod
    def compiling(cls):
        now = time.monotonic()
        if cls.started is None:
            cls.started = now
            import atexit
            atexit.register(cls.finish)
        cls.count += 1
        if now - cls.started > 1 and now - cls.last > 0.2:
            cls.last = now
            first = "first run, compiling the core (kept in the cache)" if cls.cold else "compiling"
            text = f"shadowmmu: {first}: {cls.count} functions, {now - cls.started:.0f} s"
            if sys.stderr.isatty():
                sys.stderr.write("\r" + text + "\x1b[K")
                sys.stderr.flush()
            elif cls.count % 50 == 0:
                print(text, file=sys.stderr)

    @classmethod
    def finish(cls):
        """End the progress line."""
        if cls.last and sys.stderr.isatty():
            sys.stderr.write("\n")
