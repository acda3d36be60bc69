# SPDX-License-Identifier: GPL-2.0-or-later
"""The C side of the benchmarks: `benchmarks/limit.c`, compiled when it is needed, called through ctypes.

    state/layout.py, rules/fields.py --header()--> layout.h  \
                                            limit.c ----------+--gcc -O2 -march=x86-64-v2--> limit.so   (cache folder)
"""

import ctypes
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from ..mmu import counters
from ..rules.fields import FIELDS
from ..state import cache, layout
from . import guest
from .errors import LimitMissing

SOURCE = pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "limit.c"
FLAGS = ("-O2", "-march=x86-64-v2", "-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wno-unused-parameter")
COMPILER = "gcc"


def header():
    """Text of layout.h: the records as structs of int64_t, and the constants that both sides need."""
    lines = ["/* generated from state/layout.py and rules/fields.py */"]
    for name, fields in {**layout.RECORDS, "RULES": dict.fromkeys(FIELDS, 1)}.items():
        words = "; ".join(f"int64_t {field}" + (f"[{count}]" if count > 1 else "") for field, count in fields.items())
        lines.append(f"struct {name.lower()} {{ {words}; }};")
    constants = dict(PTE_LIST_EXT=layout.PTE_LIST_EXT, PAGE_ARRAY_NR=layout.PAGE_ARRAY_NR,
                     NUM_PREV_ROOTS=layout.NUM_PREV_ROOTS, EVENT_WORDS=layout.EVENT_WORDS, **guest.SHARED)
    for names in (counters.VM_STATS, counters.VCPU_STATS):
        constants |= {name.upper(): i for i, name in enumerate(names)}
    lines += [f"#define {name} {value}LL" for name, value in constants.items()]
    return "\n".join(lines) + "\n"


def version():
    """First line of the compiler's --version, or None without a compiler."""
    compiler = shutil.which(COMPILER)
    if not compiler:
        return None
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


def build():
    """Path of the shared object, compiled unless the cache folder has it.  Raises LimitMissing."""
    compiler = shutil.which(COMPILER)
    if not compiler:
        raise LimitMissing("no C compiler")
    if not SOURCE.exists():
        raise LimitMissing("no limit.c")
    text = header()
    key = hashlib.sha256("\n".join((SOURCE.read_text(), text, str(version()), *FLAGS)).encode()).hexdigest()[:20]
    target = cache.folder() / f"limit-{key}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (pathlib.Path(folder) / "layout.h").write_text(text)
        fresh = os.path.join(folder, "limit.so")
        done = subprocess.run([compiler, *FLAGS, "-I", folder, "-o", fresh, str(SOURCE)], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise LimitMissing("gcc failed: " + (done.stderr.strip().splitlines() or ["?"])[0])
        os.replace(fresh, target)
    return target


def functions(names):
    """name -> C function (address, int, int) -> int.  Raises LimitMissing."""
    library = ctypes.CDLL(str(build()))
    found = {}
    for name in names:
        function = getattr(library, "limit_" + name)
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        found[name] = function
    return found
