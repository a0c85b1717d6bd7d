"""Passes of gmm-dask's estimator, for ``peers.py``."""

import warnings

import numpy as np
from llvmlite import binding
from passes import arguments, load_start, serve

options = arguments()
features = binding.get_host_cpu_features()
if options.avx2:
    for feature in features:
        features[feature] &= not feature.startswith("avx512")
    # What numba compiles for, and what the loops written by hand are as wide as, both ask here.
    binding.get_host_cpu_features = lambda: features

from gmm_dask import GaussianMixture  # noqa: E402

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


widest = "AVX-512" if features.get("avx512f") else "AVX2" if features.get("avx2") else ""
serve(fit, ["gmm-dask", "numba"], widest)
