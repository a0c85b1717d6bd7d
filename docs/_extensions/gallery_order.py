"""In which order the gallery shows its pages: as one would learn it."""

ORDER = (
    "em_in_one_dimension.py",
    "em_in_two_dimensions.py",
    "kmeans_and_a_mixture.py",
    "stars.py",
    "larger_than_memory.py",
)


def order_of(filename: str) -> int:
    """Return the place of a page.

    Raises
    ------
    ValueError
        The page has no place yet.
    """
    return ORDER.index(filename)
