"""Where findings go, one destination a file, and how processes are drawn for a person.

A sink has `write(detection)` and `flush()`; an `OSError` out of either means that it can take no
more, and the pipeline goes on without it.
"""
