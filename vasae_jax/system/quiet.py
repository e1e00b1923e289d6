"""Keeping libraries from telling a user what is no news; for command lines and workers."""

import logging
import warnings


def quiet_libraries() -> None:
    """Silence Orbax, which tells its own bookkeeping at warning level.

    A failed save it tells again for each array.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
