"""The log, frames and packs, leaves and roots, whole blobs, leases, over a store and a codec.

A backup's data goes down this way, and back up when it is restored:

1. `generation` seals frames of blocks into data packs (`packs`), lists where each lies
   (`framelist`) and keeps a print of every block (`prints`); `generationreader` reads them.
2. `leaf` says for each block of a file which generation has it, and under which ordinal.
3. `filetable` has the files as columns; `tree` joins files, leaves and generations under a root.
4. `mapwriter` stores all of 2 and 3 as frames of map packs, `refs` names them, `mapreader` reads
   them.
5. `objects` are small things in one object each: records and the entries of the `log`, whose
   `commit` is what makes a backup exist.
6. `repository` makes and opens all this; `names` knows what every object is called.

Formats are those of docs/format.md. Work goes leaf by leaf and chunk by chunk in bounded memory,
never with a Python object a block. Never in here: PostgreSQL, files of a data directory, and
deciding what to keep.
"""
