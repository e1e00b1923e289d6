"""Keeping libraries from telling a user what is no news."""

import logging
import warnings


class _NoBookkeeping(logging.Filter):
    """Lets pass what others than Orbax say, and what Orbax says at a level above warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is said."""
        return record.levelno > logging.WARNING or "orbax" not in record.pathname


def quiet_orbax() -> None:
    """Drop what Orbax tells of its own bookkeeping, for those who call from Python."""
    logger = logging.getLogger("absl")
    if not any(isinstance(there, _NoBookkeeping) for there in logger.filters):
        logger.addFilter(_NoBookkeeping())


def quiet_libraries() -> None:
    """Silence Orbax, for command lines and workers, which say what fails in a sentence.

    It tells its own bookkeeping at warning level, and a failed save again for each array.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
