from pathlib import Path

import pytest

import simtoreal
from simtoreal.algorithms import agent_settings
from simtoreal.config import ConfigError, RunConfig, default_algorithm, load_config, make_config, recipe
from simtoreal.randomization.yaml_files import ConfigFileError, write_yaml


def make(**options):
    overrides = {"steps": 100, **options.pop("overrides", {})}
    return make_config("CartPoleSwingUp", algorithm=options.pop("algorithm", "sac"), overrides=overrides, **options)


def written(folder, text):
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_each_source_wins_over_the_one_before(tmp_path):
    defaults = {"envs": 2, "seed": 2, "threads": 2, "device": "cpu", "randomization": "a"}
    file = written(tmp_path, "seed: 3\nthreads: 3\ndevice: auto\n")
    config = make(
        defaults=defaults, config_file=file, overrides={"threads": 4, "device": "cuda", "checkpoint_every": None},
        assignments=["device=cpu"],
    )  # fmt: skip
    assert (config.envs, config.seed, config.threads, config.device) == (2, 3, 4, "cpu")
    assert config.checkpoint_every is None


def test_a_file_may_say_how_long(tmp_path):
    assert make(config_file=written(tmp_path, "steps: 7\n"), overrides={"steps": None}).steps == 7
    assert make(overrides={"steps": None}).steps == recipe("CartPoleSwingUp", "sac")["steps"]
    with pytest.raises(
        ConfigError, match="no recipe says how many steps reinforce takes to learn CartPoleSwingUp: pass"
    ):
        make(overrides={"steps": None}, algorithm="reinforce")


def test_our_recipe_is_the_starting_point_and_is_not_changed_by_use():
    before = recipe("CartPoleSwingUp", "sac")["agent"]["hidden"]
    config = make(assignments=["agent.hidden=[8]", "agent.tau=0.5"])
    assert config.agent["hidden"] == [8]
    assert config.agent["gamma"] == recipe("CartPoleSwingUp", "sac")["agent"]["gamma"]
    assert recipe("CartPoleSwingUp", "sac")["agent"]["hidden"] == before
    assert make_config("MountainCarContinuous-v0", algorithm="sac", overrides={"steps": 1}).agent == {}


def test_numbers_mean_what_they_say():
    assert make(assignments=["agent.actor_lr=1e-3"]).agent["actor_lr"] == 0.001
    assert make(assignments=["randomization=no"]).randomization == "no"


def test_what_is_written_reads_back_the_same(tmp_path):
    config = make(assignments=["agent.target_entropy=-2.5", "agent.hidden=[32, 16]"])
    write_yaml(tmp_path / "config.yaml", config.model_dump(exclude_none=True))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("x", "path=value"),
        ("=3", "path=value"),
        ("nope=1", "no setting nope; choices: "),
        ("evs=2", "did you mean envs?"),
        ("steps=0", "steps: Input should be greater than or equal to 1, got 0"),
        ("steps=1.5", "steps"),
        ("steps=.inf", "not a finite number"),
        ("seed=-1", "seed"),
        ("envs=0", "envs"),
        ("envs=[1]", "envs"),
        ("threads=0", "threads"),
        ("device=tpu", "'auto', 'cpu' or 'cuda', got 'tpu'"),
        ("privileged=maybe", "privileged"),
        ("checkpoint_every=0", "checkpoint_every"),
        ("agent=5", "agent"),
        ("agent.gamma=nan", "not a finite number"),
        ("agent.gamma=!!python/object/apply:os.system [ls]", "refused"),
        ("task=PandaReach", "--set cannot change them"),
        ("algorithm=sb3-sac", "--set cannot change them"),
    ],
)
def test_a_configuration_that_cannot_run_cannot_be_built(assignment, words):
    with pytest.raises((ConfigError, ConfigFileError)) as error:
        make(assignments=[assignment])
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_a_check_of_ours_says_stands_as_it_is(tmp_path):
    with pytest.raises(ConfigError) as error:
        make(overrides={"workers": 2})
    assert str(error.value) == "workers: 2 workers need at least as many environments; raise --envs"
    with pytest.raises(ConfigFileError) as error:
        make(config_file=written(tmp_path, "seed: 1\nworkers: 2\n"))
    assert str(error.value).endswith("run.yaml:2: workers: 2 workers need at least as many environments; raise --envs")


