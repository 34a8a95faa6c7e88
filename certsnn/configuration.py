"""Configs: YAML text to a `RunConfig` and back, with every default written out.

A config also travels inside weights files, so it is read as untrusted input: wherever `RunConfig`
asks for one of several classes (`threat`, `training.objective`, ...), only certsnn's own subclasses
of that type can be named, by their short names; nothing that a config names in any other way is
imported or called. What is not a class is checked against its annotation by jsonargparse.

In a file a class reads ``threat: {class_path: LinfBall, init_args: {eps: 0.05}}``; shorter forms of
the same are ``threat: {class_path: LinfBall, eps: 0.05}`` and, without arguments, ``threat: Name``.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, final, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from certsnn.data import source
from certsnn.errors import ConfigError
from certsnn.train.config import RunConfig

CLASS, ARGS = "class_path", "init_args"
_REQUIRED = object()


@final
@dataclass(frozen=True)
class Factory:
    """Makes a new object of a class at every call; equal if class and arguments are."""

    made: type
    arguments: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.made(**self.arguments)


@final
@dataclass(frozen=True)
class Key:
    """A key of the config, for help texts.

    Its dotted path, the class that has it (where there are several), what it takes, and so on.
    """

    path: str
    owner: str
    takes: str
    default: str
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
        reason = error.strerror or error
        raise ConfigError(f"the config {path} can't be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config {path} is not a text file") from error
    try:
        return override(text, overrides)
    except ConfigError as error:
        source = f"{path} with the command line's keys" if overrides else path
        raise ConfigError(f"{source}: {error}") from error


def parse_text(text: str) -> RunConfig:
    """The config of a YAML text. Raises ConfigError as `read_config` does."""
    return override(text, ())[0]


def override(text: str, overrides: Sequence[str]) -> tuple[RunConfig, str]:
    """The config of a YAML text after overrides (see `read_config`), and its full text."""
    tree = _load(text)
    tree = {} if tree is None else tree
    for path, value in _pairs(overrides):
        if not isinstance(tree, dict):
            break  # reported below, as the whole config
        _put(tree, path.split("."), value)
    config, plain = _read(RunConfig, tree, "", _REQUIRED)
    _check(config)
    return config, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def instances(base: type, text: str, name: str) -> tuple[Any, ...]:
    """Objects of certsnn's subclasses of an abstract class, as YAML names them.

    Args:
        base: the abstract class.
        text: a YAML list, whose brackets may be left out: ``PGD, {class_path: G2S, iterations: 50}``.
        name: what an error message calls the list.

    Raises:
        ConfigError: for what is not a list of such classes with arguments that they take.
    """
    bare = text.strip()
    made, _ = _items(base, _load(bare if bare.startswith("[") else f"[{bare}]"), name)
    return made  # type: ignore[no-any-return]


def keys() -> list[Key]:
    """All keys of a config, those of every class that can be named included."""
    return list(_keys(RunConfig, ""))


def elsewhere(name: str) -> str:
    """``"; did you mean a.b.name?"`` for a key that ends with nearly this name, or ""."""
    ends = {key.path.rpartition(".")[2]: key.path for key in reversed(keys())}
    near = get_close_matches(name, ends, n=1, cutoff=0.8)
    return f"; did you mean {ends[near[0]]}?" if near else ""


def nearest(word: str, known: Sequence[str]) -> str:
    """``"; did you mean x?"`` for the known word nearest to this one, or "" if none is near."""
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _load(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"not valid YAML: {error.problem or error.context}{where}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}") from error


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    words = iter(flags)
    for word in words:
        path, equals, value = word.partition("=")
        if not path.startswith("--") or not path[2:]:
            raise ConfigError(f"{word!r} is not a key of the config; write --key value")
        if not equals:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"{path} needs a value")
            value = following
        loaded = _load(value)
        # Words and numbers stay as typed: the key's annotation says which of the two they are.
        yield path[2:], loaded if loaded is None or isinstance(loaded, (dict, list)) else value


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one key; naming a class forgets the arguments of the class that was named before."""
    *parents, last = path
    for name in parents:
        child = _home(tree, name).get(name)
        child = {CLASS: child} if isinstance(child, str) else child if isinstance(child, dict) else {}
        _home(tree, name)[name] = child
        tree = child
    if last == CLASS and tree.get(CLASS) != value:
        tree.clear()
    _home(tree, last)[last] = value


