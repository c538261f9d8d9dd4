"""The admin API: what the gateway does, shown and changed over HTTP. It runs in the supervisor."""
