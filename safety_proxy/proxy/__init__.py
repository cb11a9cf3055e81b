"""HTTP between Lemmy (or nginx) and pict-rs.

routes.py    which of pict-rs' routes a request is, and whether it may bring bytes in
ingest.py    a multipart body -> Media, bounded
fetch.py     a foreign address -> Media, bounded, never from a private network
forward.py   to pict-rs: `store` for what a scan cleared, `stream` for all that stores nothing
headers.py   what passes on, in each direction
replies.py   answers of our own, in pict-rs' shape
server.py    the handler that joins them
"""
