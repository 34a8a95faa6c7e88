"""What was typed as a call of `certsnn.cli.commands`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from certsnn.cli import launch
from certsnn.cli.commands.bench import Examination, bench
from certsnn.cli.commands.common import Setting, prepared
from certsnn.cli.commands.evaluate import Outputs, Suite, attack, evaluate
from certsnn.cli.commands.merge import merge
from certsnn.cli.commands.models import describe, models
from certsnn.cli.commands.train import train
from certsnn.cli.commands.verify import verify
from certsnn.cli.sources import Reading
from certsnn.errors import UserError
from certsnn.processes import Processes

Call = Callable[[Namespace, list[str]], int]
"""Options and config keys, as `certsnn.configuration.override` takes them, to an exit status."""


def _computing(call: Callable[[Namespace, list[str], Processes], int]) -> Call:
    """The call with the processes that were launched."""

    def computing(options: Namespace, overrides: list[str]) -> int:
        with prepared(options.device, options.threads) as processes:
            return call(options, overrides, processes)

    return computing


@_computing
def _train(options: Namespace, overrides: list[str], processes: Processes) -> int:
    folder = options.run or Path("runs") / options.config.stem
    return train(options.config, overrides, folder, processes)


@_computing
def _verify(options: Namespace, overrides: list[str], processes: Processes) -> int:
    outputs = options.json, options.results
    return verify(
        options.run,
        overrides,
        _setting(options, processes),
        options.samples,
        *outputs,
        options.shard,
        options.adversarial,
        _reading(options),
    )


@_computing
def _attack(options: Namespace, overrides: list[str], processes: Processes) -> int:
    setting = Setting(processes, batch_size=options.batch_size)
    suite = Suite(options.attacks, options.seed)
    outputs = Outputs(options.json, options.results)
    which = options.samples, options.shard, _reading(options)
    return attack(options.run, overrides, setting, suite, outputs, *which)


@_computing
def _evaluate(options: Namespace, overrides: list[str], processes: Processes) -> int:
    page = options.report
    if page is None and Path(options.run).is_dir():
        page = Path(options.run) / "report.html"
    setting, suite = _setting(options, processes), Suite(options.attacks, options.seed)
    outputs = Outputs(options.json, options.results, page, options.evidence)
    which = options.samples, options.sweep, options.shard, _reading(options)
    return evaluate(options.run, overrides, setting, suite, outputs, *which)


def _bench(options: Namespace, overrides: list[str]) -> int:
    if launch.count() > 1:
        raise UserError(
            f"bench works in one process, but a launcher started {launch.count()}: start it by itself, or "
            "train and evaluate each config with `certsnn train` and `certsnn evaluate`, which share the work"
        )
    if options.seeds and any(word.partition("=")[0] == "--seed" for word in overrides):
        raise UserError("--seed and --seeds both name seeds; leave one of them out")
    with prepared(options.device, options.threads) as processes:
        setting, suite = _setting(options, processes), Suite(options.attacks)
        examination = Examination(setting, suite, options.attacked, options.evidence)
        outputs = options.table, options.json
        return bench(options.configs, overrides, options.seeds, options.runs, examination, *outputs)


def _merge(options: Namespace, overrides: list[str]) -> int:
    return merge(options.files, options.results, options.samples)


def _models(options: Namespace, overrides: list[str]) -> int:
    return models() if options.name is None else describe(options.name)


def _reading(options: Namespace) -> Reading:
    return Reading(**{name: getattr(options, name) for name in Reading.__dataclass_fields__})


def _setting(options: Namespace, processes: Processes) -> Setting:
    """Every field of `BoundOptions` that has a flag is taken from it, where the flag was given."""
    from certsnn.bounds.options import BoundOptions

    given = {name: vars(options).get(name) for name in BoundOptions.__dataclass_fields__}
    bounds = BoundOptions(**{name: value for name, value in given.items() if value is not None})
    return Setting(processes, bounds, options.batch_size)


CALLS: Mapping[str, Call] = {
    "train": _train,
    "verify": _verify,
    "attack": _attack,
    "evaluate": _evaluate,
    "bench": _bench,
    "merge": _merge,
    "models": _models,
}
