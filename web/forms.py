"""Pages with forms: operations, with fields from their parameters, and signing in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Literal, get_origin
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from fusery.registry import Registry
from fusery.registry.api.adapters import Adapters
from fusery.registry.api.aliases import Aliases, Deployments
from fusery.registry.api.operation import Operation
from fusery.registry.api.resource import Resource
from fusery.registry.errors import AliasGuardedError, BadInputError, UnknownReferenceError
from fusery.registry.records.release import Moved, Promotion
from fusery.registry.records.trust import Role
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import is_keepable

from .answers import page, status_of
from .auth import HALF_A_DAY, LocalAuth, NotSignedInError, TokenAuth, principal_of
from .rendering import environment, of_adapter, of_alias
from .routes import Routes

TOKEN = "form_token"
_MOST_FIELDS = 20

LABELS = {"reference": "Adapter", "references": "Adapter", "places": "Place"}  # unlike the parameters' names


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form, from an operation's parameter."""

    name: str
    label: str
    help: str
    # a line, a text of several lines, lines of `NAME=VALUE`, or a checkbox
    kind: Literal["line", "text", "pairs", "flag"]
    required: bool
    several: bool  # the operation takes a list, and the form gives one item

    def value(self, given: str) -> Any:
        """Return the argument of the operation."""
        text = given.replace("\r\n", "\n").strip()
        if self.required and not text:
            raise BadInputError(f"{self.label} is missing", hint=self.help)
        if not is_keepable(text):
            raise BadInputError(f"invalid characters in {self.label}", hint="remove them")
        if self.kind == "pairs":
            return _pairs(text)
        return bool(text) if self.kind == "flag" else [text] if self.several else text


@dataclass(frozen=True, slots=True)
class Form:
    """The form of an operation."""

    resource: type[Resource]
    method: str  # the operation's name in Python
    title: str
    names: Sequence[str]  # the parameters with fields; the first one names the record to change
    bold: bool = False  # the operation is hard to undo
    reasoned: bool = True
    guarded: str = ""  # the hint if the alias is guarded

    @property
    def operation(self) -> Operation:
        """Return the operation."""
        form_operation: Operation = getattr(self.resource, self.method).operation
        return form_operation

    @property
    def name(self) -> str:
        """Return the end of the page's URL."""
        return f"{self.resource.NAME}/{self.operation.name}"

    @property
    def role(self) -> Role:
        """Return the required role."""
        return self.operation.role

    @property
    def summary(self) -> str:
        """Return the operation's summary, without its result."""
        return self.operation.summary.partition(", and return ")[0].partition("; see ")[0].rstrip(".") + "."

    @property
    def fields(self) -> Sequence[Field]:
        """Return its fields."""
        return [self._field(name, self.operation.hints[name]) for name in self.names]

    def _field(self, name: str, kind: Any) -> Field:
        origin = get_origin(kind) or kind
        is_pairs, several = "Mapping" in str(kind), origin is Sequence
        needed = self.operation.parameters[name].default is Parameter.empty
        return Field(
            name,
            LABELS.get(name, name.replace("_", " ").capitalize()),
            self.operation.description_of(self.resource.NAME, name),
            "flag" if kind is bool else "pairs" if is_pairs else "text" if name in _LONG else "line",
            needed or (self.reasoned and name == "reason"),
            several,
        )

    def address(self, *values: str) -> str:
        """Return the address of the page, with values of its first fields."""
        return f"/acts/{self.name}?{urlencode(dict(zip(self.names, values, strict=False)))}"

    def run(self, registry: Registry, given: Mapping[str, str]) -> Any:
        """Run the operation, and return its record."""
        values = {field.name: field.value(given.get(field.name, "")) for field in self.fields}
        if self.method == "approve":  # a misspelled approval would have no effect
            names = registry.aliases.names_for(values["reference"])
            alias = values["alias"].rpartition("#")[2]
            if alias not in {name.partition("#")[2] for name in names}:
                hint = f"choose from {', '.join(names[:10])}" if names else "set rules for it first"
                raise BadInputError(f"unknown alias {alias[:100]!r}", hint=hint)
        elif self.method == "amend":  # an empty note, and tags without a value, are cleared
            note, tags = values["note"] or None, values["tags"]
            clear = ["note"] * (note is None) + [f"tag.{name}" for name, value in tags.items() if not value]
            tags = {name: value for name, value in tags.items() if value}
            values |= {"note": note, "tags": tags, "clear": clear}
        try:
            done = self.operation.method(getattr(registry, self.resource.NAME), **values)
        except AliasGuardedError as error:
            raise AliasGuardedError(error.message, hint=self.guarded) from error
        return done[0] if isinstance(done, tuple) else done

    def page_after(self, done: Any) -> str:
        """Return the address of the page that shows the result."""
        if self.resource is Deployments:
            return "/places"
        if isinstance(done, Moved | Promotion):
            return of_alias(done.alias)
        return of_adapter(done["adapter"] if "adapter" in done else done["name"])


_LONG = ("note", "reason")
_EMERGENCY = 'tick "Emergency" to roll back at once'

