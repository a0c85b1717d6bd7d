"""Passes for many features, over blocks of rows of which each lies in one piece.

With hundreds of features, hardly any row belongs to more than one component, and a few of its
features tell which. So the passes go row by row, and take the features in stages: what a stage
leaves no chance is dropped before the next one (`blocks.SPAN`). What remains is gathered, whitened
and multiplied by BLAS, whose blocks stay in the cache.
"""
