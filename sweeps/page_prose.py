"""The sentences of the result page that are the same for every sweep, as HTML."""

FRONT = """<p>By the first objective, best first, the base machine last; changes are against the base machine. A
design is on the front if no other is at least as good in all objectives and better in one. The knee is the design
of the front that lies farthest towards the best of all objectives at once, each on a logarithmic scale between its
ends of the front. Click a row to see the design in the charts.</p>"""

TRADE_OFFS = """<p>Each mark is a machine. Point at one to see its design on the right, click to keep it. The line
is the best that can be had of the two objectives shown; a design of the front that lies off it is better in another
one.</p>"""

MOST_LINES = 500
"""Lines of dominated designs, and of those without figures: more are no lines any more."""
PARALLEL = f"""<p>One line per design: blue on the front, orange the knee, black the base machine, dotted the one
that you chose, grey those without figures, which end before the objectives. <b>Drag a box over an axis</b> to keep
the designs that pass through it, here and above; hold Shift for a further box. Of dominated designs and of those
without figures at most {MOST_LINES} each are drawn.</p>"""

IMPORTANCE = """<p>Share of the variance of each objective (of its logarithm), among the feasible designs, that goes
with a parameter alone; what single parameters do not explain is at the bottom. Averaged over all orders in which
parameters can be considered (Lindeman, Merenda and Gold), so that parameters that the search moved together share
fairly.</p>"""

LIMITS = """<p>One bar per design, by the first objective; its colour is the resource that limits the workload, its
height the share of the time for which it does. Where the colour changes, the next gain has to come from somewhere
else.</p>"""

LOST = """<p>Infeasible designs do not fit or break a constraint; those discarded early have lower bounds that other
designs already beat. Reasons that differ only in numbers are counted together. The chart shows where such designs
(grey) lie among the feasible ones, at first over the two parameters that decide most; marks at the same values are
spread a little.</p>"""

COMPARISON = """<p>What a million tokens (or samples) take in energy at the server's plug, and cost in owning and
running the server, by the same assumptions for all. Ours are simulated, on one chip; the others were published by
those named, under other conditions: read the caveats before comparing.</p>"""
