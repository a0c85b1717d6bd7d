"""What our import of scipy's BLAS leaves for others in the process."""

import subprocess
import sys


def test_scipy_linalg_is_whole_when_it_is_imported_later():
    program = (
        "import sys, gmm_dask.mixture.engine; assert 'scipy.linalg' not in sys.modules; "
        "import scipy.linalg.cython_blas; "
        "scipy.linalg.cython_lapack, scipy.linalg.cython_blas.__pyx_capi__['dgemm']"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
