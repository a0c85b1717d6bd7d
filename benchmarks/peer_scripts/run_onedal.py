"""Passes of oneDAL's ``em_gmm``, through daal4py, for ``peers.py``."""

import ctypes
from pathlib import Path

import daal4py
import numpy as np
from passes import arguments, load_start, serve

#: `CpuType` of oneDAL's ``Environment::getCpuId``.
INSTRUCTIONS = {0: "SSE2", 2: "SSE4.2", 4: "AVX2", 6: "AVX-512"}


def instructions() -> str:
    """The instructions that oneDAL has chosen for its own loops.

    No variable of the environment rules them: on processors of another maker than Intel oneDAL
    chooses AVX2, whatever these offer. The calls of MKL inside obey ``MKL_ENABLE_INSTRUCTIONS``.
    """
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split()[-1] for line in maps if "libonedal_core" in line}
    core = ctypes.CDLL(loaded.pop())
    environment = "_ZN4daal8services10interface111Environment"
    instance = getattr(core, f"{environment}11getInstanceEv")
    instance.restype = ctypes.c_void_p
    cpu = getattr(core, f"{environment}8getCpuIdEi")
    cpu.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return INSTRUCTIONS.get(cpu(instance(), 0), "unknown")


options = arguments()
daal4py.daalinit(options.threads)
X = np.load(options.directory / "rows.npy")
weights, means, covariances = load_start(options.directory)


def fit(iterations: int) -> np.ndarray:
    algorithm = daal4py.em_gmm(
        nComponents=len(weights), maxIterations=iterations, accuracyThreshold=0.0
    )
    return algorithm.compute(X, weights[None], means, list(covariances)).means


serve(fit, ["scikit-learn-intelex", "daal"], instructions())
