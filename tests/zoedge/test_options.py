"""Options: files, flags, ranges, durations."""

import re

import pytest
import yaml

from zoedge import options
from zoedge.errors import InputError
from zoedge.methods import RECIPES, having
from zoedge.options import TuneOptions
from zoedge.settings import facts


def config(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_flag_beats_the_file_which_beats_the_default(tmp_path):
    path = config(tmp_path, "lr: 1e-4\nbatch-size: 8\n")
    loaded, given, *_ = options.load_options(path, {"batch_size": 4})
    assert (loaded.lr, loaded.batch_size, loaded.seed) == (1e-4, 4, 0)
    assert given == {"lr", "batch_size"}


def test_a_setting_without_a_value_counts_as_left_out(tmp_path):
    assert options.load_options(config(tmp_path, "epochs:\nseed: 0\n"), {}).given == {"seed"}


def test_a_number_without_a_dot_is_a_number(tmp_path):
    assert options.load_options(config(tmp_path, "eps: 1e-3"), {}).options.eps == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learningrate: 1", r"config.yaml has no setting 'learningrate'"),
        ("batch_sizes: 1", r"has no setting 'batch_sizes'; did you mean batch_size"),
        ("lr: fast", r"config.yaml can't be used: Expected `float \| null`, got `str` - at `\$.lr`"),
        ("lr: -1", "--lr is -1.0 and must be above 0"),
        ("val_size: 1.5", "--val-size is 1.5 and must be at least 0 and below 1"),
        ("- lr", "must hold one setting per line"),
        ("lr: [", "is not YAML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        options.load_options(config(tmp_path, text), {})


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="can't be read: No such file"):
        options.load_options(tmp_path / "absent.yaml", {})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("45", 45)])
def test_durations(text, seconds):
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", "inf", "nan"])
def test_bad_durations(text):
    with pytest.raises(InputError, match="is not a duration: write 90s, 30m or 2h"):
        options.seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("auto", None),
        ("no", 0),
        ("512MB", 512 * 10**6),
        ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("64k", 64000),
        ("10Ti", 10 * 2**40),
        ("1000", 1000),
    ],
)
def test_sizes(text, size):
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "some", "yes", "-1GB", "0", "0.1", "1XB", "1e3", "99999999TB", "GB"])
def test_bad_sizes(text):
    with pytest.raises(InputError, match="is not a size: write auto, no, 512MB or 2GB"):
        options.parse_size(text)


@pytest.mark.parametrize(("text", "value"), [("no", "no"), ("'no'", "no"), ("1000000", "1000000")])
def test_a_file_may_say_no_and_bare_numbers(tmp_path, text, value):
    path = config(tmp_path, f"prefix-cache: {text}\n")
    assert options.load_options(path, {}).options.prefix_cache == value


def test_prepacking_is_switched_off_in_a_file_as_by_its_flag(tmp_path):
    assert options.load_options(config(tmp_path, "prepack: no\n"), {}).options.prepack == "no"
    assert options.load_options(config(tmp_path, "prepack: yes\n"), {}).options.prepack == "yes"


def test_seed_zero_is_kept():
    assert options.make({"seed": 0}).seed == 0


def test_every_setting_has_its_facts():
    assert options.FACTS.keys() == set(TuneOptions.__struct_fields__) - {"method_options"}
    for recipe in RECIPES.values():
        assert facts(recipe.options).keys() == set(recipe.options.__struct_fields__)
    assert all(setting.help for setting in options.known_settings().values())


def test_settings_of_one_name_are_one_setting():
    for name, setting in options.known_settings().items():
        helps = {facts(recipe.options)[name].help for recipe in having(name)}
        assert helps <= {setting.help}


def test_a_method_has_its_own_settings():
    made = options.make({"method": "subzero", "rank": 4})
    assert made.method_options == {"rank": 4}
    assert (options.own(made).rank, options.own(made).refresh) == (4, 500)
    assert options.flat(made)["rank"] == 4


def test_settings_of_other_methods_are_left_out_and_told_as_given():
    loaded = options.load_options(None, {"method": "mezo", "rank": 4})
    assert loaded.options.method_options == {}
    assert "rank" in loaded.given


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "fzoo", "queries": 1}, "--queries is 1 and must be at least 2 for fzoo"),
        ({"method": "mezo", "queries": 0}, "--queries is 0 and must be at least 1 for mezo"),
        ({"active_elements": 0.0}, "--active-elements is 0.0 and must be above 0 and at most 1 for fzoo"),
        ({"directions": "uniform"}, "the options can't be used: Invalid enum value 'uniform'"),
        ({"seed": 2**64}, "must be at least 0 and below 2\\^64"),
        ({"lr": float("nan")}, "--lr is nan and must be above 0"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(InputError, match=message):
        options.make(values)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "; here it is lr"),
        ("--learning-rate", "; here it is --lr"),
        ("learningrate", "; here it is lr"),
        ("BatchSize", "; here it is batch_size"),
        ("--bs", "; here it is --batch-size"),
        ("--batch", "; here it is --batch-size"),
        ("batch", "; here it is batch_size"),
        ("num_train_epochs", "; here it is epochs"),
        ("max_steps", "; here it is steps"),
        ("epsilon", "; here it is eps"),
        ("num_queries", "; here it is queries"),
        ("patience", "; here it is early_stopping_patience"),
        ("--warmup", "; schedules begin at the full rate: lower lr, or leave it out"),
        ("max_length", "; the longest text is decided by zoedge export --max-seq-length"),
        ("stepz", "; did you mean steps"),
        ("qqqqqq", ""),
    ],
)
def test_what_other_trainers_call_a_setting_is_translated(name, said):
    assert options.hint(name).startswith(said)
    assert bool(options.hint(name)) == bool(said)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 1}, "the options have no setting 'learning_rate'; here it is lr"),
        ({"lr": 1.0, "stepz": 3}, "the options have no setting 'stepz'; did you mean steps"),
        ({"queries": 3}, "queries is a setting of methods: give it as method_options={'queries': ...}"),
    ],
)
def test_python_is_told_what_the_command_line_is_told(given, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        options.TuneOptions(**given)
    assert options.TuneOptions(lr=1.0) == options.make({"lr": 1.0})


def test_no_name_means_two_settings():
    known = options.known_settings()
    names = [n.strip("-").replace("-", "_") for s in known.values() for n in (*s.aliases, *s.also)]
    assert len(names) == len(set(names))
    assert not set(names) & known.keys()


def test_a_run_s_settings_that_were_decided_for_others_are_decided_anew(tmp_path):
    of_run = {
        "method": "fzoo",
        "lr": 0.5,
        "eps": 0.25,
        "queries": 3,
        "steps": 7,
        "seed": 3,
        "objective": "a:b",
        "objective_direction": "min",
    }
    path = config(
        tmp_path, yaml.safe_dump({"bundle": "b", "data": "d", "facts": {"x": 1}, "options": of_run})
    )

    def loaded(**flags):
        return options.flat(options.load_options(path, flags).options)

    assert of_run.items() <= loaded().items()
    assert of_run.items() <= loaded(method="fzoo", objective="a:b").items()
    other = loaded(method="mezo", objective="accuracy", epochs=2.0)
    assert [other[n] for n in ("lr", "eps", "steps", "objective_direction")] == [None] * 4
    assert "queries" not in other
    assert other["seed"] == 3
    assert loaded(method="mezo", lr=0.1)["lr"] == 0.1
