"""Every attack on every kind of input set it fits: what the base class promises, whatever is proposed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import (
    FGSM,
    G2S,
    PGD,
    RSF,
    Attack,
    AttackResult,
    ExhaustiveFlips,
    GreedyEvents,
    GreedyFlips,
    GreedyShifts,
    Margin,
    MeanSquaredError,
    Oracle,
    RandomSearch,
)
from certsnn.attacks.base import BOTH, SPIKES
from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    FreeSpikes,
    InputSet,
    LinfBall,
    LinfFrames,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import Program
from certsnn.surrogates import Adaptive, ArcTan

FEATURES, CLASSES, BATCH, STEPS = 6, 3, 8, 4
ATTACKS: list[Attack] = [
    G2S(),
    G2S(iterations=5, gamma=0.0, loss=MeanSquaredError(), penultimate_threshold=2.0, surrogate=ArcTan()),
    RSF(),
    RandomSearch(),
    FGSM(),
    FGSM(loss=Margin(), surrogate=Adaptive()),
    PGD(),
    PGD(iterations=3, restarts=2, surrogates=(None,)),
    GreedyFlips(),
    GreedyFlips(candidates=3, rounds=4, memory=1),
    GreedyShifts(),
    GreedyShifts(candidates=3, rounds=4, memory=1),
    GreedyEvents(),
    GreedyEvents(candidates=3, rounds=4, memory=1),
    ExhaustiveFlips(),
]
FREE_BITS = (torch.arange(STEPS * BATCH * FEATURES).view(STEPS, BATCH, FEATURES) % 5 == 0).float()
THREATS: dict[str, Threat] = {
    "ball": LinfBall(0.3),
    "ball-0": LinfBall(0.0),
    "flips": SpikeFlips(2),
    "add": SpikeFlips(2, kind="add"),
    "drop": SpikeFlips(3, kind="drop"),
    "flips-0": SpikeFlips(0),
    "shifts": SpikeShift(2, 3),
    "shifts-0": SpikeShift(2, 0),
    "box": SpikeBox(torch.zeros_like(FREE_BITS), FREE_BITS),
    "free": FreeSpikes(0.3),
    "free-0": FreeSpikes(0.0),
    "frames": LinfFrames(0.3, -1, 2),
    "frames-0": LinfFrames(0.0, -1, 2),
    "events": EventChanges(3),
    "events-add": EventChanges(2, "add", most=3),
    "events-drop": EventChanges(2, "drop"),
    "events-0": EventChanges(0),
    "coupled": CoupledBernoulli(0.2, STEPS),
    "coupled-0": CoupledBernoulli(0.0, STEPS),
}


def make_network(kind: str, seed: int = 0) -> SpikingNetwork:
    """A random network in training mode, with batch norm and dropout to get wrong."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(8)
    norm.running_mean, norm.running_var = torch.rand(8) - 0.5, torch.rand(8) + 0.5
    layers = [nn.Linear(FEATURES, 8), norm, nn.Dropout(0.5), LIF(0.5), nn.Linear(8, 8), IF(0.5)]
    network = SpikingNetwork([*layers, nn.Linear(8, CLASSES)], STEPS, "membrane", kind)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.5)
    return network.train()


@dataclass(frozen=True)
class Case:
    """A network with a bound batch, labelled as the network sees it (but for the first sample)."""

    network: SpikingNetwork
    x0: Tensor
    y: Tensor
    input_set: InputSet


def make_case(name: str, batch: int = BATCH) -> Case:
    threat = THREATS[name]
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, FEATURES, generator=generator)
    x = (
        images
        if threat.domain == "image"
        else (images > torch.rand(STEPS, 1, 1, generator=generator)).float()
    )
    if threat.network_input == "frames":
        x = (2 * images * torch.rand(STEPS, batch, FEATURES, generator=generator) - 0.5).clamp(-1, 2)
    if isinstance(threat, EventChanges):
        x = (x.relu().ceil() * 2).clamp(max=3)
    if name == "box":
        x = FREE_BITS[:, :batch] * x
        threat = SpikeBox(torch.zeros_like(x), FREE_BITS[:, :batch])
    x0, input_set = threat.bind(x, torch.arange(batch))
    network = make_network(threat.network_input)
    network.eval()
    logits = network(x0)
    y = logits.argmax(1)
    y[:1] = logits[:1].argmin(1)  # the first sample is misclassified
    return Case(network.train(), x0, y, input_set)


