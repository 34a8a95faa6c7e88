"""Products are float32 sums, whatever torch's settings, the environment and other threads say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from certsnn import products
from certsnn.bounds import certify, margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.products import check_products, ieee_products
from certsnn.readouts import mean_over_time

NEW = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older torch")
CPU = torch.device("cpu")

Place = tuple[str, str]
ALL: tuple[Place, ...] = tuple(
    (backend, operation) for backend in ("mkldnn", "cuda") for operation in ("all", "matmul", "conv", "rnn")
)


def read(place: Place) -> str:
    found: str = torch._C._get_fp32_precision_getter(*place)
    return found


def write(place: Place, value: str) -> None:
    torch._C._set_fp32_precision_setter(*place, value)


def settings() -> tuple[object, ...]:
    """All of torch's settings that products depend on."""
    flags = torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()
    return (*flags, *(read(place) for place in (("generic", "all"), *ALL)))


@pytest.fixture
def precisions() -> Iterator[None]:
    """Settings may be changed; afterwards they are as torch has them."""
    yield
    for place in reversed(ALL):
        write(place, "none")
    write(("generic", "all"), "none")


@NEW
@pytest.mark.usefixtures("precisions")
@pytest.mark.parametrize("how", ["ieee", "tf32"])
@pytest.mark.parametrize(
    "where",
    [[("generic", "all")], [("mkldnn", "all")], [("mkldnn", "conv")], [("cuda", "matmul")],
     [("generic", "all"), ("mkldnn", "matmul")]],
    ids=lambda value: "+".join(".".join(place) for place in value),
)  # fmt: skip
def test_settings_come_back_as_they_were(where: list[Place], how: str) -> None:
    """Also what they inherit: a change of the parent afterwards acts as if no network had run."""
    later: list[list[object]] = []
    for run in (False, True):
        for place in where:
            write(place, how)
        before = settings()
        if run:
            with ieee_products():
                assert {read(place) for place in products._USED} == {"ieee"}
                assert not torch.backends.cudnn.enabled
        assert settings() == before
        seen: list[object] = []
        for parent in (("mkldnn", "all"), ("cuda", "all"), ("generic", "all")):
            for value in ("tf32", "ieee"):
                write(parent, value)
                seen.append(settings())
        later.append(seen)
        for place in (*reversed(ALL), ("generic", "all")):
            write(place, "none")
    assert later[0] == later[1]


@NEW
@pytest.mark.usefixtures("precisions")
def test_threads_that_overlap_keep_each_other_exact() -> None:
    """A leaves while B is inside: B still computes in float32, and afterwards all is as before."""
    for place in (("mkldnn", "matmul"), ("mkldnn", "conv")):
        write(place, "bf16")
    before = settings()
    a_in, b_in, a_out = (threading.Event() for _ in range(3))
    seen: list[tuple[object, ...]] = []

    def first() -> None:
        with ieee_products():
            a_in.set()
            b_in.wait(10)
        a_out.set()

    def second() -> None:
        a_in.wait(10)
        with ieee_products():
            b_in.set()
            a_out.wait(10)
            seen.append(settings())

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen and not seen[0][0]
    assert all(
        value == "ieee" for place, value in zip(ALL, seen[0][3:], strict=True) if place in products._USED
    )
    assert settings() == before


@NEW
@pytest.mark.usefixtures("precisions")
def test_a_setting_changed_meanwhile_is_reported_and_kept() -> None:
    with pytest.raises(RuntimeError, match="another thread"), ieee_products():
        write(("mkldnn", "conv"), "bf16")
    assert read(("mkldnn", "conv")) == "bf16"
    assert torch.backends.cudnn.enabled
    with pytest.raises(KeyError), ieee_products():  # an error inside comes through as it is
        raise KeyError
    assert torch.backends.cudnn.enabled


def small() -> tuple[SpikingNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(4, 8), IF(0.3), nn.Linear(8, 3)], 2, "membrane").eval()
    x = torch.rand(5, 4)
    return network, x, network(x).argmax(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "any"),
        ("DNNL_DEFAULT_FPMATH_MODE", "TF32"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("MKL_BLAS_COMPUTE_MODE", "FLOAT_TO_BF16"),
    ],
)
def test_an_environment_with_narrow_products_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x, y = small()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}={value}.*unset it"):
        certify(network, x, y, LinfBall(0.01))
    with pytest.raises(ValueError, match=name):
        margin_bounds(network, x, y, LinfBall(0.01), rounding=True)
    assert certify(network, x, y, LinfBall(0.01), rounding=False).certified.any()
    monkeypatch.setenv(
        name, {"NVIDIA_TF32_OVERRIDE": "0", "MKL_BLAS_COMPUTE_MODE": "standard"}.get(name, "strict")
    )
    assert certify(network, x, y, LinfBall(0.01)).certified.any()


def test_products_here_are_float32_sums() -> None:
    check_products(CPU)
    assert 0 < products._excess.__wrapped__(CPU) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("product", ["conv2d", "linear"])
def test_narrow_products_are_noticed(
    dtype: torch.dtype, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that computes one kind of product in fewer bits behind torch's back."""
    plain = getattr(torch.nn.functional, product)

    def narrow(x: torch.Tensor, weight: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if x.dtype == torch.float64:
            return plain(x, weight, *rest, **more)
        return plain(x.to(dtype).float(), weight.to(dtype).float(), *rest, **more)

    monkeypatch.setattr(torch.nn.functional, product, narrow)
    assert products._excess.__wrapped__(CPU) > 1
    monkeypatch.setattr(products, "_excess", products._excess.__wrapped__)
    with pytest.raises(ValueError, match="products on cpu are off by"):
        check_products(CPU)


def test_truncated_weights_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps ten bits of a factor."""
    plain = torch.nn.functional.linear

    def narrow(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            return plain(x, weight)
        mantissa, exponent = torch.frexp(weight)
        return plain(x, torch.ldexp((mantissa * 2048).round() / 2048, exponent))

    monkeypatch.setattr(torch.nn.functional, "linear", narrow)
    assert products._excess.__wrapped__(CPU) > 1


def test_the_mean_over_time_is_a_correctly_rounded_quotient() -> None:
    counts = torch.arange(1 << 12).float()
    for steps in range(1, 70):
        spikes = counts.new_zeros(steps, len(counts))
        spikes[0] = counts
        assert torch.equal(mean_over_time(spikes), (counts.double() / steps).float())
