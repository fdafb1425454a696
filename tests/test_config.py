"""The one door: every wrong config or flag is one line and exit code 2."""

import inspect
import os
import pathlib
import subprocess
import sys
import time

import ml_collections
import pytest
from absl import flags

from learnmax_jax import config, config_checks, config_fields, config_schema
from learnmax_jax.acting import envs
from learnmax_jax.lifecycle import BadInput

BASE = "configs/base.py"
ROOT = pathlib.Path(__file__).parents[1]

COMMAND = """
from absl import flags
from learnmax_jax import config
flags.DEFINE_string("workdir", None, "where to write")
def main(settings, stop):
    print(settings.search.num_simulations, flags.FLAGS.workdir)
if __name__ == "__main__":
    config.run(main)
"""


def own_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "where to write", flag_values=values)
    flags.DEFINE_integer("num_episodes", 10, "episodes to play", flag_values=values)
    return values


def read(*arguments: str, config_path: str | None = BASE) -> config.Settings:
    return config.read_command_line(["zuma", *arguments], config_path=config_path, flag_values=own_flags())


WORLD_CONFIGS = ("table", "key_door", "deep_sea", "sprites")


def test_every_field_of_the_table_has_a_value_in_base() -> None:
    settings = config.load(BASE)
    given = config_schema.flatten(settings)
    assert given.keys() == config_schema.fields_of(given).keys() >= config_schema.FIELDS.keys()
    with pytest.raises(AttributeError):
        settings.seed = 3


def test_overrides_take_the_fields_type() -> None:
    settings = read(
        "--config.seed=7", "--config.returns.td_lambda", "1", "--config.name=x=y", "--config.env.action_set=8"
    )
    assert (settings.seed, settings.returns.td_lambda, settings.name) == (7, 1.0, "x=y")
    assert isinstance(settings.returns.td_lambda, float)
    crosses = read("--config.returns.intrinsic_crosses_end=False").returns.intrinsic_crosses_end
    assert crosses is False


def test_own_flags_and_config_stand_beside_each_other() -> None:
    values = own_flags()
    line = ["zuma", "--workdir=runs/a", "--config.seed=3", "--num_episodes", "2"]
    settings = config.read_command_line(line, config_path=BASE, flag_values=values)
    assert (values.workdir, values.num_episodes, settings.seed) == ("runs/a", 2, 3)
    assert len(read("--workdir=a", config_path=None)) == 0


def test_a_flag_made_for_several_values_may_be_given_again() -> None:
    values = own_flags()
    flags.DEFINE_multi_string("row", [], "rows", flag_values=values)
    config.read_command_line(["tables", "--row=a", "--row=b"], config_path=None, flag_values=values)
    assert values.row == ["a", "b"]


