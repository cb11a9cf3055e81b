"""Commands that are a file of their own, and what all of them tell the shell."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees."""

    NOTHING_FOUND = 0
    FOUND = 1
    CONFIG = 2  # wrong usage, settings or policy
    UNAVAILABLE = 3  # something that the command needs does not answer
