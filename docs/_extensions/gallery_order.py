"""In which order the gallery shows its pages: as one would learn it."""

ORDER = (
    "em_in_one_dimension.py",
    "em_in_two_dimensions.py",
    "kmeans_and_a_mixture.py",
    "singular_covariance.py",
    "from_few_labels.py",
    "stars.py",
    "larger_than_memory.py",
)


class LearningOrder:
    """The place of each page in `ORDER`; a page without a place fails the build."""

    def __init__(self, folder: str) -> None:
        self.folder = folder  # sphinx-gallery gives it to every order

    def __call__(self, filename: str) -> int:
        """Return the place of a page."""
        return ORDER.index(filename)
