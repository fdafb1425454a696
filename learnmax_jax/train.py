"""A run: the loop on the host round the compiled step, with its records, checkpoints and reports.

    <workdir>/config.json      the settings, as checked
    <workdir>/metrics.jsonl    a row a report
    <workdir>/checkpoints/     what a resumed run continues from
    <workdir>/shards/          every transition, for the replay of a resumed run
    <workdir>/evaluation/      films of evaluation episodes
    <workdir>/pictures/        frames: actual, reconstructed, predicted
    <workdir>/nan-<step>/      what was not finite, if anything ever was

What a step hands out is read while the next one runs, so the device never waits for the host.
"""

import dataclasses
import pathlib
import time
from typing import Any

import jax

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, evaluation, lifecycle, metrics, pictures, postmortem
from learnmax_jax.agent import Agent, Outputs, State
from learnmax_jax.replay import shards
from learnmax_jax.tally import Tally

# Folded into the run's key where a resumed run resets its emulators, so that no episode is played twice.
_RESUME = 0x7E5
_EVALUATE = 0xE7A1
_DRAW = 0xD2A7


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
    """
    with lifecycle.locked(workdir):
        _claim(settings, workdir)
        agent = agents.build(settings)
        state, tally = _start(agent, workdir)
        step = int(state.step)
        if step >= num_steps(agent):
            print(f"{workdir}: finished, {step * agent.steps_per_call:,} env steps", flush=True)
            return lifecycle.DONE
        writer = shards.ShardWriter(
            workdir / "shards", records_per_shard=settings.replay.records_per_shard, next_index=step
        )
        rows = metrics.MetricsWriter(workdir, restored_env_steps=step * agent.steps_per_call)
        try:
            Run(agent, workdir, stop, writer, rows, tally, Clock(tally.seconds)).loop(state)
        finally:
            rows.close()
            writer.close()
    return lifecycle.DONE


def num_steps(agent: Agent) -> int:
    """Act-learn steps that spend the budget of env steps."""
    return -(-agent.config.num_env_steps // agent.steps_per_call)


def _claim(settings: config.Settings, workdir: pathlib.Path) -> None:
    """Writes the settings, or compares them with those that made the folder's run."""
    path = workdir / "config.json"
    if path.exists():
        config.check_resume(config.load_saved(path), settings, workdir)
    elif checkpoints.steps(workdir / "checkpoints"):
        raise lifecycle.BadInput(f"workdir={workdir}: holds checkpoints but no config.json. Allowed: a whole run.")
    config.dump(settings, path)


def _start(agent: Agent, workdir: pathlib.Path) -> tuple[State, Tally]:
    """A fresh state, or the newest good checkpoint's with the replay refilled from the shards."""
    state = agents.init_state(agent)
    restored = checkpoints.restore(workdir / "checkpoints", agents.to_save(agent, state))
    if restored is None:
        return state, Tally()
    reader = shards.ShardReader(workdir / "shards")
    replay = shards.refill(agent.replay, state.replay, reader, restored.step)
    saved = restored.state
    train = saved["train"]
    state = State(
        actor=saved["actor"]
        if agent.environments.restorable
        else agents.start_actor(
            agent.player, train.model, jax.random.fold_in(saved["rng_key"], _RESUME + restored.step)
        ),
        train=train,
        replay=replay.replace(tree=saved["tree"], max_weight=saved["max_weight"]),
        novelty=saved["novelty"],
        rng_key=saved["rng_key"],
        step=saved["step"],
    )
    print(f"{workdir}: continues from step {restored.step}", flush=True)
    return state, Tally.from_meta(restored.meta)


class Clock:
    """Wall time of a run over all its parts, and its speed since the last report."""

    def __init__(self, seconds_before: float) -> None:
        self._before = seconds_before
        self._begin = time.monotonic()
        self._mark: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """Since the run's first start, time between its parts left out."""
        return self._before + time.monotonic() - self._begin

    def steps_per_second(self, num_env_steps: int) -> float:
        """Since the last call; 0 on the first, whose time is compilation."""
        now, mark = time.monotonic(), self._mark
        self._mark = (now, num_env_steps)
        return (num_env_steps - mark[1]) / (now - mark[0]) if mark else 0.0

    def skip(self, seconds: float) -> None:
        """Leaves time that was not training (an evaluation) out of the speed."""
        if self._mark:
            self._mark = (self._mark[0] + seconds, self._mark[1])


