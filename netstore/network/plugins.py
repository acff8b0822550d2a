"""What an admitted plugin is: the document that describes it to store, agents and command. Pure.

The store keeps one document for each backend that the operator admitted beside the built-in ones
(`backends.BUILT_IN`). It names the backend, and optionally: the versions that agents may run, the JSON Schema
of its Backend section, the wheel that agents may install, and values for options that a network config does
not give.

A schema may use the keywords in `KEYWORDS`: those whose check takes time at most in proportion to the parts
of the schema times the values in what is checked. Each of the two is bounded, and so is their product
(`MAX_CHECK_COST`). References may only be to its own `$defs`; a schema that refers to itself is refused.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.errors import NetstoreError
from netstore.network.words import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from netstore.network.config import Network

MAX_PLUGINS: Final = 64
"""Plugins that a cluster admits beside the built-in backends."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024
"""Of the document of one plugin."""

MAX_WHEEL_BYTES: Final = 4 * 1024 * 1024

PART_BYTES: Final = 256 * 1024
"""A wheel is sent and stored in parts of this size; only the last one may be shorter."""

MAX_SCHEMA_NODES: Final = 1_000
"""Parts of a schema: the schemas in it, each reference counted with what it refers to, the values in `enum`
and `const`, and the names in `required`.
"""

MAX_DEPTH: Final = 32
"""Of schemas in a schema, and of values in what is checked against one."""

MAX_CHECK_COST: Final = 20_000
"""Values in a Backend section times parts of its schema: at most two seconds of a processor."""

MOST_ERRORS: Final = 8
"""Mismatches of a section that are looked at, to tell the most useful one."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_WHEEL: Final = re.compile(
    r"[A-Za-z0-9_.]{1,100}-[A-Za-z0-9_.!+]{1,40}(?:-[0-9][A-Za-z0-9_]{0,20})?-py3-none-any\.whl"
)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_RANGE: Final = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([0-9]{1,9}(?:\.[0-9]{1,9}){0,5})\s*")
_RELEASE: Final = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,5})(.*)", re.DOTALL)
_BEFORE_RELEASE: Final = re.compile(r"[._-]?(?:a|b|c|rc|alpha|beta|pre|preview|dev)")

_PLAIN: Final = frozenset(
    (
        "$schema",
        "$id",
        "title",
        "description",
        "default",
        "examples",
        "type",
        "enum",
        "const",
        "required",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    )
)
KEYWORDS: Final = _PLAIN | {"$ref", "$defs", "anyOf", "properties", "additionalProperties", "items"}
"""What a schema may use of JSON Schema (draft 2020-12)."""


class PluginError(NetstoreError):
    """The document of a plugin is invalid: the field, the problem, and how to correct it."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}; {fix}")
        self.field = field
        self.problem = problem


