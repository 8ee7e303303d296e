"""Reports: one page that says what is on record of a task, an adapter or the whole registry, for people without a terminal.

`facts` and the modules beside it read the records into plain values, bounded whatever the registry's size; `page` makes
HTML of those values and of nothing else, with pictures that are drawn by arithmetic.
"""

from .facts import Facts, collect
from .page import page
from .report import report
from .written import Written

__all__ = ["Facts", "Written", "collect", "page", "report"]
