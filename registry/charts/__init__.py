"""From values to pictures: axes, curves, bars, timelines and maps, as SVG or drawn with matplotlib.

No records and no files of a registry are read here.
"""
