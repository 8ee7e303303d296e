"""From values to pictures: axes, curves, bars, timelines and maps, as SVG, and as PNG made from that.

No records and no files of a registry are read here.
"""
