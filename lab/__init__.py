"""Everything of this project that is not the model: training, runs, measures, chapters, commands.

Nothing runs at import; `python -m lab` lists the commands.
"""
