# SPDX-License-Identifier: GPL-2.0-or-later
"""Run recorded guests here and hold the MMU's function calls against the kernel's function trace.

    shadowmmu trace function-parity [--json] golden/logs/6.12/*.functions

The core is interpreted for it: compiled functions cannot be watched.
"""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

from ..state import JIT
from ..trace import functions
from ..trace.errors import TraceError
from ..trace.runs import RecordedRun, read_bytes
from .restart import restart

# What needs the core is imported where it is used: imported in compiled mode, it would be compiled for nothing.


class _Watch:
    """Writes down the calls of the functions in `functions.KERNEL_NAMES`, and anchors, while it is entered.

    A profile function, so that the core is run as it is.
    """

    def __init__(self):
        from ..mmu import events
        from ..vm import Vm
        self.calls = []
        self._names = {}
        for ours in functions.KERNEL_NAMES:
            module, _, name = ours.rpartition(".")
            self._names[getattr(importlib.import_module(f"shadowmmu.{module}"), name).__code__] = ours
        self._emit = {events.emit.__code__, Vm.emit.__code__}
        self._anchors = {events.EXIT, events.MARK}

    def _called(self, frame, event, _argument):
        if event == "call":
            code = frame.f_code
            if code in self._names:
                self.calls.append(self._names[code])
            elif code in self._emit and frame.f_locals["kind"] in self._anchors:
                self.calls.append(functions.ANCHOR)

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_exception):
        sys.setprofile(None)


def our_calls(config, kernel):
    """Calls, with anchors, that the guest of `config` causes under the rules of `kernel`.  Interpreted mode only."""
    from ..guests import golden, recorded
    image = golden.load(config)
    with _Watch() as watch:
        recorded.run(image, rules=f"linux-{kernel}")
    return watch.calls


def run(run_dir):
    """Three reports for RUN_DIR, a `<guest>.functions` directory: of all calls; without the most called function; of the
    functions that are called equally often, where only the order can differ.

    Raises TraceError (bad directory) or GuestImageError (bad guest files).
    """
    recording = RecordedRun(run_dir)
    trace = read_bytes(recording.path / "fn.txt")
    if trace is None:
        raise TraceError("no function trace (fn.txt)", run_dir)
    guest = recording.guest.removesuffix(".functions")
    theirs = functions.parse(trace.decode(errors="replace"))
    ours = our_calls(recording.config.with_name(guest + ".cfg"), recording.kernel)
    symbols = read_bytes(recording.path.parent / "env" / "functions_traced.txt")
    names = set(theirs) if symbols is None else functions.traceable(symbols.decode().splitlines())
    whole = functions.compare(theirs, ours, names)
    return (whole, functions.compare(theirs, ours, names - {functions.MOST_CALLED}),
            functions.compare(theirs, ours, names - whole.unequal.keys()))


def report(run_dir, as_json):
    """Print the figures of one run: 0 when every mapped call of the kernel is matched in order, 1 when not."""
    whole, rest, equal = run(run_dir)
    name = "/".join(Path(run_dir).resolve().parts[-2:])
    if as_json:
        print(json.dumps({"run": name, **dataclasses.asdict(whole), "without": functions.MOST_CALLED,
                          "rest": dataclasses.asdict(rest),
                          "equally_often": dataclasses.asdict(equal)}))
    else:
        print(name)
        for title, figures in (("all", whole), (f"without {functions.MOST_CALLED}", rest),
                              ("functions with equal counts", equal)):
            print(f"  calls in order {figures.calls_matched_in_order:>9,} of {figures.calls_total:,}"
                  f" (ours {figures.calls_ours:,}), {title}")
        print(f"  equal counts   {whole.functions_with_equal_count:>9,} of {whole.functions_total:,} functions")
        for ours, (a, b) in whole.unequal.items():
            print(f"    {' = '.join((ours, *functions.KERNEL_NAMES[ours])):<90} kernel {a:>7,}  here {b:>7,}")
    return 0 if whole.calls_matched_in_order == whole.calls_total else 1


def main(run_dirs, *, as_json=False):
    """Body of the command: the worst exit code of the runs."""
    if JIT:
        restart("SHADOWMMU_JIT", "0")
    return max(report(run_dir, as_json) for run_dir in run_dirs)
