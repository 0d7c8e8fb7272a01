"""What docs/results/inference.md says beside its figures; `inference_results` fills in these."""

PAGE = """# PEARL, TIGR and CEMRL

Learners that infer the task: [PEARL](../methods/pearl.md) from the episodes so far, [TIGR and
CEMRL](../methods/tigr.md) before each step from the last ones. All figures are of test tasks and
deterministic actions unless they say otherwise. Sizes are reduced, as each section says; the
published ones stand in `gin/papers/` and were not run. One process with one thread for each run;
minutes are its processor time, evaluations included, on a virtual machine of two cores on which
other work ran. One to three seeds: nothing here ranks methods.

{commands}
    python benchmarks/inference_results.py runs --out docs/results

This page is written by the last command from the runs' metrics.jsonl and eval/, and from the
newest checkpoint where latents are shown; the pictures are those of the commands below them. "Not
ended" is a run that was stopped, or still went on, when the page was written: its figures are
those so far. The expectations were written down before the runs. In a picture of curves the thick
line is the last episode, or deterministic actions, the thin one the first episode, or sampled
actions; one seed has no interval.

{sections}
"""

POINT_ROBOT = """## PEARL, point robot

A point moves by at most 0.1 along each axis, 20 steps an episode, from a uniform start in the
square [-1, 1]^2 to a goal it is not shown; a step pays minus the distance. 40 training goals, 10
test goals. Against the published run: 40 and 10 goals for 80 and 20; hidden layers of 64, 64 for
300, 300, 300, in the encoder for 200, 200, 200; 60 steps of each task at the start for 200; 20
tasks of an iteration for 5, with 40 prior, 40 posterior and 40 extra steps for 200, 0 and 200;
300 updates for 1000; 64 rows and 32 context transitions for 256 and 64; learning rate 1e-3 for
3e-4; reward scale 20 for 100 and discount 0.9 for 0.99; 30 iterations for 500; ten episodes of an
evaluation for three.

These are not the first sizes tried. With 5 tasks of an iteration, 100 steps at the start, 100
prior, no posterior and 100 extra steps and 200 updates (34,000 steps in all, three episodes of an
evaluation) one seed was run, seed 0: -15.76 in the first episode, -12.02 in the third, so that
both expectations below were missed. Five changes of it were then tried with seed 0: 1000 updates;
20 tasks; 20 tasks with 40 prior steps; 20 tasks with 60 prior steps, 500 updates and layers of
128, 128; and the sizes above. Third episodes came to between -13 and -10.7. Contexts of the last
hold posterior episodes, as an evaluation's do, and its tenth episode reached -7; so it was kept,
with more than twice the steps, and the evaluation was made longer. The expectations were written
for 34,000 steps and the third episode, and are held against the third episode here too. The tenth
is shown beside; that it be looked at was decided after that miss, and no expectation stands
behind it.

What some policies get, computed from the rules; the second is the best there is without knowing
the task where goals are uniform:
"""

CHEETAH_PEARL = """## PEARL, half-cheetah, forward or backward

Two tasks, which are training and test tasks alike; 200 steps an episode. Two episodes with
latents of the prior, the third with one of the posterior, four times from the start. Against the
published run: hidden layers of 128, 128 for 300, 300, 300 in policy and values, 128 rows of a
task for 256, and 31 iterations for 500; updates, collections, contexts and encoder are the
published ones. Stored: means of three seeds of other people's runs of the published sizes,
smoothed, third episode too; the nearest evaluation stands beside. Of the expectations the first
was for a tenth of the updates, the second for the published sizes. Forward and backward are of
episode 3: the mean of the four repetitions, and the least. The evaluation draws its two training
tasks with replacement, and with this seed both are backward: the panel of training tasks shows
that direction alone, and says nothing of generalisation.
"""

