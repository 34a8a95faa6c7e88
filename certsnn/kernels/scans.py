"""Scans over time, compiled. What they compute is told in `certsnn.kernels.base`.

Arrays are ``[T, B, P]``: steps, samples, and the neurons of a sample. ``numbers`` are arrays of one number or
of P, and a unit of work is at most `WIDTH` neurons of one sample over all steps: units ``start`` to ``stop``
of ``B ceil(P / WIDTH)`` are done, by as many threads as call. Flags are hoisted out of the inner loops, which
the compiler turns into vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from certsnn.kernels.jit import inlined, kernel

WIDTH = 512
Array = Any


@inlined
def _columns(numbers: tuple[Array, ...]) -> Array:
    """Room for the numbers of `WIDTH` neurons, a row each; those that are the same for all are filled in."""
    rows = np.empty((len(numbers), WIDTH), numbers[0].dtype)
    for k, number in enumerate(numbers):
        if len(number) == 1:
            rows[k] = number[0]
    return rows


@inlined
def _turn(columns: Array, numbers: tuple[Array, ...], j: int, k: int) -> None:
    """Fill in those of neurons j to k - 1."""
    for row, number in enumerate(numbers):
        if len(number) > 1:
            columns[row, : k - j] = number[j:k]


@inlined
def _at(t: int, array: Array) -> int:
    """Where a step is in an array of all steps, or of one that is the same at all."""
    return t if len(array) > 1 else 0


@inlined
def _choose(below: Any, above: Any, fired: bool, zero: Any) -> Any:
    """`dynamics.choose`: its product with 0 is NaN where the ends are not finite."""
    return (above if fired else below) + zero * (above - below)


@inlined
def _least(one: Any, other: Any) -> Any:
    """The smaller one; NaN where one is."""
    return one if one < other or one != one else other


@inlined
def _most(one: Any, other: Any) -> Any:
    return one if one > other or one != one else other


@inlined
def _advance(u: Any, s: Any, current: Any, numbers: Any, first: bool, lossless: bool, zero: Any) -> Any:
    """`Order.advance`; ``numbers`` are those of `STEPWISE`, ``first`` is the current's place."""
    _, decay, gain, offset = numbers
    if first:
        kept = u if lossless else _choose(decay * u, gain * u, s != zero, zero)
        return (kept + current) + offset * s
    if lossless:
        return (u + offset * s) + current
    return _choose(decay * u, gain * u + offset, s != zero, zero) + current


@inlined
def _advance_end(
    u: Any,
    s: Any,
    differ: bool,
    current: Any,
    numbers: Any,
    first: bool,
    lossless: bool,
    upper: bool,
    zero: Any,
) -> Any:
    """`Order.advance_ends` for one end; ``differ`` is where the spikes of both do."""
    threshold, decay, gain, offset = numbers
    if first:
        end = _advance(u, s, current, numbers, first, lossless, zero)
        if upper:
            return _choose(end, _most(end, decay * threshold + current), differ, zero)
        return _choose(end, _least(end, (gain * threshold + current) + offset), differ, zero)
    end = u + offset * s if lossless else _choose(decay * u, gain * u + offset, s != zero, zero)
    if upper:
        return _choose(end, _most(end, decay * threshold), differ, zero) + current
    return _choose(end, _least(end, gain * threshold + offset), differ, zero) + current


@inlined
def _step_row(rows: Any, numbers: Any, first: bool, lossless: bool) -> None:
    """One step of neurons side by side: `_advance_end` of both ends."""
    (u_low, u_high, s_low, s_high), (low, high), (to_low, to_high) = rows
    threshold, decay, gain, offset = numbers
    zero = u_low.dtype.type(0)
    for i in range(len(low)):
        p, q = s_low[i], s_high[i]
        own = threshold[i], decay[i], gain[i], offset[i]
        to_low[i] = _advance_end(u_low[i], p, p != q, low[i], own, first, lossless, False, zero)
        to_high[i] = _advance_end(u_high[i], q, p != q, high[i], own, first, lossless, True, zero)


@inlined
def _row(u: Any, s: Any, currents: Array, numbers: Any, first: bool, lossless: bool, to: Array) -> None:
    """One step of neurons side by side: `_advance`."""
    threshold, decay, gain, offset = numbers
    zero = u.dtype.type(0)
    for i in range(len(u)):
        own = threshold[i], decay[i], gain[i], offset[i]
        to[i] = _advance(u[i], s[i], currents[i], own, first, lossless, zero)


@inlined
def _enter(initial: Array, current: Array, to: Array) -> None:
    for i in range(len(current)):
        to[i] = initial[i] + current[i]


@inlined
def _narrow(low: Array, high: Array, least: Array, most: Array) -> None:
    """What lies in both, swapped where it crosses."""
    for i in range(len(low)):
        one, other = _most(low[i], least[i]), _least(high[i], most[i])
        low[i], high[i] = _least(one, other), _most(one, other)


@inlined
def _fire(u: Array, threshold: Array, to: Array) -> None:
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for i in range(len(u)):
        to[i] = one if u[i] >= threshold[i] else zero


