"""TOML to frozen values; an unknown key is an error with its path.

`load` finds the file, reads it, checks it whole and returns a `Config`. Light to import, since
every WAL segment starts a process that reads it. Never in here: what a setting does, or opening
anything that a setting names.
"""
