"""What exists, and pure questions about it.

1. `records` reads and writes the description of a backup; the log says which of them count.
2. `inventory` reads which WAL a store has: names first, footers only when somebody asks.
3. `coverage` turns those names into stretches, gaps and the ways along which history can be
   replayed; it does no I/O.
4. `reach` says which moments backups and WAL together can bring back, and why another can't be;
   it does no I/O either, it asks a callback for what a segment contains.

Never in here: a decision about what to do with the answers, or a message to the user.
"""
