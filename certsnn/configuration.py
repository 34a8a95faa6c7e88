"""Configs: YAML text to a `RunConfig` and back, with every default written out.

A config also travels inside weights files, so it is read as untrusted input: wherever `RunConfig`
asks for one of several classes (`threat`, `training.objective`, ...), only certsnn's own subclasses
of that type can be named, by their short names; nothing that a config names in any other way is
imported or called. Arguments are checked against the annotations of the class's constructor.

In a file a class reads ``threat: {class_path: LinfBall, init_args: {eps: 0.05}}``; shorter forms of
the same are ``threat: {class_path: LinfBall, eps: 0.05}`` and, without arguments, ``threat: Name``.
Where no class is named, ``threat: {eps: 0.05}``, the default one keeps its other arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from torch import Tensor

from certsnn.data import source
from certsnn.errors import ConfigError, nearest
from certsnn.factory import Factory
from certsnn.train.config import RunConfig

CLASS, ARGS = "class_path", "init_args"
REQUIRED = inspect.Parameter.empty
"""The default of an argument that has none."""


class Key(NamedTuple):
    """A key of the config, for help texts.

    Its dotted path, what it takes and its default, the class that has it (where there are several), and what
    it means.
    """

    path: str
    takes: str
    default: str
    owner: str
    meaning: str


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, str]:
    """The config of a file, and its text with every default written out.

    Args:
        path: a YAML file.
        overrides: flags as on the command line, ``["--training.epochs", "5", "--seed=3"]``.

    Raises:
        ConfigError: if the file can't be read or is not YAML, or a key or value is not valid.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the config {path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config {path} is not a text file") from error
    try:
        return override(text, overrides)
    except ConfigError as error:
        said_of = f"{path} with the command line's keys" if overrides else path
        raise ConfigError(f"{said_of}: {error}") from error


def parse_text(text: str) -> RunConfig:
    """The config of a YAML text. Raises ConfigError as `read_config` does."""
    return override(text, ())[0]


def override(text: str, overrides: Sequence[str]) -> tuple[RunConfig, str]:
    """The config of a YAML text after overrides (see `read_config`), and its full text."""
    tree = _load(text)
    tree = {} if tree is None else tree
    for path, value in _pairs(overrides):
        if isinstance(tree, dict):  # `_read` refuses anything else
            _put(tree, path.split("."), value)
    config: RunConfig = _read(RunConfig, tree, "")
    _check(config)
    return config, text_of(config)


def text_of(config: RunConfig) -> str:
    """A config as YAML, with every default written out."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def instances(base: type, text: str, name: str) -> tuple[Any, ...]:
    """Objects of certsnn's subclasses of an abstract class, as YAML names them.

    Args:
        base: the abstract class.
        text: a YAML list, whose brackets may be left out: ``PGD, {class_path: G2S, iterations: 50}``.
        name: what an error message calls the list.

    Raises:
        ConfigError: for anything but a list of such classes with arguments that they take.
    """
    bare = text.strip()
    made: tuple[Any, ...] = _read(Sequence[base], _load(bare if bare.startswith("[") else f"[{bare}]"), name)  # type: ignore[valid-type]
    return made


def keys(hint: Any = RunConfig, path: str = "") -> Iterator[Key]:
    """All keys of a config, those of every class that can be named included."""
    base = _base(hint)
    for cls in [hint] if base is None else _concrete(base).values():
        described = {p.arg_name: p.description or "" for p in parse_docstring(cls.__doc__ or "").params}
        for name, (inner, default) in _parameters(cls).items():
            here, inside = _join(path, name), _without_none(_item(inner) or inner)
            if _base(inside) is not None or not dataclasses.is_dataclass(inside):
                shown = "" if default is REQUIRED else _plain(default)
                shown = shown[CLASS] if isinstance(shown, dict) else shown
                owner = "" if base is None else cls.__name__
                yield Key(here, _named(inside), str(shown), owner, described.get(name, ""))
            if _base(inside) is not None or dataclasses.is_dataclass(inside):
                yield from keys(inside, here)


def elsewhere(name: str) -> str:
    """``"; did you mean a.b.name?"`` for a key that ends with nearly this name, or ""."""
    ends = {key.path.rpartition(".")[2]: key.path for key in reversed([*keys()])}
    near = get_close_matches(name, ends, n=1, cutoff=0.8)
    return f"; did you mean {ends[near[0]]}?" if near else ""


def _load(text: str) -> Any:
    """YAML text as plain data; raises ConfigError, with the place, where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"not valid YAML: {error.problem or error.context}{where}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}") from error


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Paths and values of flags ``--key value`` or ``--key=value``; raises ConfigError for other words."""
    words = iter(flags)
    for word in words:
        path, equals, rest = word.partition("=")
        if not path.startswith("--") or not path[2:]:
            raise ConfigError(f"{word!r} is not a key of the config; write --key value")
        value = rest if equals else next(words, None)
        if value is None:
            raise ConfigError(f"{path} needs a value")
        loaded = _load(value)
        # Words and numbers stay as typed: the key's annotation says which of the two they are.
        yield path[2:], loaded if loaded is None or isinstance(loaded, (dict, list)) else value


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one key; naming a class forgets the arguments of the class that was named before."""
    *parents, last = path
    for name in parents:
        home = _home(tree, name)
        child = home.get(name)
        tree = {CLASS: child} if isinstance(child, str) else child if isinstance(child, dict) else {}
        home[name] = tree
    if last == CLASS and tree.get(CLASS) != value:
        tree.clear()
    _home(tree, last)[last] = value


