"""Tiny raw data under the names that docs/coming-from.md uses, and what makes its commands short."""

# What is added to a command of `minibatch train` by its recipe, so that it takes a second.
SHORTER: dict[tuple[str, ...], tuple[str, ...]] = {}


def prepare_raw_data(system, folder):
    """What the commands of a system convert, in `folder`."""
