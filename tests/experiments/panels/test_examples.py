"""Splits, windows, codings and batches, compared with loops over the rows of a table."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.experiments.panels.tables import COLUMNS, SERIES, STEPS, flows

from contextual_rnn import ContextNet
from contextual_rnn.experiments.panels import (
    Columns,
    Encoding,
    Split,
    example_table,
    prepare,
    prepare_new,
    read_panel,
)

PARTS = ("train", "validation", "test")


def with_holes(seed: int = 0) -> pa.Table:
    """A table with missing values in every column, rows left out, in a random order."""
    generator = np.random.default_rng(seed)
    table = flows(16, 20)
    rows = len(table)
    for name in ("rain", "weather", "discharge"):
        values = table[name].to_pylist()
        for row in generator.choice(rows, rows // 8, replace=False):
            values[row] = None
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    for name, period in (("area", 5), ("soil", 7), ("uses", 6)):
        values = table[name].to_pylist()
        values = [None if row // 20 % period == 1 else value for row, value in enumerate(values)]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    return table.take(
        pa.array(np.setdiff1d(generator.permutation(rows), [45, 46, 130])[generator.permutation(rows - 3)])
    )


def naive(table: pa.Table) -> dict[str, dict]:
    """The rows of each series by day."""
    series: dict[str, dict] = {}
    for row in table.to_pylist():
        series.setdefault(row["basin"], {})[row["day"]] = row
    return series


@pytest.mark.parametrize(
    "split", [Split(), Split("time", (0.5, 0.25, 0.25)), Split("time", (0.5, 0.25, 0.25), calendar=True)]
)
@pytest.mark.parametrize("reads_itself", [False, True])
def test_batches_equal_what_loops_over_rows_say(split, reads_itself):
    table = with_holes()
    inputs = ("rain", "weather", "discharge") if reads_itself else ("rain", "weather")
    columns = replace(COLUMNS, inputs=inputs, window=2)
    data = prepare(read_panel(table, columns), split, length=None if split.calendar else 3)
    series = naive(table)
    trained = training_values(data, table)
    for part in PARTS:
        examples = getattr(data, part)
        batch = data.batch(examples)
        for place in range(len(examples)):
            name = data.panel.series_names[examples.series[place]]
            rows = data.panel.steps.rows
            first = int(examples.first[place])
            days = sorted(series[name])
            begin = days[0] + offset(data, examples.sequence[place], first)
            steps = [series[name].get(begin + step * DAY, {}) for step in range(-3, examples.length[place])]
            assert [row.get("day") is None for row in steps[1:]] == (
                rows[first - 2 : first + len(steps) - 3] < 0
            ).tolist()
            expected = np.array(
                [coded_inputs(row, before, trained, reads_itself) for before, row in itertools.pairwise(steps)]
            )
            past = np.array([coded_inputs(row, row, trained, True) for row in steps[1:3]])
            assert_close(batch.inputs[place, : examples.length[place]], expected[2:])
            assert (batch.inputs[place, examples.length[place] :] == 0).all()
            assert_close(batch.window[place], past)
            targets = [row.get("discharge") for row in steps[3:]]
            known = [target is not None for target in targets]
            assert batch.observed[place].tolist() == known + [False] * (batch.target.shape[1] - len(known))
            shown = data.unscale(batch.target[place])[: len(known)].float()
            assert_close(shown[known], np.array([target for target in targets if target is not None]))
        context_rows = [next(iter(series[data.panel.series_names[code]].values())) for code in examples.series]
        assert_contexts(data, batch.context, context_rows)
    assert ContextNet(data.context)(data.batch(data.test).context).isfinite().all()


DAY = np.timedelta64(1, "D").astype(object)


def offset(data, sequence: int, first: int):
    """The time from the first step of a series to a step."""
    steps = data.panel.steps
    begin = steps.offsets[:-1][steps.series == sequence].min()
    return int(steps.time[first] - steps.time[begin]) * DAY


def training_values(data, table: pa.Table) -> dict[str, tuple[float, float]]:
    """Means and standard deviations over the rows of training examples and their windows."""
    steps: set[int] = set()
    for first, length in zip(data.train.first, data.train.length, strict=True):
        steps |= set(range(first - data.panel.columns.window, first + length))
    rows = table.take(pa.array(sorted({int(data.panel.steps.rows[step]) for step in steps} - {-1})))
    numbers = {name: rows[name].drop_null().to_numpy() for name in ("rain", "discharge")}
    return {name: (values.mean(), values.std()) for name, values in numbers.items()}


def coded_inputs(row, before, trained, reads_itself) -> list[float]:
    def quantity(name, value):
        mean, std = trained[name]
        return [0.0, 1.0] if value is None else [(value - mean) / std, 0.0]

    weather = [float(row.get("weather") == name) for name in ("fog", "hail", "sun")] + [0.0]
    coded = [*quantity("rain", row.get("rain")), *weather, float(row.get("weather") is None)]
    return coded + (quantity("discharge", before.get("discharge")) if reads_itself else [])


def assert_close(tensor: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(
        tensor, torch.tensor(expected, dtype=torch.float32).reshape(tensor.shape), rtol=1e-4, atol=1e-5
    )


def assert_contexts(data, context, rows) -> None:
    soils = data.context["soil"].categories
    for place, row in enumerate(rows):
        if row["soil"] in soils:
            assert soils[context["soil"][place]] == row["soil"]
        else:
            assert context["soil"][place] == len(soils)
        known = row["area"] is not None
        assert context["area"][place] == (row["area"] if known else data.context["area"].mean)
        assert "area missing" not in context or context["area missing"][place] == 1 - known
        members = data.context["uses"].categories
        chosen = {member for member, inside in zip(members, context["uses"][place], strict=False) if inside}
        assert chosen == set(row["uses"] or [])
        assert "uses missing" not in context or context["uses missing"][place] == (row["uses"] is None)


@pytest.mark.parametrize("by", ["series", "group"])
def test_series_and_groups_are_in_one_part_each(by):
    table = flows(20, 6, hospital=[f"h{row // 6 % 7}" for row in range(120)])
    data = prepare(read_panel(table, replace(COLUMNS, window=1, group="hospital")), Split(by), length=2)
    units = [set(getattr(getattr(data, part), by).tolist()) for part in PARTS]
    assert all(units)
    assert not any(first & second for first, second in itertools.combinations(units, 2))
    if by == "group":
        named = prepare(data.panel, Split("hospital"), length=2)
        assert (named.test.first == data.test.first).all()


def test_seeds_draw_other_series_and_repeat():
    panel = read_panel(flows(), COLUMNS)
    tests = [set(prepare(panel, Split(seed=seed)).test.series.tolist()) for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1]
    assert len({frozenset(test) for test in tests}) > 1


@pytest.mark.parametrize("calendar", [False, True])
def test_nothing_crosses_a_split_by_time(calendar):
    table = flows(6, 40).filter(pa.array(np.arange(240) % 80 >= 9))  # series begin on different days
    data = prepare(read_panel(table, COLUMNS), Split("time", calendar=calendar), length=4)
    time, ends = data.panel.steps.time, {}
    for part in PARTS:
        examples = getattr(data, part)
        for series, first, length in zip(examples.series, examples.first, examples.length, strict=True):
            unit = 0 if calendar else series
            steps = time[first - COLUMNS.window : first + length]
            low, high = ends.get((part, unit), (np.inf, -np.inf))
            ends[part, unit] = min(low, steps.min()), max(high, steps.max())
    for unit in {unit for _, unit in ends}:
        bounds = [ends[part, unit] for part in PARTS]
        assert bounds[0][1] < bounds[1][0] <= bounds[1][1] < bounds[2][0]


def test_the_test_set_changes_nothing_that_is_fitted():
    panel = read_panel(flows(), COLUMNS)
    data = prepare(panel, Split(seed=3))
    table = flows().to_pydict()
    names = {panel.series_names[series] for part in (data.validation, data.test) for series in part.series}
    for row, name in enumerate(table["basin"]):
        if name in names:
            table["rain"][row] += 1e6
            table["discharge"][row] -= 1e6
            table["area"][row] += 1e6
            table["weather"][row], table["soil"][row], table["uses"][row] = "snow", "peat", ["mine"]
    changed = prepare(read_panel(pa.table(table), COLUMNS), Split(seed=3))
    assert replace(changed.encoding) == data.encoding
    batch = changed.batch(changed.test)
    other = changed.context["soil"].categories
    assert (batch.context["soil"] == len(other)).all()
    assert (batch.inputs[..., list(changed.inputs).index("weather other")] == 1).all()
    assert (batch.context["uses"][:, -1] == 1).all()


def test_classes_of_a_series_are_in_every_part():
    words = [["a", "a", "a", "b"][row // 6 % 4] for row in range(240)]
    data = prepare(read_panel(flows(40, 6, discharge=words), replace(COLUMNS, window=0)), Split())
    assert data.target.classes == ("a", "b")
    for part in PARTS:
        batch = data.batch(getattr(data, part))
        assert batch.target.shape == batch.observed.shape == (len(batch.lengths),)
        assert batch.observed.all()
        assert 0.2 <= (batch.target == 1).double().mean() <= 0.3
    assert data.window == ()


def test_a_target_of_one_value_a_series_is_no_input():
    table = flows(discharge=np.repeat(np.arange(SERIES) / 7, STEPS))
    with pytest.raises(ValueError, match="inputs: expected no target of one value a series"):
        read_panel(table, replace(COLUMNS, inputs=("rain", "discharge")))


def test_a_window_of_series_with_one_target_does_not_show_it():
    numbers = np.repeat(np.random.default_rng(0).normal(size=SERIES), STEPS)
    data = prepare(read_panel(flows(discharge=numbers), COLUMNS))
    assert data.window == data.inputs
    assert data.batch(data.train).window.shape[2] == len(data.inputs)


def test_counts_add_up_when_examples_are_left_out():
    target = flows()["discharge"].to_pylist()
    target[:STEPS] = [None] * STEPS  # a series without a target
    table = flows(discharge=target)
    table = table.filter(pa.array((np.arange(len(table)) // STEPS != 4) | (np.arange(len(table)) % STEPS < 3)))
    data = prepare(read_panel(table, COLUMNS))
    rows = data.summary["rows"]
    assert rows["left out"] == {"no known target": 12, "too few steps for a window and a step after it": 3}
    assert rows["read"] == rows["used"] + sum(rows["left out"].values()) == len(table)
    used = set()
    for part in PARTS:
        examples = getattr(data, part)
        for first, length in zip(examples.first, examples.length, strict=True):
            used |= set(data.panel.steps.rows[first - 3 : first + length].tolist())
        assert (data.table_rows(examples)[:, 0] == data.panel.steps.rows[examples.first]).all()
    assert len(used - {-1}) == rows["used"]


def test_a_class_that_training_lacks_is_left_out_and_counted():
    words = [f"w{row // STEPS}" if row // STEPS < 5 else "common" for row in range(SERIES * STEPS)]
    data = prepare(read_panel(flows(discharge=words), COLUMNS), Split(seed=1))
    counted = data.summary["rows"]["left out"]["a class that training lacks"]
    assert counted > 0
    assert counted % STEPS == 0
    for part in ("validation", "test"):
        assert data.batch(getattr(data, part)).observed.all()


@pytest.mark.parametrize(
    ("columns", "split", "length", "error", "message"),
    [
        ({"window": 12}, Split(), None, ValueError, "split: expected examples in each part, got none for train"),
        (
            {"series": None, "time": None, "context": ()},
            Split(),
            None,
            ValueError,
            "split: expected at least 3 series, .* got 1",
        ),
        ({}, Split("time", (0.8, 0.1, 0.1)), None, ValueError, "got none for validation.*split by time.*window of 3"),
        ({}, Split("hospital"), None, ValueError, "by: expected 'series', 'time' or the group column"),
        ({}, Split(), 0, ValueError, "length: expected a positive int"),
    ],
)
def test_impossible_splits_are_refused(columns, split, length, error, message):
    with pytest.raises(error, match=message):
        prepare(read_panel(flows(), replace(COLUMNS, **columns)), split, length)


def test_series_with_one_target_are_not_split_by_time():
    panel = read_panel(flows(discharge=np.repeat(np.arange(10) / 7, STEPS)), COLUMNS)
    with pytest.raises(ValueError, match="by: expected 'series' or 'group' for a target of one value"):
        prepare(panel, Split("time"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"fractions": (0.5, 0.5)}, ValueError),
        ({"fractions": (0.5, 0.4, 0.2)}, ValueError),
        ({"fractions": (1, 0, 0)}, ValueError),
        ({"by": 3}, TypeError),
        ({"seed": -1}, ValueError),
        ({"calendar": 1}, TypeError),
        ({"calendar": True}, ValueError),
    ],
)
def test_splits_are_checked(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        Split(**arguments)


def test_what_is_no_panel_split_or_examples_is_named():
    panel = read_panel(flows(), COLUMNS)
    data = prepare(panel)
    for call, message in {
        lambda: read_panel(flows(), {"target": "discharge"}): r"columns: expected Columns, .*, got \{'target'",
        lambda: prepare(flows()): "panel: expected a Panel that read_panel returns, got Table",
        lambda: prepare(panel, "time"): r"split: expected a Split, such as Split\('time'\), or None, got 'time'",
        lambda: prepare_new(flows(), data.encoding.to_json()): "encoding: expected an Encoding, got str",
        lambda: data.batch([0, 1]): "examples: expected Examples, such as .*, got list",
        lambda: data.table_rows(0): "examples: expected Examples, such as .*, got int",
    }.items():
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match="name: expected one of colors, countries, vowels, got"):
        example_table(["colors"])


def test_examples_are_selected_by_index_slice_and_mask():
    train = prepare(read_panel(flows(), COLUMNS)).train
    for index in (slice(2), [0, 1], np.arange(len(train)) < 2):
        np.testing.assert_array_equal(train[index].first, train.first[:2])
    assert train[1].first == train.first[1]


def test_a_new_table_is_encoded_as_the_training_table():
    table = with_holes()
    data = prepare(read_panel(table, COLUMNS), Split(), length=4)
    encoding = Encoding.from_json(data.encoding.to_json())
    assert encoding == data.encoding
    new = prepare_new(table, encoding)
    expected = data.batch(data.test)
    wanted = set(data.test.first.tolist())
    place = [row for row, first in enumerate(new.test.first) if first in wanted]
    received = new.batch(new.test[place])
    for name in ("inputs", "target", "observed", "window", "lengths"):
        assert torch.equal(getattr(received, name), getattr(expected, name)), name
    assert all(torch.equal(received.context[name], values) for name, values in expected.context.items())


def test_a_new_table_may_lack_the_target_and_have_unseen_categories():
    data = prepare(read_panel(flows(), replace(COLUMNS, window=0)), Split())
    new = prepare_new(flows(discharge=None, soil=["peat"] * SERIES * STEPS), data.encoding)
    batch = new.batch(new.test)
    assert not batch.observed.any()
    assert batch.inputs.shape == (SERIES, STEPS, len(data.inputs))
    assert any(warning.startswith("soil: 1 categories were not in training") for warning in new.summary["warnings"])
    with pytest.raises(ValueError, match="columns: expected rain"):
        prepare_new(flows(rain=None), data.encoding)


@pytest.mark.parametrize(("zones", "others"), [(["1", "2", "A"], [1, 2, 1]), ([1, 2, 3], ["1", "2", "B"])])
def test_categories_are_the_same_as_numbers_and_as_texts(zones, others):
    """A CSV file that has numbers alone in a column has no texts there."""
    columns = replace(COLUMNS, context=("zone",), kinds={"zone": "category"})

    def table(values):
        return flows(30, zone=[values[row // STEPS % 3] for row in range(30 * STEPS)])

    data = prepare(read_panel(table(zones), columns))
    new = prepare_new(table(others), data.encoding)
    expected = prepare_new(table([*zones[:2], zones[0] if others[2] == 1 else 9]), data.encoding)
    assert torch.equal(new.batch(new.test).context["zone"], expected.batch(expected.test).context["zone"])
    unseen = [warning for warning in new.summary["warnings"] if "were not in training" in warning]
    assert unseen == ([] if others[2] == 1 else ["zone: 1 categories were not in training, such as 'B'"])


def test_missing_and_unseen_categories_of_a_context_have_places_of_their_own():
    soil = [None if row // STEPS % 2 else "clay" for row in range(SERIES * STEPS)]
    data = prepare(read_panel(flows(soil=soil), COLUMNS), Split())
    assert data.context["soil"].categories == ("clay", None)
    new = prepare_new(flows(soil=[["clay", "peat", None][row // STEPS % 3] for row in range(120)]), data.encoding)
    context = new.batch(new.test).context
    assert context["soil"].tolist() == ([0, 2, 1] * 4)[:SERIES]
    assert ContextNet(data.context)(context).isfinite().all()


@pytest.mark.parametrize("text", ["{}", "no json", "[]", '{"columns": {}}'])
def test_damaged_encodings_are_refused(text):
    with pytest.raises(ValueError, match="encoding: expected JSON"):
        Encoding.from_json(text)


def test_without_inputs_the_network_sees_a_constant():
    data = prepare(read_panel(flows(), replace(COLUMNS, inputs=(), context=())))
    batch = data.batch(data.train)
    assert data.inputs == ("constant 1",)
    assert (batch.inputs == 1).all()
    assert batch.context is None


def test_rare_categories_of_inputs_share_a_place():
    rows = 3000
    codes = [f"c{row}" if row % 2 else f"often {row % 20}" for row in range(rows)]
    table = pa.table({"s": np.arange(rows) // 10, "y": np.random.default_rng(0).normal(size=rows), "code": codes})
    data = prepare(read_panel(table, Columns(target="y", series="s", inputs=("code",))))
    assert len(data.inputs) == 257
    assert sum(name.startswith("code often") for name in data.inputs) == 10
    assert data.batch(data.train).inputs[..., -1].any()
