"""The errors of the package. Each is also the built-in exception that a caller would catch.

::

    GmmDaskError
    ├── ConfigError(ValueError)          a key of a run or cluster file, a keyword of the estimator
    ├── InputError(ValueError)           the data
    │   ├── SchemaError                  a column is missing or of a type that cannot be used
    │   ├── BadFileError                 a file is damaged or cannot be opened
    │   ├── NonFiniteError               nulls, NaN or infinity where they are not allowed
    │   ├── TooFewRowsError              fewer usable rows than components
    │   ├── InputChangedError            the data changed after the input plan was made
    │   │   └── ValuesChangedError       a value is not what the first scan saw
    │   └── DriftError                   the data is not like what the model was fitted to
    ├── NumericalError                   the mathematics broke down; an ArithmeticError, and a
    │   │                                ValueError, which users of scikit-learn catch
    │   └── IllConditionedError          a covariance is not positive definite
    ├── StorageError(OSError)            reading or writing failed
    │   ├── ModelError                   a model is damaged, missing or does not fit the data
    │   └── ConflictError                another run published first
    └── ClusterError(RuntimeError)       workers or scheduler are lost, unsuitable or too slow

Each message says what, where (file, column, rows, component, key) and what to try, in one line.
"""

from __future__ import annotations

import errno

from gmm_dask.printable import printable

#: Errors of a disk or a network that may pass within a minute; a missing permission will not.
PASSING = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EAGAIN, errno.EBUSY,
    errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN,
}  # fmt: skip


class GmmDaskError(Exception):
    """Base class of every error that gmm-dask raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(GmmDaskError, ValueError):
    """A configuration key or a keyword has a value that cannot be used."""


class InputError(GmmDaskError, ValueError):
    """The data cannot be used."""


class SchemaError(InputError):
    """A column is missing, or has a type that is not a number."""


class BadFileError(InputError):
    """A file is damaged or cannot be opened.

    Attributes
    ----------
    path
        The file, relative to the root of the input.
    reason
        What is wrong with it, and what to try.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both are its arguments, by which it is pickled
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


class NonFiniteError(InputError):
    """A null, NaN or infinity stands where it is not allowed."""


class TooFewRowsError(InputError):
    """There are fewer usable rows than the model needs."""


class InputChangedError(InputError):
    """A file changed after the input plan was made."""


class ValuesChangedError(InputChangedError):
    """The values of a chunk are not those of the first scan."""


class DriftError(InputError):
    """The rows differ more than is allowed from those that the model was fitted to."""


class NumericalError(GmmDaskError, ArithmeticError, ValueError):
    """The computation left the range of floating point numbers."""


class IllConditionedError(NumericalError):
    """A covariance matrix is not positive definite.

    Attributes
    ----------
    component
        Whose covariance it is; 0 where all components share one.
    """

    component: int = 0


class StorageError(GmmDaskError, OSError):
    """Reading or writing failed."""


class ModelError(StorageError):
    """A model file is damaged, missing, or does not match the data."""


class ConflictError(StorageError):
    """Another run published first."""


class ClusterError(GmmDaskError, RuntimeError):
    """The cluster cannot be reached, cannot be used, or is too slow."""
