"""Decoding in processes that can do nothing else; `processes` is the way in."""
