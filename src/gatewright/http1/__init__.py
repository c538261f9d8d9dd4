"""HTTP/1.1 as RFC 9110 and 9112 define it, without a socket: bytes in, messages out, and back. Strict on purpose."""
