"""Those who watch a run by its events: the lines of its log, the bars of a terminal, an artifact.

``narration`` writes lines, ``terminal`` draws bars and needs `rich`, ``artifact`` keeps the server
up to date and needs `prefect`: each imports what it needs, and nobody imports all of them.
"""
