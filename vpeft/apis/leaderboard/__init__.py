"""The leaderboard: a page, Markdown and CSV of a folder of results, and the comparison with published tables.

``boards.py`` puts results on boards, ``against.py`` compares them with :mod:`vpeft.apis.results.published`, whose
``columns.py`` says which printed column is which figure of ours, ``page.py`` makes the page of ``assets/``, ``text.py`` Markdown and CSV, ``write.py`` all of it (``tools/leaderboard.py``).
"""
