"""The command line, `minibatch COMMAND`: one file per command; the import name is minibatch.tools."""

if __name__ != "minibatch.tools":
    raise ImportError(
        f"tools/ was imported as {__name__!r}, but its import name is 'minibatch.tools': "
        "write `from minibatch.tools import ...`, or run `python -m minibatch.tools.cli`"
    )
