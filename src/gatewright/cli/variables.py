"""Names of the environment variables that the commands read. Apart, so that help texts need nothing else."""

ADMIN = "GATEWRIGHT_ADMIN"
TOKEN = "GATEWRIGHT_ADMIN_TOKEN"  # noqa: S105 - the variable's name, not a token
