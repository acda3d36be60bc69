# SPDX-License-Identifier: GPL-2.0-or-later
"""An exhibit is today's function with a change.  When today's function changes, its copies must follow: the lines in which they
differ are counted and recorded, so that a copy that has drifted is noticed.

After a change of the core, look at each exhibit that this names; if only its own change is left, record the new number:
    PYTHONPATH=src python tests/museum/record.py
"""

import ast
import difflib
import json
import pathlib

import pytest

from shadowmmu.museum import combined, exhibit

RECORD = pathlib.Path(__file__).parent / "differences.json"
WITH_FUNCTIONS = [x for x in exhibit.every() if x.functions]
#: More than this is no change of a function but another one.
SMALL = 32


def lines(function):
    """A function's statements as text, without docstring and comments."""
    body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return ast.unparse(ast.Module(body, [])).splitlines()


def replacements(x):
    """(target, replacement, today's function)."""
    for target, node in exhibit.functions_of(x.path).items():
        yield target, node, combined._today(target)


def differences(x):
    """Target -> lines that are only in one of the two."""
    return {target: sum(line[0] in "+-" for line in difflib.ndiff(lines(today), lines(node)))
            for target, node, today in replacements(x)}


@pytest.mark.parametrize("x", WITH_FUNCTIONS, ids=lambda x: x.id)
def test_an_exhibit_is_today_with_a_change(x):
    recorded = json.loads(RECORD.read_text())[x.id]
    assert differences(x) == recorded, "has the core changed under this exhibit?  (see the text of this file)"
    for target, node, today in replacements(x):
        assert ast.unparse(node.args) == ast.unparse(today.args), target
        assert node.name == today.name
        # what the base changes may be put back
        assert recorded[target] <= SMALL and (recorded[target] or x.base), target


@pytest.mark.parametrize("x", [x for x in WITH_FUNCTIONS if x.base], ids=lambda x: x.id)
def test_an_exhibit_holds_only_what_its_base_does_not(x):
    base = exhibit.read(x.path.parent / x.base)
    inherited = exhibit.functions_of(base.path)
    assert base.rules == x.rules and set(inherited) <= set(x.functions)
    for node in ast.parse(x.path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            target = node.decorator_list[0].args[0].value
            assert target not in inherited or lines(inherited[target]) != lines(node), target


def test_nothing_else_is_recorded():
    assert set(json.loads(RECORD.read_text())) == {x.id for x in WITH_FUNCTIONS}
