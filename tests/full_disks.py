"""A disk that is full, for the files of this process alone."""

import contextlib
import resource


@contextlib.contextmanager
def full_beyond(size):
    """Writes past ``size`` bytes of a file fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
