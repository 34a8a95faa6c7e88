"""Lines below forms of the spikes that a constant current causes, compiled.

What they compute is told in `certsnn.kernels.points`, whose operations these are, in its order. Arrays are
``[S, T, N]``, ``[M, N]`` or ``[S, N]``: rows, steps or pieces, and the neurons of all samples side by side. A
unit of work is `WIDTH` neurons over all rows. Slopes may be other ones where coefficients are not finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from certsnn.kernels.jit import inlined, kernel

WIDTH = 128
ABSENT = 1e30
Array = Any


@inlined
def _least(one: Any, other: Any) -> Any:
    """The smaller one; NaN where one is."""
    return one if one < other or one != one else other


@inlined
def _most(one: Any, other: Any) -> Any:
    return one if one > other or one != one else other


@inlined
def _add(row: Array, out: Array) -> None:
    for i in range(len(row)):
        out[i] += row[i]


@inlined
def _lesser(one: Array, other: Array, out: Array) -> None:
    for i in range(len(one)):
        out[i] = _least(one[i], other[i])


@inlined
def _sides(at: Array, off: Array, away: Array) -> Any:
    """`ABSENT` for points on the other side; returns how many are left, and the first right one."""
    half, far, pieces = at.dtype.type(2), at.dtype.type(ABSENT), len(at) - 1
    lefts, rights = 1, pieces
    for j in range(pieces + 1):
        for i in range(at.shape[1]):
            left = j == 0 or (j < pieces and at[j, i] <= (at[0, i] + at[pieces, i]) / half)
            off[j, i], away[j, i] = far * (not left), far * left
            if left:
                lefts = max(lefts, j + 1)
            else:
                rights = min(rights, j)
    return lefts, rights


@inlined
def _inverse(left: Array, right: Array, least: Any, out: Array) -> None:
    one = left.dtype.type(1)
    for i in range(len(left)):
        width = right[i] - left[i]
        out[i] = one / (width if width >= least else one)


@inlined
def _tangent(point: Array, off: Array, height: Array, away: Array, scale: Array, out: Array) -> None:
    """``off`` and ``away`` are `ABSENT` for points on the other side."""
    for i in range(len(out)):
        out[i] = _least(out[i], ((height[i] + away[i]) - (point[i] + off[i])) * scale[i])


@inlined
def _greater(tangent: Array, k: Array) -> None:
    for i in range(len(k)):
        k[i] = _most(k[i], tangent[i])


@inlined
def _lowered(height: Array, at: Array, k: Array, out: Array) -> None:
    for i in range(len(k)):
        out[i] = _least(out[i], height[i] - k[i] * at[i])


@kernel
def held_line(
    start: int,
    stop: int,
    a: Array,
    trains: Array,
    at: Array,
    absent: Array,
    least: Any,
    k: Array,
    intercepts: Array,
) -> None:
    """``trains [M, T]`` are the spikes of the pieces."""
    rows, steps, neurons = a.shape
    pieces = len(trains)
    off, away = np.empty((pieces + 1, WIDTH), a.dtype), np.empty((pieces + 1, WIDTH), a.dtype)
    value, height = np.empty((pieces, WIDTH), a.dtype), np.empty((pieces + 1, WIDTH), a.dtype)
    scale, tangent = np.empty(((pieces + 1) ** 2, WIDTH), a.dtype), np.empty(WIDTH, a.dtype)
    for unit in range(start, stop):
        first, last = unit * WIDTH, min(neurons, (unit + 1) * WIDTH)
        n = last - first
        here = at[:, first:last]
        lefts, rights = _sides(here, off, away)
        for p in range(lefts):
            for j in range(rights, pieces + 1):
                _inverse(at[p, first:last], at[j, first:last], least, scale[p * (pieces + 1) + j, :n])
        for s in range(rows):
            for m in range(pieces):
                value[m, :n] = 0
                for t in range(steps):
                    if trains[m, t]:
                        _add(a[s, t, first:last], value[m, :n])
                _add(absent[m, first:last], value[m, :n])
            height[0, :n], height[pieces, :n] = value[0, :n], value[pieces - 1, :n]
            for m in range(pieces - 1):
                _lesser(value[m, :n], value[m + 1, :n], height[m + 1, :n])
            slope, intercept = k[s, first:last], intercepts[s, first:last]
            slope[:], intercept[:] = -np.inf, np.inf
            for p in range(lefts):
                tangent[:n] = np.inf
                for j in range(rights, pieces + 1):
                    inverse = scale[p * (pieces + 1) + j, :n]
                    _tangent(height[p, :n], off[p, :n], height[j, :n], away[j, :n], inverse, tangent[:n])
                _greater(tangent[:n], slope)
            for i in range(n):
                slope[i] *= here[pieces, i] - here[0, i] >= least
            for j in range(pieces + 1):
                _lowered(height[j, :n], at[j, first:last], slope, intercept)
