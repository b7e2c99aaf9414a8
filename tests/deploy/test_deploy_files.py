"""The files under deploy/: what can be checked without an engine or a cluster."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from api.app import VERSION
from api.cli.main import app
from api.settings import Settings, WrongSetting, read_settings
from learner.settings import LearnerSettings
from router.fleet import parse_fleet

DEPLOY = Path(__file__).parents[2] / "deploy"
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
COMMANDS = get_command(app).commands


def manifest(kind):
    return next(m for m in MANIFESTS if m["kind"] == kind)


def pods():
    night = manifest("CronJob")["spec"]["jobTemplate"]["spec"]
    return [owner["template"]["spec"] for owner in (manifest("Deployment")["spec"], night)]


def test_every_setting_that_the_files_name_is_one():
    texts = {path.name: path.read_text() for path in DEPLOY.iterdir()}
    names = {name for text in texts.values() for name in re.findall(r"\bTRIMTAB_([A-Z_]+)", text)}
    assert names - {name.upper() for name in Settings.model_fields} == set()
    assert len(texts) >= 3


def test_every_command_line_of_the_files_is_understood():
    lines = re.findall(r"\btrimtab (\w+)((?: --[a-z-]+(?: [^-\s]\S*)?)*)", (DEPLOY / "trimtab.service").read_text())
    lines += re.findall(r"trimtab (\w+)((?: --[a-z-]+(?: [^-\s]\S*)?)*)", (DEPLOY / "kubernetes.yaml").read_text())
    serve = pods()[0]["containers"][0]["args"]
    found = {}
    for name, options in [*lines, (serve[0], " ".join(serve[1:]))]:
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        found[name] = set(re.findall(r"--[a-z-]+", options)) - known
    assert found == {"serve": set(), "learn": set(), "prune": set()}


def test_the_manifest_s_parts_fit_together():
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Service")["spec"]["selector"].items() <= labels.items()
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifest("Deployment")["spec"]["replicas"] >= 2
    for pod in pods():
        assert pod["enableServiceLinks"] is False  # a service named trimtab would set TRIMTAB_PORT
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert "initContainers" not in pod  # with the database away it would keep the server from starting
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["envFrom"] == [{"secretRef": {"name": manifest("Secret")["metadata"]["name"]}}]
    server = pods()[0]["containers"][0]
    probed = [server[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")]
    assert probed == ["/healthz", "/readyz"]
    drain = next(float(e["value"]) for e in server["env"] if e["name"] == "TRIMTAB_DRAIN_SECONDS")
    assert drain > 3 * server["readinessProbe"]["periodSeconds"]
    assert pods()[0]["terminationGracePeriodSeconds"] >= drain + 30
    assert manifest("CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    parse_fleet(manifest("ConfigMap")["data"]["fleet.yaml"], source="fleet.yaml")


def test_the_image_is_this_release_and_nobody_else_s_and_the_page_names_the_same():
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    images |= {name for found in re.findall(r'--image=(\S+)|"image": "([^"]+)"', OPERATIONS) for name in found if name}
    assert images == {
        f"registry.example/trimtab:{VERSION}"
    }  # the name ends in .example, so it is never pulled by chance
    steps = (DEPLOY / "kubernetes.yaml").read_text().partition("apiVersion")[0]
    assert all(
        f"docker {step} {image}" in steps for image in images for step in ("build -f deploy/Dockerfile -t", "push")
    )


def test_a_night_may_take_as_long_as_the_learner_lets_it_and_be_tried_again():
    job = manifest("CronJob")["spec"]["jobTemplate"]["spec"]
    nights = (1 + job["backoffLimit"]) * 3600 * LearnerSettings().most_hours
    assert nights + 3600 <= job["activeDeadlineSeconds"] < 24 * 3600


def test_whoever_leaves_a_secret_as_it_stands_in_the_manifest_is_told():
    given = {name.removeprefix("TRIMTAB_").lower(): text for name, text in manifest("Secret")["stringData"].items()}
    for name, text in given.items():
        with pytest.raises(WrongSetting, match="CHANGE-ME"):
            read_settings(**{name: text})
    read_settings(**{name: text.replace("CHANGE-ME", "5f1d") for name, text in given.items()})


def test_the_night_s_script_tells_a_failed_night_from_one_that_held(tmp_path):
    script = pods()[1]["containers"][0]["args"][0]
    for learned, ends in ((0, 0), (3, 0), (4, 0), (6, 0), (1, 1), (2, 2)):
        fake = tmp_path / "trimtab"
        fake.write_text(f"#!/bin/sh\n[ $1 = learn ] && exit {learned}\nexit 0\n")
        fake.chmod(0o755)
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, check=False)
        assert done.returncode == ends, learned


def test_a_command_beside_the_service_has_its_user_home_and_settings_and_the_page_says_how(tmp_path):
    unit = dict(line.partition("=")[::2] for line in (DEPLOY / "trimtab.service").read_text().splitlines())
    fake = tmp_path / "systemd-run"
    fake.write_text('#!/bin/sh\nfor word do printf "%s\\n" "$word"; done\nexit 6\n')
    fake.chmod(0o755)
    command = ["/bin/sh", DEPLOY / "trimtab-command", "route", "it was $5  more", ""]
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    given, told, arguments = done.stdout.partition(f"{unit['ExecStart'].split()[0]}\n")
    assert (done.returncode, told != "", arguments.splitlines()) == (6, True, ["route", "it was $$5  more", ""])
    expected = {f"--uid={unit['User']}", f"--gid={unit['Group']}", f"--setenv={unit['Environment']}"}
    expected |= {f"--property=EnvironmentFile={unit['EnvironmentFile']}", "--pipe", "--wait"}
    assert expected <= set(given.splitlines())
    section = OPERATIONS.partition("### As a systemd service")[2].partition("###")[0]
    named = {unit["EnvironmentFile"].lstrip("-"), unit["Environment"].partition("=")[2]}
    named |= {f"useradd --system --user-group --home-dir /var/lib/{unit['StateDirectory']}", f" {unit['User']}\n"}
    named |= {unit["ExecStart"].partition("--fleet ")[2].split()[0], "deploy/trimtab-command /usr/local/bin/trimtab"}
    assert {text for text in named if text not in section} == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path):
    unit = tmp_path / "trimtab.service"
    unit.write_text((DEPLOY / "trimtab.service").read_text().replace("/opt/trimtab/.venv/bin/trimtab", "/bin/true"))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about = [line for line in found.stderr.splitlines() if "trimtab.service" in line]
    assert (found.returncode, about) == (0, []), found.stderr


def test_the_image_gets_everything_that_is_installed_and_runs_as_nobody_special():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    root = DEPLOY.parent
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert [name for name in copied if not (root / name).exists()] == []
    assert {"api", "learner", "router", "telemetry", "migrations", "pyproject.toml", "constraints.txt"} <= set(copied)
    user = next(i for i, line in enumerate(lines) if line.startswith("USER"))
    assert max(i for i, line in enumerate(lines) if line.startswith("RUN")) < user
    assert lines[-2:] == ['ENTRYPOINT ["trimtab"]', 'CMD ["serve"]']
