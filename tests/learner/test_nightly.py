from learner.nightly import STEPS, run_night
from router.registry import active, load, read_version
from tests.learner.world import QUICK, accuracy, first_published, log_day, questions


def test_a_night_publishes_a_version_that_routes_better(engine, encoder):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    steps = []
    result = run_night(engine, encoder=encoder, settings=QUICK, actor="a test", progress=steps.append)
    assert result.verdict == "published", result.report["missing"]
    assert tuple(dict.fromkeys(steps)) == STEPS  # routes in doubt are kept, and what is left is evaluated once more
    with engine.connect() as conn:
        assert active(conn).version == result.version == 2
        learned = load(conn, 2)
        assert read_version(conn, 2).report["verdict"] == "published"
    before, after = (accuracy(v, encoder, questions(1)) for v in (first, learned))
    assert after > before + 0.1
