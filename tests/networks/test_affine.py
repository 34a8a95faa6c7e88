"""Affine operators against the torch layers they stand for, and against their dense matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine import (
    Affine,
    Convolution,
    Dense,
    Diagonal,
    Flattened,
    Weighted,
    apply_chain,
    fold,
    per_channel,
)
from certsnn.bounds.interval.arithmetic import RIGOROUS, Interval
from certsnn.layers import Normalize, Scale, SumPool1d, SumPool2d, as_affine

DOUBLE = torch.float64


def filled(module: nn.Module) -> nn.Module:
    """The module in eval mode and float64, its parameters and statistics random."""
    generator = torch.Generator().manual_seed(1)
    for name, values in module.state_dict().items():
        if values.is_floating_point() and not isinstance(module, Normalize):
            drawn = torch.rand(values.shape, generator=generator)
            values.copy_(drawn + 0.1 if name == "running_var" else drawn - 0.5)
    return module.eval().double()


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]


LAYERS: dict[str, Case] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "conv": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 4)),
    "conv without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), (2, 5, 4)),
    "conv stride": (lambda: nn.Conv2d(2, 3, 3, stride=(2, 1)), (2, 5, 4)),
    "conv padding": (lambda: nn.Conv2d(2, 3, (3, 2), padding=(2, 1)), (2, 5, 4)),
    "conv dilation": (lambda: nn.Conv2d(2, 3, (2, 3), dilation=(3, 1)), (2, 5, 4)),
    "conv groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), (4, 3, 3)),
    "conv depthwise": (lambda: nn.Conv2d(3, 6, 2, groups=3), (3, 3, 3)),
    "conv everything": (
        lambda: nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1), groups=2),
        (4, 5, 4),
    ),
    "conv that leaves a border": (lambda: nn.Conv2d(1, 2, 2, stride=2), (1, 5, 5)),
    "pool": (lambda: nn.AvgPool2d(2), (2, 4, 6)),
    "pool stride": (lambda: nn.AvgPool2d((3, 2), stride=1), (2, 4, 6)),
    "pool padding": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 4, 6)),
    "pool padding not counted": (
        lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        (2, 4, 6),
    ),
    "pool ceil": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 5, 5)),
    "pool divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), (2, 4, 4)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "batch norm 1d plain": (lambda: nn.BatchNorm1d(5, affine=False, eps=0.1), (5,)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "normalize": (lambda: Normalize([0.1, 0.5], [0.3, 2.0]), (2, 3, 3)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "flatten some": (lambda: nn.Flatten(2), (2, 3, 4)),
    "dropout": (lambda: nn.Dropout(0.9), (2, 3)),
    "dropout of channels": (lambda: nn.Dropout2d(0.9), (2, 3, 3)),
    "identity": (lambda: nn.Identity(), (2, 3)),
    "conv same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(1, 2)), (2, 5, 6)),
    "conv same, even": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 5, 6)),
    "conv valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 5, 4)),
    "pool adaptive": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 6)),
    "pool adaptive, uneven": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 4)),
    "pool adaptive, one axis": (lambda: nn.AdaptiveAvgPool2d((None, 1)), (2, 5, 4)),
    "padding": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), (2, 3, 4)),
    "padding that crops": (lambda: nn.ZeroPad2d((-1, 0, 2, -1)), (2, 3, 4)),
    "conv 1d": (lambda: nn.Conv1d(2, 3, 3), (2, 7)),
    "conv 1d without bias": (lambda: nn.Conv1d(2, 3, 2, bias=False), (2, 5)),
    "conv 1d everything": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        (4, 8),
    ),
    "conv 1d depthwise": (lambda: nn.Conv1d(3, 6, 2, groups=3), (3, 4)),
    "conv 1d same": (lambda: nn.Conv1d(2, 3, 5, padding="same", dilation=2), (2, 6)),
    "conv 1d same, even": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 6)),
    "conv 1d valid": (lambda: nn.Conv1d(2, 3, 2, padding="valid"), (2, 5)),
    "pool 1d": (lambda: nn.AvgPool1d(2), (2, 6)),
    "pool 1d stride": (lambda: nn.AvgPool1d(3, stride=1), (2, 6)),
    "pool 1d padding": (lambda: nn.AvgPool1d(3, stride=2, padding=1), (2, 6)),
    "pool 1d ceil": (lambda: nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False, padding=1), (2, 6)),
    "pool 1d adaptive": (lambda: nn.AdaptiveAvgPool1d(3), (2, 6)),
    "pool 1d adaptive, uneven": (lambda: nn.AdaptiveAvgPool1d(3), (2, 5)),
    "pool adaptive, larger": (lambda: nn.AdaptiveAvgPool2d((5, 3)), (2, 3, 4)),
    "sums": (lambda: SumPool2d(2, stride=1), (2, 3, 4)),
    "sums padded": (lambda: SumPool2d((3, 2), stride=(2, 1), padding=1, ceil_mode=True), (2, 4, 5)),
    "sums 1d": (lambda: SumPool1d(3, padding=1), (2, 6)),
    "batch norm 1d over a length": (lambda: nn.BatchNorm1d(3), (3, 4)),
    "scale": (lambda: Scale(-2.5), (2, 3)),
    "scale of maps": (lambda: Scale(0.3), (2, 3, 4)),
    "scale of features": (lambda: Scale(0.0), (5,)),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "unflatten, one size open": (lambda: nn.Unflatten(-1, (2, -1)), (3, 6)),
    "padding 1d": (lambda: nn.ZeroPad1d((1, 2)), (2, 3)),
    "padding 1d that crops": (lambda: nn.ConstantPad1d((-1, 2), 0.0), (2, 3)),
    "padding with the constant 0": (lambda: nn.ConstantPad2d((1, 2, 0, 3), 0), (2, 3, 4)),
    "dropout of a length": (lambda: nn.Dropout1d(0.9), (2, 3)),
    "dropout of volumes": (lambda: nn.Dropout3d(0.9), (2, 3, 2, 2)),
}


WEIGHTED = [name for name in LAYERS if name.startswith(("linear", "conv"))]


def case(name: str) -> tuple[nn.Module, Affine, Tensor]:
    """A layer, its operator and a batch of three inputs."""
    make, shape = LAYERS[name]
    module = filled(make())
    x = torch.randn(3, *shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    return module, as_affine(module), x


def matrix(function: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The dense matrix ``[out, in]`` of a linear function on ``[N, *shape]``."""
    basis = torch.eye(shape.numel(), dtype=DOUBLE).view(-1, *shape)
    return function(basis).flatten(1).T


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")
def test_apply_is_the_torch_layer(name: str) -> None:
    module, operator, x = case(name)
    torch.testing.assert_close(operator.apply(x), module(x))


