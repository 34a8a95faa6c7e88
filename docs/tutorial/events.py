"""From raw events to a certified classifier.

    python docs/tutorial/events.py [FOLDER]

An event camera reports no images: each of its pixels says, on its own, when it became brighter or darker.
A spiking network takes such data as they are. This tutorial makes events, turns them into spikes, trains a
small network on them, and then *proves*, recording by recording, that no change of up to k spikes alters its
answer.

It needs nothing but certsnn (no download), takes about a minute on one core, and leaves its pictures in
FOLDER, or in a temporary one. The `# %%` lines make it a notebook in editors that know them.
"""

# %% What is used
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from certsnn.attacks import ExhaustiveFlips, GreedyFlips
from certsnn.bounds import certify
from certsnn.data import Frames, ImageDataset, Saccades, SpikeDataset, load, loader
from certsnn.evaluation import evaluate
from certsnn.inputsets import SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.program import strictly_correct
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import Task, train
from certsnn.train.objectives.certified import Certified
from certsnn.train.schedules import Ramp

named = len(sys.argv) == 2 and not sys.argv[1].startswith("-")  # a notebook has words of its own there
folder = Path(sys.argv[1] if named else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## 1. Events
#
# `Saccades` simulates a camera in front of a picture that moves along a triangle, as N-MNIST was recorded.
# The pictures are the 8x8 handwritten digits that come with scikit-learn; the sensor is two pixels larger.
#
# A recording is a list of events, and an event is four numbers: column, row, polarity (1 brighter, 0 darker)
# and microseconds.

# %%
digits = load("digits", "test")
assert isinstance(digits, ImageDataset)
camera = Saccades()
(recording,) = camera.events(digits.images[:1], digits.index[:1])
height, width = camera.sensor(*digits.shape[1:])

print(f"A digit {int(digits.labels[0])}, seen by {width}x{height} pixels: {len(recording.time)} events")
print("column  row  polarity  microseconds")
for x, y, polarity, time in list(zip(*recording, strict=True))[:5]:
    print(f"{x:6d}{y:5d}{polarity:10d}{time:14d}")

# %% [markdown]
# ## 2. Frames
#
# A network computes in steps, so time is cut into `steps` windows. A bit of a frame says whether its pixel
# had an event of its polarity in the window: 0 or 1, a spike or none. How many events there were is
# forgotten; what remains is a spike train `[T, C, H, W]`, here 6 steps of 2 polarities of 10x10 pixels, 1,200
# bits.
#
# `Frames.of(events, height, width)` does that for the events of any camera. A simulated one also knows when
# its motion began, before the first event, and counts the windows from there.

# %%
frames = Frames(steps=6)
(bits,) = camera.frames(digits.images[:1], digits.index[:1], frames)
spikes = int(bits.sum())
print(f"Its frames: {list(bits.shape)}, {spikes} of {bits.numel()} bits are spikes")

figure = Figure(figsize=(11, 4.5), layout="constrained")
above, below = figure.subfigures(2)
events = above.subplots()
for polarity, colour in ((0, "tab:blue"), (1, "tab:red")):
    chosen = recording.polarity == polarity
    name = ("darker", "brighter")[polarity]
    events.scatter(recording.time[chosen] / 1000, recording.x[chosen], s=6, color=colour, label=name)
events.set(xlabel="milliseconds", ylabel="column", title="events: a mark for each, whatever its row")
events.legend(loc="upper left", bbox_to_anchor=(1, 1))
for step, place in enumerate(below.subplots(1, frames.steps)):
    darker, brighter = bits[step].float()
    # White where nothing happened, red and blue as above, purple where both did.
    place.imshow(torch.stack([1 - darker, 1 - 0.7 * (darker + brighter).clamp(max=1), 1 - brighter], dim=2))
    place.set(xticks=[], yticks=[], title=f"frame {step + 1}")
figure.savefig(folder / "events.png", dpi=120)

# %% [markdown]
# `load` does all of this for a whole data set, and keeps the frames on disk. The training recordings are
# split: the validation part chooses the best epoch, and the test set is not looked at before the end.

# %%
training, validation = load("digits-saccades", "train", frames=frames).split(0.15, seed=0)
test = load("digits-saccades", "test", frames=frames)
assert isinstance(test, SpikeDataset)
assert torch.equal(test.spikes[0], bits)  # the same camera, the same events
print(f"{len(training)} recordings to train on, {len(validation)} to validate, {len(test)} to test")

# %% [markdown]
# ## 3. A network
#
# Linear layers with spiking neurons between them. `IF` adds up what comes in, fires when the sum reaches the
# threshold, and subtracts it; a start at half a threshold makes its spike count the nearest whole number of
# thresholds. The class is the last layer with the largest mean membrane.

# %%
torch.manual_seed(0)
network = SpikingNetwork(
    [
        nn.Flatten(),
        nn.Linear(2 * height * width, 100),
        nn.BatchNorm1d(100),
        IF(threshold=1.0, initial=0.5),
        nn.Linear(100, 10),
    ],
    steps=frames.steps,
    readout="membrane",
    input="spikes",
)

# %% [markdown]
# ## 4. The adversary, and training against it
#
# `SpikeFlips(1)` says what it may do: flip any one of the 1,200 bits, that is, remove a spike or make one up.
# There are 1,201 trains within that reach; with two flips there are 720,601, with three over 288 million.
#
# Trying them all is hopeless, and no attack that fails proves anything. So training uses *bounds*: intervals
# that hold for every train in reach, from the first layer's currents to the margins between the classes.
# `Certified` lowers the loss at the worst end of these intervals. It begins without an adversary; the `Ramp`
# lets it grow.

# %%
threat = SpikeFlips(1)
settings = TrainingConfig(Certified(Ramp(start=1, length=9)), epochs=20, batch_size=64)
progress = train(network, Task(training, validation, threat), settings, folder / "run", seed=0)
network.eval()

print("epoch  validation error: clean  verified")
for row in progress.rows[::4] + progress.rows[-1:]:
    print(f"{row['epoch']:5.0f}{row['clean_error']:24.1f}%{row['verified_error']:9.1f}%")

# %% [markdown]
# ## 5. Certify
#
# `certify` bounds the margins once more, now covering every rounding error of the network as it runs. A
# recording is certified if the bounds leave no room for another class, or a tie: then *no* single flip, found
# by whatever attack, now or later, changes the answer.

# %%
x, labels, index = test[range(len(test))]
verdict = certify(network, x, labels, threat)
right = strictly_correct(network(x), labels)
print(f"{right.float().mean():.1%} of the test recordings are classified correctly,")
print(f"{verdict.certified.float().mean():.1%} correctly and provably so under any one flip")

# %% [markdown]
# ## 6. Attack
#
# An attack bounds the truth from the other side. `GreedyFlips` ranks flips by gradients and measures the best
# of them. Each recording that it breaks comes with its evidence, which is easy to check.

# %%
attack = GreedyFlips()
result = attack(network, x, labels, threat)
assert threat.contains(x, result.adversarial).all()  # it kept to the rules,
still_right = strictly_correct(network(result.adversarial), labels)
assert torch.equal(still_right, ~result.success)  # did what it says,
assert not (result.success & verdict.certified).any()  # and broke nothing that was proved.
print(f"{1 - result.success.float().mean():.1%} are still correct after the attack")

# %% [markdown]
# With one flip the truth itself is within reach: 1,200 trains for each recording. It lies between the two.

# %%
few = slice(0, 100)
exact = ExhaustiveFlips()(network, x[:, few], labels[few], threat).success
assert (exact | ~result.success[few]).all()  # the attack found nothing that is not there,
assert (~exact | ~verdict.certified[few]).all()  # and the proofs hold against all 1,200.
certified, robust, survived = (int(mask[few].sum()) for mask in (verdict.certified, ~exact, ~result.success))
print(f"Of the first 100, {certified} are certified, {robust} are robust, and {survived} survived the attack")

# %% [markdown]
# ## 7. Larger budgets
#
# `evaluate` does all three at once, and stops with an error if an attack ever contradicts a bound. The same
# network, trained against one flip:

# %%
budgets, reports, proved = (1, 2, 3), [], []
for budget in budgets:
    report = evaluate(network, loader(test, 150), SpikeFlips(budget), attacks=[attack])
    reports.append(report)
    proved.append({sample.index for sample in report.results if sample.status == "certified"})
    print(
        f"{budget} flip(s): clean error {report.clean_error:.1f}%, under attack {report.attack_error:.1f}%, "
        f"verified {report.verified_error:.1f}%"
    )

# The three errors never change places, and a proof for more flips is a proof for fewer.
for report in reports:
    assert report.clean_error <= report.attack_error <= report.verified_error
assert proved[2] <= proved[1] <= proved[0]

figure = Figure(figsize=(6, 4), layout="constrained")
axes = figure.subplots()
for name, values in (
    ("clean", [100 - report.clean_error for report in reports]),
    ("under attack", [100 - report.attack_error for report in reports]),
    ("certified", [100 - report.verified_error for report in reports]),
):
    axes.plot(budgets, values, marker="o", label=name)
axes.set(xlabel="flipped spikes", ylabel="test recordings (%)", xticks=budgets, ylim=(0, 100))
axes.legend()
figure.savefig(folder / "budgets.png", dpi=120)
print(f"Pictures: {folder / 'events.png'}, {folder / 'budgets.png'}")

# %% [markdown]
# The truth lies between the two lower lines. What to try next:
#
# - train against more flips: `threat = SpikeFlips(3)`;
# - tighter bounds of the same network: `method="auto"` in `certify`;
# - flips of one kind, `SpikeFlips(1, kind="drop")`, or spikes that move in time, `SpikeShift`;
# - real recordings: `certsnn train configs/nmnist.yaml --data.root DIR`, and docs/events.md.