# (arguments, what the line must hold); the first word of a line is the field and the given value.
BAD = [
    (["--config.search.num_simulation=16"], "search.num_simulation=16: unknown field", "search.num_simulations"),
    (["--config.num_simulations=16"], "num_simulations=16: unknown field", "Nearest: search.num_simulations"),
    (["--config.serch.kind=gumbel"], "serch.kind=gumbel: unknown field", "Nearest: search.kind"),
    (["--config.search=16"], "search=16: names a section", "search.kind, search.num_simulations"),
    (["--config.search.num_simulations=x"], "search.num_simulations=x: is not a whole number", "[0, inf)"),
    (["--config.search.num_simulations=1.5e1"], "search.num_simulations=1.5e1: is not", "Nearest: 15"),
    (["--config.learner.learning_rate=fast"], "learner.learning_rate=fast: is not a number", "[0, 1]"),
    (["--config.learner.learning_rate=nan"], "learner.learning_rate=nan: is not finite", "[0, 1]"),
    (["--config.learner.learning_rate=2"], "learner.learning_rate=2.0: is out of range", "Nearest: 1.0"),
    (["--config.learner.clip_norm=0"], "learner.clip_norm=0.0: is out of range", "(0, inf)"),
    (["--config.env.num_envs=0"], "env.num_envs=0: is out of range", "Nearest: 1"),
    (["--config.env.action_set=7"], "env.action_set=7: MontezumaRevenge-v5 has none", "(6, 8, 18). Nearest: 18"),
    (["--config.env.zero_discount_on_life_loss=maybe"], "env.zero_discount_on_life_loss=maybe", "true or false"),
    (["--config.tokenizer.quantizer=vqema"], "tokenizer.quantizer=vqema: is not one", "Nearest: vq_ema"),
    (["--config.env.game=Montezuma-v5"], "env.game=Montezuma-v5", "MontezumaRevenge-v5"),
    (["--config.seed=1", "--config.seed=1"], "seed=1: the field is given twice", "once"),
    (["--config=configs/bse.py"], "--config=configs/bse.py: no such file", "Nearest: configs/base.py"),
    ([f"--config={BASE}", "--config=configs/smoke.py"], "--config=configs/smoke.py: given twice", BASE),
    (["--config.seed"], "--config.seed: has no value", "--config.seed=VALUE"),
    (["--num_episode=3"], "--num_episode: unknown flag", "Nearest: --num_episodes"),
    (["--num_episodes=many"], "num_episodes=many", "invalid"),
    (["--workdir=a", "--workdir=b"], "--workdir=b: given twice", "once"),
    (["train"], "train: is not a flag", "--num_episodes, --workdir"),
    (["--config.dynamics.num_heads=7"], "dynamics.num_heads=7: head_dim must be even", "width=128"),
    (["--config.dynamics.token_position=none"], "dynamics.token_position=none: a frame of one", "Nearest: learned"),
    (
        [
            "--config.dynamics.action_embedding=compositional",
            "--config.env.backend=world",
            "--config.env.game=scripted",
        ],
        "dynamics.action_embedding=compositional: action '0' is no sum of UP, RIGHT, LEFT, DOWN, FIRE",
        "Allowed: atomic, or an environment whose actions are joystick positions. Nearest: atomic",
    ),
    (["--config.support.num_bins=50"], "support.num_bins=50", "Nearest: "),
    (["--config.tokenizer.num_medians=65"], "tokenizer.num_medians=65: a room", "Nearest: 64"),
    (["--config.tokenizer.layout=patch"], "tokenizer.background=median: the room", "Nearest: none"),
    (["--config.search.num_simulations=0"], "search.num_simulations=0: search.kind", "Nearest: 1"),
    (["--config.exploration.num_exploit_envs=65"], "exploration.num_exploit_envs=65: exceeds", "Nearest: 64"),
    (["--config.learner.replay_ratio=0.3"], "learner.replay_ratio=0.3: gives", "Nearest: "),
    (["--config.learner.decay_updates=50"], "learner.decay_updates=50: is over before", "Nearest: 51"),
]


@pytest.mark.parametrize("action_set", [6, 8, 18])
def test_the_switches_of_the_dynamics_go_together(action_set: int) -> None:
    switches = {"action_input": "token", "action_embedding": "compositional", "token_position": "rows_columns"}
    lines = [f"--config.dynamics.{name}={value}" for name, value in (switches | {"code_input": "whitened"}).items()]
    layout = ("--config.tokenizer.layout=anchor", "--config.tokenizer.background=none")
    settings = read(*lines, *layout, f"--config.env.action_set={action_set}")
    assert {name: settings.dynamics[name] for name in switches} == switches


