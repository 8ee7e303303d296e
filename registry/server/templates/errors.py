"""What goes wrong with a template; each message is the end of a sentence that begins with what the template is of."""

from __future__ import annotations


class TemplateError(Exception):
    """There is no text: a template is at fault, or what it is rendered in.

    Attributes:
        temporary: the same may go well later.
    """

    temporary = False


class TemplateRaised(TemplateError):
    """The template does not parse, or refuses what it is given; the message is its own."""


class TemplateTooMuch(TemplateError):
    """The template needed more time or memory, or made more text, than it may."""


class TemplateTooLong(TemplateTooMuch):
    """The template made more text than it may."""


class NoProcess(TemplateError):
    """It was not rendered: there is no process for it, or none any more.  The template is not at fault."""

    temporary = True
