"""The vocabulary that every other package speaks: messages, the exchange, errors, time. Imports nothing of the project."""
