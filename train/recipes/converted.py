"""Where the data sets of a recipe lie that `minibatch convert` has made."""

from collections.abc import Callable
from pathlib import Path

from minibatch.storage import MANIFEST
from minibatch.train.config import Prepared
from minibatch.train.recipes import origins


def converted(name: str, folder: Path, *, otherwise: Callable[[Path], Prepared] | None = None) -> Prepared:
    """The data sets `folder`/train and `folder`/valid, for `RunConfig.data`: `data=partial(converted, "cifar10")`.

    name: of a recipe, or of a data set, in the table of origins.py. otherwise: called with the folder where it holds
    neither of the two. Raises ValueError, with the ways to make them as notes, where one is not there.
    """
    missing = [part for part in origins.PARTS if not (folder / part / MANIFEST).is_file()]
    if otherwise is not None and len(missing) == len(origins.PARTS):
        return otherwise(folder)
    if missing:
        error = ValueError(
            f"the recipe {name} needs the data sets {folder / 'train'} and {folder / 'valid'}, and "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there"
            + (": there are these ways to give them" if origins.used_by(name) else "")
        )
        for line in origins.ways(name):
            error.add_note(line)
        raise error
    return Prepared(train=folder / "train", valid=folder / "valid")
