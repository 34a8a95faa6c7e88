"""``python -m certsnn`` is the command ``certsnn``."""

import sys

from certsnn.cli.app import main

sys.exit(main())
