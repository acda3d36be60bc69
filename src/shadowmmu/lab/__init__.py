# SPDX-License-Identifier: GPL-2.0-or-later
"""Experiments and measurements.

    bench      the core's operations: compiled, interpreted, and in C (`benchmarks/limit.c`)
      options      what the user may ask
      operations   the rows of its table
      guest        guest memory that they run in
      drivers      their loops, as core functions
      measured     a machine, a driver, and what a run leaves behind
      limit        compiling and calling the C side
      worker       a process that runs benchmarks on request: the interpreted side
      growth       cost and memory while the number of shadow pages grows
      environment  CPU, versions, load
      report       the text
"""
