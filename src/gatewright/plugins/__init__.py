"""Plugins: one file each, holding configuration model, behaviour and documentation. `base` is the API, `chain` the order."""
