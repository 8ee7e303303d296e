"""What huggingface_hub raises where a hub cannot be reached."""

from __future__ import annotations


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the base class of what huggingface_hub's HTTP library raises, whichever that is, and what the client itself does.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    from huggingface_hub.errors import HfHubHTTPError

    names = ("HTTPError", "RequestException")
    theirs = tuple(each for each in HfHubHTTPError.__mro__[1:] if each.__name__ in names)
    # The last are what an answer of another shape than the client expects ends in.
    return (OSError, RuntimeError, ValueError, *theirs, LookupError, TypeError, AttributeError, OverflowError)


def reason_of(error: Exception) -> str:
    """Return in a few words why something could not be fetched; texts of theirs may hold a token."""
    name = type(error).__name__
    # What the client raises where it got no answer, and looked for a copy that it had fetched before.
    return "it was not reached" if name == "LocalEntryNotFoundError" else name
