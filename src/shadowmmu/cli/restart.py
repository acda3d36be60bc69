# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the command again: how functions of the core are kept is settled when the core is imported."""

import os
import sys


def restart(variable, value):
    """Run the same command line in this process's place with `variable` set in the environment.  Does not return."""
    os.environ[variable] = value
    os.execv(sys.executable, [sys.executable, "-m", "shadowmmu", *sys.argv[1:]])