def test_a_file_is_not_blamed_for_an_argument(tmp_path):
    with pytest.raises(ConfigError) as error:
        make(config_file=written(tmp_path, "envs: 2\n"), assignments=["envs=0"])
    assert str(error.value) == "envs: Input should be greater than or equal to 1, got 0"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 100", "steps: 0", "run.yaml:3: steps: Input should be greater than or equal to 1, got 0"),
        ("steps: 100", "", 'run.yaml:1: the file lacks the key "steps"'),
        ("steps: 100", "stepps: 100", 'run.yaml:3: unknown key "stepps" in the file; did you mean steps'),
        ("envs: 2", "envs: 1", "run.yaml:5: workers: 2 workers need at least as many environments; raise --envs"),
    ],
)
def test_a_runs_configuration_that_was_damaged_is_refused_with_its_line(tmp_path, old, new, words):
    text = "task: CartPoleSwingUp\nalgorithm: sac\nsteps: 100\nenvs: 2\nworkers: 2\n"
    load_config(written(tmp_path, text))
    with pytest.raises(ConfigFileError) as error:
        load_config(written(tmp_path, text.replace(old, new)))
    assert words in str(error.value)


def test_an_unknown_algorithm_names_the_choices():
    with pytest.raises(
        ConfigError, match="no algorithm 'quux'; choices: dqn, ppo, qlearning, rainbow, reinforce, sac, "
    ):
        make(algorithm="quux")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nenvs: 0\n", "run.yaml:2: envs: Input should be greater than or equal to 1, got 0"),
        ("seed: 1\nsed: 1\n", 'run.yaml:2: unknown key "sed" in the file; did you mean'),
        ("seed: 1\nseed: 2\n", 'run.yaml:2: duplicate key "seed"'),
        ("seed: .nan\n", "run.yaml:1"),
        ("- seed\n", "run.yaml:1"),
        ("", "run.yaml:1"),
        ("a: &a [x, x]\nb: *c\n", "run.yaml:2"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(ConfigFileError) as error:
        make(config_file=written(tmp_path, text))
    assert words in str(error.value)


def test_a_file_for_another_task_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is for PandaReach sac, not CartPoleSwingUp sac"):
        make(config_file=written(tmp_path, "task: PandaReach\nalgorithm: sac\n"))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothere\.yaml"):
        make(config_file=Path("nothere.yaml"))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("agent.gamma=2", "gamma must be from 0 to 1, got 2"),
        ("agent.gama=0.9", "no setting agent.gama; did you mean gamma?"),
        ("agent.hidden=5", "agent.hidden: a list is needed, got 5"),
        ("agent.hidden=[64, 1.5]", "agent.hidden.1"),
        ("agent.hidden=[99999999]", "hidden must be 1 to 32 layer widths from 1 to 16384, got (99999999,)"),
        (f"agent.hidden={[8] * 33}", "hidden must be 1 to 32 layer widths from 1 to 16384, got (8, 8, "),
        ("agent.batch_size=2.5", "agent.batch_size"),
        ("agent.batch_size=x", "agent.batch_size"),
        ("agent.buffer_size=10", "buffer_size must be at least batch_size 256, got 10"),
    ],
)
def test_settings_of_the_learner_are_checked_before_anything_is_simulated(assignment, words, tmp_path, monkeypatch):
    monkeypatch.setattr("simtoreal.train.TrainingEnvs", lambda config: pytest.fail("an environment was made"))
    with pytest.raises(ConfigError) as error:
        simtoreal.train("CartPoleSwingUp", steps=10, out=tmp_path / "run", assignments=[assignment])
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_settings_of_a_learner_are_completed():
    settings = agent_settings(RunConfig(task="X", steps=1, agent={"hidden": [8, 8]}))
    assert settings.hidden == (8, 8)
    assert settings.gamma == 0.99


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("agent.gamma=2", "gamma must be from 0 to 1, got 2"),
        ("agent.tau=-1", "tau must be above 0 and at most 1, got -1"),
        ("agent.batch_size=0", "batch_size must be at least 1, got 0"),
        ("agent.buffer_size=10", "buffer_size must be at least batch_size, got 10"),
        ("agent.learning_rate=0", "learning_rate must be above 0 and at most 1, got 0"),
        ("agent.learning_rate=1e30", "learning_rate must be above 0 and at most 1, got 1e+30"),
    ],
)
def test_a_baseline_that_cannot_run_is_refused(assignment, message, tmp_path, cli):
    arguments = ("--algorithm", "sb3-sac", "--steps", 10, "--out", tmp_path / "run", "--set", assignment)
    cli("train", "CartPoleSwingUp", *arguments).refused(f"simtoreal: agent: {message}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("agent.foo=3", "no setting agent.foo; choices: action_noise, batch_size, buffer_size, ent_coef, "),
        ("agent.learning_rte=3", "no setting agent.learning_rte; did you mean learning_rate"),
        ("agent.seed=3", "no setting agent.seed; "),  # it is the run's
    ],
)
def test_a_setting_that_a_baseline_has_not_is_refused_as_one_of_ours(assignment, words, tmp_path, cli, monkeypatch):
    monkeypatch.setattr("simtoreal.train.TrainingEnvs", lambda config: pytest.fail("an environment was made"))
    arguments = ("--algorithm", "sb3-sac", "--steps", 10, "--out", tmp_path / "run", "--set", assignment)
    cli("train", "CartPoleSwingUp", *arguments).refused(f"simtoreal: {words}")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_working_folder_shadows_nothing(tmp_path, monkeypatch, cli):
    (tmp_path / "imageio.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert cli("play", "CartPoleSwingUp", "--episodes", 1, "--video", "film.gif").code == 0


@pytest.mark.parametrize(
    ("task", "algorithm"),
    [
        ("PandaReach", "sac"),
        ("PixelCartPoleRGB", "ppo"),
        ("CartPole-v1", "ppo"),
        ("gym:CartPole-v1", "ppo"),
        ("X-v0", "sac"),
    ],
)
def test_a_task_is_learned_by_the_first_of_its_recipe(task, algorithm):
    assert default_algorithm(task) == algorithm


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("envs=true",), "envs: a number is needed, got true"),
        (("checkpoint_every=false",), "checkpoint_every: a number is needed, got false"),
        (("randomization_ramp=[true, 5]",), "randomization_ramp: a number is needed, got true"),
        (("teacher=true",), "teacher: a teacher sees the drawn parameters, so it needs privileged: true"),
        (("teacher=true", "privileged=true"), "teacher: nothing is randomized, so there is nothing to know; give a"),
    ],
)
def test_switches_and_numbers_are_not_mixed_up_and_a_teacher_has_something_to_know(assignments, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        make_config("CartPoleSwingUp", algorithm="sac", overrides={"steps": 10}, assignments=assignments)


@pytest.mark.parametrize(
    ("algorithm", "setting", "words"),
    [
        ("dqn", {"gamma": True}, "agent.gamma: a number is needed, got true"),
        ("sac", {"n_step": False}, "agent.n_step: a number is needed, got false"),
        ("ppo", {"hidden": [True, 16]}, "agent.hidden: a number is needed, got true"),
        ("qlearning", {"learning_rate_end": True}, "agent.learning_rate_end: a number is needed, got true"),
    ],
)
def test_no_switch_is_a_number_of_a_learner(algorithm, setting, words):
    with pytest.raises(ConfigError, match=f"^{words}$"):
        agent_settings(RunConfig(task="X", algorithm=algorithm, steps=1, agent=setting))
    assert agent_settings(
        RunConfig(task="X", algorithm="dqn", steps=1, agent={"double": True, "compile": False})
    ).double
