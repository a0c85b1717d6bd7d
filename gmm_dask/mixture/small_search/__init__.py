"""The search on a small sample, where a call of numpy costs more than an iteration of EM.

`climbers` climbs many mixtures in one compiled call, `seeds` makes their starts, `moves` moves
them, and `rounds` is the search. `halves` splits a component of any mixture in the same way.
"""
