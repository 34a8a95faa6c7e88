"""The commands: what help says of each, the options and config keys that it takes. No torch here."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from certsnn.results.shards import Shard

PARTS = ("data", "network", "threat", "training", "seed")
"""A config's top level: flags that begin so, or have a dot, are config keys."""

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
"""Bytes of each unit that a size can be given in."""


@final
@dataclass(frozen=True)
class Command:
    """One command: what help says, its options, apart by blanks, and the config keys it takes."""

    summary: str
    details: str
    options: str
    keys: tuple[str, ...] = ()


def _must(be: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"must be {be}, not {text!r}")


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise _must(f"an integer of at least {least}", text)
    return int(text)


def _positive(text: str) -> int:
    return _natural(text, 1)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise _must("true or false", text)
    return text == "true"


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.lower())
    size = 0 if found is None else int(float(found[1]) * UNITS.get(found[2], 0))
    if size < 1:
        raise _must("a size such as 512MiB, 2GiB or 2147483648 (bytes)", text)
    return size


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise _must("a number of seconds > 0", text)
    return seconds


def _shard(text: str) -> Shard:
    from certsnn.results.shards import Shard

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise _must("K/N with 1 <= K <= N, such as 2/4", text)
    return Shard(int(number), int(of))


def _sizes(text: str) -> list[str]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(sizes):
        raise _must("sizes such as 0.01,0.02,0.05", text)
    return sizes


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(_natural(part.strip()) for part in text.split(",")))


N: Mapping[str, Any] = {"type": _positive, "metavar": "N"}
BOUNDS = "--method --rounding --relaxation --memory --seconds --iterations --batch-size"
SAMPLES = "--samples --shard --results --json"
READING = "--weights --steps --readout --output --dt --reset"
COMMON = "--device --threads --debug"

TAKES: Mapping[str, Mapping[str, Any]] = {
    "config": {"type": Path, "metavar": "CONFIG"},
    "configs": {"type": Path, "metavar": "CONFIG", "nargs": "+"},
    "files": {"type": Path, "metavar": "FILE.jsonl", "nargs": "+"},
    "name": {"metavar": "NAME", "nargs": "?"},
    "run": {"metavar": "RUN"},
    "--dt": {"type": _seconds, "metavar": "TIME"},
    "--output": {"type": _natural, "metavar": "N"},
    "--readout": {"choices": ["rate", "membrane", "sum", "last", "maximum"], "metavar": "NAME"},
    "--reset": {"choices": ["v_reset", "subtract", "subtract-next"], "metavar": "NAME"},
    "--steps": N,
    "--weights": {"type": Path, "metavar": "FILE"},
    "--adversarial": {"type": Path, "metavar": "DIR"},
    "--attacked": {**N, "default": 1000},
    "--attacks": {"metavar": "LIST"},
    "--batch-size": N,
    "--debug": {"action": "store_true"},
    "--device": {"default": "cpu"},
    "--evidence": {"type": Path, "metavar": "DIR", "default": Path("unsound")},
    "--iterations": {"type": _natural, "metavar": "N"},
    "--json": {"type": Path, "metavar": "FILE"},
    "--memory": {"type": _bytes, "metavar": "SIZE"},
    "--method": {"metavar": "NAME", "default": "s-ibp"},
    "--relaxation": {"choices": ["joint", "separate"], "default": "joint"},
    "--report": {"type": Path, "metavar": "FILE.html"},
    "--results": {"type": Path, "metavar": "FILE.jsonl"},
    "merge --results": {"type": Path, "metavar": "OUT.jsonl", "required": True},
    "--rounding": {"type": _truth, "metavar": "{true,false}"},
    "--run": {"type": Path, "metavar": "DIR"},
    "--runs": {"type": Path, "metavar": "DIR", "default": Path("runs")},
    "--samples": N,
    "--seconds": {"type": _seconds, "metavar": "S"},
    "--seed": {"type": _natural, "metavar": "N"},
    "--seeds": {"type": _seeds, "metavar": "LIST", "default": []},
    "--shard": {"type": _shard, "metavar": "K/N"},
    "--sweep": {"type": _sizes, "metavar": "SIZES", "default": []},
    "--table": {"type": Path, "metavar": "FILE.md"},
    "--threads": N,
}
"""What argparse is told of each option; where a command takes it in its own way, under both names."""