FORMS: Sequence[Form] = (
    Form(Aliases, "promote", "Promote", ("reference", "alias", "reason")),
    Form(Aliases, "approve", "Approve", ("reference", "alias", "note")),
    Form(Aliases, "withdraw_approval", "Withdraw your approval", ("reference", "alias", "note")),
    Form(Aliases, "set", "Set an alias", ("adapter", "alias", "reason"), guarded='choose "Promote" instead'),
    Form(Aliases, "roll_back", "Roll back", ("alias", "reason", "emergency"), bold=True, guarded=_EMERGENCY),
    Form(Adapters, "amend", "Amend", ("reference", "note", "tags", "reason"), reasoned=False),
    Form(Adapters, "yank_all", "Yank", ("references", "reason"), bold=True),
    Form(Adapters, "unyank_all", "Lift the yank", ("references", "reason")),
    Form(Deployments, "record", "Record a deployment", ("reference", "place", "note")),
    Form(Deployments, "end", "End", ("places", "reason")),
)

BY_NAME: Mapping[str, Form] = {form.name: form for form in FORMS}


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise BadInputError(f"invalid tag: {line[:80]!r}", hint="write one NAME=VALUE a line")
        pairs[name.strip()] = value.strip()
    return pairs


async def sent_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; the last value of repeated ones."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadInputError("expected a form", hint="for programs, see /api/v1/openapi.json")
    try:
        text = (await request.body()).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError as error:
        raise BadInputError("invalid form") from error


Sent = Annotated[dict[str, str], Depends(sent_form)]


def add_forms(routes: Routes, registry: Registry) -> None:
    """Add the routes of all forms."""
    environment().globals["acts"] = BY_NAME
    for form in FORMS:
        _add(routes, registry, form)


def _add(routes: Routes, registry: Registry, form: Form) -> None:
    @routes.page(f"/acts/{form.name}", role=form.role)
    def ask(request: Request) -> Response:
        given = {name: text[:2_000] for name, text in request.query_params.items()}
        try:
            return _shown(request, form, given, recorded=_recorded_values(registry, form, given))
        except FuseryError as error:
            return _shown(request, form, given, problem=error)

    @routes.add("POST", f"/acts/{form.name}", role=form.role)
    def run(request: Request, given: Sent) -> Response:
        principal = principal_of(request)
        principal.require_own_form(given.pop(TOKEN, ""))
        try:
            done = form.run(principal.acting(registry), given)
        except FuseryError as error:
            return _shown(request, form, given, problem=error)
        then = form.page_after(done)
        if isinstance(done, Promotion):
            shown = {"act": form, "promotion": done.to_dict(), "then": then}
            return page(request, "promotion.html.j2", shown, 200 if done.verdict == "passed" else 409)
        return RedirectResponse(then, 303)


def _shown(
    request: Request,
    form: Form,
    given: Mapping[str, str],
    *,
    recorded: Mapping[str, Any] | None = None,
    problem: FuseryError | None = None,
) -> Response:
    shown = {"act": form, "given": given, "promotion": None, "choices": (), "problem": problem}
    status = 200 if problem is None else status_of(problem)
    return page(request, "act.html.j2", shown | dict(recorded or {}), status)


def _recorded_values(registry: Registry, form: Form, given: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the recorded values, the aliases to choose from, or the state of an alias's rules."""
    subject, alias = given.get(form.names[0]), given.get("alias")
    if not subject:
        return {}
    if form.method == "amend":
        adapter = registry.adapters.show(subject)
        tags = "\n".join(f"{name}={value}" for name, value in adapter.tags.items())
        return {"given": {"note": adapter.note or "", "tags": tags, **given}}
    if "alias" in form.names[1:] and not alias:
        return {"choices": registry.aliases.names_for(subject)}
    if form.method == "promote":
        return {"promotion": registry.aliases.promote(subject, str(alias), dry_run=True).to_dict()}
    return {}


def add_key(routes: Routes, auth: LocalAuth) -> None:
    """Add the URL that opens local pages."""

    @routes.page("/enter/{key}", role=None)
    def enter(request: Request, key: str) -> Response:
        if not (auth.opens(key) or auth.opens_once(key)):
            raise UnknownReferenceError("this address has expired", hint="fusery ui")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(auth.cookie, auth.key, httponly=True, samesite="strict")
        return answer


def add_sign_in(routes: Routes, auth: TokenAuth) -> None:
    """Add the routes for signing in and out."""

    @routes.page("/sign-in", role=None)
    def ask(request: Request, then: Annotated[str, Query(max_length=2_000)] = "/") -> Response:
        return page(request, "sign_in.html.j2", {"then": then, "problem": None})

    @routes.add("POST", "/sign-in", role=None)
    def sign_in(request: Request, given: Sent) -> Response:
        then, token = given.get("then", "/"), given.get("token", "").strip()
        try:
            auth.authenticate(token)
        except NotSignedInError as error:
            routes.count_failure(request, error)
            return page(request, "sign_in.html.j2", {"then": then, "problem": error}, status_of(error))
        # Redirect to the start page instead of another server.
        is_here = then.startswith("/") and not then.startswith(("//", "/\\")) and then.isprintable()
        answer = RedirectResponse(then if is_here else "/", 303)
        secure = auth.is_secure(request)
        answer.set_cookie(
            auth.secure_cookie if secure else auth.cookie,
            auth.sessions.begin(token),
            max_age=HALF_A_DAY,
            httponly=True,
            samesite="lax",  # links from chats work; forms of other sites do not
            secure=secure,
        )
        return answer

    @routes.add("POST", "/sign-out", role=None)
    def sign_out(request: Request, given: Sent) -> Response:
        principal = principal_of(request)
        if principal.key:
            principal.require_own_form(given.get(TOKEN, ""))
        auth.sessions.end(auth.session(request))
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(auth.cookie)
        answer.delete_cookie(auth.secure_cookie, secure=True, httponly=True)
        return answer
