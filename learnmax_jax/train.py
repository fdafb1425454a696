"""A run: the loop on the host round the compiled step, with its records, checkpoints and reports.

    <workdir>/config.json      the settings, as checked
    <workdir>/starts.jsonl     each start: command and versions
    <workdir>/metrics.jsonl    a row a report
    <workdir>/checkpoints/     what a resumed run continues from
    <workdir>/shards/          every transition, for the replay of a resumed run
    <workdir>/evaluation/      films of evaluation episodes
    <workdir>/pictures/        frames: actual, reconstructed, predicted
    <workdir>/positions/       where the player has been, one file a checkpoint
    <workdir>/nan-<step>/      what was not finite, if anything ever was

What a step hands out is read while the next one runs, so the device never waits for the host.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from learnmax_jax import agent as agents
from learnmax_jax import (
    checkpoints,
    compiled_step,
    config,
    config_checks,
    config_schema,
    curriculum,
    devices,
    evaluation,
    lifecycle,
    metrics,
    pictures,
    positions,
    postmortem,
    provenance,
    starting,
)
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.cluster import Cluster, blame
from learnmax_jax.measures.rollout import wrong_action_ratio
from learnmax_jax.positions import Positions
from learnmax_jax.replay import shards
from learnmax_jax.step import Outputs, State
from learnmax_jax.tally import Tally

# Added to a step and folded into the run's key, far above the bare steps that acting folds in:
# a resumed run's reset draws other episodes, and no two uses share a key.
_RESUME, _EVALUATE, _DRAW, _STAGE = 9 << 28, 10 << 28, 11 << 28, 12 << 28


def run(settings: config.Settings, *, workdir: pathlib.Path, stop: lifecycle.StopWatcher) -> int:
    """Trains until the budget is spent, from the newest good checkpoint if there is one.

    Args:
      settings: the checked config.
      workdir: the run's folder; made if it is not there.
      stop: tells of a signal; the run saves and ends.
    Returns:
      Exit code 0.
    Raises:
      BadInput: the folder holds a run of other settings, or another process uses it.
      NonFinite: a loss, gradient or search was not finite; `nan-<step>/` holds what is needed to see it.
      StorageError: the disk failed, or holds checkpoints of which none is good.
      Preempted: a signal came; all is saved.
      HostLost: another process of the run is gone.
    """
    config_checks.check_devices(settings, jax.device_count(), jax.process_count())
    members = Cluster.here()
    if members.index:
        workdir = workdir / f"process-{members.index}"
    with lifecycle.locked(workdir):
        _check_workdir(settings, workdir)
        done = checkpoints.newest_good_step(workdir / "checkpoints") or 0
        fields = {name: str(value) for name, value in config_schema.flatten(settings).items()}
        members.check_alike(fields | provenance.versions() | {"commit": provenance.commit(), "newest checkpoint": done})
        members.watch()
        if done >= config.num_steps(settings):
            print(f"{workdir}: finished, {done * config.steps_per_call(settings):,} env steps", flush=True)
            return lifecycle.DONE
        with lifecycle.bad_input():
            current = curriculum.stage_at(settings, done)
            agent = agents.build(current.settings, devices.everything())
        state, tally = _start(agent, workdir)
        step = int(state.step)
        visited = _restore_positions(workdir, step)
        with contextlib.ExitStack() as files:
            with _shards_in(workdir):
                writer = shards.ShardWriter(
                    workdir / "shards", records_per_shard=settings.replay.records_per_shard, next_index=step
                )
            files.callback(writer.close)
            rows = metrics.MetricsWriter(workdir, restored=step * agent.steps_per_call, counter=metrics.STEP)
            files.callback(rows.close)
            config.dump(settings, workdir / "config.json")
            provenance.record(workdir)
            run = Run(agent, workdir, stop, members, writer, rows, tally, visited)
            with blame(members):
                act_learn_step = compiled_step.compile_step(agent, state)
                for stage in curriculum.stages(settings):
                    if stage.last_step > step:
                        if stage.first_step != current.first_step:
                            agent, state = _next_stage(stage, state)
                            act_learn_step = compiled_step.compile_step(agent, state)
                        state = run.loop(agent, act_learn_step, state, stage.last_step)
    return lifecycle.DONE


def _check_workdir(settings: config.Settings, workdir: pathlib.Path) -> None:
    """Compares the settings with those that made the folder's run, if it holds one."""
    path = workdir / "config.json"
    if path.exists():
        config.check_resume(config.load_saved(path), settings, workdir)
    elif checkpoints.steps(workdir / "checkpoints"):
        raise lifecycle.BadInput(f"workdir={workdir}: holds checkpoints but no config.json. Allowed: a whole run.")


