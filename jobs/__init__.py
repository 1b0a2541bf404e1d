"""Commands: `fastbert NAME --help`, or `python jobs/NAME.py --help` from a clone."""

import os
import sys

# Python puts a script's folder first on its path, and Ray's workers do the same. Files of this
# folder would then shadow libraries.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [place for place in sys.path if os.path.realpath(place) != _HERE]
