"""Services and their targets: where an attempt goes, whether it may go, and whether it may be repeated.

`target`, `balancers`, `breaker`, `outlier` and `retry` decide without doing: no I/O, no clock, no event loop.
They are given the time and keep their state in plain numbers, so they need no lock and tests move time by
hand.
"""
