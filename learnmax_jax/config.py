"""The one door of all commands: `--config=PATH`, `--config.section.field=value` and a command's own flags.

Whatever is wrong with them is one line on stderr and exit code 2, before anything compiles.
The values stand in configs/, what they may be in config_schema.py, how they fit together in config_checks.py.
"""

import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import ml_collections
from absl import flags

from learnmax_jax import config_checks, config_fields, config_schema, lifecycle
from learnmax_jax.lifecycle import BadInput

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

_FUSION_FLAG = "xla_cpu_experimental_ynn_fusion_type"

Settings: TypeAlias = ml_collections.FrozenConfigDict
Main = Callable[[Settings, lifecycle.StopWatcher], int | None]


def run(
    main: Main, *, config_path: str | None = "configs/base.py", prepare: Callable[[], None] | None = None
) -> NoReturn:
    """Runs a command: reads its flags and config, watches for signals, ends with an exit code.

    Args:
      main: (settings, stop) -> exit code or None; other flags are absl's, in `absl.flags.FLAGS`.
      config_path: the default of `--config`; None for a command without one, whose settings are empty.
      prepare: called once the flags are read: what must come before the first use of a device, as checking a config is.
    """
    stop = lifecycle.StopWatcher()
    stop.start()
    set_xla_flags()
    set_compilation_cache()
    sys.exit(
        lifecycle.exit_code(lambda: main(read_command_line(sys.argv, config_path=config_path, prepare=prepare), stop))
    )


def set_xla_flags() -> None:
    """Turns off a fusion pass of XLA's CPU compiler, unless the environment says how to set it; before JAX is imported.

    With it a layer norm followed by two matrix products over 500 frames took 98 ms instead of 11 on one core
    (jaxlib 0.10.2), and programs of high rank can hang (jax issue 39257).
    """
    flags_given = os.environ.get("XLA_FLAGS", "")
    if _FUSION_FLAG not in flags_given:
        os.environ["XLA_FLAGS"] = f"{flags_given} --{_FUSION_FLAG}=".strip()


