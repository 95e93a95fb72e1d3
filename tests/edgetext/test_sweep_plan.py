"""A sweep's plan: what becomes of its entries, and what is refused by entry and key."""

from pathlib import Path

import pytest

from edgetext.cli.sweep import known_options
from edgetext.errors import ConfigError
from edgetext.sweep.plan import Option, chosen, expand, read_plan

COMMANDS = {
    "distill": {
        **{
            name: Option(f"--{name}")
            for name in ("corpus", "student", "recipe", "soft-weight", "seed", "run")
        },
        "teacher": Option("--teacher", many=True),
        "compile": Option("--compile", takes_value=False),
        "frontier": Option("--frontier", takes_value=False, off="--no-frontier"),
        "resume": Option("--resume", takes_value=False),
    },
    "export": {"tokens": Option("--tokens")},
    "cache-targets": {
        "teacher": Option(None, many=True),
        "run": Option("--run"),
        "top-k": Option("--top-k"),
        "output": Option("--output"),
        "resume": Option("--resume", takes_value=False),
    },
}


def lines(document, out="runs"):
    """Every job's commands as they would be typed."""
    return {
        job.name: [" ".join(step.argv(Path(out))) for step in job.steps] for job in expand(document, COMMANDS)
    }


def test_an_entry_is_a_distillation_and_an_export():
    document = {
        "base": {"corpus": "a.txt", "soft_weight": 0.5, "tokens": 100},
        "runs": [{"name": "one", "soft-weight": 1, "compile": True, "frontier": False}],
    }
    assert lines(document) == {
        "one": [
            "distill --corpus a.txt --soft-weight 1 --compile --no-frontier --run runs/one --resume",
            "export runs/one --tokens 100 --int8 --force",
        ]
    }


def test_seeds_make_a_run_each_and_an_entry_may_have_its_own():
    document = {
        "seeds": [0, 1],
        "runs": [{"name": "a"}, {"name": "b", "seeds": [7], "export": False}, {"name": "c", "seed": 3}],
    }
    found = lines(document)
    assert list(found) == ["a-seed0", "a-seed1", "b-seed7", "c"]
    assert found["a-seed1"][0] == "distill --seed 1 --run runs/a-seed1 --resume"
    assert found["b-seed7"] == ["distill --seed 7 --run runs/b-seed7 --resume"]
    assert "--seed 3 --run runs/c" in found["c"][0]


def test_a_seed_of_the_base_is_for_entries_without_seeds():
    document = {"base": {"seed": 5}, "runs": [{"name": "a", "seeds": [0]}, {"name": "b"}]}
    found = lines(document)
    assert "--seed 0 " in found["a-seed0"][0]
    assert "--seed 5 " in found["b"][0]


def test_an_entry_can_leave_out_what_the_base_gives():
    document = {
        "base": {"student": "x", "compile": True, "tokens": 9},
        "runs": [
            {"name": "a", "seed": 1},
            {"name": "b", "student": False, "compile": False, "tokens": False},
        ],
    }
    found = lines(document)
    assert found["a"][0] == "distill --student x --compile --seed 1 --run runs/a --resume"
    assert found["b"] == ["distill --run runs/b --resume", "export runs/b --int8 --force"]
    assert "student" not in expand(document, COMMANDS)[1].steps[0].options


