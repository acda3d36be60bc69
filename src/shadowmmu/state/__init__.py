# SPDX-License-Identifier: GPL-2.0-or-later
"""The only room that knows how state is stored.

    from shadowmmu.state import core, page

    @core
    def mark(vm, i):            # the same source, compiled or interpreted
        sp = page(vm, i)
        sp.unsync = 1

`SHADOWMMU_JIT=0` in the environment chooses the interpreter.
"""

from .mode import JIT, Array

from . import interpreted
from .patch import PATCH, PatchError

if JIT:
    from . import compiled
    from .compiled import (attach, context, core, desc, entry_point, fault, hw_walk, meta, meta2, meta3, octets,
                           page, rules, slot, sync_vector, tdp_iter, vcpu, walker, words, words32)
else:
    from .interpreted import (  # type: ignore[assignment]
        attach, context, core, desc, entry_point, fault, hw_walk, meta, meta2, meta3, octets, page, rules, slot,
        sync_vector, tdp_iter, vcpu, walker, words, words32)


def define_rules(fields):
    """Declare the rules record: field -> number of words (its fields belong to the room `rules`)."""
    interpreted.define_rules(fields)
    if JIT:
        compiled.define_rules(fields)


__all__ = ["Array", "JIT", "PATCH", "PatchError", "attach", "context", "core", "define_rules", "desc",
           "entry_point", "fault", "hw_walk", "interpreted", "meta", "meta2", "meta3", "octets", "page", "rules", "slot",
           "sync_vector", "tdp_iter", "vcpu", "walker", "words", "words32"]
