"""The mutation score of the gate: of all small edits of a code under verification, how many does it see?

    python -m benchmarks.mutation BODY [--list] [--only MUTANT] [--sample N] [--every-check] [--json FILE]

Each edit is made in memory, in a process of its own, and judged by the gate's checks on threads. docs/mutation.md has
what was measured, and why what survives does.
"""