GRAINS = {name: threat.grain for name, threat in THREATS.items() if isinstance(threat, InputSet)}
PAIRS = [
    pytest.param(attack, name, id=f"{attack.describe()}-{name}")
    for attack in ATTACKS
    for name, threat in THREATS.items()
    if threat.network_input in attack.domains and attack.grain <= GRAINS.get(name, 1.0)
]


def axis_of(input_set: InputSet) -> int:
    return input_set.batch_axis


def check_result(case: Case, result: AttackResult, goal: Callable[[Tensor], Tensor]) -> None:
    """Everything that holds for a result, decided anew here."""
    x0, axis = case.x0, axis_of(case.input_set)
    batch = x0.shape[axis]
    assert result.adversarial.shape == x0.shape and result.adversarial.dtype == x0.dtype
    assert case.input_set.contains(x0, result.adversarial).all()
    if case.input_set.domain == "spikes":
        assert ((result.adversarial == 0) | (result.adversarial == 1)).all()
    evaluated = copy.deepcopy(case.network).eval()
    success = goal(evaluated(result.adversarial))
    assert result.success.dtype == torch.bool and torch.equal(result.success, success)
    changed = (result.adversarial != x0).movedim(axis, 0).flatten(1).any(1)
    assert not (changed & ~result.success).any()
    for counts in (result.queries, result.iterations):
        assert counts.dtype == torch.int64 and counts.shape == (batch,)
    assert (result.queries >= 1).all() and (result.queries > result.iterations).all()
    assert result.random.dtype == torch.bool and result.random.shape == (batch,)


def same(one: AttackResult, other: AttackResult) -> bool:
    return all(torch.equal(getattr(one, f), getattr(other, f)) for f in one.__dataclass_fields__)


@pytest.mark.parametrize(("attack", "name"), PAIRS)
def test_results_hold_and_nothing_else_changes(attack: Attack, name: str) -> None:
    case = make_case(name)
    before = {key: value.clone() for key, value in case.network.state_dict().items()}
    x0, y = case.x0.clone(), case.y.clone()
    rng = torch.get_rng_state()
    result = attack(case.network, case.x0, case.y, case.input_set)

    def wrong(logits: Tensor) -> Tensor:
        others = logits.scatter(1, case.y[:, None], -torch.inf).amax(1)
        return others >= logits.gather(1, case.y[:, None])[:, 0]

    check_result(case, result, wrong)
    # The sample that is misclassified from the start is its own adversarial example.
    assert result.success[0] and result.iterations[0] == 0 and result.queries[0] == 2
    assert torch.equal(
        result.adversarial.select(axis_of(case.input_set), 0), x0.select(axis_of(case.input_set), 0)
    )
    assert torch.equal(case.x0, x0) and torch.equal(case.y, y)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[key], value) for key, value in case.network.state_dict().items())
    assert all(module.training for module in case.network.modules())
    assert all(parameter.grad is None for parameter in case.network.parameters())
    assert not result.adversarial.requires_grad
    assert same(result, attack(case.network, case.x0, case.y, case.input_set))


@pytest.mark.parametrize(("attack", "name"), PAIRS)
def test_targets_are_reached_strictly(attack: Attack, name: str) -> None:
    case = make_case(name)
    targets = (case.y + 1) % CLASSES
    result = attack(case.network, case.x0, case.y, case.input_set, targets)

    def hit(logits: Tensor) -> Tensor:
        others = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
        return others < logits.gather(1, targets[:, None])[:, 0]

    check_result(case, result, hit)


