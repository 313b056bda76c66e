"""What can go wrong, drawn as a tree.

    MinibatchError                    everything this package raises on purpose
    ├── DatasetError (ValueError)     a data set cannot be used
    │   ├── UnfinishedDatasetError    the folder has no manifest: its writer has not finished
    │   ├── DamagedDatasetError       bytes are not what the manifest says
    │   └── SchemaError               fields or types that do not fit
    ├── CheckpointError (ValueError)  a state of other data, another seed or another order
    ├── WriterBusyError (RuntimeError)    another process is writing the same folder
    └── MissingExtraError (ImportError)   an optional library is not installed

Arguments of a wrong type or value raise plain `TypeError` and `ValueError`, as in Python itself.
"""


class MinibatchError(Exception):
    """The root of every error that this package raises on purpose."""


class DatasetError(MinibatchError, ValueError):
    """A data set cannot be used."""


class UnfinishedDatasetError(DatasetError):
    """The folder has no manifest: its writer was stopped, or is still at work."""


class DamagedDatasetError(DatasetError):
    """The bytes of a data set are not what its manifest says."""


class SchemaError(DatasetError):
    """Fields or types that do not fit: unknown, unsupported, or unlike those written before."""


class CheckpointError(MinibatchError, ValueError):
    """A checkpoint of other data, another seed or another order, or a damaged one."""


class WriterBusyError(MinibatchError, RuntimeError):
    """Another process is writing to the same folder."""


class MissingExtraError(MinibatchError, ImportError):
    """An optional library is not installed; the message has the command that installs it."""


def require(module: str, extra: str, purpose: str) -> None:
    """Raise `MissingExtraError` with the pip command unless `module` can be imported.

    >>> require("json", "train", "anything")
    """
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f'{purpose} needs {module!r}, which is not installed: pip install "minibatch-timeline[{extra}]"'
        )
