# SPDX-License-Identifier: GPL-2.0-or-later
"""Event logs: reading, printing, aligning, comparing."""
