"""Passes for many components, over bundles of rows that have few of them in common.

Of dozens of components that lie apart, a row has a share in one or two. Rows in any order have them
all within a tile, so that nothing can be left out. These passes put rows in order first, block by
block: each joins the region of a component that it is guessed to belong to (`regions`), by numbers
taken from the parameters (`guide`). A bound says which components may matter in a region; regions
that share a tile make a bundle, and a bundle takes the usual pass over tiles, with the mixture of
its components alone (`bundles`). What the bound leaves out has shares below 1e-16, and they are 0.

Where components overlap, the first rows of a block tell, and it takes the usual pass.
"""
