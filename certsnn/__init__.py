"""Provably robust spiking neural networks: train them, prove their robustness, attack them."""

from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

# bounds/ and train/ stand beside this folder in a checkout, and in it once installed. Python prefers the
# checkout that it is started in (`python -m`, `torchrun -m`) to what is installed.
if find_spec("certsnn.bounds") is None:
    raise ImportError(
        f"{Path(__file__).parent} is certsnn's source folder, which is no whole package: start Python in "
        "another folder, or install the checkout with `pip install -e .`"
    )
