"""The process tree: one supervisor and its workers."""
