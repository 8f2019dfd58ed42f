"""Which check catches which seeded bug: every bug judged by every check of its groups.

    python -m benchmarks.catches [--bugs NAME,...] [--workers N] [--examples N] [--json FILE]

Bugs are those of ``fixtures.forks.wrong``. Checks of threads are made in processes of their own, N at a time; those
that need processes here, one after another. ``--examples`` is how many cases a check draws, 25 as the gate's profile
*quick*. Prints Markdown: a row for each check, with the bugs that it catches and those that no other check catches;
then the checks that catch nothing alone, and the bugs that nothing catches.
"""
