"""`python -m hf_emotion.cli`: the form that `torchrun -m` and `accelerate launch -m` take."""

import sys

from . import main

sys.exit(main())
