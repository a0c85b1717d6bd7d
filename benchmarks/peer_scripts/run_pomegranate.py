"""Passes of pomegranate's ``GeneralMixtureModel``, for ``peers.py``.

It keeps densities and responsibilities in float32, also of float64 rows.
"""

import numpy as np
import torch
from passes import arguments, load_start, serve
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

options = arguments()
torch.set_num_threads(options.threads)
X = torch.from_numpy(np.load(options.directory / "rows.npy"))
weights, means, covariances = (torch.from_numpy(a) for a in load_start(options.directory))


def fit(iterations: int) -> np.ndarray:
    components = [Normal(m, c) for m, c in zip(means.clone(), covariances.clone(), strict=True)]
    mixture = GeneralMixtureModel(
        components, priors=weights.clone(), max_iter=iterations, tol=-np.inf
    )
    mixture.fit(X)
    return torch.stack([component.means for component in components]).numpy()


serve(fit, ["pomegranate", "torch"], torch.backends.cpu.get_cpu_capability())
