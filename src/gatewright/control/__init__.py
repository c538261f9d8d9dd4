"""The control plane: what the configuration says, checked, and how it becomes what exchanges run on."""
