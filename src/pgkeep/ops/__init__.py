"""One function a verb: it opens what the configuration names, calls an engine, returns a result.

`wiring` alone names concrete stores and key wrappers. Never in here: printing, parsing of command
lines, or how an engine works.
"""
