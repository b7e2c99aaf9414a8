"""What every benchmark writes."""

import math

from benchmarks.report import BenchmarkReport, Row


def test_a_figure_that_could_not_be_had_in_one_repeat_leaves_the_table_whole(capsys):
    found = ((0, 0.5, 1.0), (1, math.nan, 3.0))
    rows = [Row(name="ours", repeat=seed, metrics={"auroc": a, "cost": b}) for seed, a, b in found]
    report = BenchmarkReport(benchmark="a benchmark", args={}, rows=rows)
    report.print_table()
    assert "nan" in capsys.readouterr().out
    assert math.isnan(report.summary["ours"]["auroc"]["sd"])
    assert report.summary["ours"]["cost"] == {"mean": 2.0, "sd": 2**0.5, "n": 2}
