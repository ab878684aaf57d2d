"""Makes a data directory at a recovery target.

1. `target` decides which backup and timeline reach the wish, or names the nearest moments that can
   be reached; nothing has been written then.
2. `plan` says which directory gets what, in which order it is read, and how much room it takes.
3. `destination` looks at the directories: empty, not in use, owned by the right user, large enough.
4. `place` makes directories and links and writes the blocks, many at a time, synced as it goes.
5. `recovery` writes what makes the server recover to the target and no other.
6. `run` calls them in this order and puts `global/pg_control` in place last, so that a directory
   that is not whole can't be started.

Never in here: printing, configuration, starting the server, and fetching WAL (the server asks
`wal` for it).
"""
