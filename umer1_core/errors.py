"""One small hierarchy. Every message says what happened, where (file, row, field) and what to do about it."""

from __future__ import annotations

from urllib.parse import urlsplit


class Umer1Error(Exception):
    """A failure a person can act on. `remedy` is the sentence that says how."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Both as sentences, in two lines where the message has several of its own."""
        if not (self.message and self.remedy):
            return self.message or self.remedy
        ended = self.message.endswith((".", "!", "?", ":"))
        between = "\n" if "\n" in self.message else " " if ended else ". "
        return f"{self.message}{between}{self.remedy}"

    def __reduce__(self) -> tuple[type[Umer1Error], tuple[str, str]]:
        # Prefect pickles the exceptions of tasks; the default loses every argument but the first.
        return type(self), (self.message, self.remedy)


class RecipeError(Umer1Error):
    """The recipe does not say what it must, or says it wrongly."""


class SourceError(Umer1Error):
    """A source as a whole cannot be read: a missing folder, file or column."""


class StorageError(Umer1Error):
    """A table cannot be written or read: no space, no permission, a damaged shard."""


class ValidationFailed(Umer1Error):
    """A data set does not meet its expectations; nothing is trained on it."""


class BadInput(Umer1Error):
    """One row cannot be used. It becomes a recorded rejection; `reason` is its word in the funnel."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Transient(Umer1Error):
    """The same request may succeed later, or elsewhere: a busy, restarting or slow server."""


class Busy(Transient):
    """The server says that it has too much to do (429, 503). `retry_after_s`: what it asks for, or 0."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Busy], tuple[str, float]]:  # type: ignore[override]
        return type(self), (self.message, self.retry_after_s)


class Unreachable(Transient):
    """Nothing listens there: no request can have been worked on."""


class ServerLost(Transient):
    """The server went away while it worked on this request: chance, or the request is what kills it."""


class ServerFailed(Transient):
    """The server failed on this request (500): it is ill, or the input is what it cannot bear."""


class BadOutput(Transient):
    """The server answered with something that is no completion: another page, broken JSON, no choices."""


class Fatal(Umer1Error):
    """No request can succeed until a person acts: a wrong model name, a refused key, an unreachable annotator."""


def safe_url(address: str) -> str:
    """For messages: an address without user, password, query and fragment; what is no address stays as it is."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
