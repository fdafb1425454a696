"""The one way in which all worlds refuse an argument."""


def require_ranges(*arguments: tuple[str, int, int, int]) -> None:
    """Raises ValueError for the first of (name, value, lowest, highest) that is out of its range."""
    for name, value, low, high in arguments:
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            raise ValueError(f"{name}={value}: out of range. Allowed: [{low}, {high}]. Nearest: {nearest}")