def _home(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Where a key of this node stands: among a class's arguments, or in the node itself."""
    arguments = tree.get(ARGS)
    return arguments if name not in (CLASS, ARGS) and isinstance(arguments, dict) else tree


def _read(hint: Any, value: Any, path: str, default: Any = None) -> Any:
    """An object of the annotated type from plain data."""
    bare = _without_none(hint)
    if value is None and bare is not hint:
        return None
    base = _base(bare)
    if base is not None:
        cls, arguments, made = _choice(base, value, path, default)
        return made if bare is base else Factory(cls, arguments)
    if dataclasses.is_dataclass(bare):
        if not isinstance(value, dict):
            takes = ", ".join(_parameters(bare))  # type: ignore[arg-type]
            raise ConfigError(f"{path or 'the config'} must hold keys ({takes}), not {value!r}")
        return _made(bare, value, path)[1]  # type: ignore[arg-type]
    item = _item(bare)
    if item is not None:
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list, not {value!r}")
        return tuple(_read(item, part, f"{path}[{place}]") for place, part in enumerate(value))
    try:
        return _scalar(bare, value)
    except (ValueError, OverflowError, ConfigError) as error:
        shown = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path} must be {_named(bare)}, not {shown}") from error


def _choice(base: type, value: Any, path: str, default: Any) -> tuple[type, dict[str, Any], Any]:
    """The class that is named, its arguments, and an object of it."""
    classes = _concrete(base)
    value = {CLASS: value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must name a class ({', '.join(classes)}), not {value!r}")
    given = value.get(ARGS)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ConfigError(f"{_join(path, ARGS)} must hold the arguments of a class, not {given!r}")
    given = given | {name: part for name, part in value.items() if name not in (CLASS, ARGS)}
    named = value.get(CLASS)
    if named is None and default is not None:
        plain = _plain(default)
        named, given = plain[CLASS], plain.get(ARGS, {}) | given
    if not isinstance(named, str) or named not in classes:
        near = nearest(str(named), classes) or f". Known: {', '.join(classes)}"
        wrong = "a class must be named" if named is None else f"there is no class {named!r} here"
        raise ConfigError(f"{_join(path, CLASS)}: {wrong}{near}")
    return classes[named], *_made(classes[named], given, path)


def _made(cls: type, given: Mapping[Any, Any], path: str) -> tuple[dict[str, Any], Any]:
    """All arguments of a class and an object of it; a refusal of its constructor names the key."""
    parameters = _parameters(cls)
    for name in given:
        if name not in parameters:
            raise ConfigError(_unknown(cls, path, str(name), list(parameters)))
    arguments = {}
    for name, (hint, default) in parameters.items():
        if default is REQUIRED and name not in given:
            raise ConfigError(f"{_join(path, name)} is missing: {cls.__name__} needs it")
        known = None if default is REQUIRED else default
        arguments[name] = _read(hint, given[name], _join(path, name), known) if name in given else default
    try:
        return arguments, cls(**arguments)
    except (TypeError, ValueError) as error:
        word, _, rest = str(error).partition(" ")
        said = f"{_join(path, word)} {rest}" if word in arguments else f"{path}: {error}".removeprefix(": ")
        raise ConfigError(said) from error


def _scalar(hint: Any, value: Any) -> Any:
    """A value of this annotation, also from text that gives one; raises ValueError, or as `_load`."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        for part in parts:
            with suppress(ValueError, OverflowError, ConfigError):
                return _scalar(part, value)
    elif kind is Literal and value in parts:
        return value
    elif kind is tuple and isinstance(value, list) and len(value) == len(parts):
        return tuple(map(_scalar, parts, value))
    elif isinstance(hint, type):
        if isinstance(value, str) and hint is not str:
            decimal = value.lstrip("+-").isdecimal()  # 010 is octal in YAML
            value = int(value) if decimal else _load(value)
        if hint is float and type(value) in (int, str) and math.isfinite(float(value)):
            return float(value)  # YAML takes 1e-3 for text
        if type(value) is hint:
            return value
    raise ValueError


def _plain(value: Any) -> Any:
    """An object of the config as plain data, with all arguments."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Factory):
        cls, arguments = value.made, value.arguments
    elif dataclasses.is_dataclass(value):
        cls, arguments = type(value), {name: getattr(value, name) for name in _parameters(type(value))}
    else:
        return value
    plain = {name: _plain(part) for name, part in arguments.items()}
    if ABC not in cls.__mro__:
        return plain
    return {CLASS: cls.__name__, ARGS: plain} if plain else {CLASS: cls.__name__}


def _unknown(cls: type, path: str, name: str, siblings: list[str]) -> str:
    """The nearest key is sought among the class's own, then by its last name among all keys."""
    here = _join(path, name)
    wrong = f"{here} is not a key" + (f" of {cls.__name__}" if ABC in cls.__mro__ else "")
    near = get_close_matches(name, siblings, n=1)
    if near:
        return f"{wrong}; did you mean {_join(path, near[0])}?"
    # A key of another class in this same place would be no help.
    hint = "" if here in {key.path for key in keys()} else elsewhere(name)
    return wrong + (hint or f". Known: {', '.join(_join(path, known) for known in siblings) or 'none'}")


def _check(config: RunConfig) -> None:
    """Raise ConfigError where parts of the config do not fit each other."""
    data, encoding, given = config.data, config.data.encoding, config.threat.domain
    own = source(data.name).domain
    if encoding is not None and own != "image":
        raise ConfigError(f"data.encoding turns images into spikes, but {data.name} has {own}: leave it out")
    if given == data.domain:
        return
    name = type(config.threat).__name__
    if own != "image":
        changes = "moves the pixels of images" if given == "image" else f"changes {given}"
        example = {"spikes": "SpikeFlips", "frames": "LinfFrames"}[own]
        raise ConfigError(
            f"threat and data.name do not fit: {name} {changes}, but {data.name} has {own}; name a threat to "
            f"{own}, such as {example}"
        )
    if given == "frames":
        raise ConfigError(
            f"threat and data.name do not fit: {name} changes frames, but {data.name} has images; name "
            "data of frames, such as digits-rows"
        )
    advice = (
        f"{name} changes spikes: say with data.encoding how images become spikes"
        if encoding is None
        else f"{name} moves the pixels of images: leave data.encoding out"
    )
    raise ConfigError(f"threat and data.encoding do not fit: {advice}")


def _parameters(cls: type) -> dict[str, tuple[Any, Any]]:
    """A class's arguments: annotation, and default or `REQUIRED`."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    found = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {name: (hints[name], default) for name, default in found.items()}


def _without_none(hint: Any) -> Any:
    """The annotation without its ``| None``; itself where it has none."""
    if get_origin(hint) not in (Union, UnionType) or type(None) not in get_args(hint):
        return hint
    return Union[tuple(part for part in get_args(hint) if part is not type(None))]  # noqa: UP007


def _base(hint: Any) -> type | None:
    """The abstract class of which an annotation, it or ``Callable[[], it]``, takes a subclass."""
    if get_origin(hint) is Callable and not get_args(hint)[0]:
        hint = get_args(hint)[1]
    return hint if isinstance(hint, type) and ABC in hint.__mro__ else None


def _item(hint: Any) -> Any:
    """The annotation of a sequence's items; None for anything else."""
    return get_args(hint)[0] if get_origin(hint) is Sequence else None


def _concrete(base: type) -> dict[str, type]:
    """certsnn's classes of this type that plain data can describe, by name."""
    found: dict[str, type] = {}
    pending = [base]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        abstract = ABC in cls.__bases__ or inspect.isabstract(cls)
        if ours and not abstract and Tensor not in get_type_hints(cls.__init__).values():  # type: ignore[misc]
            found[cls.__name__] = cls
    return dict(sorted(found.items()))


def _named(hint: Any) -> str:
    """An annotation in words, for help texts and messages."""
    base = _base(hint)
    if base is not None:
        return " | ".join(_concrete(base))
    if get_origin(hint) in (Union, UnionType):
        # A tensor is for Python alone: plain data give numbers.
        return " or ".join(_named(part) for part in get_args(hint) if part is not Tensor)
    if get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"({', '.join(_named(part) for part in get_args(hint))})"
    return {float: "a number", int: "an integer", bool: "true or false", str: "text"}.get(hint, str(hint))


def _join(path: str, name: str) -> str:
    """The path of a key below another one."""
    return f"{path}.{name}" if path else name