@pytest.mark.parametrize(("attack", "name"), PAIRS)
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(attack: Attack, name: str, batch: int) -> None:
    case = make_case(name, batch)
    result = attack(case.network, case.x0, case.y, case.input_set)
    assert result.success.shape == (batch,) and result.adversarial.shape == case.x0.shape


@pytest.mark.parametrize(("attack", "name"), [pair for pair in PAIRS if str(pair.values[1]).endswith("-0")])
def test_sets_of_one_member_are_as_good_as_clean(attack: Attack, name: str) -> None:
    case = make_case(name)
    result = attack(case.network, case.x0, case.y, case.input_set)
    assert result.success.tolist() == [True] + [False] * (BATCH - 1)


@pytest.mark.parametrize(
    ("attack", "name"), [pair for pair in PAIRS if not isinstance(pair.values[0], RandomSearch)]
)
def test_samples_do_not_depend_on_their_batch(attack: Attack, name: str) -> None:
    case = make_case(name)
    whole = attack(case.network, case.x0, case.y, case.input_set)
    mask = torch.tensor([False, True, False, True, True, False, False, True])
    x0 = case.x0[mask] if axis_of(case.input_set) == 0 else case.x0[:, mask]
    part = attack(case.network, x0, case.y[mask], case.input_set.select(mask))
    assert torch.equal(part.success, whole.success[mask])
    kept = whole.adversarial[mask] if axis_of(case.input_set) == 0 else whole.adversarial[:, mask]
    assert torch.equal(part.adversarial, kept)


def _kind(name: str) -> str:
    return THREATS[name].network_input


@pytest.mark.parametrize("attack", ATTACKS, ids=Attack.describe)
def test_attacks_break_what_can_be_broken(attack: Attack) -> None:
    case = make_case(next(name for name in ("ball", "flips", "events") if _kind(name) in attack.domains))
    result = attack(case.network, case.x0, case.y, case.input_set)
    assert result.success[1:].any()


def test_seeds_matter() -> None:
    case = make_case("free")
    results = [RSF(seed=seed)(case.network, case.x0, case.y, case.input_set) for seed in range(3)]
    assert not same(results[0], results[1]) and not same(results[0], results[2])


@pytest.mark.parametrize("tie", [True, False])
def test_a_tie_counts(tie: bool) -> None:
    """Two classes whose counts are equal once the only spike is dropped."""
    network = SpikingNetwork([nn.Linear(1, 2, bias=False), IF(0.5)], 1, "rate", "spikes")
    network.layers[0].weight.data = torch.tensor([[1.0], [0.0]])
    x = torch.ones(1, 1, 1)
    result = GreedyFlips()(network, x, torch.tensor([0]), SpikeFlips(1 if tie else 0))
    assert result.success.tolist() == [tie]
    assert result.adversarial.sum() == (0 if tie else 1)


def test_a_tie_is_no_target() -> None:
    network = SpikingNetwork([nn.Linear(1, 2, bias=False), IF(0.5)], 1, "rate", "spikes")
    network.layers[0].weight.data = torch.tensor([[1.0], [0.0]])
    attack, x, y = ExhaustiveFlips(), torch.ones(1, 1, 1), torch.tensor([0])
    assert not attack(network, x, y, SpikeFlips(1), targets=torch.tensor([1])).success.any()


@dataclass(frozen=True)
class Cheat(Attack):
    """Claims what is no member, behind the back of the projection."""

    domains = BOTH

    iterations: int = 1

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        oracle.measure(1 - oracle.x0[None])


@pytest.mark.parametrize("name", ["flips-0", "coupled-0", "free-0", "ball-0"])
def test_non_members_never_count(name: str) -> None:
    case = make_case(name)
    result = Cheat()(case.network, case.x0, case.y, case.input_set)
    assert result.success.tolist() == [True] + [False] * (BATCH - 1)
    assert torch.equal(result.adversarial, case.x0)


