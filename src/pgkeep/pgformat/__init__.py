"""PostgreSQL's bytes to values, no I/O.

LSNs and WAL names, WAL page headers and records, timeline histories, the control file, data pages
and their checksums, the base-backup stream and its tar archives, manifests, backup_label, and the
times that people write for recovery. PostgreSQL 15 to 18. Never in here: files, connections, or
anything of ours.
"""
