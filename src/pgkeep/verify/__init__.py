"""Proves that stored things are whole.

1. `findings` gathers what is wrong, looks at each thing once, and knows which backups need it.
2. `maps` reads all that leads to a backup's blocks: record, root, file table, leaves, frame lists.
3. `packs` looks at the data: that every pack is there and is the one that the frame list names,
   and, when asked to go deep, that every frame opens and is what it was.
4. `wal` looks at the WAL that makes each backup consistent and, deep, at every segment stored.
5. `run` does all this for one backup or for all.

Never in here: mending, deleting, printing, configuration.
"""