def _call(name: str = "flips", attack: Attack | None = None, **changes: Any) -> Callable[[], object]:
    def call() -> object:
        case = make_case(name)
        arguments: dict[str, Any] = {"x": case.x0, "y": case.y, "input_set": case.input_set, "targets": None}
        arguments.update({key: change(case) for key, change in changes.items()})
        return (attack or G2S())(case.network, **arguments)

    return call


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "NaN", _call(x=lambda case: case.x0 * torch.nan)),
        (ValueError, "0 or 1", _call(x=lambda case: case.x0 * 0.5)),
        (ValueError, r"y must be int64 \[8\]", _call(y=lambda case: case.y[:3])),
        (ValueError, r"y must be int64 \[8\]", _call(y=lambda case: case.y.float())),
        (ValueError, r"y must lie in 0..2", _call(y=lambda case: case.y + 3)),
        (ValueError, r"y is on meta", _call(y=lambda case: case.y.to("meta"))),
        (ValueError, "the input is on meta", _call("ball", x=lambda case: case.x0.to("meta"))),
        (TypeError, "float64, the network", _call(x=lambda case: case.x0.double())),
        (ValueError, "targets must differ", _call(targets=lambda case: case.y)),
        (ValueError, r"targets must be int64", _call(targets=lambda case: case.y[:1])),
        (ValueError, "exceeds the 24 bits", _call(input_set=lambda case: SpikeFlips(25))),
        (TypeError, "bind the threat first", _call(input_set=lambda case: FreeSpikes(0.1))),
        (ValueError, "needs a network with input='image'", _call(input_set=lambda case: LinfBall(0.1))),
        (ValueError, r"PGD changes .* frames or image, but SpikeFlips", _call(attack=PGD())),
        (ValueError, r"GreedyFlips changes .* spikes, but LinfBall", _call("ball", attack=GreedyFlips())),
        (
            ValueError,
            r"GreedyEvents changes whole numbers, but LinfFrames.* holds others",
            _call("frames", attack=GreedyEvents()),
        ),
        (
            ValueError,
            "more than 1048576 members",
            _call(input_set=lambda _: SpikeFlips(12), attack=ExhaustiveFlips()),
        ),
    ],
)
def test_errors_name_the_problem(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "iterations must be at least 1", lambda: G2S(iterations=0)),
        (TypeError, "iterations must be an integer", lambda: PGD(iterations=2.5)),  # type: ignore[arg-type]
        (ValueError, r"gamma must lie in \[0, 1\]", lambda: RSF(gamma=1.5)),
        (ValueError, "seed", lambda: RandomSearch(seed=-1)),
        (ValueError, "step_size must be finite", lambda: PGD(step_size=float("nan"))),
        (ValueError, "surrogates must name at least one", lambda: PGD(surrogates=())),
        (ValueError, "losses must name at least one", lambda: PGD(losses=())),
        (ValueError, "candidates", lambda: GreedyFlips(candidates=0)),
        (ValueError, "penultimate_threshold must be", lambda: G2S(penultimate_threshold=0.0)),
    ],
)
def test_settings_are_checked(error: type[Exception], message: str, make: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        make()


def test_descriptions() -> None:
    assert PGD().describe() == "PGD(iterations=25)"
    assert ExhaustiveFlips(memory=1).describe() == "ExhaustiveFlips()"
    assert FGSM().describe() == "FGSM(loss=CrossEntropy())"
    assert replace(G2S(), gamma=0.0).describe() == "G2S(iterations=25, gamma=0.0)"
    assert GreedyFlips.domains == SPIKES and G2S.domains == BOTH
    assert PGD().fits(LinfBall(0.1)) and not PGD().fits(SpikeFlips(1))


def test_every_public_attack_has_a_row() -> None:
    import certsnn.attacks

    public = {getattr(certsnn.attacks, name) for name in certsnn.attacks.__all__}
    attacks = {c for c in public if isinstance(c, type) and issubclass(c, Attack) and c is not Attack}
    assert attacks == {type(attack) for attack in ATTACKS}
    assert all(attack().describe() for attack in attacks)
