"""Commands: `fastbert NAME --help`, or `python jobs/NAME.py --help` from a clone."""

import os
import sys

# A script's folder is first on its path, and on that of Ray's workers, where this one's files would
# shadow libraries.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [place for place in sys.path if os.path.realpath(place) != _HERE]
