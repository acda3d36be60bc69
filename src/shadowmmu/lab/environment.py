# SPDX-License-Identifier: GPL-2.0-or-later
"""What the figures of a benchmark depend on."""

import os
import pathlib
import platform

import llvmlite

from . import limit


def cpu_model():
    """The CPU's name."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass        # not Linux
    return platform.processor() or platform.machine()


def machine_info():
    """Names and versions by kind.  load: runnable processes of the last minute, before the benchmark."""
    return {"cpu": cpu_model(), "cpus": os.cpu_count(), "load": f"{os.getloadavg()[0]:.1f}",
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
            "llvmlite": llvmlite.__version__, "gcc": limit.version(), "flags": " ".join(limit.FLAGS[:2])}
