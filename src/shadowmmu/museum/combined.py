# SPDX-License-Identifier: GPL-2.0-or-later
"""Many exhibits in one patch: compiled once, and the rule `exhibit` says which of them is in force.

    def set_spte(vm, ...):
        if state.rules(vm).exhibit == 2:      body of exhibit 2
        if state.rules(vm).exhibit == 9:      body of exhibit 9
        body of today

A function that does not take `vm` cannot ask; exhibits that change one go alone.
"""

import ast

from . import exhibit as exhibits


def _function(text, name):
    return next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)


def _today(target):
    module, _, name = target.rpartition(".")
    return _function((exhibits.HERE.parent / (module.replace(".", "/") + ".py")).read_text(), name)


def _body(function):
    """Statements without the docstring; ends with a return where it would run on."""
    body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    gives = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
    return body if gives or isinstance(body[-1], ast.Return) else [*body, ast.Return()]


def can_ask(exhibit):
    """Do all functions of the exhibit take the machine?"""
    return all("vm" in [a.arg for a in _today(target).args.args] for target in exhibit.functions)


def combine(chosen):
    """(text of a patch file, id -> value of the rule `exhibit`) of those that can be put together."""
    numbers, changed = {}, {}
    for x in chosen:
        if x.functions and can_ask(x):
            numbers[x.id] = len(numbers) + 1
            for target, node in exhibits.functions_of(x.path).items():
                changed.setdefault(target, []).append((numbers[x.id], node))
    parts = []
    for target, variants in sorted(changed.items()):
        function = _today(target)
        function.decorator_list = [ast.parse(f'replaces("{target}")', mode="eval").body]
        asked = [ast.If(ast.parse(f"state.rules(vm).exhibit == {number}", mode="eval").body, _body(node), [])
                 for number, node in variants]
        function.body = [*asked, *_body(function)]
        parts.append(ast.unparse(ast.fix_missing_locations(function)))
    return "\n\n\n".join(parts) + "\n", numbers
