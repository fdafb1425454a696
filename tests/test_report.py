"""The report: every section, what is missing, what is damaged, and that the page loads nothing."""

import base64
import io
import json
import pathlib
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from learnmax_jax import checkpoints, config, evaluation, lifecycle, pictures, positions, provenance, published
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.models.tokenizer import make_tokenizer
from learnmax_jax.report import code_sheet, curves, folder, maps, page, speed
from tests import runs

STEPS = (10, 20, 30, 40)
TITLES = [section.title for section in page.SECTIONS]


def row(step: int, **columns: Any) -> dict[str, Any]:
    steps = step * runs.ENV_STEPS
    known = {"num_env_steps": steps, "num_frames": 4 * steps, "num_updates": step, "seconds": 2.0 * step}
    return known | {"steps_per_second": 2.0, "episode_score": None, "loss_codes": 1.0 / step} | columns


def write_rows(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def save_tokenizer(workdir: pathlib.Path, settings: config.Settings) -> None:
    """A checkpoint whose tokenizer has seen nothing, but uses some codes more than others."""
    tokenizer = make_tokenizer(observation_shape=(84, 84, 1), **settings.tokenizer)
    state = jax.jit(tokenizer.init)(jax.random.key(0), jnp.zeros((1, 84, 84, 1), jnp.uint8))
    usage = jnp.broadcast_to(jnp.arange(settings.tokenizer.num_codes, dtype=jnp.float32), state.quantizer.usage.shape)
    slow = state.slow_quantizer.replace(usage=usage)
    # The decoder's last layer starts at zero: noise, so that codes differ in what they show.
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), state.slow_params)
    medians = state.medians.replace(frames=jnp.full_like(state.medians.frames, 90.0))
    state = state.replace(slow_quantizer=slow, slow_params=params, medians=medians)
    none = np.zeros((), np.int32)
    train = TrainState({"x": none}, {"x": none}, {"x": none}, state, {"x": none}, none)
    checkpoints.save(workdir / "checkpoints", STEPS[-1], {"train": train}, {}, keep=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A workdir with something for every section."""
    workdir = tmp_path_factory.mktemp("whole")
    settings = runs.tiny()
    config.dump(settings, workdir / "config.json")
    scores = {"episode_score": 100.0, "evaluation_score": 0.0, "rooms_visited": 2, "positions_visited": 3}
    write_rows(workdir / "metrics.jsonl", [row(step, **scores) for step in STEPS])
    provenance.record(workdir)
    save_tokenizer(workdir, settings)
    (workdir / "pictures").mkdir()
    for step in STEPS:
        frames = np.full((2, 8, 8, 1), step)
        pictures.draw_strip([frames] * 3, ["NOOP", "FIRE"]).save(workdir / "pictures" / f"step-{step:09d}.png")
        film = np.arange(5, dtype=np.uint8)[:, None, None] * np.full((1, 8, 8), step, np.uint8)
        result = evaluation.Result([0.0], [5], [], None, 1, "standard", "none", film)
        evaluation.write_film(result, workdir / "evaluation" / f"step-{step:09d}.gif")
    visited = positions.Positions()
    visited.visits.update(
        {(1 << 16) + (77 << 8) + 235: 40, (1 << 16) + (80 << 8) + 235: 1, (4 << 16) + (9 << 8) + 9: 2}
    )
    visited.frames[1] = np.full((84, 84, 1), 60, np.uint8)
    positions.save(workdir / "positions", STEPS[-1], visited)
    return workdir


@pytest.fixture(autouse=True)
def benchmark(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Stands for the checkout's folder of benchmarks; empty."""
    made = tmp_path / "benchmark"
    made.mkdir()
    monkeypatch.setattr(speed, "RESULTS", made)
    return made


@pytest.fixture
def workdir(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "run"))


def report(workdir: pathlib.Path) -> tuple[str, list[str]]:
    """The page's text and what was damaged."""
    out = workdir / "report.html"
    damage = page.write(folder.read(workdir), out, command="python -m experiments.report")
    return out.read_text(), damage


