"""Bytes to sealed bytes and back: compression, sealing, keys, key wrappers.

1. `compress` makes a frame small; `container` seals it under a key of its own object, counts it,
   and ends the object with a sealed, signed footer.
2. `keys` holds what is needed to do so: bundles by key id, and who signed.
3. `slots` wraps a bundle for one way to open it; `keyfile` is the way that a host has, and the
   recovery key the way that a person has.

The bytes are described in `docs/format.md`. Never in here: names of objects, stores, PostgreSQL.
"""
