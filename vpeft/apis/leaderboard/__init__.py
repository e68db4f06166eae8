"""The leaderboard: one page, and the same as Markdown and CSV.

``boards.py`` puts results on boards, ``against.py`` compares them with what others have published, ``page.py`` makes
the page of what lies in ``assets/``, ``text.py`` Markdown and CSV, ``write.py`` all of it (``tools/leaderboard.py``).
"""
