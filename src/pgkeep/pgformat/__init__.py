"""PostgreSQL's bytes to values: what a server writes, told apart from what it does not.

Positions and names:  lsn, walname, history (which timeline came from which, and where).
Files of a server:    control (pg_control), page, label, walpage, walrecord, walsummary.
A base backup:        basebackup (the messages), tarstream (the archives inside), manifest.
People's words:       recoverytime.

Each module takes bytes or text and returns frozen values, or raises NotPostgres with what is wrong
and where. Servers of versions 15 to 18 on little-endian machines.

Never in here: files, sockets, SQL, threads, knowledge of repositories or of what is done with the
values. lsn, walname, walpage and history run once a WAL segment: they import nothing large.
"""