def set_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the environment says where, or (empty) nowhere; before JAX.

    Learning is found again. Acting with emulators is compiled anew in every process: behind `xla` its key holds the
    pool's address, which does not come again, and JAX keeps no program that calls back into Python. XLA splits a CPU's
    work by the cores that the process may use, which JAX's key leaves out: so each number of them has its own folder.
    """
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder = home / "learnmax_jax" / "jax" / f"cores-{os.environ.get('NPROC') or cores}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def read_command_line(
    argv: Sequence[str],
    *,
    config_path: str | None,
    flag_values: flags.FlagValues = flags.FLAGS,
    prepare: Callable[[], None] | None = None,
) -> Settings:
    """Parses a command line; `flag_values` hold the command's own flags afterwards.

    Args:
      argv: the program's name, then its arguments.
      config_path, prepare: as in `run`.
      flag_values: absl's flags.
    Returns:
      The checked config; empty without `config_path`.
    Raises:
      BadInput: an unknown or repeated flag, or anything `load` complains of.
    """
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(_help(config_path, flag_values))
        sys.exit(lifecycle.DONE)
    overrides, rest = _split(argv) if config_path else ([], list(argv))
    _parse_flags(rest, flag_values)
    if prepare:
        prepare()
    if config_path is None:
        return Settings()
    paths = [value for name, value in overrides if not name]
    if len(paths) > 1:
        raise BadInput(f"--config={paths[1]}: given twice. Allowed: once. Nearest: {paths[0]}")
    return load(paths[0] if paths else config_path, [(name, value) for name, value in overrides if name])


def load(path: str, overrides: Sequence[tuple[str, str]] = ()) -> Settings:
    """Executes a config file's `get_config()`, applies overrides, checks every field.

    Args:
      path: tried against the working directory, then against the repository.
      overrides: (dotted field, text); each text is read as the field's type.
    Raises:
      BadInput: a missing or failing file; a missing, unknown, repeated or wrong field.
    """
    return change(_execute(_find(path), path), overrides)


def change(config: ml_collections.ConfigDict, overrides: Sequence[tuple[str, str]]) -> Settings:
    """Applies overrides to a config, in place, and checks every field; see `load`."""
    config_schema.check_fields(config)
    seen = set()
    # The required fields come first: they say which optional sections there are.
    for name, value in sorted(overrides, key=lambda override: override[0] not in config_schema.FIELDS):
        fields = config_schema.fields_of({name: value} | config_schema.flatten(config))
        if name not in fields:
            raise config_schema.unknown_field(name, value, fields)
        if name in seen:
            raise config_schema.error(name, value, "the field is given twice", "once")
        seen.add(name)
        _set(config, name, _read(name, fields[name], value))
    return check(config)


def check(config: ml_collections.ConfigDict) -> Settings:
    """Checks each field and how the fields fit together; returns the frozen config.

    Raises:
      BadInput: naming field, value, what is allowed and the nearest allowed value.
    """
    for each in config_checks.CHECKS:
        each(config)
    return Settings(config)


def steps_per_call(settings: Settings) -> int:
    """Env steps of one act-learn step."""
    return settings.env.num_envs * settings.actor.num_steps


def num_steps(settings: Settings) -> int:
    """Act-learn steps that spend the budget of env steps."""
    return -(-settings.num_env_steps // steps_per_call(settings))


def thaw(settings: Settings) -> ml_collections.ConfigDict:
    """A copy that may be changed; `as_configdict` hands out one that all its callers share."""
    return ml_collections.ConfigDict(settings.to_dict())


def dump(config: Settings, path: str | os.PathLike[str]) -> None:
    """Writes a config as json, whole or not at all."""
    target = pathlib.Path(path)
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
    os.replace(temporary, target)


def load_saved(path: str | os.PathLike[str]) -> Settings:
    """Reads what `dump` wrote, unchecked: it may come from another version.

    Raises:
      BadInput: there is no such file, or it is not a config.
    """
    try:
        values = json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file. Allowed: a workdir that a run has written.") from None
    except ValueError as problem:
        raise BadInput(f"{path}: is not json: {problem}. Allowed: what a run has written.") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: is not a config. Allowed: what a run has written.")
    return Settings(_with_tuples(values))


def _with_tuples(value: Any) -> Any:
    """Json has lists where a config has tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(_with_tuples(inner) for inner in value) if isinstance(value, list) else value


def diff(saved: Settings, given: Settings) -> dict[str, tuple[Any, Any]]:
    """Lists the fields that differ: dotted name -> (saved, given); "(missing)" where one side lacks it."""
    before, after = config_schema.flatten(saved), config_schema.flatten(given)
    names = sorted(before.keys() | after.keys())
    pairs = {name: (before.get(name, "(missing)"), after.get(name, "(missing)")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] or type(pair[0]) is not type(pair[1])}


def check_resume(saved: Settings, given: Settings, workdir: str | os.PathLike[str]) -> None:
    """Refuses to continue a run with other settings than those that shaped its state.

    Raises:
      BadInput: with every difference outside `config_schema.MAY_CHANGE_ON_RESUME`.
    """
    changed = {
        name: pair for name, pair in diff(saved, given).items() if name not in config_schema.MAY_CHANGE_ON_RESUME
    }
    if changed:
        listed = "; ".join(f"{name}: saved {before}, given {after}" for name, (before, after) in changed.items())
        allowed = ", ".join(config_schema.MAY_CHANGE_ON_RESUME)
        raise BadInput(
            f"workdir={workdir}: holds a run of other settings ({listed}). "
            f"Allowed: the saved settings, with other {allowed}; or another workdir."
        )


