"""The exception whose message is shown to the user without a traceback."""


class UserError(Exception):
    """An argument, setting or file of the user's cannot be used.

    The message is one sentence: what cannot be used, what was found and what was expected. The
    command line prints it after ``vasae:`` and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop; its type if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
