"""``python -m certsnn`` is the command ``certsnn``."""

import sys

from certsnn.cli import main

sys.exit(main())
