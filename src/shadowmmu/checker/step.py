# SPDX-License-Identifier: GPL-2.0-or-later
"""One operation on one state: what every search is made of.

    begin       a machine that has just been built: every vCPU enters the guest
    perform     do the operation in a row, check everything: 0, or the number of the failure (verify.FAILURES)
    copy        a state is a run of words; a copy of the words is a copy of the state
"""

from .. import state
from ..mmu import counters
from ..state import JIT, core
from . import architecture, execute, verify
from . import area as areas


@core
def forget_counters(vm):
    """Statistics that nothing depends on would only grow."""
    for i in range(24):
        # gauges count what is there
        if not counters.PAGES_4K <= i <= counters.PAGES_4K + 2 and i != counters.MMU_UNSYNC and i != counters.NX_LPAGE_SPLITS:
            vm.stat[i] = 0
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


@core
def perform(vm, area, op, at):
    """The operation as a search does it: statistics start anew each time."""
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
