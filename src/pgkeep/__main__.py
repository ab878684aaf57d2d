"""`python -m pgkeep` is the same as `pgkeep`."""

from pgkeep.cli.main import main

main()
