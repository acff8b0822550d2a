"""Whether a network config may be written: the check that the store makes of every write to `PREFIX/config`,
the command before it, and whoever else wants to know. Pure.

What no daemon could use is refused: text that is not a JSON object, a field of the wrong type, a Type that
nobody knows, an option that its backend does not take. What some version of flannel accepts passes, with a
warning where netstore's agent does not.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from netstore.network.addresses import Subnet, parse_cidr, parse_ip, show_ip
from netstore.network.backends import BUILT_IN, FOREIGN, problem
from netstore.network.config import DEFAULT_BACKEND, NetworkConfigError, parse_network
from netstore.network.depth import MAX_DEPTH, is_deep
from netstore.network.plugins import Plugin, names_of, section_problem
from netstore.network.words import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CHECKED_BYTES: Final = 16 * 1024
"""Of a document that may be written: twenty times what a network with every field needs."""

EXAMPLE: Final = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}'

_TYPES: Final[dict[str, tuple[type, str]]] = {
    "Network": (str, '"10.1.0.0/16"'),
    "SubnetLen": (int, "24, a number without quotes"),
    "SubnetMin": (str, '"10.1.1.0"'),
    "SubnetMax": (str, '"10.1.255.0"'),
    "Backend": (dict, '{"Type":"host-gw"}'),
    "EnableIPv4": (bool, "true or false"),
    "EnableIPv6": (bool, "true or false"),
    "EnableNFTables": (bool, "true or false"),
    "IPv6Network": (str, '"fd00::/48"'),
    "IPv6SubnetLen": (int, "64, a number without quotes"),
    "IPv6SubnetMin": (str, '"fd00:0:0:1::"'),
    "IPv6SubnetMax": (str, '"fd00:0:0:ff::"'),
    "Networks": (list, '["10.1.0.0/16"]'),
    "IPv6Networks": (list, '["fd00::/48"]'),
}
"""Field -> its type in JSON, and an example of a value."""

_NAMES: Final = {name.lower(): name for name in _TYPES}

_document: Final = msgspec.json.Decoder()


class UnknownType(NetworkConfigError):  # noqa: N818 - named for what is wrong
    """No backend of this Type is admitted, as far as is known here."""


class Verdict(NamedTuple):
    """What was found without a schema: the warnings, and the section that is still to be checked against the
    schema of a plugin (`finish`), if there is one.
    """

    warnings: tuple[str, ...]
    plugin: Plugin | None = None
    section: Mapping[str, Any] = {}


def check_network(text: bytes, admitted: Mapping[str, Plugin]) -> tuple[str, ...]:
    """Check a document; returns the warnings. NetworkConfigError if it must not be written.

    `admitted` are the admitted plugins by name, beside the built-in backends. May import jsonschema
    (`plugins.check_schema`).
    """
    verdict = begin(text, admitted)
    finish(verdict)
    return verdict.warnings


def begin(text: bytes, admitted: Mapping[str, Plugin]) -> Verdict:
    """Check a document but for the schema of an admitted plugin. NetworkConfigError if it must not be
    written, UnknownType if that depends on what is admitted. O(length of the document): 0.1 ms for a usual
    one.
    """
    fields = _fields(text)
    _acceptable(fields)
    warnings: list[str] = []
    try:
        warnings += parse_network(text).warnings
    except NetworkConfigError as error:
        warnings.append(f"netstore-agent cannot use it: {error}")
    section = fields.get("Backend", {})
    named = {name.lower(): value for name, value in section.items() if value is not None}
    kind = named.pop("type", DEFAULT_BACKEND if "Backend" not in fields else "")
    if not isinstance(kind, str) or not kind:
        raise NetworkConfigError("Backend.Type", "missing", 'name the backend, such as "Type":"host-gw"')
    kind = kind.lower()
    options = {name: value for name, value in section.items() if name.lower() != "type"}
    plugin = admitted.get(kind)
    if plugin is not None:
        if plugin.schema is None:
            return Verdict(tuple(warnings))
        names = names_of(plugin)
        warnings += [_unknown(name, kind) for name in options if name.lower() not in names]
        return Verdict(tuple(warnings), plugin, options)
    if kind in BUILT_IN:
        warnings += _built_in(kind, options, ipv6=fields.get("EnableIPv6") is True)
    elif kind in FOREIGN:
        warnings.append(f"Backend.Type: {kind} is a backend of flanneld; netstore-agent does not have it")
    else:
        known = ", ".join(sorted({*BUILT_IN, *admitted}))
        raise UnknownType(
            "Backend.Type",
            f"no backend {kind[:64]!r} is admitted",
            f"admit its plugin with `netstorectl plugin admit`, or choose one of {known}",
        )
    return Verdict(tuple(warnings))


def finish(verdict: Verdict) -> None:
    """Check the section that `begin` left. NetworkConfigError if it does not match the schema. May import
    jsonschema.
    """
    if verdict.plugin is None:
        return
    wrong = section_problem(verdict.plugin, verdict.section)
    if wrong is not None:
        name = verdict.plugin.name
        field = "Backend" if wrong[0] == "section" else f"Backend.{wrong[0]}"
        raise NetworkConfigError(
            field, wrong[1], f"correct it by the schema that `netstorectl plugin show {name}` prints"
        )


def _unknown(name: str, kind: str) -> str:
    return f"Backend.{name[:64]}: {kind} has no such option; it is ignored"


def _built_in(kind: str, given: Mapping[str, Any], *, ipv6: bool) -> list[str]:
    """Check the options of a built-in backend; the unknown ones as warnings. `ipv6`: the network is
    dual-stack.
    """
    options = BUILT_IN[kind]
    names = {each.encode_name.lower(): each.encode_name for each in msgspec.structs.fields(options)}
    known: dict[str, Any] = {}
    warnings = []
    for name, value in given.items():
        if name.lower() not in names:
            warnings.append(_unknown(name, kind))
        elif value is not None:
            known[names[name.lower()]] = value
    for name, value in known.items():
        try:
            msgspec.convert({name: value}, options)
        except msgspec.ValidationError as error:
            wrong = in_words(error).partition(" (at ")[0]
            raise NetworkConfigError(
                f"Backend.{name}", wrong, f"correct it, or leave it out for the default of {kind}"
            ) from None
    found = problem(msgspec.convert(known, options), ipv6=ipv6)
    if found is not None:
        raise NetworkConfigError(f"Backend.{found.option}", found.text, found.fix)
    return warnings


def _fields(text: bytes) -> dict[str, Any]:
    """The known fields of a document that are not null, by their names; of the right JSON types."""
    if len(text) > MAX_CHECKED_BYTES:
        raise NetworkConfigError(
            "document", f"{len(text)} bytes long", f"a network needs no more than {MAX_CHECKED_BYTES} bytes"
        )
    if not text.strip():
        raise NetworkConfigError("document", "is empty", f"write an object such as {EXAMPLE}")
    if is_deep(text):
        raise NetworkConfigError(
            "document", f"nested deeper than {MAX_DEPTH} levels", f"write an object such as {EXAMPLE}"
        )
    try:
        document = _document.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkConfigError(
            "document", f"not JSON ({in_words(error)})", f"write an object such as {EXAMPLE}"
        ) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise NetworkConfigError("document", "not a JSON object", f"write one such as {EXAMPLE}")
    fields: dict[str, Any] = {}
    for given, value in document.items():
        name = _NAMES.get(given.lower())
        if name is None or value is None:
            continue
        kind, example = _TYPES[name]
        if type(value) is not kind:
            shown = msgspec.json.encode(value)[:60].decode("utf-8", "replace")
            raise NetworkConfigError(name, f"{shown} has the wrong type", f"write {example}")
        fields[name] = value
    return fields


def _acceptable(fields: Mapping[str, Any]) -> None:
    """NetworkConfigError unless some version of flannel can use these values."""
    for name in ("Network", "IPv6Network"):
        if name in fields:
            _network(name, fields[name])
    if fields.get("EnableIPv4", True):
        if "Network" not in fields:
            raise NetworkConfigError(
                "Network", "missing", 'write the range to divide, such as "Network":"10.1.0.0/16"'
            )
        _range4(fields)
    if "IPv6Network" in fields:
        _range6(fields)


def _network(name: str, text: str) -> None:
    try:
        if name == "Network":
            parse_cidr(text)
        else:
            IPv6Network(text, strict=False)
    except ValueError:
        family = "IPv4" if name == "Network" else "IPv6"
        raise NetworkConfigError(
            name, f"{text[:80]!r} is not an {family} range", f"write one such as {_TYPES[name][1]}"
        ) from None


def _range4(fields: Mapping[str, Any]) -> None:
    network = Subnet.around(*parse_cidr(fields["Network"]))
    length = fields.get("SubnetLen", 0)
    if length and not network.length <= length <= 32:
        raise NetworkConfigError(
            "SubnetLen", f"{length} does not divide {network}", f"choose {network.length + 2} to 30"
        )
    bounds = []
    for name, default in (("SubnetMin", network.base), ("SubnetMax", network.last)):
        text = fields.get(name, "0.0.0.0")
        try:
            ip = parse_ip(text)
        except ValueError:
            raise NetworkConfigError(
                name, f"{text[:80]!r} is not an IPv4 address", f"write {_TYPES[name][1]}"
            ) from None
        if ip and not network.holds(ip):  # 0.0.0.0 is what Go has for an absent address
            raise NetworkConfigError(name, f"{text} is outside {network}", f"choose an address in {network}")
        bounds.append(ip or default)
    if bounds[0] > bounds[1]:
        raise NetworkConfigError(
            "SubnetMin",
            f"{show_ip(bounds[0])} is above SubnetMax {show_ip(bounds[1])}",
            "swap the two, or leave both out to use the whole network",
        )


def _range6(fields: Mapping[str, Any]) -> None:
    network = IPv6Network(fields["IPv6Network"], strict=False)
    length = fields.get("IPv6SubnetLen", 0)
    if length and not network.prefixlen <= length <= 128:
        raise NetworkConfigError(
            "IPv6SubnetLen", f"{length} does not divide {network}", f"choose {network.prefixlen + 2} to 126"
        )
    for name in ("IPv6SubnetMin", "IPv6SubnetMax"):
        text = fields.get(name, "::")
        try:
            ip = IPv6Address(text)
        except ValueError:
            raise NetworkConfigError(
                name, f"{text[:80]!r} is not an IPv6 address", f"write {_TYPES[name][1]}"
            ) from None
        if int(ip) and ip not in network:
            raise NetworkConfigError(name, f"{text} is outside {network}", f"choose an address in {network}")
