"""False alarms: the gate on what is right, again and again, with other cases each time.

    python -m benchmarks.false_alarms [--seeds N] [--target NAME,...] [--only NAME,...] [--profile quick]
                                      [--launcher LAUNCHER] [--forked N] [--workers N] [--load] [--keep FILE]

Each seed is a run of the gate, ``python -m pytest verify --seed S``, with other cases and its checks in another order.
It is a process of its own: a new one, or with ``--forked N`` one of N at a time that are forked from such as have
imported what the gate imports and have done nothing else. Targets are those of ``fixtures.forks.right``: sam3 with what
is known of it, the recipe as posted by the groups that it meets, the corrected recipe, whose hazards count, and every
variant that conforms. ``--target`` takes parts of names, ``--workers`` xdist's number; ``--load`` keeps every core
busy meanwhile. A run that ends with another status than 0 is an alarm: it is printed with its seed and what failed, and
``--keep`` writes it down, a line of JSON each.

Prints a row for each target: runs, checks that were made in them, cases that were compared, alarms.
"""