# Batch norm is computed in another order than torch's, and "same" with an even kernel on a wider one.
@pytest.mark.parametrize("name", [name for name in LAYERS if "norm" not in name and "same, even" not in name])
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")
def test_float32_outputs_are_those_of_torch_bit_for_bit(name: str) -> None:
    module, _, x = case(name)
    x = x.float()
    assert torch.equal(as_affine(module.float()).apply(x), module(x))


def test_layers_of_certsnn_are_what_torch_would_do() -> None:
    """Their forward is the operator itself, so they are compared with torch's own functions."""
    x, row = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 7)
    sums = F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, divisor_override=1)
    assert torch.equal(SumPool2d((3, 2), 2, 1, ceil_mode=True)(x), sums)
    torch.testing.assert_close(SumPool1d(2)(row), row.unfold(2, 2, 2).sum(-1))
    assert SumPool1d(2).stride == (2,) and SumPool2d(2, 1).stride == (1, 1)
    for factor in (10.0, -0.3, 0.0):
        for inputs in (x, row, row[:, :, 0]):
            assert torch.equal(Scale(factor)(inputs), inputs * factor)
    with pytest.raises(ValueError, match="finite"):
        Scale(float("inf"))
    assert list(Scale(2.0).state_dict()) == ["factor"] and not list(Scale(2.0).parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_gain_is_at_least_that_of_the_dense_matrix(name: str) -> None:
    module, operator, x = case(name)
    A = matrix(lambda basis: module(basis) - module(torch.zeros_like(basis)), x.shape[1:])
    assert operator.gain >= float(A.detach().abs().sum(1).max()) * (1 - 1e-12)
    assert operator.summed(x.shape[1:]) >= operator.gain * (1 - 1e-12)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")
def test_rounding_is_within_its_bound(name: str) -> None:
    """Layers executed in float32 beside the same numbers in float64."""
    module, _, _ = case(name)
    operator = as_affine(module.float())
    x = 100 * torch.randn(50, *LAYERS[name][1], generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        exact = operator.to(DOUBLE).apply(x.double())
        off = (operator.apply(x).double() - exact).abs()
        assert (off <= RIGOROUS.lost([operator], x.abs())).all()
        interval = RIGOROUS.chain([operator], Interval(x, x))
    assert (interval.lower <= exact - off).all() and (exact + off <= interval.upper).all()


@pytest.mark.parametrize("name", LAYERS)
def test_linear_bias_and_magnitude_are_those_of_the_dense_matrix(name: str) -> None:
    module, operator, x = case(name)
    zero = module(torch.zeros_like(x))
    A = matrix(lambda basis: module(basis) - module(torch.zeros_like(basis)), x.shape[1:])
    columns = x.flatten(1).T
    torch.testing.assert_close(operator.linear(x).flatten(1), (A @ columns).T)
    torch.testing.assert_close(operator.magnitude(x).flatten(1), (A.abs() @ columns).T)
    bias = torch.zeros((), dtype=DOUBLE) if operator.bias is None else operator.bias
    torch.testing.assert_close(per_channel(bias, zero).expand_as(zero), zero)


TRANSPOSED: dict[str, Case] = LAYERS | {
    "conv stride 3 leaves two rows": (lambda: nn.Conv2d(2, 3, 2, stride=3), (2, 7, 4)),
    "conv stride beyond the kernel": (lambda: nn.Conv2d(2, 2, 1, stride=(2, 4), bias=False), (2, 4, 8)),
    "conv padding beyond the kernel": (lambda: nn.Conv2d(1, 2, 2, padding=(3, 2)), (1, 2, 3)),
    "conv rest within the padding": (lambda: nn.Conv2d(1, 2, 3, stride=2, padding=1), (1, 6, 4)),
    "conv strided dilation": (lambda: nn.Conv2d(2, 4, 2, stride=3, dilation=2, groups=2), (2, 8, 7)),
    "conv of one location": (lambda: nn.Conv2d(2, 3, (4, 3)), (2, 4, 3)),
    "pool that leaves a border": (lambda: nn.AvgPool2d(2, stride=3), (2, 7, 6)),
    "pool ceil padding not counted": (
        lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (2, 4, 6),
    ),
    "pool ceil padding counted": (
        lambda: nn.AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True),
        (2, 4, 6),
    ),
    "pool divisor and padding": (lambda: nn.AvgPool2d(2, padding=1, divisor_override=7), (1, 3, 4)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_is_the_adjoint(name: str) -> None:
    """<A x, y> = <x, A^T y>, and A^T y is the transpose of the dense matrix of the layer."""
    make, shape = TRANSPOSED[name]
    module = filled(make())
    operator = as_affine(module)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, *shape, dtype=DOUBLE, generator=generator)
    y = torch.randn(operator.linear(x).shape, dtype=DOUBLE, generator=generator)
    back = operator.transposed(y, shape)
    assert back.shape == x.shape
    products = [(one * other).flatten(1).sum(1) for one, other in ((operator.linear(x), y), (x, back))]
    torch.testing.assert_close(*products)
    A = matrix(lambda basis: module(basis) - module(torch.zeros_like(basis)), x.shape[1:])
    torch.testing.assert_close(back.flatten(1), y.flatten(1) @ A)
    # Another number of rows than the layer was used with, none at all, and without a graph.
    with torch.no_grad():
        torch.testing.assert_close(operator.transposed(y[:1], shape), back[:1])
    assert operator.transposed(y[:0], shape).shape == x[:0].shape


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_is_differentiable_in_its_argument_and_the_weights(name: str) -> None:
    make, shape = TRANSPOSED[name]
    module = filled(make())
    operator = as_affine(module)
    y = torch.randn_like(operator.linear(torch.zeros(2, *shape, dtype=DOUBLE))).requires_grad_()
    weights = [p for n, p in module.named_parameters() if n == "weight"]

    def function(y: Tensor, *_: Tensor) -> Tensor:
        # Batch norm makes new numbers of its parameters: a fresh operator sees what gradcheck changes.
        return as_affine(module).transposed(y, shape)

    assert torch.autograd.gradcheck(function, (y, *weights))


@pytest.mark.parametrize("name", LAYERS)
def test_terms_count_the_products_of_one_output(name: str) -> None:
    module, operator, x = case(name)
    A = matrix(lambda basis: module(basis) - module(torch.zeros_like(basis)), x.shape[1:])
    if name.startswith(("flatten", "unflatten", "dropout", "identity")):
        assert operator.terms(x.shape[1:]) == 0
        assert torch.equal(A, torch.eye(len(A), dtype=DOUBLE))
    elif name.startswith("padding"):  # each output is an input, or 0
        assert operator.terms(x.shape[1:]) == 0
        assert torch.equal(A.sum(1), (A != 0).sum(1).to(DOUBLE))
        assert int((A != 0).sum(1).max()) == 1
    else:
        assert operator.terms(x.shape[1:]) >= int((A != 0).sum(1).max())


@pytest.mark.parametrize("name", LAYERS)
def test_another_dtype(name: str) -> None:
    module, _, x = case(name)
    single = as_affine(module.float())
    wide = single.to(DOUBLE)
    y = wide.apply(x)
    assert y.dtype == DOUBLE
    assert wide.terms(x.shape[1:]) == single.terms(x.shape[1:])
    torch.testing.assert_close(y, single.apply(x.float()).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wide.magnitude(x), single.to(DOUBLE).magnitude(x))
    assert single.apply(x.float()).dtype == torch.float32


@pytest.mark.parametrize("name", WEIGHTED)
def test_windows_rows_and_unwindow_reproduce_the_product(name: str) -> None:
    _, operator, x = case(name)
    assert isinstance(operator, Weighted)
    rows, windows = operator.rows, operator.windows(x)
    groups, outputs, terms = rows.shape
    assert windows.shape[:3] == (len(x), groups, terms)
    y = torch.einsum("gon,bgnl->bgol", rows, windows)
    assert y.shape[:3] == (len(x), groups, outputs)
    torch.testing.assert_close(operator.unwindow(y, x), operator.linear(x))


@pytest.mark.parametrize("name", WEIGHTED)
def test_rescaled(name: str) -> None:
    _, operator, x = case(name)
    assert isinstance(operator, Weighted)
    y = operator.apply(x)
    scale, shift = (torch.randn(y.shape[1], dtype=DOUBLE) for _ in range(2))
    after = Diagonal(scale, shift, (y.ndim - 2,))
    assert operator.fits(after)
    torch.testing.assert_close(operator.rescaled(scale, shift).apply(x), after.apply(y))


def test_by_hand() -> None:
    dense = Dense(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([0.5, -1.0]))
    x = torch.tensor([[2.0, 1.0]])
    assert dense.apply(x).tolist() == [[0.5, 2.0]]
    assert dense.linear(x).tolist() == [[0.0, 3.0]]
    assert dense.magnitude(x).tolist() == [[4.0, 3.0]]
    assert dense.terms((2,)) == 2
    convolution = as_affine(nn.Conv2d(4, 6, 3, groups=2))
    assert convolution.terms((4, 3, 3)) == 2 * 3 * 3
    assert as_affine(nn.AvgPool2d((3, 2))).terms((1, 3, 3)) == 6
    assert as_affine(nn.AdaptiveAvgPool2d(2)).terms((1, 4, 5)) == 2 * 4
    normalize = Normalize([0.5], [0.25])
    assert normalize(torch.tensor([[[[0.5, 1.0]]]])).tolist() == [[[[0.0, 2.0]]]]


@pytest.mark.parametrize(
    ("layers", "shape", "kinds"),
    [
        ([nn.Linear(4, 3), nn.BatchNorm1d(3)], (4,), [Dense]),
        ([nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.BatchNorm1d(3)], (4,), [Dense]),
        ([nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)], (1, 3, 3), [Convolution]),
        ([nn.Conv2d(2, 4, 2, groups=2, bias=False), nn.BatchNorm2d(4)], (2, 3, 3), [Convolution]),
        ([nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4)], (2, 3), [Convolution]),
        ([nn.Conv1d(2, 4, 2, bias=False), Scale(3.0), nn.BatchNorm1d(4)], (2, 3), [Convolution]),
        ([nn.Conv2d(2, 4, 2), Scale(3.0)], (2, 3, 3), [Convolution]),
        ([nn.Linear(4, 3), Scale(-2.0), nn.BatchNorm1d(3)], (4,), [Dense]),
        ([nn.Conv2d(2, 2, 2, bias=False), Normalize([0.5], [0.3])], (2, 3, 3), [Convolution]),
        ([nn.BatchNorm1d(2), nn.Conv1d(2, 2, 2)], (2, 3), [Diagonal, Convolution]),
        (
            [nn.Conv2d(1, 2, 2), nn.Flatten(), nn.BatchNorm1d(8)],
            (1, 3, 3),
            [Convolution, Flattened, Diagonal],
        ),
        (
            [Normalize([0.5], [0.5]), nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten()],
            (1, 3, 3),
            [Diagonal, Convolution, Flattened],
        ),
    ],
    ids=lambda value: "-".join(type(v).__name__ for v in value) if isinstance(value, list) else "",
)
def test_batch_norm_folds_into_the_weights_before_it(
    layers: list[nn.Module], shape: tuple[int, ...], kinds: list[type[Affine]]
) -> None:
    modules = [filled(layer) for layer in layers]
    chain = fold([as_affine(module) for module in modules])
    assert [type(operator) for operator in chain] == kinds
    x = torch.randn(5, *shape, dtype=DOUBLE)
    torch.testing.assert_close(apply_chain(chain, x), nn.Sequential(*modules)(x))


