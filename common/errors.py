"""The errors a user can cause. Each carries the exit code of the command line and says what to do next."""


class UserError(Exception):
    """Something the user got wrong: shown as one message, never as a traceback (exit code 2)."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MissingDependency(UserError):
    """An optional package or system library is absent (exit code 3)."""

    exit_code = 3


class BadData(UserError):
    """The data cannot be used: nothing readable, labels that do not fit, a damaged checkpoint (exit code 4)."""

    exit_code = 4


class StoppedBySignal(UserError):
    """Training was told to stop; everything up to the current step is saved (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75
