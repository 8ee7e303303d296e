"""What a chat may ask of its answer's form: JSON, JSON by a schema, and calls of functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_TOOLS = 128
"""Functions of a request, and calls of a message."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Part(BaseModel):
    """A part of a request: types are as they must be, and fields that are not known are left out."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class JsonSchema(Part):
    """The schema that an answer must match; `strict` is always meant."""

    name: Name
    content: Annotated[dict[str, Any], Field(alias="schema")] = {}


class ResponseFormat(Part):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is for the type json_schema, which needs it")
        return self

    @property
    def schema_asked_for(self) -> dict[str, Any] | None:
        """What the answer must match; None for any text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.content


class Function(Part):
    """A function that may be called."""

    name: Name
    description: str = ""
    parameters: dict[str, Any] = {}


class Tool(Part):
    """A function, in the wrapping that OpenAI has for it."""

    type: Literal["function"]
    function: Function


class FunctionName(Part):
    """Which function is to be called."""

    name: Name


class ToolChoice(Part):
    """The function that must be called."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(Part):
    """A function that was called; the arguments are JSON."""

    name: Name
    arguments: str = "{}"


class ToolCall(Part):
    """A call in a message of before."""

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: FunctionCall
