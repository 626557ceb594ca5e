"""The one exception whose text is meant for the person at the terminal."""


class MinislurmError(Exception):
    """What failed, on what, why; the program prints it and exits with 1."""
