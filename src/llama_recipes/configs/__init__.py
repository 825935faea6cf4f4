"""Every setting, declared once; what may stand together; and how flags and files are read.

To read in this order: section.py, training.py and its neighbours (the declarations), run.py (all
of them together), settings.py (what is derived from a declaration), rules.py (what may stand
together), document.py (YAML), flags.py (argv), table.py (the page of documentation).
"""
