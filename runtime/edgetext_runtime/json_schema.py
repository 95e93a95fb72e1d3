"""JSON schemas: the subset that a constraint may use, turned into the tree of their documents.

Understood: ``type`` (one, or a list): ``object`` with ``properties`` and ``required``, ``array`` with
``items``, ``minItems`` and ``maxItems``, ``string`` with ``minLength`` and ``maxLength``, ``integer``,
``number``, ``boolean``, ``null``; ``enum`` and ``const`` of any value; ``anyOf``; all nested up to 16 deep.
Titles, descriptions, defaults, examples, comments, ``$schema``, ``$id`` and ``additionalProperties`` are
accepted and change nothing, for no other properties are ever written. Any other keyword is refused by name.

What is written is a part of what the schema allows: properties come in the order of the schema (those not
required may be left out), a space may follow a comma or a colon and stands nowhere else, integers have at
most 15 digits, numbers at most 15 before and after the point and an exponent of at most two, strings hold
every character but raw control characters, escapes included. ``enum`` and ``const`` are written as
``json.dumps`` does, characters outside ASCII as themselves.
"""

import json
from collections.abc import Mapping
from typing import Any

from .automaton import Choice, Listing, Node, Repeat, Sequence, literal
from .errors import InputError
from .manifest import is_count
from .patterns import parse_pattern

_MOST_NESTED = 16
_MOST_LENGTH = 1000
_IGNORED = {"title", "description", "default", "examples", "$schema", "$id", "$comment"} | {
    "additionalProperties"
}
_PLAIN: Mapping[str, Node] = {
    "integer": parse_pattern(r"-?(0|[1-9]\d{0,14})"),
    "number": parse_pattern(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?([eE][+-]?\d{1,2})?"),
    "boolean": parse_pattern("true|false"),
    "null": literal("null"),
}
_KEYWORDS = {
    "object": {"properties", "required"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    **{kind: set[str]() for kind in _PLAIN},
}


_SPACE = parse_pattern(" ?")
_COMMA = parse_pattern(", ?")
_CODE = r"[0-9A-CE-Fa-ce-f][0-9A-Fa-f]{3}|[dD][0-7][0-9A-Fa-f]{2}"  # hexadecimal, and no surrogate
_CHARACTER = parse_pattern(rf'[^\x00-\x1f"\\]|\\(["\\/bfnrt]|u({_CODE}))')


def parse_schema(schema: Mapping[str, Any]) -> Node:
    """The tree of the documents of a schema.

    Raises:
        InputError: naming the keyword that is not understood or has an invalid value, and where.
    """
    return _node(schema, "the schema", 0)


def _refusal(where: str, what: str) -> InputError:
    return InputError(
        f"json_schema: {where} {what}; allowed is the subset described in edgetext_runtime.json_schema"
    )


def _node(schema: object, where: str, depth: int) -> Node:
    if not isinstance(schema, Mapping):
        raise _refusal(where, f"is {schema!r}, not an object")
    if depth > _MOST_NESTED:
        raise _refusal(where, f"is nested more than {_MOST_NESTED} deep")
    given = set(schema) - _IGNORED
    if "const" in given:
        _only(given, {"const", "type"}, where)
        return _value(schema["const"], where)
    if "enum" in given:
        _only(given, {"enum", "type"}, where)
        return Choice(tuple(_value(value, where) for value in _list(schema, "enum", where)))
    if "anyOf" in given:
        _only(given, {"anyOf"}, where)
        options = _list(schema, "anyOf", where)
        return Choice(
            tuple(_node(option, f"{where}.anyOf[{n}]", depth + 1) for n, option in enumerate(options))
        )
    if "type" not in given:
        raise _refusal(where, f"has no type, enum, const or anyOf (but {sorted(map(str, given))})")
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in types:
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            raise _refusal(where, f"has the type {kind!r}")
    _only(given, {"type"}.union(*(_KEYWORDS[kind] for kind in types)), where)
    nodes = tuple(_typed(kind, schema, where, depth) for kind in types)
    if not nodes:
        raise _refusal(where, "has an empty list of types")
    return nodes[0] if len(nodes) == 1 else Choice(nodes)


def _only(given: set[Any], known: set[str], where: str) -> None:
    if unknown := sorted(map(str, given - known)):
        raise _refusal(where, f"has the keyword {unknown[0]!r}")


def _list(schema: Mapping[str, Any], keyword: str, where: str) -> list[Any]:
    value = schema[keyword]
    if not isinstance(value, list) or not value:
        raise _refusal(where, f"has {keyword} {value!r}, not a list of at least one")
    return value


def _value(value: object, where: str) -> Node:
    try:
        return literal(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(where, f"has the value {value!r}, which is not JSON") from error


def _typed(kind: str, schema: Mapping[str, Any], where: str, depth: int) -> Node:
    match kind:
        case "object":
            return _object(schema, where, depth)
        case "array":
            return _array(schema, where, depth)
        case "string":
            bounds = _bounds(schema, "minLength", "maxLength", where)
            return Sequence((literal('"'), Repeat(_CHARACTER, *bounds), literal('"')))
    return _PLAIN[kind]


def _bounds(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for name, value in ((low, least), (high, most)):
        if value is not None and (not is_count(value) or value > _MOST_LENGTH):
            raise _refusal(where, f"has {name} {value!r}, not an integer from 0 to {_MOST_LENGTH}")
    if most is not None and most < least:
        raise _refusal(where, f"has {high} {most} below {low} {least}")
    return least, most


def _array(schema: Mapping[str, Any], where: str, depth: int) -> Node:
    if "items" not in schema:
        raise _refusal(where, "is an array without items")
    item = _node(schema["items"], f"{where}.items", depth + 1)
    least, most = _bounds(schema, "minItems", "maxItems", where)
    if most == 0:
        return literal("[]")
    following = Repeat(Sequence((_COMMA, item)), max(0, least - 1), None if most is None else most - 1)
    filled = Sequence((item, following))
    return Sequence((literal("["), filled if least else Repeat(filled, 0, 1), literal("]")))


def _object(schema: Mapping[str, Any], where: str, depth: int) -> Node:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, Mapping) or not all(isinstance(name, str) for name in properties):
        raise _refusal(where, "is an object without properties")
    if not isinstance(required, list) or not all(name in properties for name in required):
        raise _refusal(where, f"has required {required!r}, not a list of its properties")
    members: list[tuple[Node, bool]] = []
    for name, inner in properties.items():
        node = _node(inner, f"{where}.properties.{name}", depth + 1)
        key = _value(name, where)
        members.append((Sequence((key, literal(":"), _SPACE, node)), name in required))
    return Sequence((literal("{"), Listing(tuple(members), _COMMA), literal("}")))
