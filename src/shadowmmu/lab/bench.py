# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu bench`: how fast the core is, as a share of C.

    warm     a worker fills the cache of compiled code
    check    small runs: compiled, interpreted and C must leave the same counters and the same bytes
    time     for each operation, several rounds of   compiled, C, interpreted   one after the other; best of the rounds
    again    compiled and C must agree after all those rounds, too
    checked  operations of the checker, with oracle and invariants, beside the rates of the MMU alone above
    grow     nanoseconds for a fault while the number of shadow pages grows: flat is good

The interpreted side is a worker process, too.
"""

import contextlib
import json
import sys
from dataclasses import asdict, dataclass, field

from ..mmu import events
from ..state import JIT
from . import checking, environment, guest, limit, readers, report
from .errors import BenchError, LimitMissing
from .growth import measure_growth, page_bytes
from .measured import Measured, compare
from .operations import OPERATIONS
from .options import Options, parse
from .worker import Worker

CHECK_SIZE = guest.Size(processes=4)
#: n of the checking runs, small enough for the interpreter.
CHECK_N = {"faults": 2, "hits": 2000, "cr3": 200, "ptewrite": 200, "refault": 200, "unsync": 12, "invlpg": 100,
           "clone": 2}


@dataclass
class Row:
    """One operation: operations per second, best of the rounds; every round's seconds per operation in `rounds`.
    ratio: compiled / C.  None where there is no such side."""

    name: str
    text: str
    budget: float
    compiled: float
    c: float | None
    interpreted: float | None
    ratio: float | None
    rounds: dict = field(default_factory=dict)


@dataclass
class Results:
    """Everything that was measured.  no_c: why there is no C column.  agree: operations whose outcomes were equal.
    readers: `Throughput` of the trace readers.  checked: rows of the checker."""

    machine: dict
    options: Options
    no_c: str | None
    rows: list
    growth: list
    page_bytes: dict
    agree: list
    readers: list = field(default_factory=list)
    checked: list = field(default_factory=list)


def calibrate(machine, seconds):
    """An n for which `machine.run(n)` takes about `seconds`."""
    machine.run(1)      # the first call loads the code
    n = 1
    while True:
        took, _ = machine.run(n)
        if took >= seconds / 4 or n >= 1 << 40:
            return max(1, int(n * seconds / took))
        n *= 4


def check_small(operation, mask, functions, interpreter):
    """Small runs on all sides; raises BenchError when they disagree."""
    n = CHECK_N[operation.driver]
    sides = {"compiled": Measured(operation, CHECK_SIZE, mask)}
    if functions:
        sides["C"] = Measured(operation, CHECK_SIZE, mask, functions)
    if interpreter:
        interpreter.prepare(operation, CHECK_SIZE, mask)
        sides["interpreted"] = interpreter
    compare(operation.name, {name: {"result": side.run(n)[1]} | side.outcome() for name, side in sides.items()})


def measure(operation, options, functions, interpreter):
    """Row of one operation."""
    mask = events.ALL if operation.events else 0
    check_small(operation, mask, functions, interpreter)
    size = guest.Size()
    sides = {"compiled": Measured(operation, size, mask)}
    if functions:
        sides["c"] = Measured(operation, size, mask, functions)
    n = {}
    n["compiled"] = n["c"] = calibrate(Measured(operation, size, mask), options.seconds)
    if interpreter:
        interpreter.prepare(operation, size, mask)
        n["interpreted"] = calibrate(interpreter, options.seconds)
        sides["interpreted"] = interpreter
    units = sides["compiled"].units
    rounds, results = {name: [] for name in sides}, dict.fromkeys(sides, 0)
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds, results[name] = side.run(n[name])
            rounds[name].append(seconds / units(n[name]))
    compare(operation.name, {name: {"result": results[name]} | side.outcome()
                             for name, side in sides.items() if name != "interpreted"})
    rate = {name: 1 / min(times) for name, times in rounds.items()}
    ratio = rate["compiled"] / rate["c"] if functions else None
    return Row(operation.name, operation.text, operation.budget, rate["compiled"], rate.get("c"),
               rate.get("interpreted"), ratio, rounds)


def run(options=None, progress=lambda text: None):
    """Measure.  options: `Options`; progress: called with a line of text now and then.  Returns `Results`; raises
    BenchError."""
    options = options or Options()
    options.check()
    if not JIT:
        raise BenchError("SHADOWMMU_JIT=0 is set: there is no compiled code to measure")
    functions, no_c = None, None
    try:
        functions = limit.functions({operation.driver for operation in OPERATIONS.values()} | {"grow", "zap"})
    except LimitMissing as error:
        no_c = str(error)
    machine = environment.machine_info()
    progress("compiling, unless the cache has it")
    with Worker(jit=True) as compiler:
        compiler.warm()
    chosen = [OPERATIONS[name] for name in options.only] or list(OPERATIONS.values())
    rows, growth = [], []
    with Worker(jit=False) if options.interpreted else contextlib.nullcontext() as interpreter:
        for operation in chosen:
            progress(operation.text)
            rows.append(measure(operation, options, functions, interpreter))
    for pages in options.growth:
        progress(f"growth to {pages}")
        growth.append(measure_growth(pages, options.rounds, functions))
    checked = []
    if not options.only:
        progress("checked operations")
        checked = checking.measure(options)
    return Results(machine, options, no_c, rows, growth, page_bytes(), [row.name for row in rows],
                   [] if options.only else readers.measure(options), checked)


def tell(text):
    """Progress, for a person."""
    if sys.stderr.isatty():
        print("bench: " + text, file=sys.stderr)


def main(options):
    """Run and print.  options: `Options`.  Returns the exit status: 0, or 2 with one line on standard error."""
    try:
        results = run(options, tell)
    except BenchError as error:
        print(f"shadowmmu bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(results), indent=1) if options.json else report.text(results))
    return 0


def command(arguments):
    """`main` for a command line."""
    try:
        options = parse(arguments)
    except BenchError as error:
        print(f"shadowmmu bench: {error}", file=sys.stderr)
        return 2
    return main(options)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