def test_runs_refer_to_runs_before_them():
    teachers = ["{out}/teacher-seed0", "{out}/teacher-seed1"]
    document = {
        "seeds": [0, 1],
        "base": {"soft-weight": 0.9},
        "runs": [
            {"name": "teacher", "export": False},
            {
                "name": "cache",
                "command": "cache-targets",
                "teacher": teachers,
                "run": teachers[0],
                "top-k": 16,
            },
            {"name": "each", "teacher": "{out}/teacher-seed{seed}"},
            {"name": "all", "teacher": teachers, "seeds": [4]},
            {"name": "chain", "teacher": "{out}/all-seed4/student", "seeds": [0]},
        ],
    }
    found = lines(document, "o")
    assert found["cache"] == [
        "cache-targets o/teacher-seed0 o/teacher-seed1 --run o/teacher-seed0 --top-k 16 "
        "--output o/cache --resume"
    ]
    assert "--teacher o/teacher-seed1 " in found["each-seed1"][0]
    assert "--teacher o/teacher-seed0 --teacher o/teacher-seed1" in found["all-seed4"][0]
    jobs = {job.name: job for job in expand(document, COMMANDS)}
    assert jobs["cache"].needs == ("teacher-seed0", "teacher-seed1")
    assert not jobs["cache"].compared
    assert jobs["each-seed1"].needs == ("teacher-seed1",)
    assert jobs["chain-seed0"].needs == ("all-seed4",)
    only = [job.name for job in chosen(list(jobs.values()), ["chain"])]
    assert only == ["teacher-seed0", "teacher-seed1", "all-seed4", "chain-seed0"]
    assert [job.name for job in chosen(list(jobs.values()), ["each-seed1"])] == [
        "teacher-seed1",
        "each-seed1",
    ]
    with pytest.raises(ConfigError, match="no such entry; it has teacher, cache"):
        chosen(list(jobs.values()), ["chian"])


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"run": []}, "unknown key 'run'"),
        ({"runs": []}, "at least one"),
        ({"runs": [{"student": "x"}]}, "entry 1 needs a name"),
        ({"runs": [{"name": "../x"}]}, "entry 1 needs a name"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "two entries are called 'a'"),
        ({"runs": [{"name": "a", "seeds": [1]}, {"name": "a-seed1"}]}, "'a-seed1' is taken"),
        ({"runs": [{"name": "logs"}]}, "'logs' is taken"),
        ({"runs": [{"name": "a", "studnet": "x"}]}, "entry 'a', key 'studnet': no option"),
        ({"base": {"studnet": "x"}, "runs": [{"name": "a"}]}, r"\[base\], key 'studnet'"),
        ({"runs": [{"name": "a", "run": "x"}]}, "entry 'a', key 'run': the sweep gives"),
        ({"runs": [{"name": "a", "soft-weight": 1, "soft_weight": 1}]}, "'soft_weight' is given twice"),
        ({"runs": [{"name": "a", "student": ["x", "y"]}]}, "entry 'a', key 'student' takes one value"),
        ({"runs": [{"name": "a", "student": True}]}, "entry 'a', key 'student' takes a text or a number"),
        ({"runs": [{"name": "a", "compile": "yes"}]}, "entry 'a', key 'compile' is a flag"),
        ({"runs": [{"name": "a", "command": "export"}]}, "entry 'a': command is 'export'"),
        ({"runs": [{"name": "a", "command": "cache-targets", "export": True}]}, "entry 'a': export"),
        ({"runs": [{"name": "a", "seeds": []}]}, "entry 'a', key 'seeds'"),
        ({"runs": [{"name": "a", "seeds": [1, 1]}]}, "entry 'a', key 'seeds'"),
        ({"runs": [{"name": "a", "seeds": [1], "seed": 1}]}, "entry 'a': seed and seeds"),
        ({"runs": [{"name": "a", "teacher": "{seed}"}]}, "entry 'a', key 'teacher'.*no seeds"),
        ({"runs": [{"name": "a", "teacher": "{ouT}/b"}]}, r"entry 'a', key 'teacher': \{ouT\}"),
        ({"runs": [{"name": "a", "teacher": "{out}/b"}, {"name": "b"}]}, "key 'teacher'.*stands before"),
        ({"runs": [{"name": "a", "teacher": "{out}/a"}]}, "stands before"),
    ],
)
def test_what_cannot_be_is_refused_by_entry_and_key(document, words):
    with pytest.raises(ConfigError, match=words):
        expand(document, COMMANDS)


def test_a_file_that_is_no_plan_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_plan(tmp_path / "nowhere.toml", COMMANDS)
    (tmp_path / "plan.toml").write_text("runs = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_plan(tmp_path / "plan.toml", COMMANDS)


def test_options_are_those_of_the_commands():
    known = known_options()
    assert known["distill"]["student"] == Option("--student")
    assert not known["distill"]["resume"].takes_value
    assert known["distill"]["teacher"].many
    assert known["export"]["tokens"] == Option("--tokens")
    assert known["cache-targets"]["teacher"] == Option(None, many=True)
