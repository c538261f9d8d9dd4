"""What happens to a request: `life` is to be read from top to bottom, `attempt` is one try on one target."""
