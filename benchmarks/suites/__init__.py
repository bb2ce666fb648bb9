"""Suites of models, one module each: `names()` lists them, `build(name)` makes one with an input.

`build` returns `(model, args, kwargs)`: random weights, eval mode, and an example input that the
model accepts. No suite knows a layer, a head count or an attribute of a model.
"""
