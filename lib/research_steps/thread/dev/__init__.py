"""Dev mode: one configuration against the baseline, without the executor, answered in about a second and recorded.

A command (`command`) has the kept parent of the checkout fork a helper, which makes one attempt (`attempt`): the same
trial as a step's, by the same launcher, in the same journal. What was found is scratch until it is kept as an entry
(`keep`). Nothing here loads Marin.
"""
