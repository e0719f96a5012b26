"""The steps of an answer without a scenario, made from the request: the same request gets the same answer.

Pure. Calls the first tool (or the required one) with arguments that its schema allows; answers a tool's result or the
user's message with text.
"""

from __future__ import annotations

import random
from typing import Any, cast

from tailrace.demo.simulator.errors import ApiError
from tailrace.demo.simulator.plan import filler, seeded
from tailrace.demo.simulator.request import Asked
from tailrace.demo.simulator.scenario import CustomToolCall, JsonObject, Reasoning, Step, Text, ToolCall

_THOUGHTS = "inner_thoughts"
_DEEPEST = 4  # levels of a nested or recursive schema that are filled in
_LONGEST = 10  # the most items of an array, whatever its schema requires


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:159] + "…"


def _object(schema: JsonObject, root: JsonObject, rng: random.Random, said: str, depth: int) -> JsonObject:
    properties = cast(dict[str, Any], schema.get("properties") or {})
    names = sorted(properties, key=lambda name: name != _THOUGHTS)  # stable: the others keep the schema's order
    return {name: _value(name, properties[name], root, rng, said, depth + 1) for name in names}


def _resolve(schema: Any, root: JsonObject) -> JsonObject:
    """The schema behind a local `$ref`, or the first alternative that is not null."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, dict):
            return {}
        schema = cast(JsonObject, schema)
        reference = schema.get("$ref")
        choices = cast(list[JsonObject], schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or [])
        if isinstance(reference, str) and reference.startswith("#/"):
            found: Any = root
            for key in reference[2:].split("/"):
                found = cast(JsonObject, found).get(key) if isinstance(found, dict) else None
            schema = found
        elif choices:
            schema = next((choice for choice in choices if choice.get("type") != "null"), choices[0])
        else:
            return schema
    return {}


def _text(name: str, rng: random.Random, said: str) -> str:
    if name == _THOUGHTS:
        return f"They said: {_quote(said)} I should act on it."
    if name in ("message", "content", "text"):
        return f"You said: {_quote(said)} " + filler(60, rng.randrange(1 << 30)) + "."
    return f"{name} {filler(8, rng.randrange(1 << 30))}".strip()


def _value(name: str, given: Any, root: JsonObject, rng: random.Random, said: str, depth: int) -> Any:
    schema = _resolve(given, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(cast(list[Any], schema["enum"]))
    kind: Any = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in cast(list[str], kind) if one != "null"), "null")
    low = schema.get("minimum", 0)
    match kind:
        case "object":
            return _object(schema, root, rng, said, depth) if depth < _DEEPEST else {}
        case "array":
            length = 0 if depth >= _DEEPEST else min(max(1, int(schema.get("minItems", 1))), _LONGEST)
            return [_value(name, schema.get("items"), root, rng, said, depth + 1) for _ in range(length)]
        case "integer":
            return rng.randint(int(low), int(schema.get("maximum", low + 100)))
        case "number":
            return round(rng.uniform(low, schema.get("maximum", low + 100)), 2)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            return _text(name, rng, said)


def _tool(asked: Asked) -> JsonObject | None:
    """The tool to call: the one that `tool_choice` names, else the first that the simulator can call."""
    choice: Any = asked.body.get("tool_choice")
    if choice == "none" or asked.answers_tool is not None:
        return None
    demanded: Any = None
    if isinstance(choice, dict):
        choice = cast(JsonObject, choice)
        demanded = (choice.get("function") or choice.get("custom") or choice).get("name")
    for tool in asked.tools:
        if tool.get("type") in ("function", "custom"):
            flat: JsonObject = {
                **tool,
                **(tool.get("function") or tool.get("custom") or {}),
            }  # chat nests, Responses does not
            if demanded in (None, flat.get("name")):
                return flat
    return None


def improvise(asked: Asked, seed: int) -> tuple[Step, ...]:
    """The steps that answer this request.

    Raises:
        ApiError: 400, a tool or its schema is not valid.
    """
    try:
        return _steps(asked, seed)
    except (TypeError, ValueError, AttributeError, LookupError) as error:  # raised for an invalid schema
        message = f"Invalid schema in 'tools' or 'tool_choice': {error}"
        raise ApiError(400, message, param="tools", code="invalid_function_parameters") from error


def _steps(asked: Asked, seed: int) -> tuple[Step, ...]:
    rng = seeded(f"{seed}:{asked.user_text}:{asked.answers_tool}:{asked.model}")
    steps: list[Step] = []
    reasoning: Any = asked.body.get("reasoning")
    if isinstance(reasoning, dict):
        wants = cast(JsonObject, reasoning).get("summary")
        parts = (f"**Reading**\n\nThey said: {_quote(asked.user_text)}", f"**Answering**\n\n{filler(40, seed)}.")
        steps.append(Reasoning(parts=parts if wants else ()))
    tool = _tool(asked)
    if tool is None:
        about = "The tool says" if asked.answers_tool is not None else "You said"
        heard = asked.user_text if asked.answers_tool is None else asked.answers_tool
        steps.append(Text(text=f"{about}: {_quote(heard)}\n\n{filler(160, rng.randrange(1 << 30)).capitalize()}."))
    elif tool.get("type") == "custom":
        steps.append(CustomToolCall(name=str(tool.get("name")), input=_quote(asked.user_text)))
    else:
        schema = cast(JsonObject, tool.get("parameters") or {})
        arguments = _object(schema, schema, rng, asked.user_text, 0)
        steps.append(ToolCall(name=str(tool.get("name")), arguments=arguments))
    return tuple(steps)
