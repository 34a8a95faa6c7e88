"""The joint relaxation with its backward scan, and the gradient of that, compiled.

What they compute is told in `certsnn.kernels.lines`, whose operations these are, in its order. Arrays
are ``[S, T, M]``, ``[T, M]`` or ``[S, M]``: rows, steps, and the neurons of all samples side by side.
``numbers`` are the threshold, decay, gain and offset, each ``[1 or T, 1 or M]``. A unit of work is ``width``
neurons over all steps and rows; units ``start`` to ``stop`` are done, by as many threads as call. The forms
of a neuron and step are made once for all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from certsnn.kernels.jit import inlined, kernel

WIDTH = 1024
Array = Any


@inlined
def _least(one: Any, other: Any) -> Any:
    """The smaller one; NaN where one is."""
    return one if one < other or one != one else other


@inlined
def _most(one: Any, other: Any) -> Any:
    return one if one > other or one != one else other


@inlined
def _spread(numbers: tuple[Array, ...], t: int, first: int, size: int, out: Array) -> None:
    """The numbers of neurons from the first on at one step, a row each."""
    for k, number in enumerate(numbers):
        row = number[t if len(number) > 1 else 0]
        for i in range(size):
            out[k, i] = row[first + i] if len(row) > 1 else row[0]


@inlined
def _widened(low: Any, high: Any, threshold: Any, root: Any, one: Any) -> Any:
    """The ends after widening, whether the line begins at the lower one, and 1 where stable."""
    silent, firing = high < threshold, low >= threshold
    unstable = not (silent or firing)
    left = low + high <= (one + one) * threshold
    least = threshold * root
    if unstable and left:
        low = _least(low, threshold - least)
    if unstable and not left:
        high = _most(high, threshold + least)
    return low, high, silent or (unstable and left), one - one if unstable else one


@inlined
def _forms(lows: Array, highs: Array, p: Array, root: Any, q: Array) -> None:
    one = lows.dtype.type(1)
    for i in range(len(lows)):
        threshold, decay, gain, offset = p[0, i], p[1, i], p[2, i], p[3, i]
        low, high, begins, stable = _widened(lows[i], highs[i], threshold, root, one)
        sign = one if begins else -one
        at_low, at_high = decay * low, gain * high + offset
        near = low if begins else high
        at_near, at_far = (at_low, at_high) if begins else (at_high, at_low)
        at_threshold = gain * threshold + offset if begins else decay * threshold
        adjacent = decay if begins else -gain
        settled = adjacent * stable
        inner = (one - stable) / (abs(threshold - near) + stable)
        chord = (one - stable) / (high - low + stable)
        q[0, i], q[1, i] = sign, adjacent
        q[2, i], q[3, i] = sign * inner, settled + (at_threshold - at_near) * inner
        q[4, i], q[5, i] = sign * chord, settled + (at_far - at_near) * chord
        q[6, i], q[7, i], q[8, i] = (one - sign) / (one + one), at_near, near


@inlined
def _step(a: Array, c: Array, q: Array, k: Array, intercepts: Array) -> None:
    for i in range(len(a)):
        inner = c[i] * q[3, i] + a[i] * q[2, i]
        chord = c[i] * q[5, i] + a[i] * q[4, i]
        slope = _least(_least(c[i] * q[1, i], inner), chord) * q[0, i]
        intercepts[i] += (c[i] * q[7, i] - slope * q[8, i]) + a[i] * q[6, i]
        k[i] = slope


@inlined
def _add_missed(k: Array, error: Array, lost: Array) -> None:
    for i in range(len(k)):
        lost[i] += abs(k[i]) * error[i]


@inlined
def _carried(k: Array, follow: Array, out: Array) -> None:
    """What is carried back from the next step, ``k [M]``, where neurons are at other places."""
    for i in range(len(out)):
        out[i] = k[follow[i]] if follow[i] < len(k) else 0


@kernel
def joint_scan(
    start: int,
    stop: int,
    width: int,
    a: Array,
    carried: Array,
    low: Array,
    high: Array,
    numbers: tuple[Array, ...],
    initial: Array,
    root: Any,
    follow: Array,
    k: Array,
    intercepts: Array,
) -> None:
    """``follow [T - 1, M]`` has places in M, in the same unit of work; it is empty if they do not change."""
    rows, steps, neurons = a.shape
    p, q, led = np.empty((4, WIDTH), a.dtype), np.empty((9, WIDTH), a.dtype), np.empty(WIDTH, a.dtype)
    last = min(neurons, stop * width)
    intercepts[:, start * width : last] = 0
    for unit in range(start, stop):
        for t in range(steps - 1, -1, -1):
            for i in range(unit * width, min(last, (unit + 1) * width), WIDTH):
                j = min(last, (unit + 1) * width, i + WIDTH)
                _spread(numbers, t, i, j - i, p)
                _forms(low[t, i:j], high[t, i:j], p, root, q)
                for s in range(rows):
                    c = carried[s, i:j]
                    if t < steps - 1:
                        c = k[s, t + 1, i:j]
                        if len(follow):
                            c = led[: j - i]
                            _carried(k[s, t + 1], follow[t, i:j], c)
                    _step(a[s, t, i:j], c, q, k[s, t, i:j], intercepts[s, i:j])
    for s in range(rows):
        for n in range(start * width, last):
            intercepts[s, n] += k[s, 0, n] * (initial[n] if len(initial) > 1 else initial[0])


@kernel
def missed(start: int, stop: int, k: Array, error: Array, lost: Array) -> None:
    """``error [1 or T, 1 or M]``; a unit of work is `WIDTH` neurons."""
    rows, steps, neurons = k.shape
    e = np.empty((1, WIDTH), k.dtype)
    lost[:, start * WIDTH : min(neurons, stop * WIDTH)] = 0
    for unit in range(start, stop):
        i, j = unit * WIDTH, min(neurons, (unit + 1) * WIDTH)
        for t in range(steps):
            _spread((error,), t, i, j - i, e)
            for s in range(rows):
                _add_missed(k[s, t, i:j], e[0], lost[s, i:j])


@inlined
def _step_back(
    a: Array, c: Array, k: Array, to_k: Array, to_d: Array, through: Array, q: Array, g: Array, to_a: Array
) -> None:
    """One row at one step; ``through`` comes from the step before, and leaves for the next.

    ``g`` sums up the gradients towards the rows 1 to 5, 7 and 8 of q.
    """
    zero, half = k.dtype.type(0), k.dtype.type(0.5)
    one = half + half
    for i in range(len(a)):
        x, y = c[i], a[i]
        adjacent, inner, chord = x * q[1, i], x * q[3, i] + y * q[2, i], x * q[5, i] + y * q[4, i]
        least = _least(adjacent, inner)
        # Halves where two are the least, as in the gradient of torch.minimum.
        last = half if chord == least else (one if chord < least else zero)
        second = half if inner == adjacent else (one if inner < adjacent else zero)
        slope = (to_k[i] + through[i] - to_d[i] * q[8, i]) * q[0, i]
        to_last, slope = slope * last, slope * (one - last)
        to_second, to_first = slope * second, slope * (one - second)
        to_a[i] = to_second * q[2, i] + to_last * q[4, i] + to_d[i] * q[6, i]
        through[i] = to_first * q[1, i] + to_second * q[3, i] + to_last * q[5, i] + to_d[i] * q[7, i]
        g[0, i] += to_first * x
        g[1, i] += to_second * y
        g[2, i] += to_second * x
        g[3, i] += to_last * y
        g[4, i] += to_last * x
        g[5, i] += to_d[i] * x
        g[6, i] -= to_d[i] * k[i]


@inlined
def _forms_back(
    lows: Array, highs: Array, p: Array, root: Any, g: Array, to_low: Array, to_high: Array, to_numbers: Array
) -> None:
    """From the gradients towards the forms to those towards ends and numbers: `_forms`, backwards."""
    one = lows.dtype.type(1)
    zero, half = one - one, one / (one + one)
    for i in range(len(lows)):
        threshold, decay, gain, offset = p[0, i], p[1, i], p[2, i], p[3, i]
        low, high, begins, stable = _widened(lows[i], highs[i], threshold, root, one)
        sign = one if begins else -one
        at_low, at_high = decay * low, gain * high + offset
        at_near, at_far = (at_low, at_high) if begins else (at_high, at_low)
        at_threshold = gain * threshold + offset if begins else decay * threshold
        near = low if begins else high
        inner = (one - stable) / (abs(threshold - near) + stable)
        chord = (one - stable) / (high - low + stable)
        to_inner = sign * g[1, i] + (at_threshold - at_near) * g[2, i]
        to_chord = sign * g[3, i] + (at_far - at_near) * g[4, i]
        to_threshold, to_far = inner * g[2, i], chord * g[4, i]
        to_near = g[5, i] - to_threshold - to_far
        to_adjacent = g[0, i] + stable * (g[2, i] + g[4, i])
        # The quotients: -inner^2 and -chord^2, 0 where stable; |threshold - near| falls or rises by sign.
        to_width, to_end = -chord * chord * to_chord, -inner * inner * to_inner * sign
        to_at_low, to_at_high = (to_near, to_far) if begins else (to_far, to_near)
        own = g[6, i] - to_end
        down = decay * to_at_low - to_width + (own if begins else zero)
        up = gain * to_at_high + to_width + (zero if begins else own)
        # An end that was moved has its gradient at the threshold; half of it where they met.
        to_moved_low, to_moved_high = zero, zero
        if stable == zero and begins:
            moved = threshold - threshold * root
            part = half if lows[i] == moved else (zero if lows[i] < moved else one)
            to_moved_low, down = part * down, (one - part) * down
        if stable == zero and not begins:
            moved = threshold + threshold * root
            part = half if highs[i] == moved else (zero if highs[i] > moved else one)
            to_moved_high, up = part * up, (one - part) * up
        to_low[i], to_high[i] = down, up
        to_numbers[0, i] = (
            (gain if begins else decay) * to_threshold
            + to_end
            + (one - root) * to_moved_low
            + (one + root) * to_moved_high
        )
        to_numbers[1, i] = low * to_at_low + (to_adjacent if begins else threshold * to_threshold)
        to_numbers[2, i] = high * to_at_high + (threshold * to_threshold if begins else -to_adjacent)
        to_numbers[3, i] = to_at_high + (to_threshold if begins else zero)


@kernel
def joint_gradient(
    start: int,
    stop: int,
    a: Array,
    carried: Array,
    low: Array,
    high: Array,
    numbers: tuple[Array, ...],
    initial: Array,
    root: Any,
    k: Array,
    to_k: Array,
    to_intercepts: Array,
    to_a: Array,
    to_carried: Array,
    to_low: Array,
    to_high: Array,
    to_numbers: Array,
) -> None:
    """``to_numbers [T, 4, M]``; the gradient towards the initial potential is not made here."""
    rows, steps, neurons = a.shape
    for unit in range(start, stop):
        i, j = unit * WIDTH, min(neurons, (unit + 1) * WIDTH)
        p, q, g = np.empty((4, WIDTH), a.dtype), np.empty((9, WIDTH), a.dtype), np.empty((7, WIDTH), a.dtype)
        for s in range(rows):
            for n in range(i, j):
                to_carried[s, n] = to_intercepts[s, n] * (initial[n] if len(initial) > 1 else initial[0])
        for t in range(steps):
            _spread(numbers, t, i, j - i, p)
            _forms(low[t, i:j], high[t, i:j], p, root, q)
            g[:] = 0
            for s in range(rows):
                c = k[s, t + 1, i:j] if t < steps - 1 else carried[s, i:j]
                _step_back(
                    a[s, t, i:j],
                    c,
                    k[s, t, i:j],
                    to_k[s, t, i:j],
                    to_intercepts[s, i:j],
                    to_carried[s, i:j],
                    q,
                    g,
                    to_a[s, t, i:j],
                )
            _forms_back(
                low[t, i:j], high[t, i:j], p, root, g, to_low[t, i:j], to_high[t, i:j], to_numbers[t, :, i:j]
            )
