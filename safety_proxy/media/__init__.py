"""Bytes on their way through: spooled with their digest, and turned into what a model looks at."""
