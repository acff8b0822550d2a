"""HTTP/1.1 and 1.0, server side: a codec without I/O (RFC 9112). `connection` is the entry."""
