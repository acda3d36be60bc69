# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls across modules, `module.function(...)` and `name(...)` of an imported function, give what the function takes.

The compiler sees it for the core when it compiles; this sees it for exhibits and rare paths, and for Python's own calls.
"""

import ast
import pathlib

import pytest
from test_imports import MODULES, SRC, name_of

from shadowmmu.state.patch import PACKAGE, _target

PATHS = {name_of(path): path for path in MODULES}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def functions(name):
    """Functions of a module that are defined once and not decorated beyond `core` and the like."""
    seen = {}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef) and node.col_offset == 0:
            seen.setdefault(node.name, []).append(node)
    plain = {"core", "inline", "entry_point"}
    return {n: d[0] for n, d in seen.items() if len(d) == 1
            and all(isinstance(x, ast.Name) and x.id in plain for x in d[0].decorator_list)}


FUNCTIONS = {name: functions(name) for name in TREES}


def names_of(module):
    """Local name -> ("module", m) or ("function", node) for what the module imports from the package."""
    package = module.split(".") if PATHS[module].name == "__init__.py" else module.split(".")[:-1]
    found = {}
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[:len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            full, here = ".".join([*base, alias.name]), ".".join(base)
            if full in TREES:
                found[alias.asname or alias.name] = "module", full
            elif alias.name in FUNCTIONS.get(here, {}):
                found[alias.asname or alias.name] = "function", FUNCTIONS[here][alias.name]
    return found


def callee(call, names):
    """The function that a call reaches, or None."""
    f = call.func
    if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name):
        kind, what = names.get(f.value.id, (None, None))
        return FUNCTIONS[what].get(f.attr) if kind == "module" else None
    if isinstance(f, ast.Name):
        kind, what = names.get(f.id, (None, None))
        return what if kind == "function" else None
    return None


def wrong(call, function):
    """What is wrong with the arguments, or None."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    a = function.args
    places = [x.arg for x in (*a.posonlyargs, *a.args)]
    optional = set(places[len(places) - len(a.defaults):]) | {x.arg for x, d in zip(a.kwonlyargs, a.kw_defaults) if d is not None}
    given = set(places[:len(call.args)]) | {k.arg for k in call.keywords}
    known = set(places) | {x.arg for x in a.kwonlyargs}
    if len(call.args) > len(places) and not a.vararg:
        return f"{len(call.args)} arguments for {len(places)}"
    if given - known and not a.kwarg:
        return f"unknown {sorted(given - known)}"
    missing = known - optional - given
    return f"without {sorted(missing)}" if missing else None


def faults(tree, names, local):
    """(line, text) of each call in a tree that does not fit; and how many were looked at."""
    out, looked = [], 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = callee(node, names) or (local.get(node.func.id) if isinstance(node.func, ast.Name) else None)
            if function is not None:
                looked += 1
                problem = wrong(node, function)
                if problem:
                    out.append((node.lineno, f"{ast.unparse(node.func)}: {problem}"))
    return out, looked


def test_calls_give_what_functions_take():
    looked = 0
    for module in TREES:
        # a name that a function binds itself is not the module's
        bound = {a.arg for node in ast.walk(TREES[module]) if isinstance(node, ast.FunctionDef | ast.Lambda)
                 for a in (*node.args.args, *node.args.kwonlyargs)}
        bound |= {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names = {n: what for n, what in names_of(module).items() if n not in bound}
        local = {n: f for n, f in FUNCTIONS[module].items() if n not in bound and n not in names}
        found, n = faults(TREES[module], names, local)
        looked += n
        assert not found, f"{module}: {found}"
    assert looked > 3000


PATCHES = [path for folder in ("exhibits", "seeds") for path in sorted((SRC / "museum" / folder).glob("*.py"))]


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_calls_of_exhibits_give_what_functions_take(path):
    """A replacement lives in the module of what it replaces."""
    for node in ast.parse(path.read_text()).body:
        target = _target(node)
        if target:
            module = target.rpartition(".")[0]
            found, _ = faults(node, names_of(module), FUNCTIONS[module])
            assert not found, f"{path.name}: {found}"


def test_a_wrong_call_is_seen():
    names = {"flush": ("module", "mmu.flush")}
    tree = ast.parse("flush.remote_tlbs_gfn(vm, gfn)\nflush.remote_tlbs(vm)\nflush.remote_tlbs(vm, x=1)")
    assert [line for line, _ in faults(tree, names, {})[0]] == [1, 3]
    assert PACKAGE == "shadowmmu" and pathlib.Path(PATHS["mmu.flush"]).exists()
