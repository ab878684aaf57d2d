"""Makes a backup: plan, a source (protocol stream), slicing, run.

1. `plan` looks at the server and the repository's log and says what will be done, or why not.
2. `stream` drives BASE_BACKUP and turns its archives into files.
3. `slice` cuts files into frames and says where each block went.
4. `run` seals and stores the frames, waits for the WAL that the backup needs, writes the record
   and commits it: only then does the backup exist.

Never in here: printing, configuration, the names of stores.
"""