@kernel
def scan(
    start: int,
    stop: int,
    currents: Array,
    numbers: tuple[Array, ...],
    first: bool,
    lossless: bool,
    membranes: Array,
    spikes: Array,
) -> None:
    """`Kernels.scan`, into the last two."""
    steps, samples, neurons = membranes.shape
    columns = _columns(numbers)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        own = (columns[1], columns[2], columns[3], columns[4])
        for t in range(steps):
            current, to = currents[_at(t, currents), b, j:k], membranes[t, b, j:k]
            if t == 0:
                _enter(columns[0], current, to)
            else:
                u, s = membranes[t - 1, b, j:k], spikes[t - 1, b, j:k]
                if first and lossless:
                    _row(u, s, current, own, True, True, to)
                elif first:
                    _row(u, s, current, own, True, False, to)
                elif lossless:
                    _row(u, s, current, own, False, True, to)
                else:
                    _row(u, s, current, own, False, False, to)
            _fire(to, columns[1], spikes[t, b, j:k])


@kernel
def step_scan(
    start: int,
    stop: int,
    low: Array,
    high: Array,
    least: Array,
    most: Array,
    numbers: tuple[Array, ...],
    first: bool,
    lossless: bool,
    u_low: Array,
    u_high: Array,
    s_low: Array,
    s_high: Array,
) -> None:
    """`Kernels.step_scan_within` a least and a most, where these have steps, into the last four."""
    steps, samples, neurons = u_low.shape
    columns = _columns(numbers)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        initial, threshold, own = columns[0], columns[1], (columns[1], columns[2], columns[3], columns[4])
        for t in range(steps):
            currents = low[_at(t, low), b, j:k], high[_at(t, high), b, j:k]
            to = u_low[t, b, j:k], u_high[t, b, j:k]
            if t == 0:
                _enter(initial, currents[0], to[0])
                _enter(initial, currents[1], to[1])
            else:
                before = (
                    u_low[t - 1, b, j:k],
                    u_high[t - 1, b, j:k],
                    s_low[t - 1, b, j:k],
                    s_high[t - 1, b, j:k],
                )
                rows = before, currents, to
                if first and lossless:
                    _step_row(rows, own, True, True)
                elif first:
                    _step_row(rows, own, True, False)
                elif lossless:
                    _step_row(rows, own, False, True)
                else:
                    _step_row(rows, own, False, False)
            if len(least):
                _narrow(to[0], to[1], least[t, b, j:k], most[t, b, j:k])
            _fire(to[0], threshold, s_low[t, b, j:k])
            _fire(to[1], threshold, s_high[t, b, j:k])


@inlined
def _widen_row(ends: Any, numbers: Any, scales: Any, so_far: Any, to: Any) -> None:
    (low, high), (initial, reset), (largest, total), (to_low, to_high, error) = ends, numbers, so_far, to
    times, unit, lost = scales
    for i in range(len(low)):
        least, most = initial[i] + low[i], initial[i] + high[i]
        largest[i] = _most(largest[i], _most(abs(least), abs(most)))
        total[i] += largest[i] + times * reset[i]
        e = unit * total[i] + lost
        to_low[i], to_high[i], error[i] = least - e, most + e, e


@kernel
def widened(
    start: int,
    stop: int,
    low: Array,
    high: Array,
    numbers: tuple[Array, ...],
    unit: float,
    underflow: float,
    to_low: Array,
    to_high: Array,
    error: Array,
) -> None:
    """`Kernels.widened`, into the last three."""
    steps, samples, neurons = to_low.shape
    real = low.dtype.type
    columns = _columns(numbers)
    for place in range(start, stop):
        b, j = place % samples, place // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        own = columns[0], np.abs(columns[2])
        # What is compared are magnitudes: the largest so far of none is 0.
        so_far = np.zeros(k - j, low.dtype), np.zeros(k - j, low.dtype)
        for t in range(steps):
            scales = real(t + 1), real(4 * unit), real((t + 1) * (2 * underflow))
            ends = low[_at(t, low), b, j:k], high[_at(t, high), b, j:k]
            to = to_low[t, b, j:k], to_high[t, b, j:k], error[t, b, j:k]
            _widen_row(ends, own, scales, so_far, to)


@inlined
def _count_row(charge: Array, times: Any, n: Array, numbers: Any, u: Array, counts: Array) -> None:
    initial, threshold, offset = numbers
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for i in range(len(u)):
        u[i] = (initial[i] + charge[i] * times) + n[i] * offset[i]
        n[i] += one if u[i] >= threshold[i] else zero
        counts[i] = n[i]


@kernel
def count_scan(
    start: int,
    stop: int,
    sums: Array,
    numbers: tuple[Array, ...],
    held: bool,
    membranes: Array,
    counts: Array,
) -> None:
    """`Kernels.count_scan`, into the last two. (A product with 1 is exact.)"""
    steps, samples, neurons = membranes.shape
    columns = _columns(numbers)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        own, n = (columns[0], columns[1], columns[2]), np.zeros(k - j, sums.dtype)
        for t in range(steps):
            charge, times = sums[_at(t, sums), b, j:k], sums.dtype.type(t + 1 if held else 1)
            _count_row(charge, times, n, own, membranes[t, b, j:k], counts[t, b, j:k])
