"""Bad input to the command line, a table: each gets one line that says what is wrong, and writes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import refused
from safetensors.torch import save

from certsnn.files import DIGEST, digest, read_tensors
from certsnn.models.pretrained import pretrained

Case = tuple[str, Mapping[str, str | bytes], str]
"""Command line, files of the folder it runs in, and what the line must hold: parts apart by " ... "."""

MODEL = pretrained()["digits-eps0.05"]
WEIGHTS = MODEL.read_bytes()
GOOD = {"c.yaml": "training: {epochs: 1}\n"}


def config(text: str | bytes, said: str) -> Case:
    """Said of a config file."""
    return "train c.yaml", {"c.yaml": text}, f"c.yaml ... {said}"


def flags(words: str, said: str) -> Case:
    """Said of flags beside a good config."""
    return f"train c.yaml {words}", GOOD, said


def model(words: str, said: str) -> Case:
    """Said of words after a command and a good model."""
    command, _, rest = words.partition(" ")
    return f"{command} digits-eps0.05 {rest}", {}, said


def weights(content: bytes, said: str) -> Case:
    """Said of a weights file."""
    return "verify w.safetensors", {"w.safetensors": content}, said


def holding(old: str, new: str) -> bytes:
    """A whole weights file whose config has other words."""
    tensors, facts = read_tensors(MODEL)
    facts = {name: part.replace(old, new) for name, part in facts.items() if name != DIGEST}
    return save(tensors, {**facts, DIGEST: digest(tensors, facts)})


MISSPELT = [
    config("trainin: {epochs: 1}", "trainin is not a key; did you mean training?"),
    config("training: {objectve: Natural}", "training.objectve ... did you mean training.objective?"),
    config(
        "training: {objective: {ramp: {lenght: 3}}}",
        "training.objective.ramp.lenght is not a key; did you mean training.objective.ramp.length?",
    ),
    config(
        "threat: {class_path: LinfBall, init_args: {epz: 0.1}}",
        "threat.epz is not a key of LinfBall; did you mean threat.eps?",
    ),
    config(
        "training: {objective: {regularisers: [L1, {class_path: L1, wieght: 1}]}}",
        "training.objective.regularisers[1].wieght ... of L1 ... training.objective.regularisers[1].weight?",
    ),
    config("threat: {clas_path: LinfBall, eps: 0.1}", "threat.clas_path is not a key of LinfBall"),
    config("epochs: 3", "epochs is not a key; did you mean training.epochs?"),
    config("3: 4", "3 is not a key. Known: data, network, threat, training, seed"),
    flags("--training.epoch 3", "training.epoch is not a key; did you mean training.epochs?"),
    flags("--traning.epochs 3", "traning is not a key; did you mean training?"),
    flags("--epochs 3", "certsnn train has no argument --epochs; did you mean --training.epochs?"),
    flags(
        "--network.neuron.surrogate ArcTan --network.neuron.surrogate.alhpa 3",
        "network.neuron.surrogate.alhpa is not a key of ArcTan; did you mean network.neuron.surrogate.alpha?",
    ),
    model("verify --threat.ep 1", "threat.ep is not a key of LinfBall; did you mean threat.eps?"),
    model("verify --methd ibp", "certsnn verify has no argument --methd; did you mean --method?"),
    model("attack --attacks PDG", "--attacks[0].class_path: there is no class 'PDG' here; did you mean PGD?"),
    model("attack --attacks '{class_path: PGD, restart: 3}'", "did you mean --attacks[0].restarts?"),
]
WRONG_TYPES = [
    config("training: {epochs: many}", "training.epochs must be an integer, not 'many'"),
    config("training: {epochs: 2.5}", "training.epochs must be an integer, not 2.5"),
    config("training: {epochs: 3.0}", "training.epochs must be an integer, not 3.0"),
    config("training: {epochs: true}", "training.epochs must be an integer, not True"),
    config("training: {epochs: null}", "training.epochs must be an integer, not nothing"),
    config("threat: {eps: [0.1]}", "threat.eps must be a number, not [0.1]"),
    config("threat: {eps: {a: 1}}", "threat.eps must be a number, not {'a': 1}"),
    config(f"threat: {{eps: {10**400}}}", "threat.eps must be a number, not 1000"),
    config("threat: {eps: true}", "threat.eps must be a number, not True"),
    config("data: {name: 3}", "data.name must be text, not 3"),
    config("data: {download: maybe}", "data.download must be true or false, not 'maybe'"),
    config("data: {download: 1}", "data.download must be true or false, not 1"),
    config(
        "network: {readout: mean}",
        "network.readout must be rate or membrane or sum or last or maximum, not 'mean'",
    ),
    config("network: {neuron: {reset: half}}", "network.neuron.reset must be zero or subtract or a number"),
    config("network: {neuron: {reset: [1]}}", "network.neuron.reset ... or (a number, a number), not [1]"),
    config("training: {objective: {regularisers: L1}}", "training.objective.regularisers must be a list"),
    config("training: 3", "training must hold keys (objective, "),
    config("training:", "training must hold keys (objective, "),
    config("threat: [LinfBall]", "threat must name a class (CoupledBernoulli, "),
    flags("--threat.eps big", "threat.eps must be a number, not 'big'"),
    model("evaluate --sweep small", "threat.eps must be a number, not 'small'"),
]
WRONG_VALUES = [
    config("threat: {eps: -0.1}", "threat.eps must be finite and at least 0, not -0.1"),
    config("threat: {eps: .inf}", "threat.eps must be finite and at least 0, not inf"),
    config("network: {neuron: {threshold: 0}}", "network.neuron.threshold must be at least 1e-06"),
    config("training: {objective: {steps: 9}}", "training.objective.steps must be at most the network's 2"),
    config("seed: -1", "seed must lie in [0, 2**32), got -1"),
    config("threat: {class_path: SpikeFlips, budget: 1}", "threat and data.encoding do not fit: SpikeFlips"),
    flags("--data.name nmnist", "threat and data.name do not fit: LinfBall moves the pixels of images"),
    flags("--data.name digit", "no data set is called 'digit'; did you mean 'digits'?"),
    flags("--network.architecture digits-cf", "no architecture is called 'digits-cf'; did you mean"),
]
CLASSES = [
    config("threat: LinfBal", "threat.class_path: there is no class 'LinfBal' here; did you mean LinfBall?"),
    config("network: {neuron: os.system}", "there is no class 'os.system' here. Known: IF, LIF"),
    config(
        "network: {neuron: {class_path: subprocess.Popen, init_args: {args: [touch, owned]}}}",
        "network.neuron.class_path: there is no class 'subprocess.Popen' here. Known: IF, LIF",
    ),
    config("threat: !!python/object/apply:os.system [touch owned]", "not valid YAML: ... (line 1, column 9)"),
    config("training: {objective: LinfBall}", "training.objective.class_path: there is no class 'LinfBall'"),
    config("network: {neuron: {class_path: IF, decay: 0.5}}", "network.neuron.decay is not a key of IF."),
    config("threat: SpikeFlips", "threat.budget is missing: SpikeFlips needs it"),
    config("threat: {class_path: CoupledBernoulli, steps: 2}", "threat.eps is missing: CoupledBernoulli"),
    flags("--threat SpikeFlips --threat.eps 0.1", "threat.eps is not a key of SpikeFlips. Known: threat.bud"),
    flags("--threat.class_path CoupledBernoulli", "threat.eps is missing: CoupledBernoulli needs it"),
]
FILES: list[Case] = [
    ("train none.yaml", {}, "the config none.yaml can't be read: No such file"),
    ("train folder", {"folder/x": ""}, "the config folder can't be read: Is a directory"),
    config(b"\xff\xfe\0", "is not a text file"),
    config("threat: [", "not valid YAML: expected the node content, but found '<stream end>' (line 1,"),
    config("- digits", "the config must hold keys (data, network, threat, training, seed), not ['digits']"),
    config("just words", "the config must hold keys ... not 'just words'"),
    (
        "train c.yaml --run r",
        GOOD | {"r/config.yaml": "seed: 3\n"},
        "r holds a run with another config; name another folder with --run, or remove this one",
    ),
    flags("--data.name mnist --data.root .", "MNIST (test) can't be read from ... --data.download true"),
    weights(WEIGHTS[:5000], "w.safetensors is not a whole model of certsnn"),
    weights(WEIGHTS[:-100], "w.safetensors is not a whole model of certsnn"),
    weights(WEIGHTS[:2000] + bytes(500) + WEIGHTS[2500:], "w.safetensors is not a whole model of certsnn"),
    weights(b"hello", "w.safetensors is not a whole model of certsnn"),
    weights(b"", "w.safetensors is not a whole model of certsnn"),
    weights(WEIGHTS.replace(b"epochs", b"epoxhs"), "it is damaged: its digest does not match"),
    weights(WEIGHTS[:-9] + b"different", "it is damaged: its digest does not match"),
    weights(holding("epochs", "epoxhs"), "the config inside w.safetensors: training.epoxhs is not a key"),
    weights(holding("class_path: IF", "class_path: os.system"), "there is no class 'os.system' here. Known"),
    ("verify run", {"run/config.yaml": ""}, "run has no model.safetensors: its training has not ended"),
    ("verify run", {"run/model.safetensors": "text"}, "run/model.safetensors is not a whole model"),
    ("verify digits-eps0.5", {}, "nor a pretrained model; did you mean 'digits-eps0.05'?"),
    ("models nothing", {}, "nothing is neither a run folder, nor a weights file, nor a pretrained model."),
    ("verify digits-eps0.05 --results r", {"r": '{"method": "s-crown"}\n'}, "line 1 of r is not what"),
    ("verify digits-eps0.05 --results r", {"r": "x\n"}, "line 1 of r is not what --results writes there"),
    ("merge a --results b", {"a": "hello\n"}, "line 1 of a is not what --results writes there"),
    ("merge a --results b", {}, "error: a: No such file or directory"),
    (
        "train c.yaml --run c.yaml",
        GOOD,
        "c.yaml/results.json can't be written: Not a directory;",
    ),
    ("bench folder", {"folder/x": ""}, "the folder folder holds no config"),
    ("bench a/c.yaml c.yaml", GOOD | {"a/c.yaml": ""}, "would both be trained in runs/c-s0"),
    ("bench c.yaml", GOOD | {"runs/c-s0/bench.json": "{}"}, "bench.json is not a row of `certsnn bench`."),
]
WORDS: list[Case] = [
    ("trian c.yaml", {}, "'trian' is not a command; did you mean train?"),
    ("--verbose", {}, "--verbose"),
    ("train", {}, "required: CONFIG"),
    ("train c.yaml d.yaml", GOOD, "certsnn train has no argument d.yaml; see certsnn train --help"),
    ("merge a", {}, "required: --results"),
    flags("--training.epochs", "--training.epochs needs a value"),
    flags("--threat.eps={", "not valid YAML"),
    model("verify --samples", "--samples: expected one argument"),
    model("verify --samples 0", "--samples: must be an integer of at least 1, not '0'"),
    model("verify --threads 1.5", "--threads: must be an integer of at least 1, not '1.5'"),
    model("verify --memory lots", "--memory: must be a size such as 512MiB, 2GiB ... not 'lots'"),
    model("verify --seconds -1", "--seconds: must be a number of seconds > 0, not '-1'"),
    model("verify --shard 3/2", "--shard: must be K/N with 1 <= K <= N, such as 2/4, not '3/2'"),
    model("verify --shard 9/9 --samples 5", "shard 9/9 of 5 samples is empty; use at most 5 shards"),
    model("verify --device gpu", "the device 'gpu' can't be used: ... --device cpu always can"),
    model("verify --rounding maybe", "--rounding: must be true or false, not 'maybe'"),
    model("verify --relaxation tight", "--relaxation: invalid choice: 'tight'"),
    model("verify --method ibp", "no bound method is called 'ibp'; known: s-ibp, "),
    model("verify --training.epochs 1", "verify does not take --training.epochs; ... --threat.*, --data.*"),
    model("verify --data.encoding {class_path: Latency, steps: 2}", "has no argument Latency,"),
    model(
        "verify --data.name digits-saccades --threat SpikeFlips --threat.budget 1",
        "the network takes image, but SpikeFlips(budget=1, kind=any) gives it spikes",
    ),
    model("verify --json a --results a", "--json and --results name the same file"),
    model("evaluate --report a --json a", "--json and --report name the same file"),
    model("evaluate --sweep 0.1,", "--sweep: must be sizes such as 0.01,0.02,0.05, not '0.1,'"),
    model("attack --method s-ibp", "certsnn attack has no argument --method; see certsnn attack --help"),
    model("attack --seed -1", "--seed: must be an integer of at least 0, not '-1'"),
    model("attack --attacks []", "--attacks names no attack; leave it out for the default ones"),
    model("attack --attacks {", "not valid YAML"),
    model("attack --attacks PGD,PGD", "2 attacks are called PGD(iterations=25): leave all but one out"),
    model("attack --attacks GreedyFlips", "does not work on LinfBall(eps=0.05); leave it out, or name"),
    ("bench c.yaml --seeds 0,x", GOOD, "--seeds: must be an integer of at least 0, not 'x'"),
    ("bench c.yaml --seeds 0,1 --seed 3", GOOD, "--seed and --seeds both name seeds; leave one of them out"),
    ("bench c.yaml --table t --json t", GOOD, "--table and --json name the same file"),
]


@pytest.mark.parametrize(
    ("words", "files", "said"), [*MISSPELT, *WRONG_TYPES, *WRONG_VALUES, *CLASSES, *FILES, *WORDS]
)
def test_bad_input_gets_one_line_and_writes_nothing(
    words: str,
    files: Mapping[str, str | bytes],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = _content(tmp_path)
    line = refused(capsys, *shlex.split(words))
    for part in said.split(" ... "):
        assert part in line
    assert _content(tmp_path) == before


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
