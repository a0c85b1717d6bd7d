"""What every test starts from."""

import os

# Read by scipy when it is first imported; one of scikit-learn's checks runs only with it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
