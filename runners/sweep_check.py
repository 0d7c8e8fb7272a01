"""Checks every configuration of a sweep before any run starts; a process of its own.

Reads a request as JSON from standard input, and answers with a line of JSON for each configuration
and one for the machine. Each is looked at in a fork of this process, which has imported training
and nothing else, so that no configuration sees what another one imported, bound or allocated; and
by training's own code, which builds everything and then, instead of training, is asked here.
"""

import contextlib
import json
import os
import sys
import traceback
from typing import Any

import gin
import torch

from runners import config, preflight, training
from runners.config import ConfigError
from runners.parts import Parts
from runners.run_folder import RunFolder
from runners.status import DONE, read_status

Request = dict[str, Any]


def main() -> int:
    """Answer the request; 0 whatever the answer is."""
    request = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    with open(answers, "w") as file:
        for configuration in request["configurations"]:
            print(json.dumps(_in_a_fork(request, configuration)), file=file, flush=True)
        workdir = request["workdir"]
        machine = {"memory": preflight.free_memory(), "disk": preflight.free_disk(workdir)}
        print(json.dumps(machine), file=file)
    return 0


def look(request: Request, configuration: Request) -> dict[str, Any]:
    """What one configuration is, and what it will take; for all seeds of the request.

    Args:
        request: `files`, `search_paths`, `bindings`, `seeds`, `workdir`, and `elsewhere`: whether
            the runs will be on other machines, whose memory and devices are not known here.
        configuration: its `label` and `bindings`.

    Raises:
        ConfigError: as training would.
    """
    files, paths, workdir = request["files"], request["search_paths"], request["workdir"]
    seeds, elsewhere = request["seeds"], request["elsewhere"]
    bindings = [*request["bindings"], *configuration["bindings"]]
    config.parse(files, bindings, paths)
    own: list[str] = []
    if configuration["label"]:
        own = [f"train.experiment = {_experiment() + ',' + configuration['label']!r}"]
    texts = {}
    for seed in reversed(seeds):  # the first one last: it stays parsed
        config.parse(files, [*bindings, *own, *config.seed_bindings(seed)], paths)
        texts[seed] = config.config_text()
    if elsewhere:
        here = ["DEVICE = 'cpu'", "train.device = 'cpu'"]
        config.parse(files, [*bindings, *own, *config.seed_bindings(seeds[0]), *here], paths)
    found: dict[str, Any] = {}

    def note(parts: Parts, run: RunFolder, needs: preflight.Needs) -> None:
        experiment = run.path.parent.name
        missing = []
        for seed in seeds:
            folder = RunFolder(workdir, experiment, seed)
            left = not elsewhere and (read_status(folder.path) or {}).get("state") != DONE
            if left:
                folder.check_place()
            folder.check(texts[seed], "auto", parts.checkpointer.override)
            if left:
                preflight.check(needs, folder.path, preflight.bytes_in(folder.checkpoints))
            there = preflight.bytes_in(folder.checkpoints)
            missing.append(max(0, needs.kept * needs.checkpoint - there))
        found.update(
            experiment=experiment,
            bindings=own,
            config=texts[seeds[0]],
            unit=parts.loop.unit,
            memory=needs.memory,
            checkpoint=needs.checkpoint,
            missing=missing,
            unread=config.unused_bindings(),
            devices=torch.cuda.device_count() if needs.device == "cuda" else 0,
        )

    with config.config_errors(before=training.train):
        training.train(workdir=workdir, instead=note)
    return found


def _experiment() -> str:
    """What the run would be called without a grid."""
    with contextlib.suppress(ValueError):  # not bound
        name = gin.query_parameter("train.experiment")
        if isinstance(name, str) and name:
            return name
    return config.experiment_name()


def _in_a_fork(request: Request, configuration: Request) -> dict[str, Any]:
    """The answer for one configuration: what `look` found, or `error`, or `crash`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = look(request, configuration)
        except ConfigError as error:
            answer = {"error": error.line()}
        except BaseException:
            answer = {"crash": traceback.format_exc()}
        with open(writing, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return {"crash": f"the check ended with status {status}"}
    answer = json.loads(text)
    assert isinstance(answer, dict)
    return answer


if __name__ == "__main__":
    sys.exit(main())
