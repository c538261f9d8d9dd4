"""State that outlives an exchange: what limits count, in this machine's memory or in Redis."""