def _home(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Where a key of this node stands: among a class's arguments, or in the node itself."""
    arguments = tree.get(ARGS)
    return arguments if name not in (CLASS, ARGS) and isinstance(arguments, dict) else tree


def _read(hint: Any, value: Any, path: str, default: Any) -> tuple[Any, Any]:
    """An object of the annotated type, and the plain data, with all defaults, that give it."""
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None, None
    base = _base(hint)
    if base is not None:
        return _choice(hint, base, value, path, default)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, value, path)
    item = _item(hint)
    if item is not None:
        return _items(item, value, path)
    return _leaf(hint, value, path)


def _record(cls: type, value: Any, path: str) -> tuple[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path or 'the config'} must hold keys ({', '.join(_parameters(cls))}), not {value!r}"
        )
    arguments, plain = _arguments(cls, value, path)
    return _make(cls, arguments, path), plain


def _choice(hint: Any, base: type, value: Any, path: str, default: Any) -> tuple[Any, Any]:
    classes = {cls.__name__: cls for cls in _concrete(base)}
    value = {CLASS: value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must name a class ({', '.join(classes)}), not {value!r}")
    given = value.get(ARGS)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ConfigError(f"{_join(path, ARGS)} must hold the arguments of a class, not {given!r}")
    given = given | {name: part for name, part in value.items() if name not in (CLASS, ARGS)}
    named = value.get(CLASS)
    if named is None and isinstance(default, dict):
        named, given = default[CLASS], default.get(ARGS, {}) | given
    if not isinstance(named, str) or named not in classes:
        near = nearest(str(named), list(classes)) or f". Known: {', '.join(classes)}"
        wrong = "a class must be named" if named is None else f"there is no class {named!r} here"
        raise ConfigError(f"{_join(path, CLASS)}: {wrong}{near}")
    cls = classes[named]
    arguments, plain = _arguments(cls, given, path)
    made = _make(cls, arguments, path)
    tree = {CLASS: named, ARGS: plain} if plain else {CLASS: named}
    return (made if hint is base else Factory(cls, arguments)), tree


def _items(item: Any, value: Any, path: str) -> tuple[Any, Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} must be a list, not {value!r}")
    pairs = [_read(item, part, f"{path}[{i}]", _REQUIRED) for i, part in enumerate(value)]
    return tuple(made for made, _ in pairs), [plain for _, plain in pairs]


def _leaf(hint: Any, value: Any, path: str) -> tuple[Any, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        if value is None:
            raise TypeError
        made = parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        shown = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path} must be {_named(hint)}, not {shown}") from error
    return made, list(made) if isinstance(made, tuple) else made


def _arguments(cls: type, given: Mapping[Any, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parameters = _parameters(cls)
    for name in given:
        if name not in parameters:
            raise ConfigError(_unknown(cls, path, str(name), list(parameters)))
    made, plain = {}, {}
    for name, (hint, default) in parameters.items():
        value = given.get(name, default)
        if value is _REQUIRED:
            raise ConfigError(f"{_join(path, name)} is missing: {cls.__name__} needs it")
        made[name], plain[name] = _read(hint, value, _join(path, name), default)
    return made, plain


def _make(cls: type, arguments: Mapping[str, Any], path: str) -> Any:
    """An object of the class; what its constructor finds wrong is said of the key that it names."""
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        word, _, rest = str(error).partition(" ")
        if word in arguments:
            raise ConfigError(f"{_join(path, word)} {rest}") from error
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error


def _unknown(cls: type, path: str, name: str, siblings: list[str]) -> str:
    """The nearest key is sought among the class's own, then by its last name among all keys."""
    here = _join(path, name)
    wrong = f"{here} is not a key" + (f" of {cls.__name__}" if ABC in cls.__mro__ else "")
    near = get_close_matches(name, siblings, n=1)
    if near:
        return f"{wrong}; did you mean {_join(path, near[0])}?"
    # A key of another class in this same place would be no help.
    hint = "" if here in {key.path for key in keys()} else elsewhere(name)
    if hint:
        return f"{wrong}{hint}"
    return f"{wrong}. Known: {', '.join(_join(path, known) for known in siblings) or 'none'}"


def _check(config: RunConfig) -> None:
    """What no single part of the config can know."""
    data, encoding = config.data, config.data.encoding
    if encoding is not None and source(data.name).domain == "spikes":
        raise ConfigError(f"data.encoding turns images into spikes, but {data.name} has spikes: leave it out")
    if config.threat.domain == data.domain:
        return
    name = type(config.threat).__name__
    if source(data.name).domain == "spikes":
        raise ConfigError(
            f"threat and data.name do not fit: {name} moves the pixels of images, but {data.name} has "
            "spikes; name a threat to spikes, such as SpikeFlips"
        )
    advice = (
        f"{name} changes spikes: say with data.encoding how images become spikes"
        if encoding is None
        else f"{name} moves the pixels of images: leave data.encoding out"
    )
    raise ConfigError(f"threat and data.encoding do not fit: {advice}")


def _parameters(cls: type) -> dict[str, tuple[Any, Any]]:
    """A class's arguments: annotation, and default as plain data or `_REQUIRED`."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            if field.default_factory is not dataclasses.MISSING:
                defaults[field.name] = field.default_factory()
    return {name: (hints[name], _plain(hints[name], value)) for name, value in defaults.items()}


def _plain(hint: Any, default: Any) -> Any:
    """A default as plain data."""
    if default is inspect.Parameter.empty:
        return _REQUIRED
    if isinstance(default, type):
        return {CLASS: default.__name__}
    if _item(hint) is not None:
        return [_plain(_item(hint), part) for part in default]
    if not dataclasses.is_dataclass(default):
        return default
    hints = get_type_hints(type(default).__init__)
    arguments = {
        field.name: _plain(hints[field.name], getattr(default, field.name))
        for field in dataclasses.fields(default)
    }
    base = _base(_without_none(hint)[0])
    return arguments if base is None else {CLASS: type(default).__name__, ARGS: arguments}


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, UnionType) or type(None) not in get_args(hint):
        return hint, False
    return Union[tuple(part for part in get_args(hint) if part is not type(None))], True  # noqa: UP007


def _base(hint: Any) -> type | None:
    """The abstract class of which an annotation, it or ``Callable[[], it]``, takes a subclass."""
    if get_origin(hint) is Callable and not get_args(hint)[0]:
        hint = get_args(hint)[1]
    return hint if isinstance(hint, type) and ABC in hint.__mro__ else None


def _item(hint: Any) -> Any:
    """The class of the items of a sequence of classes."""
    if get_origin(hint) is not Sequence:
        return None
    (item,) = get_args(hint)
    return item if _base(_without_none(item)[0]) is not None else None


def _concrete(base: type) -> list[type]:
    """certsnn's classes of this type that plain data can describe, by name."""
    found: dict[str, type] = {}
    pending: list[type] = list(base.__subclasses__())
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        if ours and ABC not in cls.__bases__ and not inspect.isabstract(cls) and not _takes_tensors(cls):
            found[cls.__name__] = cls
    return [found[name] for name in sorted(found)]


def _takes_tensors(cls: type) -> bool:
    return Tensor in get_type_hints(cls.__init__).values()  # type: ignore[misc]


def _keys(hint: Any, path: str) -> Iterator[Key]:
    for part in [hint] if _base(hint) is None else _concrete(_base(hint) or object):
        owner = "" if _base(hint) is None else part.__name__
        described = {p.arg_name: p.description for p in parse_docstring(part.__doc__ or "").params}
        for name, (inner, default) in _parameters(part).items():
            here, (inner, _) = _join(path, name), _without_none(inner)
            item = _item(inner)
            inside = inner if item is None else item
            shown = "" if default is _REQUIRED else str(default)
            if _base(inside) is not None:
                names = " | ".join(cls.__name__ for cls in _concrete(_base(inside) or object))
                default = default[CLASS] if isinstance(default, dict) else default
                yield Key(here, owner, names, str(default), described.get(name) or "")
                yield from _keys(inside, here)
            elif dataclasses.is_dataclass(inside):
                yield from _keys(inside, here)
            else:
                yield Key(here, owner, _named(inside), shown, described.get(name) or "")


def _named(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_named(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"({', '.join(_named(part) for part in get_args(hint))})"
    return {float: "a number", int: "an integer", bool: "true or false", str: "text"}.get(hint, str(hint))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
