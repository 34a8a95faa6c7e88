"""What was typed as a call of `certsnn.commands`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from certsnn import commands, launch
from certsnn.errors import UserError
from certsnn.processes import Processes


def _prepared(options: Namespace) -> AbstractContextManager[Processes]:
    return commands.prepared(options.device, options.threads)


def _setting(options: Namespace, processes: Processes) -> commands.Setting:
    return commands.Setting(
        processes,
        options.method,
        options.rounding == "true",
        options.relaxation,
        options.memory or commands.Setting.memory,
        options.seconds,
        options.batch_size,
    )


def _train(options: Namespace, overrides: list[str]) -> int:
    with _prepared(options) as processes:
        folder = options.run or Path("runs") / options.config.stem
        return commands.train(options.config, overrides, folder, processes)


def _verify(options: Namespace, overrides: list[str]) -> int:
    with _prepared(options) as processes:
        return commands.verify(
            options.run,
            overrides,
            _setting(options, processes),
            samples=options.samples,
            json_to=options.json,
            results_to=options.results,
            shard=options.shard,
        )


def _attack(options: Namespace, overrides: list[str]) -> int:
    with _prepared(options) as processes:
        return commands.attack(
            options.run,
            overrides,
            commands.Setting(processes, batch_size=options.batch_size),
            commands.Suite(options.attacks, options.seed),
            commands.Outputs(options.json, options.results),
            samples=options.samples,
            shard=options.shard,
        )


def _evaluate(options: Namespace, overrides: list[str]) -> int:
    page = options.report
    if page is None and Path(options.run).is_dir():
        page = Path(options.run) / "report.html"
    with _prepared(options) as processes:
        return commands.evaluate(
            options.run,
            overrides,
            _setting(options, processes),
            commands.Suite(options.attacks, options.seed),
            commands.Outputs(options.json, options.results, page, options.evidence),
            samples=options.samples,
            sweep=options.sweep,
            shard=options.shard,
        )


def _bench(options: Namespace, overrides: list[str]) -> int:
    if launch.count() > 1:
        raise UserError(
            f"bench works in one process, but a launcher started {launch.count()}: start it by itself, or "
            "train and evaluate each config with `certsnn train` and `certsnn evaluate`, which share the work"
        )
    if options.seeds and "--seed" in overrides[::2]:
        raise UserError("--seed and --seeds both name seeds; leave one of them out")
    with _prepared(options) as processes:
        suite = commands.Suite(options.attacks)
        return commands.bench(
            options.configs,
            overrides,
            options.seeds,
            options.runs,
            commands.Examination(_setting(options, processes), suite, options.attacked, options.evidence),
            table_to=options.table,
            json_to=options.json,
        )


def _merge(options: Namespace, overrides: list[str]) -> int:
    return commands.merge(options.files, options.results, options.samples)


def _models(options: Namespace, overrides: list[str]) -> int:
    return commands.models() if options.name is None else commands.describe(options.name)


CALLS: Mapping[str, Callable[[Namespace, list[str]], int]] = {
    "train": _train,
    "verify": _verify,
    "attack": _attack,
    "evaluate": _evaluate,
    "bench": _bench,
    "merge": _merge,
    "models": _models,
}
"""What each command of `certsnn.arguments.COMMANDS` does, with its options and config keys."""
