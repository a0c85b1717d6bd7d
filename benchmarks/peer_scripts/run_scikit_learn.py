"""Passes of scikit-learn's ``GaussianMixture``, for ``peers.py``."""

import warnings

import numpy as np
from passes import arguments, load_start, serve
from sklearn.mixture import GaussianMixture

options = arguments()
warnings.simplefilter("ignore")  # a fit that is stopped says so
X = np.load(options.directory / "rows.npy")
weights, means, covariances = load_start(options.directory)


def fit(iterations: int) -> np.ndarray:
    mixture = GaussianMixture(
        len(weights),
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariances),
        tol=0.0,
        max_iter=iterations,
    ).fit(X)
    return mixture.means_


serve(fit, ["scikit-learn", "numpy"], "AVX2" if options.avx2 else "")
