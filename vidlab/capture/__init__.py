"""The engines: how events get into a run.

Nothing here imports polars, altair or anything of Jupyter: a service that is
being recorded installs only NumPy and PyArrow. PyAV, OpenCV and CuPy are
touched only if the program imports them.
"""
