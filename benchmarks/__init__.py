"""How fast this is, next to TRL on the same machine: `python -m benchmarks`, or `make bench`.

Development only: it is not part of what is installed.
"""
