# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches: a replaced function is used by its callers, compiled and interpreted; a bad file gives one line."""

import os
import subprocess
import sys

import pytest

PATCH = '''"""No address is legal."""


@replaces("mmu.contexts.rsvd_bits")
def rsvd_bits(low, high):
    return 77 if low > high else 0x1234
'''
USE = "from shadowmmu.mmu import contexts; print(contexts.rsvd_bits(1, 2), contexts.rsvd_bits(2, 1))"


def python(code, patch, tmp_path, jit="0", arguments=("-c",)):
    path = tmp_path / "change.py"
    path.write_text(patch, encoding="utf-8")
    return subprocess.run([sys.executable, *arguments, code], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "SHADOWMMU_PATCH": str(path), "SHADOWMMU_JIT": jit})


@pytest.mark.parametrize("jit", ["0", "1"])
def test_the_replacement_is_used(tmp_path, jit):
    assert python(USE, PATCH, tmp_path, jit).stdout == "4660 77\n"


def test_callers_use_it(tmp_path):
    """MOV to CR3 asks is_legal_cr3; where no CR3 is legal it ends in #GP(0)."""
    patch = '@replaces("vm.registers.is_legal_cr3")\ndef is_legal_cr3(vcpu, value):\n    return False\n'
    code = "from shadowmmu.vm import Vm; Vm(1 << 20).vcpus[0].set_cr3(0x1000)"
    assert "GuestFault: guest exception, vector 13 error code 0x0" in python(code, patch, tmp_path).stderr
    assert python(code, "", tmp_path).returncode == 0


@pytest.mark.parametrize(("text", "message"), [
    ("def f(:\n", "change.py:1: "),
    ("x = 1\n", 'change.py:1: only functions marked @replaces("room.module.function") may stand here'),
    ('@replaces("mmu.zap.nothing")\ndef f():\n    return 0\n', "change.py:2: the core has no function mmu.zap.nothing"),
    ('@replaces("mmu.contexts.rsvd_bits")\ndef f(a):\n    return 0\n',
     "change.py:2: mmu.contexts.rsvd_bits takes (low, high)"),
])
def test_bad_patches(tmp_path, text, message):
    done = python("run", text, tmp_path, arguments=("-m", "shadowmmu"))
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_two_files_together_and_what_counts_as_their_text(tmp_path):
    """Comments and docstrings do not make other code of it; a function may be replaced once."""
    from shadowmmu.state.patch import Patch
    one, two, same = (tmp_path / name for name in ("one.py", "two.py", "same.py"))
    one.write_text('"""Story."""\n@replaces("mmu.a.f")\ndef f(vm):\n    return 1\n')
    two.write_text('@replaces("mmu.a.g")\ndef g(vm):\n    return 2\n')
    same.write_text('"""Another story."""\n\n\n@replaces("mmu.a.f")\ndef f(vm):\n    return 1  # one\n')
    both = Patch(os.pathsep.join(map(str, (one, two))))
    assert set(both.functions) == {"mmu.a.f", "mmu.a.g"} and both.problem is None
    assert Patch(str(one)).text == Patch(str(same)).text != both.text
    assert Patch(os.pathsep.join(map(str, (one, same)))).problem == f"{same}:5: mmu.a.f is replaced twice"


def based(base, text=""):
    return f'"""Title.\n\nbase: {base}\n"""\n{text}'


def test_a_base_holds_where_the_file_says_nothing(tmp_path):
    from shadowmmu.state.patch import Patch
    function = '@replaces("mmu.a.{0}")\ndef {0}(vm):\n    return {1}\n'
    (tmp_path / "grand.py").write_text(function.format("f", 1) + function.format("g", 1))
    (tmp_path / "middle.py").write_text(based("grand.py", function.format("f", 2)))
    (tmp_path / "own.py").write_text(based("middle.py", function.format("h", 3)))
    patch = Patch(str(tmp_path / "own.py"))
    assert patch.problem is None
    returned = {target: node.body[-1].value.value for target, node in patch.functions.items()}
    assert returned == {"mmu.a.f": 2, "mmu.a.g": 1, "mmu.a.h": 3}
    assert patch.text.count("return") == 3


@pytest.mark.parametrize(("base", "message"), [
    ("none.py", "none.py, the base of {0}/change.py: No such file or directory"),
    ("change.py", "change.py: it is a base of itself"),
    ("round.py", "change.py: it is a base of itself"),
    ("bad.py", "bad.py:1: "),
    ("alien.py", "alien.py:2: the core has no function mmu.zap.nothing"),
])
def test_a_bad_base_is_one_line(tmp_path, base, message):
    (tmp_path / "round.py").write_text(based("change.py"))
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "alien.py").write_text('@replaces("mmu.zap.nothing")\ndef f():\n    return 0\n')
    done = python("run", based(base), tmp_path, arguments=("-m", "shadowmmu"))
    assert done.returncode == 2
    assert message.format(tmp_path) in done.stderr and done.stderr.count("\n") == 1
