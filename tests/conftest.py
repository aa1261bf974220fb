"""Settings for all tests."""

import matplotlib

matplotlib.use("Agg")            # no test opens a window
