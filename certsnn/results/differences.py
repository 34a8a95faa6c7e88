"""In which keys two nested mappings differ, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


def differences(one: Any, other: Any, first: str = "there", second: str = "here") -> str:
    """``"a.b is 1 there and 2 here, c is absent there and 3 here"``; empty where they are the same.

    Args:
        one, other: mappings as of JSON; anything else counts as an empty mapping.
        first, second: where they stand.
    """
    left, right = (dict(_leaves(json.loads(json.dumps(part, default=str)))) for part in (one, other))
    names = [name for name in right | left if left.get(name, _ABSENT) != right.get(name, _ABSENT)]
    return ", ".join(
        f"{name} is {_shown(left, name)} {first} and {_shown(right, name)} {second}" for name in names
    )


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    """The value of a key as JSON, or "absent"."""
    return json.dumps(leaves[name]) if name in leaves else "absent"
