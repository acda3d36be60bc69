# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that runs benchmarks on request: one process runs the core in one way only.

    bench  --- lines of JSON --->  python -m shadowmmu.lab.worker
        {"do": "prepare", "operation": "fault", "size": {...}, "events": 0}
        {"do": "run", "n": 3}                 answer: {"seconds": ..., "result": ...}
        {"do": "outcome"}                     answer: the counters
        {"do": "warm"}                        everything once, so that all compiled code is in the cache

The interpreted side is such a process.  Another fills the cache before anything is timed: code that a process loads
from the cache runs up to 15 % faster than code that the process compiled itself, because it lies closer together.
"""

import json
import os
import pathlib
import subprocess
import sys
from dataclasses import asdict

from . import guest
from .errors import BenchError
from .growth import Growing
from .measured import Measured
from .operations import OPERATIONS


class Worker:
    """A worker process, with the interface of Measured.  jit: compiled or interpreted."""

    def __init__(self, jit):
        source = str(pathlib.Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen([sys.executable, "-m", "shadowmmu.lab.worker"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=os.environ | {"SHADOWMMU_JIT": str(int(jit)), "PYTHONPATH": path})

    def _ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise BenchError("the worker process ended early; its message is above") from None

    def prepare(self, operation, size, mask):
        """A fresh machine for `operation`."""
        self._ask(do="prepare", operation=operation.name, size=asdict(size), events=mask)

    def run(self, n):
        """Seconds and the driver's result."""
        answer = self._ask(do="run", n=n)
        return answer["seconds"], answer["result"]

    def outcome(self):
        """Counters and digest."""
        return self._ask(do="outcome")

    def warm(self):
        """Compile everything."""
        self._ask(do="warm")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.communicate()


def warm():
    """Run every driver once."""
    for operation in OPERATIONS.values():
        Measured(operation, guest.Size(processes=4)).run(1)
    Growing(guest.Size(tables=10)).once()


def serve(lines, out):
    """Answer requests, one JSON object a line, until the input ends."""
    machine = None
    for line in lines:
        request = json.loads(line)
        if request["do"] == "prepare":
            machine = Measured(OPERATIONS[request["operation"]], guest.Size(**request["size"]), request["events"])
            answer = {}
        elif request["do"] == "run":
            seconds, result = machine.run(request["n"])
            answer = {"seconds": seconds, "result": result}
        elif request["do"] == "warm":
            warm()
            answer = {}
        else:
            answer = machine.outcome()
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