def _split(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes `--config...` out of the arguments: [(dotted field, or "" for the path, value)], the rest."""
    taken: list[tuple[str, str]] = []
    rest = [argv[0]]
    waiting = iter(argv[1:])
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if not argument.startswith("-") or (name != "config" and not name.startswith("config.")):
            rest.append(argument)
            continue
        if not equals:
            value = next(waiting, "")
        if not value:
            raise BadInput(f"{flag}: has no value. Allowed: {flag}=VALUE.")
        taken.append((name[len("config.") :], value))
    return taken, rest


def _parse_flags(argv: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Gives the rest to absl; its complaints become ours."""
    own = _own_flags(flag_values)
    names = ", ".join(f"--{name}" for name in own) or "--config"
    try:
        unused = flag_values(list(argv))
    except flags.UnrecognizedFlagError as problem:
        near = config_fields.nearest(problem.flagname, [*own, "config"])
        raise BadInput(f"--{problem.flagname}: unknown flag. Allowed: {names}. Nearest: --{near}") from None
    except flags.Error as problem:
        raise BadInput(str(problem)) from None
    if len(unused) > 1:
        raise BadInput(f"{unused[1]}: is not a flag. Allowed: {names}.")
    for name in own:
        if flag_values[name].present > 1 and not isinstance(flag_values[name], flags.MultiFlag):
            raise BadInput(f"--{name}={flag_values[name].value}: given twice. Allowed: once.")


def _own_flags(flag_values: flags.FlagValues) -> list[str]:
    """Names the command's own flags; absl and chex define others that nobody here means."""
    modules = flag_values.flags_by_module_dict()
    own = [flag.name for module in modules if module.split(".")[0] not in ("absl", "chex") for flag in modules[module]]
    return sorted(own)


def _help(config_path: str | None, flag_values: flags.FlagValues) -> str:
    """The text of --help: the command's flags, then every field of a config with its unit."""
    lines = [
        f"  --{name}: {flag_values[name].help} (default: {flag_values[name].default})"
        for name in _own_flags(flag_values)
    ]
    if config_path:
        lines.append(f"  --config: a file with get_config() (default: {config_path})")
        lines += [_help_line(name, field) for name, field in config_schema.FIELDS.items()]
        for section in config_schema.SECTIONS:
            lines.append(f"  section {section.name}, {section.describe()}:")
            lines += [_help_line(f"{section.name}.{name}", field) for name, field in section.fields.items()]
    return "\n".join(["flags:", *lines])


def _help_line(name: str, field: config_fields.Field) -> str:
    unit = f"; {field.unit}" if field.unit else ""
    return f"  --config.{name}: {field.describe()}{unit}"


def _find(path: str) -> pathlib.Path:
    """Resolves a config's path, or names the nearest file of configs/."""
    for folder in (pathlib.Path.cwd(), REPOSITORY):
        if (folder / path).is_file():
            return folder / path
    known = sorted(f"configs/{file.name}" for file in REPOSITORY.glob("configs/[!_]*.py"))
    near = config_fields.nearest(path, known)
    raise BadInput(f"--config={path}: no such file. Allowed: {', '.join(known) or 'a file'}. Nearest: {near}")


def _execute(file: pathlib.Path, path: str) -> ml_collections.ConfigDict:
    """Runs a config file and returns what its `get_config()` returns."""
    # Derived configs say `from configs import base`, wherever the command was started.
    if str(REPOSITORY) not in sys.path:
        sys.path.append(str(REPOSITORY))
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"--config={path}: is not a Python file. Allowed: a file with get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as problem:
        why = f"{type(problem).__name__}: {problem}"
        raise BadInput(f"--config={path}: failed: {why}. Allowed: a file with get_config().") from problem
    if not isinstance(config, ml_collections.ConfigDict):
        raise BadInput(f"--config={path}: get_config() gave {type(config).__name__}. Allowed: a ConfigDict.")
    return ml_collections.ConfigDict(config)


def _set(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets a field; its section is made if need be."""
    section, _, leaf = name.rpartition(".")
    with config.unlocked():
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[leaf] = value


def _read(name: str, field: config_fields.Field, text: str) -> Any:
    """Reads an override's text as the field's type; the range is checked later with the rest."""
    try:
        if not field.is_tuple:
            return _read_one(field.kind, text)
        return tuple(_read_one(field.kind, part.strip()) for part in text.strip("()").split(",") if part.strip())
    except ValueError:
        kind = config_fields.Field(field.kind, None, is_tuple=field.is_tuple).describe()
        raise config_schema.error(name, text, f"is not {kind}", field.describe(), field.nearest(text)) from None


def _read_one(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
