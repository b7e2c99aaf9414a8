"""The faults to survive. Each row is run by the tests that bear its name: ``@pytest.mark.fault("postgres killed")``."""

POSTGRES = (
    *("postgres killed", "one backend killed", "connections cut", "postgres hung", "postgres slow"),
    *("commit outcome unknown", "reply lost", "power cut", "data disk full", "WAL disk full"),
    *("pool exhausted", "no connections left"),
)
PROCESSES = (
    *("API worker killed", "SIGTERM under load", "learner killed at each step", "zombie learner", "two learners"),
    *("learner out of memory", "learner past its deadline", "night missed or doubled by a clock change"),
)
VERSIONS = (
    *("corrupt part", "pointer to a missing version", "start with the database away"),
    *("50 publications in a minute", "notification lost"),
)
EDGE = (
    *("4x overload", "slow client", "half a body", "10,000 idle connections", "few file descriptors"),
    *("clocks a day off", "migration under traffic", "five migrations at once", "migration crashed half-way"),
    "old code on the new schema",
)
ROWS = (*POSTGRES, *PROCESSES, *VERSIONS, *EDGE)
