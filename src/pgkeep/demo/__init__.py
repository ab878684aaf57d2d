"""The whole job on an embedded PostgreSQL, in a temporary directory.

1. `stage` makes the place: a directory, an ordinary user, an interpreter that this user can run.
2. `business` fills a database like a company's, goes on writing, and fingerprints what is there.
3. `story` tells it: back up, note a moment, destroy, recover to the moment, prove it.

It uses the same `ops` functions as the command line. Never in here: a short cut that a real
cluster does not have.
"""
