"""Brings WAL in and gives it back.

In: `push` checks a file that PostgreSQL wants archived, seals it and puts it; the same bytes again
are fine, other bytes under the same name are refused. `stream` takes the WAL of one backup over a
replication connection and stores it by the same code. Success is said only when the store has it.

Back: `fetch` is what PostgreSQL calls in recovery. "Absent" makes recovery end and promote, so it
is said only where WAL really ends; `serve` decides that, and it is pure.

`commands` writes the shell lines that PostgreSQL runs. Never in here: which backup or target.
"""
