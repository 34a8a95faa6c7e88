"""Products as certificates need them: float32 sums of float32 products, in some order.

The rounding terms of a certificate hold for dot products only. TF32, bfloat16, autocast, Winograd and FFT
compute something else. `ieee_products` switches them off for a while; `check_products` refuses the rest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

Place = tuple[str, str]

NARROWED: dict[str, tuple[str, ...]] = {
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", "STRICT"),
    "DNNL_DEFAULT_FPMATH_MODE": ("", "STRICT"),
    "MKL_BLAS_COMPUTE_MODE": ("", "STANDARD"),
    "NVIDIA_TF32_OVERRIDE": ("", "0"),
    "CUBLAS_EMULATE_SINGLE_PRECISION": ("", "0"),
}
"""Environment variables that change products whatever torch's settings are, and the values that don't."""

# torch 2.9 gave every backend a setting of its own, and refuses to mix these with the older switch.
_PER_BACKEND = hasattr(torch.backends, "fp32_precision")
_USED: tuple[Place, ...] = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("cuda", "matmul"))
_ROOT: Place = ("generic", "all")


def _read(place: Place) -> str:
    """A setting as it acts: its own, or the one that it inherits."""
    found: str = torch._C._get_fp32_precision_getter(*place)
    return found


def _write(place: Place, precision: str) -> None:
    """Set a setting."""
    torch._C._set_fp32_precision_setter(*place, precision)


def _own(place: Place) -> str:
    """The value of a setting itself where that is not exact already; "none" where it inherits."""
    acting = _read(place)
    backend, operation = place
    parent = _ROOT if operation == "all" else (backend, "all")
    if place == _ROOT or acting != _read(parent):
        return acting
    # Both read the same: it inherits if it follows its parent.
    kept = _own(parent)
    _write(parent, "ieee")
    inherits = _read(place) == "ieee"
    _write(parent, kept)
    return "none" if inherits else acting


@final
class _Settings:
    """torch's settings for products, which belong to the process.

    The first thread that needs them exact sets them, and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._cudnn = self._nnpack = True
        self._precisions: dict[Place, str] = {}
        self._older = ""

    def acquire(self) -> None:
        """Make products exact."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._cudnn, self._nnpack = torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()
            torch.backends.cudnn.enabled = False
            torch._C._set_nnpack_enabled(False)
            if _PER_BACKEND:
                self._precisions = {place: _own(place) for place in _USED if _read(place) != "ieee"}
                for place in self._precisions:
                    _write(place, "ieee")
            else:
                self._older = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")

    def release(self) -> bool:
        """Restore the settings once no one else needs them; whether nobody had changed them meanwhile."""
        with self._lock:
            kept = self._exact()
            self._users -= 1
            if self._users == 0:
                self._restore()
            return kept

    def _exact(self) -> bool:
        """Whether products are float32 sums under torch's present settings."""
        if torch.backends.cudnn.enabled or torch._C._get_nnpack_enabled():
            return False
        if _PER_BACKEND:
            return all(_read(place) == "ieee" for place in _USED)
        return torch.get_float32_matmul_precision() == "highest"

    def _restore(self) -> None:
        """Put back the settings that are still as `acquire` left them."""
        # Settings that someone else has changed since are left alone.
        if not torch.backends.cudnn.enabled:
            torch.backends.cudnn.enabled = self._cudnn
        if not torch._C._get_nnpack_enabled():
            torch._C._set_nnpack_enabled(self._nnpack)
        if not _PER_BACKEND:
            if torch.get_float32_matmul_precision() == "highest":
                torch.set_float32_matmul_precision(self._older)
            return
        for place, precision in self._precisions.items():
            if _read(place) == "ieee":
                _write(place, precision)


_settings = _Settings()


@contextmanager
def ieee_products() -> Iterator[None]:
    """Products as sums of float32 products in some order: no TF32, bfloat16, autocast, Winograd or FFT.

    cuDNN and NNPACK may choose Winograd or FFT convolutions, so they are left aside. Blocks may overlap in
    several threads.

    Raises:
        RuntimeError: at the end, if another thread has changed these settings meanwhile.
    """
    _settings.acquire()
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    except BaseException:
        _settings.release()
        raise
    if not _settings.release():
        raise RuntimeError(
            "another thread changed torch's precision settings (torch.backends) while a network ran: what it "
            "computed may not be float32. Change them before or after"
        )


def check_products(device: torch.device) -> None:
    """Raise ValueError where products may be narrower than float32 in spite of `ieee_products`.

    The environment is read each time; products are compared with float64 once a device.
    """
    for name, harmless in NARROWED.items():
        value = os.environ.get(name, "")
        if value.upper() not in harmless:
            raise ValueError(
                f"the environment variable {name}={value} makes products that are no float32 sums, which no "
                "certificate covers; unset it and start again, or use rounding=False"
            )
    excess = _excess(device)
    if not excess <= 1:
        raise ValueError(
            f"products on {device} are off by {excess:.0f} times what float32 rounding explains, so no "
            "certificate covers them; look for settings of the math libraries (bfloat16, TF32), or use "
            "rounding=False"
        )


@cache
def _excess(device: torch.device) -> float:
    """The largest error of a convolution and a matrix product on a device, over its a-priori bound.

    Half of the weights have bits that bfloat16 and TF32 drop. The others differ in size by more than Winograd
    and FFT can bear.
    """
    generator = torch.Generator().manual_seed(0)
    size = 2.0 ** torch.randint(-12, 12, (64, 32, 3, 3), generator=generator)
    weight = torch.where(torch.arange(64)[:, None, None, None] % 2 == 0, 1 + 2.0**-8 - 2.0**-12, size)
    x = 0.5 + torch.rand(64, 32, 14, 14, generator=generator) / 2
    x[:, ::2] *= 2.0 ** torch.randint(-12, 12, (64, 16, 14, 14), generator=generator)
    weight, x = weight.to(device), x.to(device)

    def convolved(weight: Tensor, x: Tensor) -> Tensor:
        """A convolution of 288 terms an output."""
        return F.conv2d(x, weight, padding=1)

    def multiplied(weight: Tensor, x: Tensor) -> Tensor:
        """A matrix product of 512 terms an output."""
        return F.linear(x.flatten(1)[:, :512], weight.flatten(1).repeat(4, 2)[:, :512])

    found = []
    for product, terms in ((convolved, 32 * 9), (multiplied, 512)):
        with ieee_products():
            executed = product(weight, x).double()
        exact = product(weight.double(), x.double())  # all numbers are positive: it is its own magnitude
        bound = terms * 2.0**-24 * exact
        found.append(float(((executed - exact).abs() / bound).max()))
    return max(found)
