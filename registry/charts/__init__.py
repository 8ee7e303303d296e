"""From values to pictures: axes, curves, bars, timelines and maps, as SVG and PNG. No records and files are read here."""
