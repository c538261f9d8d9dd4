"""What is written down about exchanges. Sees them only when they are over."""
