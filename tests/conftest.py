# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of all tests.

`machine` makes a `Vm`.  After a test that used it has passed, each of its machines must be free of warnings (conditions
for which the kernel has a WARN) and satisfy every invariant of `checker.invariants`.  What the machines did (state
hash, events, counters) is remembered per test; `mmu/test_zz_both_modes.py` runs the same tests in a second process in
the other mode (compiled or interpreted) and compares.
"""

import hashlib
import json
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "mmu"), str(HERE.parent / "src")]

#: Set by the process that wants to compare: write the records to this file.
RECORD_VARIABLE = "SHADOWMMU_TEST_RECORD"
#: Test id -> list of [state hash, digest of events, counters], one per machine.
records = {}


class Machines:
    """Makes machines and remembers them."""

    def __init__(self):
        self.made, self.unchecked = [], set()

    def __call__(self, memory=16 << 20, **options):
        vm = _recorded()(memory, **options)
        self.made.append(vm)
        return vm

    def do_not_check(self, vm):
        """For a test that breaks the state on purpose."""
        self.unchecked.add(id(vm))

    def verdict(self):
        """Record what the machines did; AssertionError if one is not in order."""
        from shadowmmu.checker import invariants
        out = []
        for vm in self.made:
            vm.drain_events()
            out.append([vm.store.hash().hex(), vm.digest.hexdigest(), dict(vm.stat.items()),
                        [dict(cpu.stat.items()) for cpu in vm.vcpus]])
            if id(vm) not in self.unchecked:
                assert vm.warning is None
                assert invariants.check_all(vm) == []
        return out


def _recorded():
    """`Vm` with a running digest of all events that were drained."""
    from shadowmmu.vm import Vm

    class Recorded(Vm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.digest = hashlib.sha256()

        def drain_events(self):
            rows = super().drain_events()
            self.digest.update(repr(rows).encode())
            return rows

    return Recorded


@pytest.fixture
def machine():
    """Function that makes a `Vm`; see the module."""
    return Machines()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    result = yield
    machines = pyfuncitem.funcargs.get("machine")
    if isinstance(machines, Machines):
        verdict = machines.verdict()
        # what a mutant or deliberate damage leads to is of no interest
        if not machines.unchecked:
            # pytest-xdist adds the group to the name
            records[pyfuncitem.nodeid.removesuffix("@machines")] = verdict
    return result


def pytest_collection_modifyitems(items):
    """The comparison of modes needs the records of the others: it runs last, and in their process.  The process that it
    starts runs only tests with machines.  Other files may run in any process (pytest-xdist, --dist loadgroup)."""
    if os.environ.get(RECORD_VARIABLE):
        items[:] = [item for item in items if "machine" in getattr(item, "fixturenames", ())]
    items.sort(key=lambda item: "test_zz_both_modes" in item.nodeid)
    for item in items:
        compared = {"machine", "own_records"} & set(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("machines" if compared else item.path.name))


def pytest_sessionfinish(session):
    target = os.environ.get(RECORD_VARIABLE)
    if target:
        pathlib.Path(target).write_text(json.dumps(records))


@pytest.fixture
def own_records():
    """The records of this session so far."""
    return records
