"""The page docs/results/precision.md with its picture, made from the metrics of finished runs.

    python benchmarks/precision_results.py runs --out docs/results

`runs` holds `<experiment>/seed_<n>/metrics.jsonl`, as the commands in the page write them.
"""

from pictures import Picture
from two_tasks import make_page

METHODS = {
    "mtsac_two_tasks": "MT-SAC, fp32",
    "mtsac_two_tasks_bf16": "MT-SAC, bf16_matmul",
    "mtsac_two_tasks_autocast": "MT-SAC, autocast",
}
THRESHOLDS = dict.fromkeys(METHODS, (0.8, 0.9))
SUCCESS = Picture(
    "precision_success.png", "Success by precision", "curves_by_task", "success_rate",
    "step_per_task",
)  # fmt: skip
PAGE = """# Learning in lower precision

MT-SAC in the setting of [must.md](must.md), reach-v3 and drawer-close-v3 of Meta-World v3, in fp32
and with the two other values of `SAC.precision`; figures are success at 30, 35 and 40 thousand
steps of each task, as there. The processor is an AMD EPYC that has bfloat16 arithmetic (AVX-512, no
AMX); other work ran beside, and the minutes are rough.

    python -m runners.train --gin_file=gin/quick/mtsac_two_tasks.gin --seed=<seed>
    python -m runners.train --gin_file=gin/quick/mtsac_two_tasks.gin --seed=<seed> \\
        --gin="PRECISION = 'bf16_matmul'" --gin="train.experiment = 'mtsac_two_tasks_bf16'"
    python -m runners.train --gin_file=gin/quick/mtsac_two_tasks.gin --seed=<seed> \\
        --gin="PRECISION = 'autocast'" --gin="train.experiment = 'mtsac_two_tasks_autocast'"
    python benchmarks/precision_results.py runs --out docs/results

This page is written by the last command from the runs' metrics.jsonl, with the picture that the
command below it makes; runs that have not reached their last step are left out.

{table}
{success}

Lines are means over seeds; shaded is a 95 % bootstrap interval over seeds, which with three is as
wide as their range, and holds the true mean in about 75 % of cases. Three seeds show whether a
precision breaks learning here, and no difference below 0.15. autocast does not, and may be used for
trying things out. bf16_matmul says nothing of bfloat16 here: without AMX the processor takes its
products in single precision, by another library's kernels, and a warning says so. fp32 stays the
default, and results to be published are made in it. What an
update of the size of MT10 gains is in [performance](../performance.md); networks as small as here
gain nothing.
"""


if __name__ == "__main__":
    make_page("precision.md", PAGE, METHODS, THRESHOLDS, SUCCESS)
