"""Gradients of the scans over time, compiled. Arrays and units of work are those of `certsnn.kernels.scans`.

What both files call stands in both (`certsnn.kernels.jit` says why).
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
def _pull(u: Any, s: Any, slope: Any, to_s: Any, to_v: Any, numbers: Any, lossless: bool) -> Any:
    """`dynamics.pull_back`: to the membrane, and through the spike alone."""
    _, decay, gain, offset = numbers
    rise = gain - decay
    kept = to_v if lossless else (decay + rise * s) * to_v
    through = ((rise * u + offset) * to_v + to_s) * slope
    return through + kept, through


@inlined
def _pull_row(here: Any, numbers: Any, lossless: bool, gradients: Any, to_v: Array, through: Array) -> None:
    """One step of neurons side by side, from the gradient towards what they carry on.

    That becomes the membrane's, and so the one towards what the step before carries on.
    """
    (u, s, slope), (to_u, to_s) = here, gradients
    threshold, decay, gain, offset = numbers
    for i in range(len(u)):
        own = threshold[i], decay[i], gain[i], offset[i]
        total, through[i] = _pull(u[i], s[i], slope[i], to_s[i], to_v[i], own, lossless)
        to_v[i] = total + to_u[i]


@inlined
def _given(gradient: Array, t: int, b: int, j: int, k: int, zeros: Array) -> Array:
    """A row of a gradient, which has no steps where it is zero."""
    return gradient[t, b, j:k] if len(gradient) else zeros


@kernel
def pull_scan(
    start: int,
    stop: int,
    t: int,
    scanned: tuple[Array, ...],
    slope: Array,
    numbers: tuple[Array, ...],
    lossless: bool,
    gradients: tuple[Array, ...],
    to_v: Array,
    to_currents: Array,
    parts: tuple[Array, ...],
) -> None:
    """Step t of `Kernels.pull_scan`, from membranes, spikes and the surrogate's slope ``[1, B, P]`` there.

    ``to_v [1, B, P]`` is what the step carries on, and becomes what the one before does. ``to_currents`` of
    one step add up. ``parts`` is what the gradients of parameters are made of: those through the spikes, and
    those towards what is carried on. It has no steps where they are not wanted.
    """
    (u, s), (through, carried) = scanned, parts
    _, samples, neurons = u.shape
    columns, zeros, room = _columns(numbers), np.zeros(WIDTH, u.dtype), np.empty(WIDTH, u.dtype)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        own = (columns[1], columns[2], columns[3], columns[4])
        row, to = room[: k - j], to_v[0, b, j:k]
        if len(carried):
            carried[t, b, j:k] = to
        given = _given(gradients[0], t, b, j, k, zeros), _given(gradients[1], t, b, j, k, zeros)
        here = u[t, b, j:k], s[t, b, j:k], slope[0, b, j:k]
        if lossless:
            _pull_row(here, own, True, given, to, row)
        else:
            _pull_row(here, own, False, given, to, row)
        if len(through):
            through[t, b, j:k] = row
        if len(to_currents) > 1:
            to_currents[t, b, j:k] = to
        else:
            to_currents[0, b, j:k] += to


@inlined
def _keep_row(u: Array, s: Any, numbers: Any, upper: bool, to_v: Array) -> None:
    """What of a gradient towards carried bounds goes to the membranes' own (`gradients.Pull.step`)."""
    threshold, decay, gain, offset = numbers
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for i in range(len(u)):
        if upper:
            replaced = gain[i] * u[i] + offset[i] < decay[i] * threshold[i]
        else:
            replaced = decay[i] * u[i] > gain[i] * threshold[i] + offset[i]
        to_v[i] += -to_v[i] * (one if replaced and s[0][i] < s[1][i] else zero)


@kernel
def pull_step_scan(
    start: int,
    stop: int,
    t: int,
    upper: bool,
    scanned: tuple[Array, ...],
    slope: Array,
    numbers: tuple[Array, ...],
    lossless: bool,
    gradients: tuple[Array, ...],
    to_v: Array,
    to_currents: Array,
    parts: tuple[Array, ...],
) -> None:
    """Step t of `Kernels.pull_step_scan` for one end, from its membranes and both spikes.

    The rest is as in `pull_scan`; the third of the parts are what the edges get.
    """
    (u, s_low, s_high), (through, carried, dropped) = scanned, parts
    _, samples, neurons = u.shape
    columns, zeros, room = _columns(numbers), np.zeros(WIDTH, u.dtype), np.empty(WIDTH, u.dtype)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        own = (columns[1], columns[2], columns[3], columns[4])
        row, to = room[: k - j], to_v[0, b, j:k]
        spikes = s_low[t, b, j:k], s_high[t, b, j:k]
        if len(dropped):
            dropped[t, b, j:k] = to
        if upper:
            _keep_row(u[t, b, j:k], spikes, own, True, to)
        else:
            _keep_row(u[t, b, j:k], spikes, own, False, to)
        if len(carried):
            dropped[t, b, j:k] -= to
            carried[t, b, j:k] = to
        given = _given(gradients[0], t, b, j, k, zeros), _given(gradients[1], t, b, j, k, zeros)
        here = u[t, b, j:k], spikes[1] if upper else spikes[0], slope[0, b, j:k]
        if lossless:
            _pull_row(here, own, True, given, to, row)
        else:
            _pull_row(here, own, False, given, to, row)
        if len(through):
            through[t, b, j:k] = row
        to_currents[t, b, j:k] = to


@inlined
def _pull_count_row(
    to_counts: Array, slope: Array, offset: Array, times: Any, to_n: Array, to_u: Array, to_sums: Array
) -> None:
    for i in range(len(to_n)):
        to_n[i] += to_counts[i]
        to_u[i] = to_n[i] * slope[i]
        to_n[i] += to_u[i] * offset[i]
        to_sums[i] += to_u[i] * times


@kernel
def pull_count_scan(
    start: int,
    stop: int,
    t: int,
    held: bool,
    slope: Array,
    numbers: tuple[Array, ...],
    to_counts: Array,
    to_n: Array,
    to_sums: Array,
    parts: Array,
) -> None:
    """Step t of `Kernels.pull_count_scan`; ``to_sums`` are zeros at first.

    ``to_n [1, B, P]`` are those towards the counts from here on. ``parts`` as in `pull_scan`: the gradients
    towards what is compared.
    """
    _, samples, neurons = slope.shape
    columns, room = _columns(numbers), np.empty(WIDTH, slope.dtype)
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        _turn(columns, numbers, j, k)
        offset, to_u = columns[2], room[: k - j]
        to, times = to_sums[0 if held else t, b, j:k], slope.dtype.type(t + 1 if held else 1)
        _pull_count_row(to_counts[t, b, j:k], slope[0, b, j:k], offset, times, to_n[0, b, j:k], to_u, to)
        if len(parts):
            parts[t, b, j:k] = to_u