@dataclasses.dataclass
class Run:
    """A run's host side: where its outputs go, and when."""

    agent: Agent
    workdir: pathlib.Path
    stop: lifecycle.StopWatcher
    writer: shards.ShardWriter
    rows: metrics.MetricsWriter
    tally: Tally
    clock: Clock

    def loop(self, state: State) -> None:
        """Steps until the budget is spent; step k's outputs are read while step k + 1 runs."""
        act_learn_step = agents.compile_step(self.agent)
        step, last_step = int(state.step), num_steps(self.agent)
        waiting: Outputs | None = None
        while step < last_step:
            with jax.transfer_guard("disallow"):
                state, outputs = act_learn_step(state)
            self.stop.set_at_stake(True)
            if waiting is not None:
                self.report(self.absorb(waiting, state, step), step)
            waiting, step = outputs, step + 1
            leaving = self.stop.requested or step == last_step
            evaluates, saves = self.completes(step, "evaluation"), self.completes(step, "checkpoint")
            if leaving or evaluates or saves:
                scalars, waiting = self.absorb(waiting, state, step), None
                if (evaluates or step == last_step) and not self.stop.requested:
                    self.evaluate(state, step)
                self.report(scalars, step, due=step == last_step)
            if leaving or saves or self.stop.requested:
                self.save(state, step)
                self.stop.set_at_stake(False)
            if self.stop.requested and step < last_step:
                raise lifecycle.Preempted(f"saved step {step} in {self.workdir}; the same command continues")

    def completes(self, step: int, section: str) -> bool:
        """Whether a step completes an interval of that config section."""
        every, per_step = self.agent.config[section].every_env_steps, self.agent.steps_per_call
        return step * per_step // every > (step - 1) * per_step // every

    def absorb(self, outputs: Outputs, state: State, step: int) -> dict[str, Any]:
        """Fetches a step's outputs, refuses what is not finite, stores the transitions; returns the metrics."""
        act, scalars, num_updates, finite = jax.device_get(
            (outputs.act, outputs.metrics, outputs.num_updates, outputs.finite)
        )
        if not finite:
            raise postmortem.fail(
                self.workdir,
                step,
                suspects={"metrics": scalars, "train": state.train},
                batch=outputs.batch,
                keys={"run": state.rng_key},
                metrics=scalars,
            )
        self.writer.append(act.transitions)
        self.tally.add(act, int(num_updates))
        # Before the first update the learner's numbers mean nothing.
        return {name: value if num_updates else None for name, value in scalars.items()}

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
            **scalars,
        }
        self.rows.write(row)
        print(metrics.progress_line(row, num_env_steps=self.agent.config.num_env_steps), flush=True)

    def evaluate(self, state: State, step: int) -> None:
        """Plays a few episodes at beta 0, for the next row, and films one."""
        begin, section = time.monotonic(), self.agent.config.evaluation
        result = evaluation.play(
            self.agent.config,
            state.train.model,
            jax.random.fold_in(state.rng_key, _EVALUATE + step),
            protocol=self.agent.config.env.protocol,
            num_episodes=section.num_episodes,
            max_episode_steps=section.max_episode_steps,
            interrupted=lambda: self.stop.requested,
        )
        if result is not None:
            self.tally.evaluation = result.summary()
            evaluation.write_film(result, self.workdir / "evaluation" / f"step-{step:09d}.gif")
            print(f"evaluation after step {step}: mean score {result.summary()['mean_score']:.1f}", flush=True)
        self.draw(state, step)
        self.clock.skip(time.monotonic() - begin)

    def draw(self, state: State, step: int) -> None:
        """Draws what the model predicts of a window from the replay; nothing while there is no window."""
        agent, section = self.agent, self.agent.config.learner
        if not agent.replay.can_sample(state.replay):
            return
        batch = jax.jit(agent.replay.sample)(state.replay, jax.random.fold_in(state.rng_key, _DRAW + step))
        context_frames = min(agent.config.actor.window, section.sequence_length + 1 - section.unroll_steps)
        pictures.write_strip(
            state.train.model,
            batch,
            self.workdir / "pictures" / f"step-{step:09d}.png",
            world_model=agent.world_model,
            context_frames=context_frames,
            unroll_steps=section.unroll_steps,
            action_names=agent.environments.action_names,
        )

    def save(self, state: State, step: int) -> None:
        """Commits a checkpoint whose transitions are safe, then lets go of shards that no kept one needs."""
        self.writer.flush()
        self.tally.seconds = self.clock.seconds
        folder = self.workdir / "checkpoints"
        kept = self.agent.config.checkpoint.keep
        checkpoints.save(folder, step, agents.to_save(self.agent, state), self.tally.to_meta(), keep=kept)
        replay = self.agent.replay
        oldest = checkpoints.steps(folder)[0] - replay.num_slots // replay.chunk_length
        shards.delete_before(self.workdir / "shards", oldest)
