"""Several processes do what one does: training, verification, and how they end."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lines
from monitors import Stop
from together import CASES, Stopping, flat, heed_ctrl_c, said, trained, two

from certsnn.batches import WHOLE
from certsnn.cli import launch
from certsnn.cli.app import main
from certsnn.cli.distributed import launched
from certsnn.errors import UserError
from certsnn.processes import Alone, Share
from certsnn.train.checkpoint import load_latest

psutil = pytest.importorskip("psutil", reason="pip install 'certsnn[scale]'")
pytest.importorskip("accelerate", reason="pip install 'certsnn[scale]'")

pytestmark = pytest.mark.timeout(150)
TOGETHER = Path(__file__).parents[1] / "helpers" / "together.py"
CONFIG = """
network: {steps: 2}
threat: {class_path: LinfBall, init_args: {eps: 0.02}}
training: {objective: {class_path: Certified}, epochs: 300, batch_size: 64}
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two processes found for every case; and "alone", which one process had begun."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.raises(Stop):
        trained("plain", folder / "alone", Alone(), Stopping())
    with two(TOGETHER, folder) as processes:
        for status, out, err in said(processes):
            assert (status, out, err) == (0, "", "")
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def check_equal(rows: list[dict[str, float]], weights: list[float], found: dict[str, Any]) -> None:
    """To rounding: the same figures in every epoch, and the same best weights."""
    names = rows[0].keys() - {"seconds"}
    for row, other in zip(rows, found["rows"], strict=True):
        assert row.keys() == other.keys()
        assert {n: other[n] for n in names} == pytest.approx({n: row[n] for n in names}, rel=1e-5)
    assert found["weights"] == pytest.approx(weights, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(
    name: str, together: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    network, rows = trained(name, tmp_path, Alone())
    assert math.isfinite(rows[-1]["train_loss"])
    folder, (first, second) = together
    check_equal(rows, flat(network), first[name])
    assert first[name]["weights"] == second[name]["weights"]  # to the last bit
    kept = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert kept == first[name]["rows"]


def test_a_training_goes_on_with_another_number_of_processes(
    together: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    network, rows = trained("plain", tmp_path, Alone())
    folder, (first, _) = together
    check_equal(rows, flat(network), first["alone"])
    begun = (folder / "begun" / "metrics.jsonl").read_text().splitlines()
    assert len(begun) == 1
    other, continued = trained("plain", folder / "begun", Alone())
    assert json.dumps(continued[0]) == begun[0]
    check_equal(rows, flat(network), {"rows": continued, "weights": flat(other)})


def test_an_error_of_all_is_told_once(tmp_path: Path) -> None:
    with two("-m", "certsnn", "verify", tmp_path / "nothing") as processes:
        (one, out, err), (other, quiet, silent) = said(processes)
    assert (one, other) == (2, 2)
    told = err + silent
    assert told.startswith("certsnn: error: ") and told.count("\n") == 1
    assert (out, quiet) == ("", "")


def test_an_error_of_one_ends_all_and_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ["train", str(tmp_path / "c.yaml"), "--run", str(tmp_path / "run")]
    with two(TOGETHER, tmp_path, *words) as processes:
        (one, _, err), (other, _, told) = said(processes)
    assert (one, other) == (2, 2)
    assert told == "certsnn: error: the second process is broken\n"
    assert err == ""


def test_ctrl_c_in_one_ends_all_and_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ["train", str(tmp_path / "c.yaml"), "--run", str(tmp_path / "run")]
    metrics = tmp_path / "run" / "metrics.jsonl"
    with two("-m", "certsnn", *words) as processes:
        wait_for(processes[0], lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
        processes[1].send_signal(signal.SIGINT)
        (one, _, err), (other, _, told) = said(processes)
    assert (one, other) == (2, 130)
    assert told.startswith("certsnn: stopped; ") and told.count("\n") == 1
    assert "Traceback" not in err and "error" not in err
    kept, refused = load_latest(tmp_path / "run")
    assert kept is not None and not refused
    assert kept.facts["epoch"] == len(metrics.read_text().splitlines()) >= 2


def test_a_killed_worker_of_a_verification_is_made_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ["verify", "digits-eps0.05", "--samples", "40", "--threat.eps", "0.1", "--method", "s-crown"]
    words = [*samples, "--batch-size", "1", "--threads", "1", "--results"]
    whole, killed, again = (tmp_path / f"{name}.jsonl" for name in ("whole", "killed", "again"))
    assert main([*words, str(whole)]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with subprocess.Popen(
        [*launcher, "-m", "--", "certsnn", *words, str(killed)],
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    ) as running:
        parts = [killed.with_name(f"{killed.name}.part{rank}") for rank in (0, 1)]
        wait_for(running, lambda: all(part.exists() and len(lines_of(part)) >= 3 for part in parts))
        psutil.Process(running.pid).children()[1].kill()
        running.communicate(timeout=60)
        assert running.returncode != 0
    done = [len(lines_of(part)) - 1 for part in parts]
    assert all(done) and sum(done) < 40
    for part in (killed, *parts):  # once more for one process alone
        if part.exists():
            part.with_name(part.name.replace("killed", "again")).write_bytes(part.read_bytes())
    with two("-m", "certsnn", *words, killed) as processes:
        (_, table, told), (_, quiet, silent) = said(processes)
    assert f"{sum(done)} of 40 samples are done already; going on from there" in told
    assert "verified error" in table and (quiet, silent) == ("", "")
    capsys.readouterr()
    assert main([*words, str(again)]) == 0
    assert f"{sum(done)} of 40 samples" in capsys.readouterr().err
    assert timeless(killed) == timeless(again) == timeless(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.jsonl", "killed.jsonl", "whole.jsonl"]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def timeless(path: Path) -> list[dict[str, Any]]:
    """A file of results, by index, without what differs from one verification to the next."""
    header, *rows = lines(path)
    rows = sorted(rows, key=lambda row: row["index"])
    return [header, *({name: part for name, part in row.items() if name != "seconds"} for row in rows)]


def wait_for(process: subprocess.Popen[Any], ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestWithoutALauncher:
    def test_nothing_is_averaged(self) -> None:
        x = torch.tensor([1.0, 2.0])
        batch = Alone().batch(Share(0, 2, 2))
        assert batch is WHOLE
        assert batch.mean(x) is x and batch.greatest(x) is x and batch.values(7) == 7

    @pytest.mark.parametrize("samples", [1, 2, 3, 4, 7, 100])
    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_shares_are_contiguous_and_nearly_equal(self, samples: int, count: int) -> None:
        shares = [Share(samples * r // count, samples * (r + 1) // count, samples) for r in range(count)]
        assert [i for share in shares for i in range(share.start, share.stop)] == list(range(samples))
        assert max(s.samples for s in shares) - min(s.samples for s in shares) <= 1
        assert sum(share.weight for share in shares) == pytest.approx(1)
        for share in shares:
            held = len(range(samples)[share.held])
            assert held == max(1, share.samples)
            assert share.scaled(6 * held) == 6 * samples


class TestLaunched:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stderr", sys.stderr)  # put back afterwards

    def test_without_accelerate_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "accelerate", None)
        with pytest.raises(UserError, match=r"2 processes.* pip install 'certsnn\[scale\]'"), launched("cpu"):
            pass

    def test_one_device_for_all_is_refused(self) -> None:
        with pytest.raises(UserError, match="can't share the device 'cuda:1'"), launched("cuda:1"):
            pass

    def test_only_the_first_process_is_heard(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            with launch.heard():
                print(f"this is {rank}")
        assert capsys.readouterr().out == "this is 0\n"

    def test_an_environment_that_makes_no_sense(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "many")
        with pytest.raises(UserError, match="variable WORLD_SIZE must be a number"):
            launch.count()


def test_a_plain_run_does_not_import_accelerate() -> None:
    code = (
        "import sys; import certsnn.cli.commands, certsnn.cli.distributed; print('accelerate' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
