"""The only package that sees a transport: it moves bytes and watches deadlines, and decides nothing else."""