def _start(agent: Agent, workdir: pathlib.Path) -> tuple[State, Tally]:
    """A fresh state, or the newest good checkpoint's with the replay refilled from the shards."""
    with lifecycle.bad_input():
        spec = steps.state_spec(agent)
    restored = checkpoints.restore(workdir / "checkpoints", steps.to_save(agent, spec))
    if restored is None:
        state = steps.init_state(agent)
        return steps.place(agent, state.replace(train=starting.begin(agent, state.train))), Tally()
    saved, step = restored.state, restored.step
    with _shards_in(workdir):
        replay = shards.refill(
            agent.replay,
            steps.empty_replay(agent),
            shards.ShardReader(workdir / "shards"),
            step,
            num_rows=len(range(agent.replay.num_envs)[devices.rows_here(agent.mesh, agent.replay.num_envs)]),
            put=partial(devices.from_here, agent.mesh),
        )
    actor = saved.get("actor")
    if actor is None:
        key = jax.random.fold_in(saved["rng_key"], _RESUME + step)
        actor = steps.start_actor(agent.player, saved["train"].model, key)
    state = State(
        actor=actor,
        train=saved["train"],
        replay=replay.replace(tree=saved["tree"], max_weight=saved["max_weight"]),
        novelty=saved["novelty"],
        rng_key=saved["rng_key"],
        step=saved["step"],
    )
    print(f"{workdir}: continues from step {step}", flush=True)
    return steps.place(agent, state), Tally.from_meta(restored.meta)


def _next_stage(stage: curriculum.Stage, state: State) -> tuple[Agent, State]:
    """The agent of a later stage, and the state that it goes on from, with emulators of its own."""
    agent = agents.build(stage.settings, devices.everything())
    key = jax.random.fold_in(state.rng_key, _STAGE + stage.first_step)
    print(f"episodes of up to {stage.settings.env.max_episode_steps:,} agent steps from here", flush=True)
    return agent, state.replace(actor=steps.start_actor(agent.player, state.train.model, key))


def _restore_positions(workdir: pathlib.Path, step: int) -> Positions:
    """A step's positions; they are for the report only, so damaged ones begin anew."""
    try:
        return positions.restore(workdir / "positions", step)
    except ValueError as problem:
        print(f"{problem}; positions are counted anew", flush=True)
        return Positions()


@contextlib.contextmanager
def _shards_in(workdir: pathlib.Path) -> Iterator[None]:
    """Shards that do not fit the checkpoint end a run: going on without them would be another run."""
    try:
        yield
    except ValueError as problem:
        raise lifecycle.StorageError(
            f"{workdir / 'shards'}: {problem}. Allowed: the shards as the run wrote them, or another workdir."
        ) from problem


class Clock:
    """Wall time of a run over all its parts, and its speed since the last report."""

    def __init__(self, seconds_before: float) -> None:
        self._before = seconds_before
        self._begin = time.monotonic()
        self._mark = (self._begin, 0)

    @property
    def seconds(self) -> float:
        """Since the run's first start, time between its parts left out."""
        return self._before + time.monotonic() - self._begin

    def steps_per_second(self, num_env_steps: int) -> float:
        """Since the last call, or since `start`."""
        now, (begin, steps_before) = time.monotonic(), self._mark
        self._mark = (now, num_env_steps)
        return (num_env_steps - steps_before) / (now - begin)

    def start(self, num_env_steps: int) -> None:
        """Begins to count the speed: after the compilation."""
        self._mark = (time.monotonic(), num_env_steps)

    def skip(self, seconds: float) -> None:
        """Leaves time that was not training (an evaluation, a picture) out of the speed."""
        self._mark = (self._mark[0] + seconds, self._mark[1])


