# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m shadowmmu`."""

from .cli.main import main

main()
