"""Where the gate's time goes: one run of it, by stages, by groups, and its slowest checks.

    python -m benchmarks.gate [--target T] [--only G,...] [--json FILE]

Runs ``python -m pytest verify`` in a process of its own and prints Markdown. Seconds are those of the wall in the
process that judges: what a server of ranks imports meanwhile is in none of them, only the wait for it is. Processor
time is that of all processes. Each second is counted once, under what was entered last.
"""
