"""The commands of the command line, one a file.

A file has `add(commands)`, which adds the command's grammar and sets `perform`, the function that is given the options
and returns the exit code. Files are found by walking this package; when loaded they import only the standard library.
"""
