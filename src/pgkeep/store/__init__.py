"""Named objects in, out, listed, deleted: one contract, a driver a kind.

`base` has the contract and `settle`, by which the repository makes every object. `local` is a
directory, `memory` a fake at this seam; `retry` and `faults` add behaviour by wrapping. `open`
finds the driver for an address and imports only that one. Never in here: what an object holds.
"""