class Wheel(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The wheel of a plugin: its file name, size in bytes and SHA-256 (64 hexadecimal digits). `signature` is
    an Ed25519 signature (RFC 8032) of the 32 bytes of the SHA-256, in base64; empty if there is none.
    """

    file: str
    sha256: str
    size: int
    signature: str = ""


class Plugin(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An admitted plugin. `name` is the Type in the network config, in lower case. `versions` are those that
    agents may run, such as `>=1,<2`; empty for all. Without `schema` any Backend section passes. `settings`
    are values of options, for network configs that do not give them. `since` is when it was admitted, in
    seconds since 1970; 0 before that.
    """

    name: str
    versions: str = ""
    schema: dict[str, Any] | None = None
    wheel: Wheel | None = None
    settings: dict[str, Any] = {}
    since: int = 0


_decoder: Final = msgspec.json.Decoder(Plugin)


def parse_plugin(text: bytes) -> Plugin:
    """The plugin that a document describes. PluginError names what is invalid."""
    if len(text) > MAX_DOCUMENT_BYTES:
        raise PluginError("document", f"{len(text)} bytes long", f"use at most {MAX_DOCUMENT_BYTES} bytes")
    try:
        plugin = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PluginError(
            "document", f"not the description of a plugin ({in_words(error)})", "correct it"
        ) from None
    check_plugin(plugin)
    return plugin


def encode_plugin(plugin: Plugin) -> bytes:
    """The document of a plugin."""
    return msgspec.json.encode(plugin)


def check_plugin(plugin: Plugin) -> None:
    """PluginError if a field is invalid. Whether the schema is one at all is for `check_schema`."""
    if not _NAME.fullmatch(plugin.name):
        raise PluginError(
            "name",
            f"{plugin.name[:80]!r} is not a Type",
            "use 1 to 63 lower case letters, digits, -, . and _",
        )
    _ranges(plugin.versions)
    if plugin.since < 0:
        raise PluginError("since", "is negative", "leave it out")
    if plugin.schema is not None:
        expanded(plugin.schema)
    if len(plugin.settings) > MAX_SCHEMA_NODES:
        raise PluginError("settings", f"{len(plugin.settings)} of them", f"give at most {MAX_SCHEMA_NODES}")
    if plugin.wheel is not None:
        _check_wheel(plugin.wheel)


def _check_wheel(wheel: Wheel) -> None:
    if not _WHEEL.fullmatch(wheel.file):
        raise PluginError(
            "wheel.file",
            f"{wheel.file[:80]!r} is not the name of a wheel in pure Python",
            "build one whose name ends in -py3-none-any.whl",
        )
    if not _SHA256.fullmatch(wheel.sha256):
        raise PluginError("wheel.sha256", "is not 64 hexadecimal digits", "give what sha256sum prints")
    if not 0 < wheel.size <= MAX_WHEEL_BYTES:
        raise PluginError("wheel.size", f"{wheel.size} bytes", f"a wheel has 1 to {MAX_WHEEL_BYTES} bytes")
    if not re.fullmatch(r"(?:[A-Za-z0-9+/]{86}==)?", wheel.signature):
        raise PluginError("wheel.signature", "is not 64 bytes in base64", "sign the SHA-256 with Ed25519")


# --- versions


def _release(text: str) -> tuple[tuple[int, ...], bool]:
    """The release numbers of a version without zeros at their end, and whether it is one before that release
    (`1.0rc1`). ValueError if it has none.
    """
    match = _RELEASE.match(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a version")
    numbers = [int(each) for each in match[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), _BEFORE_RELEASE.match(match[2]) is not None


def _ranges(text: str) -> list[tuple[str, tuple[int, ...]]]:
    ranges = []
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part)
        if match is None or len(text) > 200:
            raise PluginError("versions", f"{text[:80]!r} is not a range", "write it as >=1.2,<2")
        ranges.append((match[1], _release(match[2])[0]))
    return ranges


def is_in_range(version: str, versions: str) -> bool:
    """Whether a version is in a range such as `>=1.2,<2`. Only its release numbers count; one before a
    release (`2.0rc1`) is below it. False if it is no version.
    """
    try:
        release, before = _release(version)
    except ValueError:
        return not versions
    place = (release, 0 if before else 1)
    for comparison, bound in _ranges(versions):
        at = (bound, 1)
        fits = {
            ">=": place >= at,
            "<=": place <= at,
            ">": place > at,
            "<": place < at and release != bound,
            "==": place == at,
            "!=": place != at,
        }[comparison]
        if not fits:
            return False
    return True


# --- schemas


def expanded(schema: object) -> dict[str, Any]:
    """The schema with every reference replaced by what it refers to. PluginError if it uses what is not in
    `KEYWORDS`, refers to itself or to what it does not have, has more than `MAX_SCHEMA_NODES` parts, or is
    more than `MAX_DEPTH` schemas deep.
    """
    if not isinstance(schema, dict):
        raise PluginError("schema", "is not a JSON object", 'write {"type":"object","properties":{...}}')
    return _expanded(schema)[0]


def parts_of(schema: dict[str, Any]) -> int:
    """The parts of a schema, as `MAX_SCHEMA_NODES` counts them. PluginError as of `expanded`."""
    return _expanded(schema)[1]


def _expanded(schema: dict[str, Any]) -> tuple[dict[str, Any], int]:
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise PluginError("schema.$defs", "is not an object", "write an object of schemas")
    expansion = _Expansion(definitions)
    root = expansion.expand(schema, "schema", (), 0)
    assert isinstance(root, dict)  # noqa: S101 - of an object; for the type checker
    if root.get("type", "object") != "object":
        raise PluginError("schema.type", "is not object", "describe the Backend section, which is an object")
    return root, MAX_SCHEMA_NODES - expansion.left


class _Expansion:
    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self.left = MAX_SCHEMA_NODES

    def expand(self, schema: Any, where: str, inside: tuple[str, ...], depth: int) -> dict[str, Any] | bool:
        """`where` is the path of the schema, `inside` the references that led to it, `depth` the schemas
        around it.
        """
        self._count(1)
        if depth >= MAX_DEPTH:
            raise PluginError(
                where[:200], f"is more than {MAX_DEPTH} schemas deep", "describe a smaller depth"
            )
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise PluginError(where, "is not a schema", "write an object")
        for keyword in schema:
            if keyword not in KEYWORDS:
                raise PluginError(
                    f"{where}.{keyword}"[:200], "is a keyword that is not supported", f"use {_words()}"
                )
        if "$ref" in schema:
            return self._refer(schema, where, inside, depth)
        self._count_values(schema, where)
        found = {name: value for name, value in schema.items() if name in _PLAIN and name != "$id"}
        for name, inner in _children(schema, "properties", where):
            found.setdefault("properties", {})[name] = self.expand(
                inner, f"{where}.properties.{name}"[:200], inside, depth + 1
            )
        for keyword in ("additionalProperties", "items"):
            if keyword in schema:
                found[keyword] = self.expand(schema[keyword], f"{where}.{keyword}", inside, depth + 1)
        if "anyOf" in schema:
            branches = schema["anyOf"]
            if not isinstance(branches, list) or not branches:
                raise PluginError(f"{where}.anyOf", "is not a list of schemas", "write a list")
            found["anyOf"] = [self.expand(each, f"{where}.anyOf", inside, depth + 1) for each in branches]
        return found

    def _count(self, parts: int) -> None:
        self.left -= parts
        if self.left < 0:
            raise PluginError("schema", f"has more than {MAX_SCHEMA_NODES} parts", "make it simpler")

    def _count_values(self, schema: dict[str, Any], where: str) -> None:
        """Count the values that one value may be compared with."""
        for keyword in ("enum", "const"):
            if keyword in schema:
                self._count(values_in(schema[keyword], f"{where}.{keyword}"[:200]))
        for keyword in ("required", "type"):
            names = schema.get(keyword, [])
            if isinstance(names, list):
                self._count(len(names))
                if not all(isinstance(name, str) for name in names):
                    raise PluginError(f"{where}.{keyword}"[:200], "is not a list of names", "write texts")

    def _refer(
        self, schema: dict[str, Any], where: str, inside: tuple[str, ...], depth: int
    ) -> dict[str, Any] | bool:
        target = schema["$ref"]
        name = target.removeprefix("#/$defs/") if isinstance(target, str) else ""
        if name not in self._definitions or name == target:
            raise PluginError(f"{where}.$ref", "is not to one of its $defs", "refer to #/$defs/NAME")
        if name in inside:
            raise PluginError(f"{where}.$ref", f"{name} refers to itself", "describe a fixed depth")
        others = {each: value for each, value in schema.items() if each not in ("$ref", "$defs")}
        found = self.expand(self._definitions[name], f"schema.$defs.{name}"[:200], (*inside, name), depth + 1)
        if not set(others) <= {"title", "description", "default", "examples", "$schema"}:
            raise PluginError(f"{where}.$ref", "stands beside other keywords", "put them into the $defs")
        return found


def values_in(value: object, field: str) -> int:
    """The number of values in a JSON value, with itself. PluginError naming `field` if it is more than
    `MAX_DEPTH` deep.
    """
    count, level = 0, [value]
    for _ in range(MAX_DEPTH):
        count += len(level)
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return count
    raise PluginError(field, f"is more than {MAX_DEPTH} values deep", "give a flatter one")


def _children(schema: dict[str, Any], keyword: str, where: str) -> Iterator[tuple[str, Any]]:
    children = schema.get(keyword, {})
    if not isinstance(children, dict):
        raise PluginError(f"{where}.{keyword}", "is not an object", "write an object of schemas")
    yield from children.items()


def _words() -> str:
    return ", ".join(sorted(KEYWORDS))


def check_schema(plugin: Plugin) -> None:
    """PluginError if the schema of a plugin is not a valid JSON Schema, or its settings do not match it.

    Imports jsonschema, which takes a quarter of a second: not for a loop.
    """
    if plugin.schema is None:
        return
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - see above

    schema = expanded(plugin.schema)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        path = ".".join(("schema", *map(str, error.absolute_path)))
        raise PluginError(path, error.message[:300], "correct the schema") from None
    problem = section_problem(plugin, {}, required=False)
    if problem is not None:
        raise PluginError(f"settings.{problem[0]}", problem[1], "correct the setting")


def section_problem(
    plugin: Plugin, section: Mapping[str, Any], *, required: bool = True
) -> tuple[str, str] | None:
    """The field of a Backend section that does not match the schema of a plugin, and the problem; None if the
    section matches. The plugin's settings count where the section does not give the option.

    Names are mapped to those of the schema in any case; fields that the schema does not know and those that
    are null do not count, as in Go. Not for a loop (`check_schema`).
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - see above
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    if plugin.schema is None:
        return None
    schema = expanded(plugin.schema)
    if not required:
        schema.pop("required", None)
    known = known_fields(plugin, {**plugin.settings, **section})
    try:
        values = {name: values_in(value, name) for name, value in known.items()}
    except PluginError as deep:
        return deep.field, deep.problem
    parts = parts_of(plugin.schema)
    if (1 + sum(values.values())) * parts > MAX_CHECK_COST:
        largest = max(values, key=lambda name: values[name])
        most = MAX_CHECK_COST // parts
        return (
            largest,
            f"{values[largest]} values; of a schema with {parts} parts a section has {most} at most",
        )
    error = best_match(islice(Draft202012Validator(schema).iter_errors(known), MOST_ERRORS))
    if error is None:
        return None
    return ".".join(str(each) for each in error.absolute_path) or "section", error.message[:300]


def names_of(plugin: Plugin) -> dict[str, str]:
    """The options in the schema of a plugin that was checked: name in lower case -> name."""
    schema = plugin.schema or {}
    for _ in range(MAX_DEPTH):  # what the whole schema refers to, without expanding the rest of it
        target = schema.get("$ref")
        if not isinstance(target, str):
            break
        schema = plugin.schema["$defs"][target.removeprefix("#/$defs/")] if plugin.schema else {}
    return {name.lower(): name for name in schema.get("properties", {})}


def known_fields(plugin: Plugin, section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Backend section that the schema knows, by their names there. The last one counts where
    the names of two differ in case only, as in Go.
    """
    names = names_of(plugin)
    found: dict[str, Any] = {}
    for name, value in section.items():
        if name.lower() in names and value is not None:
            found[names[name.lower()]] = value
    return found


def with_settings(network: Network, plugin: Plugin | None) -> Network:
    """The network, with the settings of its plugin for the options that its Backend section does not give."""
    if plugin is None or not plugin.settings:
        return network
    section: dict[str, Any] = msgspec.json.decode(network.backend)
    given = {name.lower() for name, value in section.items() if value is not None}
    settings = {name: value for name, value in plugin.settings.items() if name.lower() not in given}
    return msgspec.structs.replace(network, backend=msgspec.json.encode({**section, **settings}))
