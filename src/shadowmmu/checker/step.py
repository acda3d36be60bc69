# SPDX-License-Identifier: GPL-2.0-or-later
"""One operation on one state: what every search is made of, and the entry points that Python calls.

    prepare     a machine that has just been built: every vCPU enters the guest
    perform     do the operation in a row, check everything: 0, or the number of the failure (verify.FAILURES)
    copy        a state is a run of words; a copy of the words is a copy of the state
    replay      rows from the initial state, one after the other
"""

import array

from .. import state
from ..mmu import counters
from ..state import JIT, Array, core, entry_point
from . import architecture, execute, ops, verify
from . import area as areas


@core
def forget_counters(vm):
    """Statistics that nothing depends on would only grow."""
    kept = vm.stat[counters.PAGES_4K]
    for i in range(24):
        vm.stat[i] = 0
    vm.stat[counters.PAGES_4K] = kept
    for v in range(vm.n_vcpus):
        vcpu = state.vcpu(vm, v)
        for i in range(20):
            vcpu.stat[i] = 0


@core
def begin(vm, area):
    """The initial state: every vCPU in the guest, nothing cached."""
    h = areas.head(vm, area)
    h[areas.FREE_RAM] = vm.n_free_ram
    architecture.frames(vm, area)
    architecture.see_memory(vm, area)
    for v in range(vm.n_vcpus):
        architecture.reset(vm, area, v)
        architecture.load_pdptes(vm, area, v)
    architecture.settle(vm, area)
    for v in range(vm.n_vcpus):
        execute.come_in(vm, area, v)
    verify.after_operation(vm, area)


@entry_point
def prepare(handle, area):
    """Make the area of a new machine."""
    begin(state.attach(handle), area)


@entry_point
def perform(handle, area, op: Array, at):
    """Do one operation and check: 0 or the number of the failure."""
    return execute.perform(state.attach(handle), area, op, at)


@entry_point
def perform_and_forget(handle, area, op: Array, at):
    """The same as a search does it: statistics start anew each time."""
    vm = state.attach(handle)
    failure = execute.perform(vm, area, op, at)
    forget_counters(vm)
    return failure


if JIT:
    @core
    def copy(to, source, words):
        """Copy a state."""
        a = state.words(to, 0)
        b = state.words(source, 0)
        for i in range(words):
            a[i] = b[i]
else:
    def copy(to, source, words):
        """Copy a state."""
        to.view[:words] = source.view[:words]


def table(n):
    """n words that core functions can index."""
    buffer = array.array("q", bytes(8 * n))
    if not JIT:
        return buffer
    import numpy
    return numpy.frombuffer(buffer, dtype=numpy.int64)


def table_of(rows):
    """Rows of operations as a table."""
    out = table(len(rows) * ops.ROW_WORDS)
    for i, values in enumerate(rows):
        for k, value in enumerate(values):
            out[i * ops.ROW_WORDS + k] = value
    return out


def rows_of(words, n):
    """The first n rows of a table of operations."""
    size = ops.ROW_WORDS
    return [tuple(int(x) for x in words[i * size:(i + 1) * size]) for i in range(n)]


def replay(arena, rows, watch=None):
    """The operations from the initial state: (failure, number of operations done).  watch(i): after each operation."""
    arena.copy(1, 0)
    op_table = table_of(rows)
    for i in range(len(rows)):
        failure = int(perform(arena.handle(1), arena.area, op_table, i * ops.ROW_WORDS))
        if watch:
            watch(i)
        if failure:
            return failure, i + 1
    return 0, len(rows)
