"""The gateway measured beside its peers, on this machine, by one command: `python -m benchmarks`.

Nothing in `src/` imports this package, and of the gateway it uses only the command line: `gatewright run
FILE`. `micro.py` alone imports gateway modules, to time them one by one. `docs/benchmarks.md` says how to
read the numbers.
"""
