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
def _columns(numbers: tuple[Array, ...], first: int, size: int) -> Array:
    """The numbers of neurons from the first on, a row each."""
    rows = np.empty((len(numbers), size), numbers[0].dtype)
    for k, number in enumerate(numbers):
        for i in range(size):
            rows[k, i] = number[0] if len(number) == 1 else number[first + i]
    return rows


@inlined
def _at(t: int, array: Array) -> int:
    """Where a step is in an array of all steps, or of one that is the same at all."""
    return t if len(array) > 1 else 0


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
    scanned: tuple[Array, ...],
    numbers: tuple[Array, ...],
    lossless: bool,
    gradients: tuple[Array, ...],
    to_currents: Array,
    to_first: Array,
    parts: tuple[Array, ...],
) -> None:
    """`Kernels.pull_scan`, from membranes, spikes and the surrogate's slopes.

    ``to_currents`` are zeros at first, of one step where it is held; ``to_first`` is what the first membranes
    get. ``parts`` is what the gradients of
    parameters are made of: those through the spikes, and those towards what is carried on. It has no steps
    where they are not wanted.
    """
    (u, s, slopes), (through, carried) = scanned, parts
    steps, samples, neurons = u.shape
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        columns = _columns(numbers, j, k - j)
        own = (columns[1], columns[2], columns[3], columns[4])
        zeros, to_v, row = np.zeros(k - j, u.dtype), np.zeros(k - j, u.dtype), np.empty(k - j, u.dtype)
        for t in range(steps - 1, -1, -1):
            if len(carried):
                carried[t, b, j:k] = to_v
            given = _given(gradients[0], t, b, j, k, zeros), _given(gradients[1], t, b, j, k, zeros)
            here = u[t, b, j:k], s[t, b, j:k], slopes[t, b, j:k]
            if lossless:
                _pull_row(here, own, True, given, to_v, row)
            else:
                _pull_row(here, own, False, given, to_v, row)
            if len(through):
                through[t, b, j:k] = row
            to_currents[_at(t, to_currents), b, j:k] += to_v
        to_first[0, b, j:k] = to_v


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
    upper: bool,
    scanned: tuple[Array, ...],
    numbers: tuple[Array, ...],
    lossless: bool,
    gradients: tuple[Array, ...],
    to_currents: Array,
    parts: tuple[Array, ...],
) -> None:
    """`Kernels.pull_step_scan` for one end, from its membranes, both spikes and the surrogate's slopes.

    ``parts`` as in `pull_scan`; the third are what the edges get.
    """
    (u, s_low, s_high, slopes), (through, carried, dropped) = scanned, parts
    steps, samples, neurons = u.shape
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        columns = _columns(numbers, j, k - j)
        own = (columns[1], columns[2], columns[3], columns[4])
        zeros, to_v, row = np.zeros(k - j, u.dtype), np.zeros(k - j, u.dtype), np.empty(k - j, u.dtype)
        for t in range(steps - 1, -1, -1):
            spikes, before = (s_low[t, b, j:k], s_high[t, b, j:k]), u[t, b, j:k]
            if len(dropped):
                dropped[t, b, j:k] = to_v
            if upper:
                _keep_row(before, spikes, own, True, to_v)
            else:
                _keep_row(before, spikes, own, False, to_v)
            if len(carried):
                dropped[t, b, j:k] -= to_v
                carried[t, b, j:k] = to_v
            given = _given(gradients[0], t, b, j, k, zeros), _given(gradients[1], t, b, j, k, zeros)
            here = before, spikes[1] if upper else spikes[0], slopes[t, b, j:k]
            if lossless:
                _pull_row(here, own, True, given, to_v, row)
            else:
                _pull_row(here, own, False, given, to_v, row)
            if len(through):
                through[t, b, j:k] = row
            to_currents[t, b, j:k] = to_v


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
    slopes: Array,
    numbers: tuple[Array, ...],
    held: bool,
    to_counts: Array,
    to_sums: Array,
    parts: Array,
) -> None:
    """`Kernels.pull_count_scan`, from the surrogate's slopes; ``to_sums`` are zeros at first.

    ``parts`` as in `pull_scan`: the gradients towards what is compared.
    """
    steps, samples, neurons = slopes.shape
    for unit in range(start, stop):
        b, j = unit % samples, unit // samples * WIDTH
        k = min(neurons, j + WIDTH)
        offset = _columns(numbers, j, k - j)[2]
        to_n, to_u = np.zeros(k - j, slopes.dtype), np.empty(k - j, slopes.dtype)
        for t in range(steps - 1, -1, -1):
            to, times = to_sums[0 if held else t, b, j:k], slopes.dtype.type(t + 1 if held else 1)
            _pull_count_row(to_counts[t, b, j:k], slopes[t, b, j:k], offset, times, to_n, to_u, to)
            if len(parts):
                parts[t, b, j:k] = to_u