class Loads(HTMLParser):
    """Collects what a page would load, and its images."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.images: list[bytes] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name not in ("src", "href", "srcset", "data", "action", "poster"):
                continue
            assert value is not None
            if value.startswith("data:image/"):
                self.images.append(base64.b64decode(value.partition(",")[2], validate=True))
            elif not value.startswith("#"):
                self.loads.append(value)


def test_every_section_has_something_to_show(whole: pathlib.Path) -> None:
    text, damage = report(whole)
    assert damage == []
    assert [re.sub("<.*?>", "", title) for title in re.findall(r"<h2.*?</h2>", text)] == TITLES
    assert "Nothing to show" not in text and "Damaged" not in text and "Skipped" not in text
    for words in ("step-000000010.png", "step-000000030.png", "step-000000040.png", "step-000000040.gif"):
        assert words in text
    # First, middle and last of four; the newest film only.
    assert "step-000000020.png" not in text and "step-000000010.gif" not in text and "3 of 4 pictures" in text
    assert "after 160 agent steps" in text  # 40 train steps of 4
    assert "3 places in 2 rooms" in text and "jax " in text and "num_considered_actions" in text
    assert "From the checkpoint of step 40: places that have codes: 1, code groups a place: 2, codes a group: 4" in text
    # From step 10 to step 40: 120 agent steps in 60 seconds.
    assert "Throughput: 2.0 agent steps a second" in text


def test_the_checkouts_benchmark_comes_last_where_there_is_one(whole: pathlib.Path, benchmark: pathlib.Path) -> None:
    Image.new("L", (4, 4)).save(benchmark / "bench-growth.png")
    text, _ = report(whole)
    titles = [re.sub("<.*?>", "", title) for title in re.findall(r"<h2.*?</h2>", text)]
    assert titles == [*TITLES, page.SPEED.title] and "bench-growth.png" in text


def test_the_page_holds_its_images_and_loads_nothing(whole: pathlib.Path) -> None:
    text, _ = report(whole)
    reader = Loads()
    reader.feed(text)
    assert reader.loads == [] and "<script" not in text and "@import" not in text and "url(" not in text
    # Score, panels, 3 strips, typical frame and its decoding, code sheet, map, film.
    assert len(reader.images) >= 1 + 4 + 3 + 2 + 1 + 1 + 1
    for content in reader.images:
        with Image.open(io.BytesIO(content)) as image:
            image.load()


def test_what_is_not_there_is_said_in_a_line(tmp_path: pathlib.Path) -> None:
    config.dump(runs.tiny(), tmp_path / "config.json")
    write_rows(tmp_path / "metrics.jsonl", [row(1)])
    text, damage = report(tmp_path)
    assert damage == []
    for words in (
        "no episode has ended yet",
        "no picture has been drawn yet",
        "no checkpoint has been saved yet",
        "no positions",
        "no evaluation has been filmed yet",
        "does not say how it was started",
        "No numbers for: rooms seen",
    ):
        assert words in text, words


def test_a_pretraining_is_drawn_over_updates(tmp_path: pathlib.Path) -> None:
    settings = runs.tiny()
    config.dump(settings, tmp_path / "config.json")
    rows = [{"num_updates": step, "seconds": 0.5 * step, "tokenizer_loss": 1.0, "recall": 0.5} for step in STEPS]
    write_rows(tmp_path / "metrics.jsonl", rows)
    save_tokenizer(tmp_path, settings)
    (tmp_path / "pictures").mkdir()
    pictures.draw_strip([np.zeros((1, 8, 8, 1))], ["NOOP"]).save(tmp_path / "pictures" / "update-000000007.png")
    text, damage = report(tmp_path)
    assert damage == [] and "after 7 updates" in text and "2.0 updates a second" in text
    assert "Held out: player and room found again" in text and "From the checkpoint of step 40" in text


def test_a_config_of_another_version_is_shown_all_the_same(workdir: pathlib.Path) -> None:
    saved = json.loads((workdir / "config.json").read_text())
    del saved["pictures"], saved["tokenizer"]["slow_decay"]
    saved["tokenizer"]["forgotten_key"] = 7
    (workdir / "config.json").write_text(json.dumps(saved))
    text, damage = report(workdir)
    assert damage == [] and "forgotten_key" in text and "the checkpoint is of another version of the code" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such folder"),
        ({}, "config.json and metrics.jsonl missing"),
        ({"config.json": "{}"}, "metrics.jsonl missing"),
        ({"metrics.jsonl": json.dumps(row(1)) + "\n"}, "config.json missing"),
        ({"config.json": "{", "metrics.jsonl": json.dumps(row(1)) + "\n"}, "is not json"),
        ({"config.json": "[]", "metrics.jsonl": json.dumps(row(1)) + "\n"}, "is not a config"),
        ({"config.json": "{}", "metrics.jsonl": ""}, "metrics.jsonl has no row that can be read"),
        ({"config.json": "{}", "metrics.jsonl": "\0\xff\n"}, "metrics.jsonl line 1: is not json"),
        ({"config.json": "{}", "metrics.jsonl": '{"loss": 1}\n'}, "line 1: is no row"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path: pathlib.Path, content: dict[str, str] | None, words: str) -> None:
    workdir = tmp_path / "run"
    if content is not None:
        workdir.mkdir()
        for name, text in content.items():
            (workdir / name).write_text(text, encoding="latin-1")
    with pytest.raises(lifecycle.BadInput, match=re.escape(words)):
        folder.read(workdir)


def test_a_damaged_line_of_the_metrics_is_named_and_skipped(workdir: pathlib.Path) -> None:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20] + "\n" + lines[2] + lines[3] + '{"num_fra')
    found = folder.read(workdir)
    assert [each["num_updates"] for each in found.rows] == [10, 30, 40]
    text, damage = report(workdir)
    assert damage == [] and "metrics.jsonl line 2: is not json" in text and "metrics.jsonl line 5: is not json" in text


@pytest.mark.parametrize(
    ("file", "section"),
    [
        ("pictures/step-000000010.png", "what the model sees"),
        ("evaluation/step-000000040.gif", "an episode"),
        ("positions/step_000000000040.npz", "where the player has been"),
        ("checkpoints/step_000000000040/manifest.json", "what the codes look like"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(workdir: pathlib.Path, file: str, section: str) -> None:
    content = (workdir / file).read_bytes()
    (workdir / file).write_bytes(content[: len(content) // 2])
    text, damage = report(workdir)
    assert len(damage) == 1 and damage[0].startswith(f"{section}: ") and file.rpartition("/")[2] in damage[0]
    assert text.count('<p class="damage">Damaged') == 1
    assert all(title in text for title in TITLES)


def test_the_published_curves_are_all_there() -> None:
    known = published.curves()
    agents = [agent for agent, _ in known]
    assert {agent: agents.count(agent) for agent in agents} == {"dreamerv3": 6, "ppo_fixhp": 5, "muzero": 1}
    frames, scores = zip(*known["dreamerv3", "2"])
    assert list(frames) == sorted(frames) and frames[0] == 400_000 and frames[-1] == 2e8 and scores[-1] == 400.0
    assert max(score for curve in known.values() for _, score in curve) < 3000


def test_a_curve_leaves_out_what_is_no_number(tmp_path: pathlib.Path) -> None:
    rows = [row(1, a=1.0), row(2, a=None), row(3, a=True), row(4, a=float("inf")), row(5), row(6, a=-2)]
    found = folder.Folder(tmp_path, {}, rows, [])
    # Frames are 16 a step.
    assert curves.series(found, "a") == ([16.0, 96.0], [1.0, -2.0])


def test_visits_land_on_the_players_pixel_and_none_is_lost() -> None:
    # x 77, y 235 is column 42.5, row 32; the others are beyond the border and are drawn on it.
    counts = maps.count_pixels(np.array([[77, 235, 5], [77, 235, 2], [255, 255, 3], [0, 0, 4]]), (84, 84))
    assert counts.sum() == 14 and counts[32, 42] == 7 and counts[24, 83] == 3 and counts[83, 2] == 4


@pytest.mark.parametrize("layout", ["frame", "grid", "patch", "anchor"])
def test_the_code_sheet_shows_the_most_used_codes(tmp_path: pathlib.Path, layout: str) -> None:
    grid = {"num_groups": 18, "num_codes": 4, "num_medians": 4, "background": "median"} if layout == "grid" else {}
    settings = runs.tiny(*((f"tokenizer.{name}", value) for name, value in {"layout": layout, **grid}.items()))
    config.dump(settings, tmp_path / "config.json")
    save_tokenizer(tmp_path, settings)
    run = folder.Folder(tmp_path, settings.to_dict(), [row(1)], [])
    found = code_sheet.read(run)
    own = int(found.codes[0, 0, 1])
    # Usage rises with the number: 3, 2, 1, 0 without the frame's own.
    assert code_sheet.most_used(found, token=0, group=1, count=2).tolist() == [c for c in (3, 2, 1, 0) if c != own][:2]
    other = [code_sheet.most_used(found, token=0, group=group, count=1) for group in range(2)]
    frames = code_sheet.decode_with(found, 0, other)
    expected = found.codes.copy()
    expected[0, 0, 1] = other[1][0]
    np.testing.assert_allclose(frames[1][0], found.decode(expected)[0], atol=1e-3)
    assert np.abs(frames[1][0] - found.decoded).max() > 1
    sheets = [sheet for _, sheet in code_sheet.draw(run, found)]
    assert len(sheets) == (2 if layout == "anchor" else 1)
    assert all(max(sheet.size) < 2000 and np.asarray(sheet).std() > 1 for sheet in sheets)


def test_brighter_is_red_darker_is_blue() -> None:
    difference = np.array([20.0, -20.0, 0.0, 400.0, 5.0])[:, None, None, None]
    colours = code_sheet.colour_difference(difference, 20.0)[:, 0, 0].tolist()
    assert colours == [[255, 0, 0], [0, 0, 255], [255, 255, 255], [255, 0, 0], [255, 191, 191]]