def test_operators_share_the_parameters_of_their_layer() -> None:
    layer, norm = nn.Linear(3, 2), nn.BatchNorm1d(2).eval()
    (chain,) = fold([as_affine(layer), as_affine(norm)])
    chain.magnitude(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert norm.weight.grad is not None


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AvgPool2d(2, divisor_override=-1), (1, 2, 4)),
        (nn.BatchNorm1d(4), (4, 4)),
        (nn.AvgPool2d([2, 1]), (1, 2, 4)),  # type: ignore[arg-type]
        (nn.Linear(4, 2), (3, 4)),
    ],
    ids=["negative divisor", "batch norm over a length", "kernel as a list", "linear over rows"],
)
def test_odd_uses_act_as_torch_does_or_are_refused(layer: nn.Module, shape: tuple[int, ...]) -> None:
    module = filled(layer)
    x = torch.randn(3, *shape, dtype=DOUBLE)
    try:
        operator = as_affine(module)
        y = operator.apply(x)
    except (TypeError, ValueError):
        return
    torch.testing.assert_close(y, module(x))
    assert operator.terms(x.shape[1:]) > 0
    A = matrix(lambda basis: module(basis) - module(torch.zeros_like(basis)), x.shape[1:])
    reach = operator.magnitude(x.abs()).flatten(1).T
    assert (reach + 1e-9 >= (A @ x.flatten(1).T).abs()).all()
