"""`python -m unils_training` is `unils-train`."""

import sys

from unils_training.cli import main

sys.exit(main())
