"""Draws plots (``bench.figures.plots``) as pictures. Imports matplotlib, and nobody else does.

draw.py     curves, bars and boxes
sheets.py   what they are drawn on: title, legend, remark
scales.py   numbers along an axis, pure
"""
