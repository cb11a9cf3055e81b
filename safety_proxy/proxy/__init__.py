"""HTTP between Lemmy (or nginx) and pict-rs.

routes.py     which of pict-rs' routes a request is, and whether it may bring bytes in
ingest.py     a multipart body -> Media, bounded
fetch.py      a foreign address -> Media, bounded
addresses.py  which addresses may be fetched from: none of a private network
proxied.py    `?proxy=`: a foreign address -> alias of the picture that stands for it in pict-rs
forward.py    to pict-rs: `store` for what a scan cleared, `stream` for all that stores nothing
headers.py    what passes on, in each direction
replies.py    answers of our own, in pict-rs' shape
server.py     the handler that joins them
"""
