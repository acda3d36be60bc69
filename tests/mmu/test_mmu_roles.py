# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in a role and what is not, for every value of the register bits that matter."""

import ast
import inspect
import itertools
from types import SimpleNamespace

from shadowmmu.mmu import roles
from shadowmmu.x86 import bits


def interpreted(name, state):
    """A function of mmu/roles.py as Python runs it, whatever mode this process is in."""
    node = next(n for n in ast.parse(inspect.getsource(roles)).body if isinstance(n, ast.FunctionDef) and n.name == name)
    node.decorator_list = []
    names = vars(roles) | {"state": state}
    exec(compile(ast.Module([node], []), roles.__file__, "exec"), names)
    return names[name]


def every(*names):
    """All sums of these bits."""
    values = [getattr(bits, name) for name in names]
    return [sum(chosen) for n in range(len(values) + 1) for chosen in itertools.combinations(values, n)]


def test_efer_lme_is_in_no_role():
    """Exhibit C25: LMA decides how addresses are translated; LME alone changes nothing that a page depends on."""
    rules = SimpleNamespace(role_has_smep=0)
    state = SimpleNamespace(rules=lambda vm: rules)
    cpu_role, cpu_ext = interpreted("calc_cpu_role", state), interpreted("calc_cpu_ext", state)
    seen = set()
    for rules.role_has_smep in (0, 1):
        for smm, cr0, cr4, efer in itertools.product(
                (0, 1), every("CR0_PG", "CR0_WP"), every("CR4_PAE", "CR4_PSE", "CR4_LA57", "CR4_SMEP", "CR4_SMAP", "CR4_PKE"),
                every("EFER_NX", "EFER_LMA")):
            vcpu = SimpleNamespace(smm=smm, guest_mode=0)
            without, with_lme = [(cpu_role(None, vcpu, cr0, cr4, efer | lme), cpu_ext(cr0, cr4, efer | lme))
                                 for lme in (0, bits.EFER_LME)]
            assert without == with_lme
            seen.add(without)
    # the others do matter
    assert len(seen) > 100