class Run:
    """A run's host side: where its outputs go, and when."""

    def __init__(
        self,
        agent: Agent,
        workdir: pathlib.Path,
        stop: lifecycle.StopWatcher,
        members: Cluster,
        writer: shards.ShardWriter,
        rows: metrics.MetricsWriter,
        tally: Tally,
        visited: Positions,
    ) -> None:
        """Binds the parts; compiles nothing."""
        self.agent, self.workdir, self.stop, self.members = agent, workdir, stop, members
        self.writer, self.rows, self.tally, self.visited = writer, rows, tally, visited
        self.clock = Clock(tally.seconds)
        section = agent.config.evaluation
        self.evaluator = evaluation.Evaluator(
            agent.config,
            protocol=agent.config.env.protocol,
            num_episodes=section.num_episodes,
            max_episode_steps=section.max_episode_steps,
            noise=section.noise,
        )
        learner = agent.config.learner
        self.context_frames = min(agent.config.actor.window, learner.sequence_length + 1 - learner.unroll_steps)
        self.imagine = jax.jit(
            partial(
                pictures.imagine,
                world_model=agent.world_model,
                context_frames=self.context_frames,
                unroll_steps=learner.unroll_steps,
            )
        )
        self.wrong_action_ratio = jax.jit(partial(wrong_action_ratio, world_model=agent.world_model))
        self.sample = jax.jit(agent.replay.sample, out_shardings=devices.whole(agent.mesh))

    def loop(
        self, agent: Agent, act_learn_step: Callable[[State], tuple[State, Outputs]], state: State, last_step: int
    ) -> State:
        """Steps up to `last_step` with a stage's agent; step k's outputs are read while step k + 1 runs."""
        self.agent = agent
        first_step = int(state.step)
        step, waiting = first_step, None
        while step < last_step:
            with jax.transfer_guard("disallow"):
                state, outputs = act_learn_step(state)
            self.stop.set_at_stake(True)
            if step == first_step:
                outputs.num_updates.block_until_ready()
                print(f"first step done {lifecycle.seconds_since_start():.0f} s after the start", flush=True)
                self.clock.start(step * self.agent.steps_per_call)
            if waiting is not None:
                self.report(self.absorb(waiting, state, step), step)
            waiting, step = outputs, step + 1
            evaluates, saves = self.completes(step, "evaluation"), self.completes(step, "checkpoint")
            draws, last = self.completes(step, "pictures"), step == last_step
            stops = self.members.any(self.stop.requested)
            # A step's outputs are read before anything is made of its state: no checkpoint of a NaN.
            if evaluates or saves or draws or last or stops:
                scalars, waiting = self.absorb(outputs, state, step), None
                if (evaluates or last) and not stops:
                    self.evaluate(state, step)
                if (draws or last) and not stops:
                    self.draw(state, step)
                self.report(scalars, step, due=last)
                stops = self.members.any(self.stop.requested)
                if saves or last or stops:
                    self.save(state, outputs, step)
                    if self.members.any(self.stop.requested) and step < config.num_steps(agent.config):
                        raise lifecycle.Preempted(f"saved step {step} in {self.workdir}; the same command continues")
                    self.stop.set_at_stake(False)
        return state

    def completes(self, step: int, section: str) -> bool:
        """Whether a step completes an interval of that config section."""
        every, per_step = self.agent.config[section].every_env_steps, self.agent.steps_per_call
        return step * per_step // every > (step - 1) * per_step // every

    def absorb(self, outputs: Outputs, state: State, step: int) -> dict[str, Any]:
        """Fetches a step's outputs, refuses what is not finite, stores the transitions; returns the metrics."""
        act, scalars, num_updates, finite = devices.to_host(
            (outputs.act, outputs.metrics, outputs.num_updates, outputs.finite)
        )
        if not finite:
            raise self.failure(outputs, state, step)
        here = devices.rows_here(self.agent.mesh, self.agent.replay.num_envs)
        whole = act.transitions.replace(observation=())
        mine = jax.tree.map(lambda rows: rows[here], whole).replace(observation=act.transitions.observation)
        self.writer.append(mine)
        self.tally.add(act, int(num_updates), first_env_step=(step - 1) * self.agent.steps_per_call)
        self.visited.add(act, here)
        # Before the first update the learner's numbers mean nothing.
        return {name: value if num_updates else None for name, value in scalars.items()}

    def failure(self, outputs: Outputs, state: State, step: int) -> lifecycle.NonFinite:
        """The error of a step that was not finite, with all that is needed to see it in `nan-<step>/`."""
        return postmortem.fail(
            self.workdir,
            step,
            suspects=devices.to_host({"act": outputs.act, "metrics": outputs.metrics, "state": state.train}),
            batch=devices.to_host(outputs.batch),
            keys=devices.on_one({"run": state.rng_key}),
            metrics=devices.to_host(outputs.metrics),
        )

    def report(self, scalars: dict[str, Any], step: int, *, due: bool = False) -> None:
        """Writes a row and a line, if step completes a report's interval or one is due anyway."""
        if not (due or self.completes(step, "report")):
            return
        num_env_steps = step * self.agent.steps_per_call
        row = {
            "num_env_steps": num_env_steps,
            "num_frames": num_env_steps * self.agent.environments.frames_per_step,
            "num_updates": self.tally.num_updates,
            "seconds": self.clock.seconds,
            "steps_per_second": self.clock.steps_per_second(num_env_steps),
            **self.tally.report(),
            **self.visited.report(),
            **scalars,
        }
        self.rows.write(row)
        print(metrics.progress_line(row, num_env_steps=self.agent.config.num_env_steps), flush=True)

    def evaluate(self, state: State, step: int) -> None:
        """Plays a few episodes at beta 0, for the next row, and films one."""
        begin = time.monotonic()
        key = jax.random.fold_in(state.rng_key, _EVALUATE + step)
        params, key = devices.on_one((state.train.model, key))
        result = self.evaluator.play(params, key, interrupted=lambda: self.stop.requested)
        if result is not None:
            self.tally.evaluation = result.summary()
            evaluation.write_film(result, self.workdir / "evaluation" / f"step-{step:09d}.gif")
            print(f"evaluation after step {step}: mean score {result.summary()['mean_score']:.1f}", flush=True)
        self.clock.skip(time.monotonic() - begin)

    def draw(self, state: State, step: int) -> None:
        """Draws what the model predicts of a window from the replay, and asks whether it knows actions apart.

        Nothing while there is no window.
        """
        if not self.agent.replay.can_sample(state.replay):
            return
        begin = time.monotonic()
        batch = self.sample(state.replay, jax.random.fold_in(state.rng_key, _DRAW + step))
        params, windows = devices.on_one((state.train.model, batch))
        ratio = float(self.wrong_action_ratio(params, windows))
        self.tally.wrong_action_ratio = ratio if math.isfinite(ratio) else None  # no action told anything
        pictures.write_strip(
            self.imagine(params, windows),
            devices.to_host(batch),
            self.workdir / "pictures" / f"step-{step:09d}.png",
            context_frames=self.context_frames,
            action_names=self.agent.environments.action_names,
        )
        self.clock.skip(time.monotonic() - begin)

    def save(self, state: State, outputs: Outputs, step: int) -> None:
        """Commits a checkpoint whose transitions are safe, then lets go of shards that no kept one needs."""
        saved = devices.to_host(devices.gathered(self.agent.mesh, steps.to_save(self.agent, state)))
        # Finite losses and gradients may still end in parameters that are not.
        if postmortem.first_bad_leaf(saved):
            raise self.failure(outputs, state, step)
        self.writer.flush()
        self.tally.seconds = self.clock.seconds
        folder = self.workdir / "checkpoints"
        kept = self.agent.config.checkpoint.keep
        positions.save(self.workdir / "positions", step, self.visited)
        checkpoints.save(folder, step, saved, self.tally.to_meta(), keep=kept)
        positions.keep_only(self.workdir / "positions", checkpoints.steps(folder))
        replay = self.agent.replay
        oldest = checkpoints.steps(folder)[0] - replay.num_slots // replay.chunk_length
        shards.delete_before(self.workdir / "shards", oldest)
