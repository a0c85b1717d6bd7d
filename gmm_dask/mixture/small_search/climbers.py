"""Many mixtures that climb the likelihood of a small sample together, in one compiled call.

Rows and responsibilities lie in tiles, as the compiled climb wants them, from the first start to
the last move. The rows are centred, so that no digits are lost far from the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import find_collapsed
from gmm_dask.mixture.kernels.climb import BROKEN, FORMS, climb
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import EMOptions, MixtureSpec


@dataclass(frozen=True, eq=False)
class Climbers:
    """b mixtures of the same form, and how far each has climbed.

    Attributes
    ----------
    weights, means
        π (b, k), and μ less the centre of the sample, (b, k, d).
    covariances
        Σ of the type's shape, flat, (b, …).
    counts
        N of the last E-step, in rows, (b, k).
    responsibilities
        Of the last E-step, times the weights of the rows, (b, t, k, ROWS).
    outcomes
        The mean log-likelihood of the last E-step (nats), its change, the iterations of the last
        climb, how that ended, and the component that broke it, (b, 5).
    firsts
        π, μ and Σ of the start from which each came, flat and joined, (b, …).
    """

    weights: FloatArray
    means: FloatArray
    covariances: FloatArray
    counts: FloatArray
    responsibilities: FloatArray
    outcomes: FloatArray
    firsts: FloatArray

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def log_likelihoods(self) -> FloatArray:
        """Mean log-likelihood of the last E-step, nats, (b,); −inf after a breakdown."""
        return self.outcomes[:, 0]

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Whether a covariance became singular, (b,)."""
        broken: npt.NDArray[np.bool_] = self.outcomes[:, 3] == BROKEN
        return broken

    @property
    def parameters(self) -> FloatArray:
        """π, μ and Σ, flat and joined, (b, …)."""
        means = self.means.reshape(len(self), -1)
        return np.concatenate([self.weights, means, self.covariances], axis=1)

    def take(self, indices: npt.NDArray[np.intp] | Sequence[int]) -> Climbers:
        """Copy the mixtures of these indices."""
        return Climbers(*(getattr(self, field.name)[indices] for field in fields(self)))

    def join(self, others: Climbers) -> Climbers:
        """Put other mixtures behind these."""
        names = [field.name for field in fields(self)]
        return Climbers(
            *(np.concatenate([getattr(self, name), getattr(others, name)]) for name in names)
        )


