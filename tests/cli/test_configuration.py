"""Configs: defaults, overrides, round trips, and what is refused and how."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from certsnn.configuration import keys, override, parse_text, read_config
from certsnn.encoding import Bernoulli
from certsnn.errors import ConfigError
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips
from certsnn.neurons import IF, LIF
from certsnn.surrogates import ArcTan
from certsnn.train.config import RunConfig
from certsnn.train.objectives.adversarial import Adversarial
from certsnn.train.objectives.certified import Certified
from certsnn.train.objectives.natural import Natural
from certsnn.train.regularisers import L1, FiringRate
from certsnn.train.schedules import Ramp

SAMPLE = """
threat: {class_path: LinfBall, init_args: {eps: 0.05}}
data: {name: digits}
network:
  steps: 4
  neuron: {class_path: IF, init_args: {initial: 0.5, surrogate: {class_path: ArcTan}}}
training:
  objective:
    class_path: Certified
    init_args:
      ramp: {start: 2, length: 40}
      size: 1.3
      regularisers: [{class_path: L1, init_args: {weight: 1e-6}}, FiringRate]
  epochs: 80
  learning_rate: {peak: 2e-3}
"""


def change(*flags: str, text: str = SAMPLE) -> RunConfig:
    return override(text, flags)[0]


def refusal(*flags: str, text: str = SAMPLE) -> str:
    with pytest.raises(ConfigError) as caught:
        override(text, flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_config_becomes_objects() -> None:
    config = parse_text(SAMPLE)
    assert config.threat == LinfBall(0.05)
    assert config.training.epochs == 80
    assert config.training.learning_rate.peak == 2e-3
    assert config.training.objective == Certified(
        Ramp(2, 40), size=1.3, regularisers=(L1(1e-6), FiringRate())
    )
    neuron, other = config.network.neuron(), config.network.neuron()
    assert isinstance(neuron, IF)
    assert neuron is not other
    assert neuron.surrogate == ArcTan()
    assert float(neuron.initial) == 0.5


def test_an_empty_config_is_the_defaults() -> None:
    assert parse_text("") == RunConfig()
    assert isinstance(parse_text("").network.neuron(), IF)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--network.neuron", "LIF", "--network.neuron.reset", "[0.5, -0.5]"],
        ["--threat", "{class_path: SpikeFlips, budget: 3}", "--data.encoding", "{class_path: "
         "Latency, steps: 4}"],
        ["--training.objective", "Adversarial", "--training.initialisation", "ConstantWidth"],
        ["--data.root", "über #1"],
    ],
)  # fmt: skip
def test_the_full_text_gives_the_same_config_and_text(flags: list[str]) -> None:
    config, text = override(SAMPLE, flags)
    again, text_again = override(text, ())
    assert again == config
    assert text_again == text
    assert "gradient_norm: 8.0" in text


def test_configs_differ_where_their_neurons_do() -> None:
    assert change("--network.neuron.threshold", "0.5") != parse_text(SAMPLE)


def test_overrides_reach_every_depth() -> None:
    config = change(
        "--seed=7",
        "--threat.eps=0.01",
        "--training.objective.ramp.length",
        "5",
        "--training.objective.init_args.size",
        "1.5",
        "--training.objective.regularisers",
        "[]",
        "--network.neuron.surrogate.alpha=3",
        "--data.root=12",
        "--data.download=true",
    )
    assert config.seed == 7
    assert config.threat == LinfBall(0.01)
    assert config.training.objective == Certified(Ramp(2, 5), size=1.5)
    neuron = config.network.neuron()
    assert isinstance(neuron, IF)
    assert neuron.surrogate == ArcTan(3.0)
    assert config.data.root == "12"
    assert config.data.download is True


def test_naming_another_class_forgets_the_arguments_of_the_last() -> None:
    assert change("--training.objective", "Natural").training.objective == Natural()
    flags = ["--threat.class_path", "CoupledBernoulli", "--threat.eps", "0.1", "--threat.steps=3"]
    assert change(*flags).threat == CoupledBernoulli(0.1, 3)
    flags = ["--threat", "SpikeFlips", "--threat.budget", "3"]
    config = change(*flags, "--data.encoding", "{class_path: Bernoulli, steps: 4}")
    assert config.threat == SpikeFlips(3)
    assert config.data.encoding == Bernoulli(4)
    assert isinstance(change("--network.neuron", "LIF").network.neuron(), LIF)


@pytest.mark.parametrize("key", ["--network.neuron", "--network.neuron.class_path"])
@pytest.mark.parametrize(
    "before",
    [
        "{}",
        "{network: {neuron: {class_path: IF, init_args: {threshold: 2, reset: [0.5, 0]}}}}",
        "{network: {neuron: {class_path: IF, threshold: 2, initial: 0.25, surrogate: ArcTan}}}",
    ],
)
def test_a_named_class_inherits_no_arguments(before: str, key: str) -> None:
    """Neither those of the class of the default, IF(initial=0.5), nor those of a file's."""
    lif = change(key, "LIF", text=before).network.neuron
    assert lif == parse_text("network: {neuron: LIF}").network.neuron
    made = lif()
    assert isinstance(made, LIF)
    assert (made.reset, float(made.threshold), float(made.decay), float(made.initial)) == ("zero", 1, 0.5, 0)
    assert made.surrogate == LIF().surrogate
    assert float(parse_text("network: {neuron: IF}").network.neuron().initial) == 0
    assert float(parse_text("network: {neuron: {threshold: 2}}").network.neuron().initial) == 0.5


