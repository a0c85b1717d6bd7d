"""What watches a run by its events: the lines of its log, the bars of a terminal, an artifact.

``standing`` follows the events and says where the run stands, once for all of them. ``narration``
writes that as lines, ``terminal`` draws it as bars and needs `rich`, ``artifact`` keeps the Prefect
server up to date and needs `prefect`: import the one that is used. ``listening`` connects them
with a run.
"""
