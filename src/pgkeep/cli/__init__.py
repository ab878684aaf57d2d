"""The command line: a thin shell over `ops`, one module a verb.

`main` parses, calls one function of `ops`, prints what it returns and turns errors into exit codes.
Verbs are imported only when called, so that `wal push` starts quickly. Never in here: deciding
anything, or talking to a store or a server.
"""
