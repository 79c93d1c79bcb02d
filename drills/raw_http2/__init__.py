"""A client of HTTP/2 that can also send what is wrong, slow, or half of it."""