@pytest.mark.parametrize("shared", ["ramp: {start: 3, length: 7}", "kappa_end: 0.1"])
def test_arguments_of_the_same_name_belong_to_their_own_class(shared: str) -> None:
    text = f"training: {{objective: {{class_path: Certified, {shared}}}}}"
    assert change("--training.objective", "Adversarial", text=text).training.objective == Adversarial()
    assert change("--training.objective", "Certified", text=text).training.objective == Certified()
    assert parse_text(text).training.objective != Certified()
    with pytest.raises(ConfigError, match=r"threat.eps is missing: CoupledBernoulli"):
        parse_text("threat: {class_path: CoupledBernoulli, steps: 3}")  # the default is LinfBall(eps=0.05)


def test_a_part_without_a_class_keeps_the_default_one() -> None:
    assert parse_text("threat: {eps: 0.2}").threat == LinfBall(0.2)
    assert change("--threat.eps", "0.2", text="").threat == LinfBall(0.2)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--training.objectve=Natural", "training.objectve is not a key; did you mean "
         "training.objective?"),
        ("--seeed=3", "seeed is not a key; did you mean seed?"),
        ("--epochs=3", "epochs is not a key; did you mean training.epochs?"),
        ("--threat.esp=3", "threat.esp is not a key of LinfBall; did you mean threat.eps?"),
        ("--training.objective.ramp.lenght=3", "training.objective.ramp.lenght is not a key; did "
         "you mean training.objective.ramp.length?"),
        ("--network.neuron.decay=0.5", "network.neuron.decay is not a key of IF. Known: "),
        ("--threat.eps=-1", "threat.eps must be finite and at least 0, not -1"),
        ("--threat.eps=nan", "threat.eps must be a number, not 'nan'"),
        ("--threat.eps=.nan", "threat.eps must be finite"),
        ("--threat.eps=big", "threat.eps must be a number, not 'big'"),
        ("--threat=SpikeFlips", "threat.budget is missing: SpikeFlips needs it"),
        ("--threat=LinfBal", "threat.class_path: there is no class 'LinfBal' here; did you mean "
         "LinfBall?"),
        ("--threat=[]", "threat must name a class (CoupledBernoulli, "),
        ("--training.epochs=2.5", "training.epochs must be an integer, not '2.5'"),
        ("--training.epochs=null", "training.epochs must be an integer, not nothing"),
        ("--training.epochs=0", "training.epochs must be at least 1"),
        ("--training.batch_size=0", "training.batch_size must be at least 1"),
        ("--training.gradient_norm=-1", "training.gradient_norm must be > 0"),
        ("--network.steps=0", "network.steps must be at least 1"),
        ("--data.validation=1", "data.validation must lie in (0, 1)"),
        ("--seed=-1", "seed must lie in"),
        ("--network.readout=mean", "network.readout must be rate or membrane or sum"),
        ("--network.neuron.threshold=-1", "network.neuron.threshold must be at least"),
        ("--network.neuron.reset=half", "network.neuron.reset must be zero or subtract or"),
        ("--training.objective.regularisers=L1", "training.objective.regularisers must be a list"),
        ("--training.objective.regularisers=[{class_path: L1, wieght: 1}]", "training.objective."
         "regularisers[0].wieght is not a key of L1; did you mean training.objective.regularisers"
         "[0].weight?"),
        ("--training=3", "training must hold keys (objective, "),
        ("--threat.eps={", "not valid YAML"),
        ("--data.encoding={class_path: Bernoulli, steps: 4}", "threat and data.encoding do not"),
        ("--training.epochs", "--training.epochs needs a value"),
        ("training.epochs=3", "write --key value"),
    ],
)  # fmt: skip
def test_refused_overrides(flag: str, said: str) -> None:
    assert said in refusal(flag)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {objectve: Natural}", "training.objectve is not a key; did you mean"),
        ("threat: {class_path: LinfBall, init_args: {esp: 1}}", "did you mean threat.eps?"),
        ("threat: {class_path: LinfBall, init_args: 3}", "threat.init_args must hold"),
        ("threat: [", "not valid YAML"),
        ("a: b: c", "not valid YAML: mapping values are not allowed here (line 1, column 5)"),
        ("3", "the config must hold keys"),
        ("3: 4", "3 is not a key"),
        ("[" * 5000, "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
)
def test_refused_texts(text: str, said: str) -> None:
    assert said in refusal(text=text)


@pytest.mark.parametrize(
    "text",
    [
        "threat: {class_path: antigravity.Threat}",
        "threat: antigravity.Threat",
        "network: {neuron: os.system}",
        "network: {neuron: {class_path: subprocess.Popen, init_args: {args: [touch, owned]}}}",
        "training: {objective: {class_path: certsnn.inputsets.LinfBall}}",
        "training: {objective: LinfBall}",
        "training: {objective: Objective}",
        "training: {objective: {class_path: Certified, regularisers: [builtins.eval]}}",
        "training: {learning_rate: {class_path: os.system, init_args: {command: ls}}}",
        "data: {encoding: tests.Encoding}",
        "data: /etc/passwd",
        "threat: NestedTrains",
        "threat: !!python/object/apply:os.system [touch owned]",
    ],
)
def test_only_fitting_classes_of_certsnn_can_be_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(text=text)
    assert "antigravity" not in sys.modules
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("seed: x")
    with pytest.raises(ConfigError, match=r"none\.yaml can't be read: No such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="not a text file"):
        read_config(binary)
    with pytest.raises(ConfigError, match=r"wrong\.yaml: seed must be an integer"):
        read_config(wrong)


def test_every_key_is_described() -> None:
    paths = {key.path for key in keys()}
    assert {"seed", "threat.eps", "training.objective.ramp.length", "data.encoding"} <= paths


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_that_come_with_certsnn_are_valid(path: Path) -> None:
    read_config(path)
