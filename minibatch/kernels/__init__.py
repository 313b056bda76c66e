"""Every compiled loop of the package, each with its contract in words; nothing outside this folder is compiled.

| file | what its loops do |
|---|---|
| `compile` | the one decorator, and the four operations on raw memory that Numba lacks |
| `permute` | integer hashing; keyed permutations; which row stands at a nominal time, and back |
| `gather` | rows from mapped Arrow buffers into an output buffer |
"""