@pytest.mark.parametrize(("arguments", "start", "also"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_f21_bad_input_names_field_value_and_nearest(arguments: list[str], start: str, also: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(*arguments)
    line = str(caught.value)
    assert start in line and also in line.replace(start, "", 1), line
    assert "\n" not in line


# As BAD, with another config file.
BAD_SECTIONS = [
    ("key_door", ["--config.world.sise=3"], "world.sise=3: unknown field", "world.max_length. Nearest: world.size"),
    ("key_door", ["--config.world.size=1"], "world.size=1: is out of range", "[2, 256]. Nearest: 2"),
    ("key_door", ["--config.world.size=big"], "world.size=big: is not a whole number", "[2, 256]"),
    ("key_door", ["--config.world=3"], "world=3: names a section", "world.size, world.max_length"),
    ("key_door", ["--config.world.seed=3"], "world.seed=3: unknown field", "world.size, world.max_length"),
    ("key_door", ["--config.env.game=deep_sea"], "world.max_length=64: unknown field", "world.seed, world.size"),
    ("key_door", ["--config.env.game=keydoor"], "world.", "env.game=key_door"),
    ("key_door", ["--config.world.size=40"], "tokenizer.num_codes=32: ", "at least 40, code_dim alike. Nearest: 40"),
    ("table", ["--config.world.num_states=65537"], "world.num_states=65537: out of range", "Nearest: 65536"),
    ("sprites", ["--config.world.player_size=22"], "world.player_size=22: out of range", "Nearest: 21"),
    ("smoke", ["--config.world.size=3"], "world.size=3: the config has no such section", "env.game=key_door"),
    ("smoke", ["--config.env.backend=world", "--config.env.game=key_door"], "world.size=(missing)", "[2, 256]"),
    (
        "smoke",
        ["--config.world.size=3", "--config.env.game=key_door", "--config.env.backend=world"],
        "world.max_length=(missing)",
        "[1, inf)",
    ),
]


@pytest.mark.parametrize(
    ("name", "arguments", "start", "also"), BAD_SECTIONS, ids=[" ".join(case[1]) for case in BAD_SECTIONS]
)
def test_f21_a_bad_optional_section_names_field_value_and_nearest(
    name: str, arguments: list[str], start: str, also: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read(f"--config=configs/{name}.py", *arguments)
    line = str(caught.value)
    assert line.startswith(start) and also in line.replace(start, "", 1), line
    assert "\n" not in line


@pytest.mark.parametrize("name", WORLD_CONFIGS)
def test_a_worlds_section_is_the_arguments_of_its_make(name: str) -> None:
    settings = config.load(f"configs/{name}.py")
    arguments = set(inspect.signature(envs.WORLDS[name]).parameters) - {"num_envs"}
    assert set(config_schema.optional_section(settings, "world")) == arguments
    assert config_schema.optional_section(config.load(BASE), "world") == {}
    (section,) = (each for each in config_schema.SECTIONS if each.describe().endswith(f"env.game={name}"))
    assert set(section.fields) == arguments


def test_a_section_can_come_from_the_command_line_in_any_order() -> None:
    world = dict(config.load("configs/sprites.py").world.items()) | {"num_rooms": 3}
    given = [f"--config.world.{field}={value}" for field, value in world.items()]
    settings = read("--config=configs/smoke.py", *given, "--config.env.game=sprites", "--config.env.backend=world")
    assert settings.world.to_dict() == world
    assert read("--config=configs/key_door.py", "--config.world.size=9").world.size == 9


def test_a_section_that_is_off_by_absence_comes_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"weight": config_fields.number("[0, 1]"), "steps": config_fields.count()}
    sections = (*config_schema.SECTIONS, config_schema.Section("curiosity", fields))
    monkeypatch.setattr(config_schema, "SECTIONS", sections)
    assert "curiosity" not in read()
    with pytest.raises(BadInput, match=r"^curiosity.steps=\(missing\): "):
        read("--config.curiosity.weight=0.5")
    with pytest.raises(BadInput, match=r"^curiosity.wait=1: unknown field.*curiosity.steps"):
        read("--config.curiosity.wait=1")
    settings = read("--config.curiosity.weight=0.5", "--config.curiosity.steps=3")
    assert config_schema.optional_section(settings, "curiosity") == {"weight": 0.5, "steps": 3}


@pytest.mark.parametrize("argument", ["--config.search.num_simulation=16", "--config=configs/nothing.py"])
def test_f21_a_real_command_ends_with_code_2_within_5_seconds(argument: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, tmp_path / "command.py", argument],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert time.monotonic() - before < 5
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def changed(**fields: object) -> ml_collections.ConfigDict:
    """Base with other values, unchecked, under names such as `env__num_envs`."""
    settings = ml_collections.ConfigDict(config.load(BASE).to_dict())
    settings.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return settings


def write_config(folder: pathlib.Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n{body}\n")
    return str(path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    config.search.num_simulation = 3\n    return config", "num_simulation"),
        ("    del config.search['kind']\n    return config", "search.kind=(missing): the config lacks this field"),
        ("    config.seed = 1.0\n    return config", "failed: TypeError"),
        ("    with config.unlocked():\n        config.extra = 1\n    return config", "extra=1: unknown field"),
        ("    return {'seed': 1}", "get_config() gave dict"),
        ("    return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_f21_bad_config_files(tmp_path: pathlib.Path, body: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        config.load(write_config(tmp_path, body))
    assert words in str(caught.value)


def test_a_config_is_found_from_anywhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path, "    config.seed = 12\n    return config")
    assert config.load("mine.py").seed == config.load(path).seed == 12
    assert config.load(BASE).seed != 12


def test_f24_both_neighbours_that_divide_by_the_devices_are_named() -> None:
    settings = changed(env__num_envs=12)
    config_checks.check_devices(settings, 4)
    with pytest.raises(BadInput, match=r"env.num_envs=12: .* 8 devices.* Nearest: 8 or 16"):
        config_checks.check_devices(settings, 8)
    with pytest.raises(BadInput, match=r"learner.batch_size=3: .* Nearest: 2 or 4"):
        config_checks.check_devices(changed(env__num_envs=12, learner__batch_size=3), 2)
    grouped = changed(env__num_envs=12, learner__batch_size=4, actor__num_groups=3)
    config_checks.check_devices(grouped, 1)
    with pytest.raises(BadInput, match=r"actor.num_groups=3: .* 2 devices.* Allowed: 1. Nearest: 1"):
        config_checks.check_devices(grouped, 2)


def test_groups_divide_the_environments() -> None:
    with pytest.raises(BadInput, match=r"^actor.num_groups=5: does not divide env.num_envs=64.* Nearest: 4"):
        config.check(changed(actor__num_groups=5))


def test_f25_the_ring_must_hold_a_window_of_each_environment() -> None:
    # 4 environments, chunks of 2 rows each: capacities are multiples of 8.
    # A window is 5 + 1 rows, beside the chunk being written 8 rows each: 32 rows in all.
    small = {"env__num_envs": 4, "actor__num_steps": 2, "learner__sequence_length": 5, "learner__unroll_steps": 3}
    config_checks._check_replay(changed(**small, replay__capacity=32, replay__min_size=24))
    with pytest.raises(BadInput, match=r"replay.capacity=24: .* Allowed: at least 32. Nearest: 32"):
        config_checks._check_replay(changed(**small, replay__capacity=24, replay__min_size=24))
    with pytest.raises(BadInput, match=r"replay.capacity=35: .* multiples of 8. Nearest: 32 or 40"):
        config_checks._check_replay(changed(**small, replay__capacity=35, replay__min_size=24))
    with pytest.raises(BadInput, match=r"replay.min_size=33: .* Nearest: 32"):
        config_checks._check_replay(changed(**small, replay__capacity=32, replay__min_size=33))


def test_updates_per_step_by_hand() -> None:
    # 4 environments x 8 steps = 32 agent steps; 2 sequences x 4 = 8 observations an update.
    small = {"env__num_envs": 4, "actor__num_steps": 8, "learner__batch_size": 2, "learner__sequence_length": 4}
    assert config_checks.updates_per_step(changed(**small, learner__replay_ratio=0.25)) == 1
    assert config_checks.updates_per_step(changed(**small, learner__replay_ratio=2.0)) == 8
    with pytest.raises(BadInput, match=r"learner.replay_ratio=0.6: gives 2.4 updates.* Nearest: 0.5 or 0.75"):
        config_checks.updates_per_step(changed(**small, learner__replay_ratio=0.6))
    with pytest.raises(BadInput, match=r"Nearest: 0.25$"):
        config_checks.updates_per_step(changed(**small, learner__replay_ratio=0.1))


def test_f11_the_difference_of_two_configs_field_by_field(tmp_path: pathlib.Path) -> None:
    saved = config.load(BASE)
    config.dump(saved, tmp_path / "config.json")
    assert config.load_saved(tmp_path / "config.json") == saved
    assert config.diff(config.load_saved(tmp_path / "config.json"), saved) == {}

    layers = saved.dynamics.num_layers
    given = config.load(BASE, [("dynamics.num_layers", str(layers + 1)), ("seed", "77"), ("num_env_steps", "5")])
    assert config.diff(saved, given) == {
        "dynamics.num_layers": (layers, layers + 1),
        "num_env_steps": (saved.num_env_steps, 5),
        "seed": (saved.seed, 77),
    }
    with pytest.raises(BadInput) as caught:
        config.check_resume(saved, given, tmp_path)
    line = str(caught.value)
    assert f"dynamics.num_layers: saved {layers}, given {layers + 1}; seed: saved {saved.seed}, given 77" in line
    assert "num_env_steps: saved" not in line
    config.check_resume(saved, config.load(BASE, [("num_env_steps", "5"), ("checkpoint.keep", "9")]), tmp_path)


def test_f11_a_field_that_one_version_lacks_is_a_difference(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match=r"seed: saved \(missing\), given"):
        config.check_resume(config.Settings({}), config.load(BASE), tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_saved_config_that_is_none(tmp_path: pathlib.Path, content: str | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=r"config\.json: "):
        config.load_saved(path)


def test_tuples_are_read_and_come_back_as_tuples(tmp_path: pathlib.Path) -> None:
    field = config_fields.Field(int, "[1, 9]", is_tuple=True)
    assert config._read("a.b", field, "(4, 5)") == (4, 5) == config._read("a.b", field, "4,5")
    assert config._read("a.b", field, "(4,)") == (4,)
    with pytest.raises(BadInput, match=r"a.b=4,x: is not tuple, each a whole number"):
        config._read("a.b", field, "4,x")
    assert field.why_not((4, 10)) == "is out of range"
    assert field.why_not([4]) == "is a list, not a tuple"
    config.dump(config.Settings({"sizes": (1, 2)}), tmp_path / "c.json")
    assert config.load_saved(tmp_path / "c.json").sizes == (1, 2)


def test_intervals_at_their_ends() -> None:
    assert config_fields.number("(0, 1]").why_not(0.0) == "is out of range"
    assert config_fields.number("(0, 1]").why_not(1.0) is None
    assert config_fields.number("[0, 1)").why_not(0.0) is None
    assert config_fields.number("[0, 1)").why_not(1.0) == "is out of range"
    assert config_fields.number("[0, 1]").nearest(7.0) == 1.0
    assert config_fields.number("(0, 1]").nearest(-7.0) is None
    assert config_fields.count(allowed="(0, 9]").nearest(-7) == 1
    assert config_fields.count().why_not(True) == "is true or false, not a whole number"


def test_help_lists_flags_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--num_episodes: episodes to play" in text
    assert "--config.search.num_simulations: a whole number in [0, inf); simulations" in text
    assert "section world, with env.backend=world, env.game=key_door:\n  --config.world.size: a whole number" in text


def test_a_tuple_survives_the_file(tmp_path: pathlib.Path) -> None:
    given = config.load("configs/pretrain.py", [("pretrain.held_out_actions", "3,4")])
    config.dump(given, tmp_path / "config.json")
    saved = config.load_saved(tmp_path / "config.json")
    assert saved.pretrain.held_out_actions == (3, 4) and not config.diff(saved, given)
    config.check(config.thaw(saved))


def test_a_thawed_config_is_nobody_elses() -> None:
    settings = config.load(BASE)
    changed = config.thaw(settings)
    changed.env.num_envs, changed.seed = 1, 7
    assert settings.env.num_envs == config.thaw(settings).env.num_envs == 64
    assert config.diff(settings, config.Settings(config.thaw(settings))) == {}


def test_compiled_programs_are_kept_unless_the_environment_says_otherwise(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_three_cores = str(tmp_path / "learnmax_jax" / "jax" / "cores-3")
    monkeypatch.setenv("NPROC", "3")
    for given, kept in ((None, of_three_cores), ("", ""), ("/elsewhere", "/elsewhere")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        if given is not None:
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        config.set_compilation_cache()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == kept
    monkeypatch.delenv("NPROC")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    config.set_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == of_three_cores.replace("cores-3", "cores-5")
