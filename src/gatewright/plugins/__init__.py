"""Plugins: one file each, with configuration model, behaviour and documentation. `base` is the API."""
