"""The one exception that reaches a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence that names the thing, what was found and what was
    expected. The command line prints it after ``vasae:`` and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, as part of a sentence; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
