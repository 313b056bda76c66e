"""Folders that Hugging Face's `datasets` wrote with save_to_disk: a data set, or several of which `--subset` takes one.

The rows are in Arrow streams, named in state.json; dataset_info.json says what the columns are. Names of classes go
into the schema; images and audio become their encoded bytes (the names of their files are left out).
"""

from __future__ import annotations

import json
import os
from typing import Any

from minibatch.tools.sources import Options
from minibatch.tools.sources.arrow_files import ArrowSource, arrow_source
from minibatch.tools.sources.hf_features import features_of


def open_source(text: str, options: Options) -> ArrowSource:
    """The rows of the folder `text`, or of one of the data sets in it."""
    folder = text
    if os.path.exists(os.path.join(text, "dataset_dict.json")):
        splits = read_json(os.path.join(text, "dataset_dict.json")).get("splits", [])
        if options.subset is None:
            raise ValueError(
                f"{text!r} holds the subsets {', '.join(splits)}: choose one, such as --subset {splits[0]}"
            )
        if options.subset not in splits:
            raise ValueError(f"{text!r} holds no subset {options.subset!r}; there are {', '.join(splits)}")
        folder = os.path.join(text, options.subset)
    elif options.subset is not None:
        raise ValueError(f"{text!r} holds a single data set, not several of which --subset {options.subset} takes one")
    state = read_json(os.path.join(folder, "state.json"))
    if state.get("_indices_data_files"):
        raise ValueError(f"{folder!r} is a selection of the rows in its files: save it again after flatten_indices()")
    try:
        files = [os.path.join(folder, each["filename"]) for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder!r}: its state.json names no files under _data_files: {error!r}") from error
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(f"{folder!r} lacks the file {os.path.basename(file)!r}, which its state.json names")
    if not files:
        raise ValueError(f"{folder!r} holds no rows: its state.json names no files")
    info = os.path.join(folder, "dataset_info.json")
    described = read_json(info).get("features") if os.path.exists(info) else None
    return arrow_source(text, files, options, "Hugging Face data set", features_of(described) if described else None)


def read_json(path: str) -> dict[str, Any]:
    """The object in the file at `path`."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        raise ValueError(f"{path!r} is missing: was the folder written by save_to_disk, and copied in full?") from None
    except ValueError as error:
        raise ValueError(f"{path!r} is no JSON, it was truncated or is something else: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path!r} holds {type(found).__name__}, expected an object")
    return found
