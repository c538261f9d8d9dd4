"""The vocabulary of all packages: messages, the exchange, errors, time. Imports nothing of the project."""
