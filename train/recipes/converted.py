"""Where the data sets of a recipe lie that `minibatch convert` has made."""

from pathlib import Path

from minibatch.storage import MANIFEST
from minibatch.train.config import Prepared


def converted(recipe: str, folder: Path) -> Prepared:
    """The data sets `folder`/train and `folder`/valid; ValueError that says how to make them where they are not there.

    For `RunConfig.data`: `data=partial(converted, "cifar10")`.
    """
    missing = [name for name in ("train", "valid") if not (folder / name / MANIFEST).is_file()]
    if missing:
        raise ValueError(
            f"the recipe {recipe} needs the data sets {folder / 'train'} and {folder / 'valid'}, and "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there: make them with "
            f"`minibatch convert` as the docstring of the recipe says, and name {folder} with --data"
        )
    return Prepared(train=folder / "train", valid=folder / "valid")