HELP: Mapping[str, str] = {
    "config": "a YAML file",
    "configs": "YAML files, and folders of them",
    "files": "files of --results, one for each shard",
    "name": "a pretrained model, a run folder or a weights file to describe (default: list the pretrained)",
    "run": "a run folder, a weights file, the name of a pretrained model, NAME.nir, or FILE.py:FUNCTION, "
    "which makes a network of certsnn's, snnTorch's, SpikingJelly's or Norse's",
    "--dt": "of a NIR file: the length of a step, in the unit of its time constants",
    "--output": "of FILE.py:FUNCTION: which of its network's outputs holds the logits (0: the first)",
    "--readout": "of FILE.py:FUNCTION or a NIR file, how logits are read over time: rate, membrane, sum, "
    "last or maximum",
    "--reset": "of a NIR file: v_reset, as it says, or subtract, in that step, or subtract-next (snnTorch)",
    "--steps": "of FILE.py:FUNCTION or a NIR file: T, for images",
    "--weights": "of FILE.py:FUNCTION: the state dict to load, a .safetensors or .pt file; nothing else in "
    "it is read",
    "--adversarial": "save the input that breaks a sample here, a file for each (method auto breaks some)",
    "--attacked": "how many samples are attacked, the first of the test set (default: 1000)",
    "--attacks": "attacks by name, as a YAML list: PGD, or PGD,FGSM, or '{class_path: PGD, restarts: "
    "10},FGSM' (default: a suite that fits the threat)",
    "attack --batch-size": "samples that are attacked together (default: 64)",
    "bench --batch-size": "samples that are verified, or attacked, together (default: 256 and 64, or 32 with "
    "slow methods, or as many as fit into --memory)",
    "evaluate --batch-size": "samples that are evaluated together (default: 64, or 32 with the methods that "
    "have a time limit, or as many as fit into --memory)",
    "verify --batch-size": "samples that are bounded together (default: 256, or 32 with the methods that "
    "have a time limit, or as many as fit into --memory)",
    "--debug": "show the traceback of an error",
    "--device": "where to compute: cpu, cuda, cuda:1, ... (default: cpu)",
    "--evidence": "where the evidence goes if an attack refutes a bound (default: unsound/)",
    "--iterations": "steps in which alpha-s-crown optimises slopes (default: 20)",
    "--json": "write summary and samples here at the end; - is standard output",
    "bench --json": "write all rows here at the end; - is standard output",
    "--memory": "what interval bounds may take, and S-CROWN and branch-and-bound as much again, in bytes or "
    "as 512MiB (default: 2GiB)",
    "--method": "the bounds (default: s-ibp): {methods}",
    "--relaxation": "how S-CROWN relaxes firing and reset: joint, or separate as published (default: joint)",
    "--report": "write a report here: one page with tables, curves, margins and examples, to be read "
    "anywhere (default: report.html in RUN, if that is a run folder)",
    "--results": "write each sample's result here as it comes; the same command goes on where it stopped",
    "merge --results": "the file to write; what it holds already of the same verification is kept",
    "--rounding": "cover the rounding errors of the network as executed (default: true)",
    "--run": "the run folder (default: runs/ and the config's name)",
    "--runs": "the folder of the run folders (default: runs)",
    "--samples": "only the first N of the test set (default: all)",
    "--seconds": "time limit of each sample; it ends {limited}, and auto's attack (default: none)",
    "--seed": "of all attacks that draw (default: 0)",
    "--seeds": "the seeds of every config, such as 0,1,2 (default: the config's own one)",
    "--shard": "only every N-th sample, from the K-th on: a part for one of N machines (see certsnn merge)",
    "--sweep": "further sizes of the threat (eps, budget or density), such as 0.01,0.02,0.05: the errors of "
    "each, and curves in the report",
    "--table": "write the table here, as Markdown",
    "--threads": "CPU threads of torch",
}
"""What help says of each option, named as in `TAKES`."""

COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "train a network as a config says, then verify it on the test set",
        """\
example:
  certsnn train configs/digits.yaml --training.epochs 40 --seed 1

The run folder gets config.yaml (with every default), metrics.jsonl (a line for each epoch),
curves.png, model.safetensors (the weights with the config inside) and results.json (the errors on
the test set). Ctrl-C or a crash loses at most an epoch: the same command goes on where it stopped.
Every key of the config is also a flag; all of them stand below. On several devices or machines:
  torchrun --nproc-per-node 4 -m -- certsnn train CONFIG --device cuda""",
        f"config --run {COMMON}",
        PARTS,
    ),
    "verify": Command(
        "prove a trained network's robustness on the test set, sample by sample",
        """\
examples:
  certsnn verify runs/digits --threat.eps 0.03
  certsnn verify runs/digits --samples 100 --json digits.json
  certsnn verify runs/digits --method auto --seconds 10 --results digits.jsonl
  certsnn verify net.py:make_net --weights net.pt --steps 25 --readout rate \\
      --data.name digits --threat.eps 0.01

Prints the clean error and the verified error: the share of samples that are misclassified, or whose
robustness is not proved. Nothing is written but what --json, --results and --adversarial name. With
--results a verification that was stopped, by Ctrl-C or a crash, goes on where it was. The threat and
the data set are those of the training, unless the keys below say otherwise.

Several processes share the samples, and write one file of results together:
  torchrun --nproc-per-node 4 -m -- certsnn verify runs/digits --results digits.jsonl
Machines that share nothing take a --shard each; `certsnn merge` puts their files together.""",
        f"run {READING} {BOUNDS} {SAMPLES} --adversarial {COMMON}",
        ("threat", "data"),
    ),
    "attack": Command(
        "attack a trained network on the test set, and list what each attack breaks",
        """\
examples:
  certsnn attack runs/digits
  certsnn attack runs/digits --threat.eps 0.1 --attacks PGD,FGSM --samples 100
  certsnn attack runs/digits --attacks '{class_path: PGD, iterations: 100, restarts: 10}' --seed 1

Prints the clean error and the attack error: the share of samples that are misclassified, or broken by at
least one attack. Every attack runs on every sample that the network gets right; its row says how many it
broke, and over these the mean change of a pixel (for spikes: of its firing rate) and the rounds; then how
many needed random flips (RSF) because all gradients were zero, and the forward passes of a sample.
`certsnn evaluate` sets the verified error beside these.""",
        f"run {READING} --attacks --seed {SAMPLES} --batch-size {COMMON}",
        ("threat", "data"),
    ),
    "evaluate": Command(
        "clean, attack and verified error side by side, with a report",
        """\
examples:
  certsnn evaluate runs/digits
  certsnn evaluate runs/digits --sweep 0.01,0.02,0.03 --report digits.html --json digits.json
  certsnn evaluate runs/digits --method auto --seconds 10 --results digits.jsonl

Three errors over the same samples, each with a 95% confidence interval:

  clean error      misclassified                        (nobody attacks)
  attack error     ... or broken by some attack         (the true error is at least this)
  verified error   ... or not proved robust             (the true error is at most this)

What lies between the last two is the gap: samples that no attack breaks and no bound certifies. Certified
samples are attacked too. If one of them breaks, the bounds are unsound: the command stops with exit status
3 and saves all that shows it in a folder (--evidence). With --results an evaluation that was stopped goes
on where it was; each further size of --sweep gets a file of its own beside it.""",
        f"run {READING} {BOUNDS} --attacks --seed {SAMPLES} --sweep --report --evidence {COMMON}",
        ("threat", "data"),
    ),
    "bench": Command(
        "a table over configs: each trained, verified on the test set and attacked",
        """\
examples:
  certsnn bench configs/paper --seeds 0,1,2 --data.root DIR --table paper.md
  certsnn bench configs/digits.yaml configs/digits-lif.yaml --training.epochs 5 --runs short

Each config with each seed is a row with a run folder of its own, NAME-sSEED below --runs: it is trained as
`certsnn train` does it, verified on the whole test set, and its first samples (--attacked) are attacked by
the default suite for its threat, or by --attacks. The table has a line for each config, the mean over its
seeds and each of them: clean error, attack error under the attacks of the papers (G2S, RSF) and in the worst
case over the suite, verified error, minutes of training. Config keys given here hold for all configs.

A finished row stays in its run folder as bench.json and is not computed again; Ctrl-C or a crash loses at
most an epoch, or a batch of samples: the same command goes on where it stopped. A row that can't be computed,
for want of its data set for instance, is named with the reason below the table, the others go on, and the
exit status is 2. An attack that refutes a bound stops everything with exit status 3, as in `certsnn
evaluate`. A row's own command is in its bench.json.""",
        f"configs --seeds --runs {BOUNDS} --attacks --attacked --table --json --evidence {COMMON}",
        PARTS,
    ),
    "merge": Command(
        "put the results of shards together that were verified apart",
        """\
example, on two machines that share nothing, and then on either:
  certsnn verify MODEL --shard 1/2 --results one.jsonl
  certsnn verify MODEL --shard 2/2 --results two.jsonl
  certsnn merge one.jsonl two.jsonl --results all.jsonl

Prints the errors over all samples. Files of different verifications, or files that contradict each other,
are refused. If samples are missing, what there is is written all the same, the message says which ones
are not there, and the exit status is 2; `certsnn verify MODEL --results all.jsonl` does the rest. Files of
`certsnn evaluate --shard` are merged in the same way.""",
        "files --results --samples --debug",
    ),
    "models": Command(
        "list the pretrained models, or describe one",
        """\
examples:
  certsnn models
  certsnn models digits-eps0.05

Each name can be given to `certsnn verify`. With a name: the model's card, as Markdown where it is not printed
on a terminal. It says what the network is, its errors, how it was trained, which commands do that again, and
known limits.""",
        "name --debug",
    ),
}
