"""Routing: path patterns, predicates, the table that finds a request's route, and what conflicts in it.

Knows requests and nothing of what routes do. Called by the configuration and the snapshot to build, and by
the proxy to match.
"""