FAMILIES = """## TIGR, point robots of two families

A place to be reached, paid minus the distance relative to its distance from the origin, or a
direction along x, paid 10 times the way (20 is the most in an episode); 40 training tasks, 20
test tasks, 20 steps an episode. One episode of each task, from an empty window; accuracy counts
from the fifth step on. Returns are means over the test tasks of a family.
"""

CHEETAH = """## TIGR, CEMRL and no latent, half-cheetah, forward or backward

Two tasks, which are training and test tasks alike; one episode of 200 steps of each, from an
empty window, so that the first steps are taken without knowing the direction. "No latent" is the
soft actor-critic of the same loop, with as many steps of environments and policy, whose networks
see the observation alone: what such a policy gains in one task it loses in the other, so that the
mean of both is at most 0 but for the luck of starts. Its hidden layers are drawn by the width of
their inputs, those of the others by that of their outputs.

All: 4 episodes (800 steps) and 800 policy steps of 256 rows in an epoch, hidden layers of 128,
128 for 300, 300, 300. TIGR against its published run: 4 episodes for 20, 800 policy steps for
2048, 128 inference steps of 512 windows for 4096, 2 units for each number of an input for 5, 125
epochs for 501, temperature 0.02 for 0.2; T 16, K 2, L 1 and labels of weight 0.1 are published.
"No latent" has TIGR's temperature. CEMRL against its own: 800 steps for 1200, 800 policy steps for
2000, 128 inference steps of 512 windows for at most 5000 of 256 that stop early, 5 units for 10,
alpha 0.1 for 0.01, mean probabilities for summed ones, a temperature that starts at 0.1 for 1, 125
epochs for 1001; T 10, K 2, L 1, the 8 positions predicted, and no labels either way.

Stored: CEMRL, means of three seeds of other people's runs of the published sizes, smoothed, at
25, 50 and 100 thousand steps. Accuracy is the evaluations' own; with CEMRL both directions are
one family, so that it would say nothing there. Of the newest checkpoint, from the tenth step of
the episodes on: separation, the distance between the two directions' mean latents in pooled
standard deviations; the share of steps whose latent is nearer to their own direction's mean; and
of those whose likeliest component is the one matched with their direction.

These are not the first settings tried. In the first runs of all three (one seed) TIGR had the
published temperature (`ALPHA = 0.2`), and CEMRL 2 units for each number (`COMPLEXITY = 2.0`), alpha
0.01 (`KL_WEIGHT`), a temperature that started at 1 (`ALPHA`), and all 20 numbers predicted
(`TransitionDecoder.reconstructed = None`). That was an earlier version of the code, which drew
other numbers, so that its figures are not given. A cheetah that stands still is paid nothing in
both directions, and standing was nearly all that was learnt forward. Two causes were found. A
fixed temperature of 0.2 is high for rewards of this size: forward alone and without a latent
hardly anything was learnt in 28,000 steps with it, and running with 0.02 or with
`LatentSAC.learn_alpha = True`; to be seen, in `eval/return`, by

    python -m runners.train --gin_file=gin/quick/blind_cheetah_direction.gin \\
        --workdir=runs/forward --gin="RobotSuite.families = ['direction_forward']" \\
        --gin='RobotSuite.sizes = (1, 1)' --gin='NUM_COMPONENTS = 1' --gin='ITERATIONS = 40' \\
        --gin='ALPHA = 0.2'

And CEMRL's small encoder learnt its windows by heart: with it `validation/reward` stays far above
`loss/reward` for longer. The expectations are those written down before the first runs.

With the present settings TIGR runs in both directions. CEMRL runs backward, and forward a fifth as
far. Its z has two places, one for each direction: in the episodes shown it stays at its own
backward, but for three steps; forward it leaves it at step 150 and ends at that of backward. It is
one seed of each: runs that draw other numbers differ.
"""

LATENTS = {
    "latent_space": "{method} at iteration {step}: latents by true task",
    "responsibilities": "{method} at iteration {step}: weights of the mixture along test episodes",
}