class SmallSample:
    """The rows on which mixtures climb, and the count of the iterations that they took.

    Parameters
    ----------
    sample
        Rows in memory.
    spec
        The mixture wanted; the caller fixed none of its parameters.

    Attributes
    ----------
    rows, row_weights
        The rows less their centre, (m, d), and their weights, of mean 1, (m,).
    tiles, tile_weights
        The same in tiles, feature-major, (t, d, ROWS) and (t, ROWS); the last tile is filled up
        with rows of weight 0.
    variances
        Of the features, (d,).
    pooled
        Covariance of all rows in the form of a single component, flat.
    iterations
        EM iterations of all mixtures so far.
    """

    def __init__(self, sample: Sample, spec: MixtureSpec) -> None:
        self.spec = spec
        self.covariance = COVARIANCE_TYPES[spec.covariance_type]
        X = np.asarray(sample.X, np.float64)
        m, d = X.shape
        self.centre = X.mean(axis=0)
        self.rows = X - self.centre
        weights = np.ones(m) if sample.sample_weight is None else sample.sample_weight
        self.row_weights = weights / weights.mean()
        self.variances = np.asarray(np.square(self.rows).mean(axis=0))
        tiles = -(-m // ROWS)
        columns, weights = np.zeros((d, tiles * ROWS)), np.zeros(tiles * ROWS)
        columns[:, :m] = self.rows.T
        weights[:m] = self.row_weights
        self.tiles = np.ascontiguousarray(columns.reshape(d, tiles, ROWS).transpose(1, 0, 2))
        self.tile_weights = weights.reshape(tiles, ROWS)
        self.pooled = np.ravel(
            self.covariance.estimate(
                self.rows, self.row_weights[:, None], np.asarray([float(m)]), np.zeros((1, d)), spec
            )
        )
        self.iterations = 0

    def in_tiles(self, responsibilities: FloatArray) -> FloatArray:
        """Lay responsibilities of rows, (b, k, m), in tiles, (b, t, k, ROWS)."""
        b, k, m = responsibilities.shape
        padded = np.zeros((b, k, self.tile_weights.size))
        padded[:, :, :m] = responsibilities
        return np.ascontiguousarray(padded.reshape(b, k, -1, ROWS).transpose(0, 2, 1, 3))

    def start(self, weights: FloatArray, means: FloatArray, covariances: FloatArray) -> Climbers:
        """Make climbers of given parameters; for their shapes see `Climbers`."""
        b, k = weights.shape
        climbers = Climbers(
            weights,
            means,
            covariances,
            np.zeros((b, k)),
            np.zeros((b, len(self.tiles), k, ROWS)),
            np.zeros((b, 5)),
            np.empty((b, 0)),
        )
        return replace(climbers, firsts=climbers.parameters)

    def climb_from(
        self, responsibilities: FloatArray, options: EMOptions, firsts: FloatArray
    ) -> Climbers:
        """Run EM from responsibilities times weights, (b, t, k, ROWS), by an M-step first.

        ``firsts`` are those of the mixtures from which the responsibilities come.
        """
        b, _, k, _ = responsibilities.shape
        d = len(self.centre)
        components = k if self.covariance.by_component else 1
        climbers = Climbers(
            np.zeros((b, k)),
            np.zeros((b, k, d)),
            np.tile(self.pooled, (b, components)),
            np.zeros((b, k)),
            responsibilities,
            np.zeros((b, 5)),
            firsts,
        )
        return self._climb(climbers, True, options)

    def start_from(self, responsibilities: FloatArray, options: EMOptions) -> Climbers:
        """Make climbers from the responsibilities of a start, and run EM.

        Their first parameters are those after one iteration.
        """
        nothing = np.empty((len(responsibilities), 0))
        climbers = self.climb_from(responsibilities, replace(options, max_iter=1), nothing)
        climbers = replace(climbers, firsts=climbers.parameters)
        if options.max_iter == 1:
            return climbers
        return self.climb(climbers, replace(options, max_iter=options.max_iter - 1))

    def climb(self, climbers: Climbers, options: EMOptions) -> Climbers:
        """Run EM on from the parameters of each mixture, which are changed in place."""
        return self._climb(climbers, False, options)

    def _climb(self, climbers: Climbers, maximize_first: bool, options: EMOptions) -> Climbers:
        climb(
            FORMS[self.spec.covariance_type],
            self.tiles.reshape(len(self.tiles), -1),
            self.tile_weights,
            maximize_first,
            climbers.responsibilities,
            climbers.weights,
            climbers.means,
            climbers.covariances,
            climbers.counts,
            climbers.outcomes,
            float(self.spec.reg_covar),
            float(options.tol),
            int(options.max_iter),
        )
        self.iterations += int(climbers.outcomes[:, 2].sum())
        return climbers

    def covariances_of(self, climbers: Climbers) -> FloatArray:
        """Return the covariances in the shape of their type, (b, …)."""
        b, k, d = climbers.means.shape
        return climbers.covariances.reshape(b, *self.covariance.shape(k, d))

    def count_defects(self, climbers: Climbers) -> npt.NDArray[np.intp]:
        """Count the collapsed and starved components of each mixture, (b,)."""
        k, d = climbers.means.shape[1:]
        defective = climbers.counts < self.covariance.least_rows(d)  # (b, k)
        finite = np.isfinite(climbers.covariances).all(axis=1)  # (b,)
        defective[~finite] = True
        defective[finite] |= find_collapsed(
            self.covariance,
            self.covariances_of(climbers)[finite],
            k,
            self.variances,
            self.spec.reg_covar,
        )
        return np.asarray(np.count_nonzero(defective, axis=1))

    def rank(self, climbers: Climbers) -> npt.NDArray[np.intp]:
        """Return the indices of mixtures, best first, as `gmm_dask.mixture.criteria.rank` does."""
        defects = self.count_defects(climbers)
        return np.lexsort((-climbers.log_likelihoods, defects, climbers.broken))

    def parameters(self, climbers: Climbers, index: int) -> MixtureParameters:
        """Make the parameters of a mixture where the rows were before they were centred."""
        return self._parameters(climbers.parameters[index])

    def first_parameters(self, climbers: Climbers, index: int) -> MixtureParameters:
        """Make the parameters of the start of a mixture, likewise."""
        return self._parameters(climbers.firsts[index])

    def _parameters(self, values: FloatArray) -> MixtureParameters:
        k, d = self.spec.n_components, len(self.centre)
        weights, means, covariances = np.split(values, [k, k + k * d])
        return MixtureParameters.from_covariances(
            self.spec.covariance_type,
            weights.copy(),
            means.reshape(k, d) + self.centre,
            covariances.reshape(self.covariance.shape(k, d)).copy(),
        )
