"""Help, usage, progress, and values that no command takes."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from command_line import refused
from rich.console import Console

from certsnn import __version__
from certsnn.cli.app import main
from certsnn.cli.arguments import COMMANDS
from certsnn.cli.console import samples_note, samples_progress
from certsnn.evaluation.verification import SampleResult


def test_progress_of_a_cascade_names_its_stages() -> None:
    def result(stage: str, certified: bool) -> SampleResult:
        return SampleResult(0, 0, True, "certified" if certified else "unknown", 1.0, stage)

    done = [result("s-ibp", True), result("s-ibp", True), result("s-crown", True), result("s-crown", False)]
    note = samples_note(done, 9, ["s-ibp", "s-crown-ibp", "s-crown"])
    assert note == "4/9 samples, 3 certified (s-ibp 2, s-crown 1)"
    assert samples_note([], 9, ["s-ibp", "s-crown"]) == "0/9 samples, 0 certified"
    assert samples_note(done[:1], 9, ["s-ibp"]) == "1/9 samples, 1 certified"
    written = StringIO()
    with samples_progress(
        Console(file=written, force_terminal=True, width=120), "verifying", 9, ["s-ibp"]
    ) as shown:
        shown(done[:2])
        shown(done[2:])
    assert "4/9 samples, 3 certified" in written.getvalue()


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certsnn.cli.console.QUIET", 0.0)
    written = StringIO()
    with samples_progress(Console(file=written), "verifying", 3, ["s-ibp"]) as shown:
        shown([])
        for _ in range(2):
            shown([SampleResult(0, 0, True, "unknown", 1.0, "s-ibp")])
    assert written.getvalue() == (
        "1/3 samples, 0 certified; about 0.0 s left\n2/3 samples, 0 certified; about 0.0 s left\n"
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [("1", 1), ("2147483648", 2**31), ("512MiB", 2**29), ("2 gib", 2**31), ("1.5KiB", 1536), ("7B", 7)],
)
def test_sizes(size: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(source: str, overrides: list[str], setting: Any, *rest: object) -> int:
        assert setting.bounds.memory == expected
        return 17

    monkeypatch.setattr("certsnn.cli.calls.verify", asked)
    assert main(["verify", "x", "--memory", size]) == 17


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        *(
            ("--memory", value, "must be a size such as 512MiB, 2GiB or 2147483648 (bytes)")
            for value in ("", "lots", "2GB", "-1", "0", "0.5", "1e9", "MiB", "2GiB more")
        ),
        *(
            ("--seconds", value, "must be a number of seconds > 0")
            for value in ("", "long", "0", "-1", "nan", "inf")
        ),
        ("--relaxation", "tight", "invalid choice"),
        ("--batch-size", "0", "must be an integer of at least 1"),
    ],
)
def test_values_that_make_no_sense(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "x", f"{flag}={value}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert flag in said


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'trian' is not a command; did you mean train?" in refused(capsys, "trian")
    assert main(["--verbose"]) == 2
    assert "unrecognized arguments: --verbose" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"certsnn {__version__}, kernels: torch\n"
    assert main([]) == 0
    assert "certsnn train configs/digits.yaml" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "--training.objective.ramp.length" in capsys.readouterr().out
    assert main(["train"]) == 2
    assert "CONFIG" in capsys.readouterr().err
    assert main(["verify", "x", "--threads", "0"]) == 2
    assert "must be an integer of at least 1" in capsys.readouterr().err
    assert main(["models"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS[name].summary in shown and COMMANDS[name].details in shown
    assert all(option in shown for option in COMMANDS[name].options.split() if option.startswith("--"))
    assert all(f"  --{part}." in shown or f"  --{part} " in shown for part in COMMANDS[name].keys)
    assert "{" not in shown.replace("{true,false}", "").replace("{joint,separate}", "").replace("{class_", "")


def test_help_shows_the_defaults_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    reset = "  --network.neuron.reset  (zero or subtract or a number or (a number, a number); {})  of {}\n"
    assert reset.format("zero", "LIF") in shown and reset.format("subtract", "IF") in shown
    assert "  --training.objective.regularisers.weight  (a number; 1e-06)  of L1\n" in shown
    assert "  --training.objective.regularisers.weight  (a number; 0.5)  of FiringRate, Tightness\n" in shown
    assert "  --threat.seed  (an integer; 0)  of CoupledBernoulli, FreeSpikes\n" in shown


def test_help_needs_no_torch() -> None:
    code = "import sys; from certsnn.cli.app import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "verify", "nothing-here"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "certsnn: error: " in said
