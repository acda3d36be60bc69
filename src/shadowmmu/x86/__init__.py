# SPDX-License-Identifier: GPL-2.0-or-later
"""The architecture: register bits, entry bits, error codes, paging modes.  Imports nothing."""
