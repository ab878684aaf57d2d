"""Talks to, starts and stops a live server.

1. `session` asks SQL; `replication` drives the replication protocol on libpq; `failures` turns what
   either says into our errors, in one place.
2. `binaries` finds PostgreSQL's programs, `instance` starts, stops and kills a data directory.
3. `osuser` and `runtime` say as whom the server runs, and make our own interpreter usable for it.

Never in here: what a backup or a restore is.
"""
