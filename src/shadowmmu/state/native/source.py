# SPDX-License-Identifier: GPL-2.0-or-later
"""The syntax tree of a core function: from its file, or from the patch that replaced it."""

import ast
import functools
import linecache

#: Attribute of a function that did not come from a file of its own: (tree, path).
NODE = "_core_node"


@functools.cache
def _functions(path):
    """(name, first line) -> tree of every function in a file."""
    tree = ast.parse("".join(linecache.getlines(path)), path)
    out = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            out[node.name, first] = node
    return out


def node_of(function):
    """(tree, path) of a function."""
    known = getattr(function, NODE, None)
    if known:
        return known
    code = function.__code__
    return _functions(code.co_filename)[code.co_name, code.co_firstlineno], code.co_filename


def assigned(node):
    """Names that a function binds: its parameters and everything that is assigned or loops."""
    names = {a.arg for a in node.args.args}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            names.add(inner.id)
    return names
