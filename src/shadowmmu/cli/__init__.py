# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: options, exit codes, and the glue between rooms."""
