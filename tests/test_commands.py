"""The commands as a user has them: processes, their exit codes, lines and files."""

import datetime
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import pytest
from PIL import Image

from learnmax_jax import devices, lifecycle, metrics, results
from tests import runs

pytestmark = pytest.mark.timeout(900)

# Imports and checks; a program that compiles needs several times as much.
QUICK_CPU_SECONDS = 5.0


def refused(command: str, *arguments: str, code: int = 2, **environment: str) -> str:
    """The one line with which a command refuses, before anything compiles."""
    ended = runs.finish(runs.start(command, *arguments, **environment))
    assert ended.code == code, ended.errors
    assert ended.errors.startswith("error: ") and ended.errors.count("\n") == 1, ended.errors
    assert ended.cpu_seconds < QUICK_CPU_SECONDS
    return ended.errors


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("zuma", ["--workdri=x"], ["--workdri: unknown flag", "Nearest: --workdir"]),
        ("zuma", ["--config.search.num_simulation=3"], ["search.num_simulation=3", "search.num_simulations"]),
        ("zuma", ["--config=configs/smokey.py"], ["configs/smokey.py: no such file", "configs/smoke.py"]),
        ("zuma", ["--config.env.game=MontezumasRevenge-v5"], ["env.game", "MontezumaRevenge-v5"]),
        ("zuma", ["--config.env.backend=host"], ["env.backend=host", "xla, callback, world"]),
        ("zuma", ["--config.name=../../there"], ["name=../../there", "Nearest: there"]),
        ("evaluate", [], ["--workdir"]),
        ("evaluate", ["--workdir=nowhere"], ["nowhere/config.json: no such file"]),
        ("evaluate", ["--workdir=nowhere", "--protocol=wild"], ["--protocol", "standard|deterministic"]),
        ("evaluate", ["--workdir=nowhere", "--num_episodes=0"], ["--num_episodes"]),
        ("evaluate", ["--workdir=nowhere", "--out=docs/results/seeds.jsonl"], ["seeds.jsonl: other lines than"]),
        ("evaluate", ["--workdir=nowhere", "--out=README.md"], ["--out=README.md: ", "Allowed: a new file"]),
        ("evaluate", ["--workdir=nowhere", "--out=configs"], ["--out=configs: ", "Allowed: a new file"]),
        ("report", [], ["--workdir"]),
        ("report", ["--workdir=nowhere"], ["workdir=nowhere: no such folder"]),
        ("report", ["--workdir=configs"], ["config.json and metrics.jsonl missing"]),
        ("bench", ["--rounds=0"], ["--rounds"]),
        ("bench", ["--config.learner.batch_size=two"], ["learner.batch_size=two"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(command: str, arguments: list[str], words: list[str]) -> None:
    line = refused(command, *arguments)
    assert all(word in line for word in words), line


def test_f24_what_does_not_divide_by_the_devices_is_refused_with_both_neighbours(tmp_path: pathlib.Path) -> None:
    line = refused(
        "zuma",
        "--config=configs/smoke.py",
        "--config.env.num_envs=12",
        "--config.replay.capacity=960",
        f"--workdir={tmp_path / 'run'}",
        **devices.forced(8),
    )
    assert "env.num_envs=12: does not divide by 8 devices" in line and "Nearest: 8 or 16" in line
    assert not (tmp_path / "run").exists()


def test_f17_a_second_run_in_a_workdir_names_the_first(tmp_path: pathlib.Path) -> None:
    with lifecycle.locked(tmp_path):
        line = refused("zuma", f"--config={runs.TINY}", f"--workdir={tmp_path}")
    today = datetime.datetime.now().astimezone().strftime("%Y-%m-%dT")
    for word in (f'"host": "{socket.gethostname()}"', f'"pid": {os.getpid()}', f'"started": "{today}'):
        assert word in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("below", ["", "/run"])
def test_f18_a_workdir_that_cannot_be_is_code_4(tmp_path: pathlib.Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    line = refused("zuma", f"--config={runs.TINY}", f"--workdir={tmp_path / 'file'}{below}", code=4)
    assert f"workdir={tmp_path / 'file'}{below}: cannot be written" in line


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of the scripted world."""
    workdir = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        runs.share_programs(patch)
        assert runs.run(runs.tiny(), workdir) == 0
    return workdir


def test_f11_a_finished_run_is_finished_at_once(tiny_run: pathlib.Path) -> None:
    before = runs.files(tiny_run)
    ended = runs.finish(runs.start("zuma", f"--config={runs.TINY}", f"--workdir={tiny_run}"))
    assert (ended.code, ended.output) == (0, f"{tiny_run}: finished, 80 env steps\n")
    assert ended.cpu_seconds < QUICK_CPU_SECONDS
    assert runs.files(tiny_run) == before


def read_only(command: str) -> list[str]:
    """A shell command with `$1` mounted read-only; root would write through its permissions."""
    script = f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && {command}'
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def test_f18_evaluation_reads_a_workdir_that_cannot_be_written(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    probe = subprocess.run([*read_only('! touch "$1/probe"'), str(tiny_run)], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this machine mounts nothing: {probe.stderr.strip()}")
    before = runs.files(tiny_run)
    evaluate = f'exec {sys.executable} -m experiments.evaluate --workdir="$1" --num_episodes=2 --max_episode_steps=6'
    ended = subprocess.run(
        [*read_only(evaluate), str(tiny_run)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    film, summary = ended.stdout.splitlines()[-2:]
    assert film == "film: evaluation/evaluate-standard-noise-search-step-000000020.gif"
    assert (tmp_path / "evaluation" / "evaluate-standard-noise-search-step-000000020.gif").stat().st_size > 0
    assert json.loads(summary)["num_env_steps"] == 3 + 4  # the scripted world's first two episodes
    assert runs.files(tiny_run) == before


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, runs.Ended]:
    """A run of the smoke config on Montezuma's Revenge, emulators inside the compiled step."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    ended = runs.finish(runs.start("zuma", "--config=configs/smoke.py", f"--workdir={workdir}"))
    assert ended.code == 0, ended.errors
    return workdir, ended


def test_smoke_trains_on_montezuma_and_says_how_far_it_is(smoke: tuple[pathlib.Path, runs.Ended]) -> None:
    workdir, ended = smoke
    lines = ended.output.splitlines()
    assert re.fullmatch(r"first step done \d+ s after the start", lines[0])
    assert len([line for line in lines if " env steps  " in line]) == 10
    speed, left = r"\d[\d,]*\.\d steps/s", r"\d+:\d\d:\d\d left"
    assert re.fullmatch(rf"64 / 640 env steps  256 frames  {speed}  \d+ updates  score (-|\d+\.\d)  {left}", lines[1])
    assert re.fullmatch(
        rf"640 / 640 env steps  2,560 frames  {speed}  \d+ updates  score (-|\d+\.\d)  0:00:00 left", lines[-1]
    )
    assert re.fullmatch(r"evaluation after step 20: mean score \d+\.\d", lines[5])
    assert runs.saved_steps(workdir) == [30, 40]
    assert json.loads((workdir / "config.json").read_text())["name"] == "smoke"


def test_smoke_reports_every_number_that_is_promised(smoke: tuple[pathlib.Path, runs.Ended]) -> None:
    workdir, _ = smoke
    read = metrics.read_rows(workdir / "metrics.jsonl")
    settings = json.loads((workdir / "config.json").read_text())
    assert [row["num_env_steps"] for row in read] == list(range(64, 641, 64))
    assert [row["num_frames"] for row in read] == list(range(256, 2561, 256))
    parts = [f"loss_{name}" for name in settings["loss_weights"] if name not in ("chance", "open_loop", "consistency")]
    parts += [f"loss_open_{name}" for name in ("codes", "reward", "intrinsic", "continuation", "policy", "value")]
    known = ("loss", "intrinsic_reward", "codes_used", "perplexity", "tokenizer_loss", *parts)
    assert all(set(row) == set(read[0]) for row in read)
    for row in read:
        assert row["num_updates"] > 0 and all(isinstance(row[name], float) for name in known), row
        assert row["seconds"] > 0 and row["steps_per_second"] > 0 and row["tree_depth_mean"] >= 1
        assert row["rooms_visited"] == 1  # 2,560 frames do not lead out of the first room
        assert "episode_score" in row
        drawn = {(row["num_env_steps"] - rows) // settings["pictures"]["every_env_steps"] for rows in (0, 64)}
        assert (row["wrong_action_ratio"] is not None) == (len(drawn) > 1), row
    # Chunks of 16: the replay holds 64 rows after step 4; then one update a step.
    assert read[-1]["num_updates"] >= 36
    assert read[-1]["evaluation_score"] is not None and read[-1]["evaluation_rooms"] == 1
    assert read[-1]["positions_visited"] > 10 and (workdir / "positions" / "step_000000000040.npz").exists()
    assert json.loads((workdir / "starts.jsonl").read_text())["command"].startswith(
        "python -m experiments.zuma --config="
    )
    strips = sorted(file.name for file in (workdir / "pictures").iterdir())
    assert strips == [f"step-{step:09d}.png" for step in (10, 20, 30, 40)]  # between the evaluations too
    for name in ("evaluation/step-000000020.gif", "evaluation/step-000000040.gif"):
        with Image.open(workdir / name) as film:
            assert film.size == (168, 168) and film.n_frames > 5


def test_evaluate_plays_films_keeps_and_ends_with_json(
    smoke: tuple[pathlib.Path, runs.Ended], tmp_path: pathlib.Path
) -> None:
    workdir, _ = smoke
    out = tmp_path / "results" / "evaluations.jsonl"
    results.write(out, [{"command": "another", "trained_env_steps": 640, "evaluation": {}}])
    before = runs.files(workdir)
    ended = runs.finish(
        runs.start(
            "evaluate",
            f"--workdir={workdir}",
            "--num_episodes=3",
            "--protocol=deterministic",
            "--max_episode_steps=64",
            f"--out={out}",
        )
    )
    assert ended.code == 0, ended.errors
    name = "evaluation/evaluate-deterministic-noise-search-step-000000040.gif"
    assert ended.output.splitlines()[-2] == f"film: {workdir / name}"
    summary = json.loads(ended.output.splitlines()[-1])
    assert sorted(summary) == sorted(
        "mean_score median_score scores rooms_visited key_rate num_env_steps num_frames protocol noise".split()
    )
    assert len(summary["scores"]) == 3 and summary["protocol"] == "deterministic"
    assert summary["rooms_visited"] == 1 and summary["key_rate"] == 0.0
    assert summary["num_env_steps"] == 3 * 64 and summary["num_frames"] == 4 * 3 * 64
    with Image.open(workdir / name) as film:
        assert film.size == (168, 168) and film.n_frames > 30
    after = runs.files(workdir)
    assert after.pop(name) and after == before
    other, kept = results.read(out)
    assert other["command"] == "another" and kept["command"].endswith(f"--max_episode_steps=64 --out={out}")
    assert kept["trained_env_steps"] == 640 and kept["evaluation"] == summary and kept["versions"]["jax"]


def test_report_writes_a_page_and_names_what_is_damaged(
    smoke: tuple[pathlib.Path, runs.Ended], tmp_path: pathlib.Path
) -> None:
    workdir, _ = smoke
    before = runs.files(workdir)
    out = tmp_path / "pages" / "page.html"
    ended = runs.finish(runs.start("report", f"--workdir={workdir}", f"--out={out}"))
    assert (ended.code, ended.output) == (0, f"report: {out}\n"), ended.errors
    assert "Nothing to show" not in out.read_text() and runs.files(workdir) == before
    copy = pathlib.Path(shutil.copytree(workdir, tmp_path / "copy"))
    (copy / "pictures" / "step-000000010.png").write_bytes(b"no picture")
    ended = runs.finish(runs.start("report", f"--workdir={copy}"))
    assert ended.code == 2 and ended.errors.count("\n") == 1 and "step-000000010.png: cannot be read" in ended.errors
    assert "Damaged" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_minigrid_is_played_drawn_and_filmed(tmp_path: pathlib.Path) -> None:
    few = {
        "num_env_steps": 1280,
        "pictures.every_env_steps": 640,
        "evaluation.every_env_steps": 1280,
        "evaluation.max_episode_steps": 16,
    }
    changes = [f"--config.{name}={value}" for name, value in few.items()]
    ended = runs.finish(runs.start("zuma", "--config=configs/minigrid.py", f"--workdir={tmp_path}", *changes))
    assert ended.code == 0, ended.errors
    assert len(list(tmp_path.glob("pictures/*.png"))) == 2
    assert len(list(tmp_path.glob("evaluation/*.gif"))) == 1


@pytest.mark.slow
def test_bench_measures_the_parts_and_ends_with_json() -> None:
    ended = runs.finish(runs.start("bench", "--config=configs/smoke.py", "--json", "--rounds=1"))
    assert ended.code == 0, ended.errors
    figures = json.loads(ended.output.splitlines()[-1])
    promised = """emulator_steps_per_second act_steps_per_second learn_observations_per_second step_steps_per_second
        step_over_parts searches_per_second window_ratio context_seconds tree_depth_mean tree_depth_max compile_seconds
        peak_memory_bytes tree_bytes replay_bytes_per_step"""
    assert all(figures[name] > 0 for name in promised.split())
    parts = {row["name"]: row for row in figures["roofline"]}
    assert list(parts)[-3:] == ["act", "learn", "step"] and len(parts) == 10
    halves = parts["act"]["flops"] + parts["learn"]["flops"]
    assert 0.9 * halves < parts["step"]["flops"] < 1.1 * halves
    assert all(0 < row["ideal_seconds"] for row in parts.values() if row["name"] != "emulators")
    assert 7056 <= figures["replay_bytes_per_step"] < 7200
    assert {"jax", "jaxlib", "envpool", "mctx", "flax"} <= set(figures["versions"])
