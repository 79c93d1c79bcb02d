"""What Docker is told agrees with the code and with itself. Docker is not needed for it."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from broker_worker.settings import WorkerSettings
from deploy.local import redis_server
from engine_service.settings import EngineSettings
from gateway.settings import GatewaySettings
from tokenrelay import settings
from tokenrelay.settings import ProcessSettings
from tools import install, reference

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKER = ROOT / "deploy" / "docker"
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
ENGINES = ("engine-cpu", "engine-gpu")
KINDS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    **dict.fromkeys(ENGINES, EngineSettings),
}
EXACT_VERSION = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.]+)*")

ours = pytest.mark.parametrize("service", KINDS)


# ---- docker-compose.yml ----


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


@cache
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
    return found


def unset(value: object) -> str:
    """Returns what a value is when no variable of its ${NAME:-default} is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", "" if value is None else str(value))


def environment(service: str) -> dict[str, str]:
    return {name: unset(value) for name, value in services()[service].get("environment", {}).items()}


def names_of(service: str) -> set[str]:
    """Returns the names by which others in the network find a service."""
    networks = services()[service].get("networks", {})
    return {service, *(alias for network in networks.values() for alias in network["aliases"])}


def seconds(duration: str) -> float:
    return sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"([\d.]+)([smh])", duration))


def test_the_compose_file_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_image_has_an_exact_version() -> None:
    loose = {name: one["image"] for name, one in services().items() if not EXACT_VERSION.fullmatch(one["image"])}
    assert not loose, f"images without a version of three numbers: {loose}"


@ours
def test_our_images_are_built_from_a_target_of_the_dockerfile_and_have_the_project_s_version(service: str) -> None:
    one = services()[service]
    assert (ROOT / one["build"]["context"]).resolve() == ROOT
    assert ROOT / one["build"]["dockerfile"] == DOCKER / "Dockerfile"
    assert one["build"]["target"] in stages(), f"the Dockerfile has no stage {one['build']['target']}"
    assert one["image"].rpartition(":")[2] == project()["version"]
    assert one["pull_policy"] == "build", "an image of this name on a registry would not be ours"


@ours
def test_every_variable_is_a_setting_of_the_process_that_gets_it(service: str) -> None:
    kind = KINDS[service]
    known = {settings.variable(kind, name) for name in kind.model_fields}
    unknown = [name for name in environment(service) if name.startswith(settings.PREFIX) and name not in known]
    assert not unknown, f"{kind.__name__} knows no {unknown}"


def test_no_other_service_gets_our_variables() -> None:
    for name in services().keys() - KINDS.keys():
        assert not [one for one in environment(name) if one.startswith(settings.PREFIX)], name


@ours
def test_a_process_takes_its_values_and_can_be_reached(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(service).items():
        monkeypatch.setenv(name, value)
    found = settings.load(KINDS[service])
    assert found.metrics_host == "0.0.0.0"
    assert found.tracing
    if isinstance(found, GatewaySettings | EngineSettings):
        assert found.host == "0.0.0.0"


@ours
def test_a_process_is_stopped_only_after_its_drain(service: str) -> None:
    grace, drain = services()[service]["stop_grace_period"], environment(service)["TOKENRELAY_DRAIN_SECONDS"]
    assert seconds(grace) > float(drain) + 5, f"it gets {grace} for a drain of {drain} s and its end"


@ours
def test_health_checks_ask_where_healthz_is(service: str) -> None:
    port = environment(service)["TOKENRELAY_METRICS_PORT"]
    assert f"http://127.0.0.1:{port}/healthz" in services()[service]["healthcheck"]["test"][-1]


def test_whoever_is_waited_for_to_be_healthy_has_a_health_check() -> None:
    for name, one in services().items():
        for other, how in one.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[other], f"{name} would wait for {other} for ever"


@pytest.mark.parametrize("service", ENGINES)
def test_engines_are_not_the_first_process(service: str) -> None:
    assert services()[service]["init"] is True, "nothing takes away the dead processes of an engine"


def test_each_profile_has_one_engine_and_the_default_is_one_of_them() -> None:
    profiles = [services()[engine]["profiles"] for engine in ENGINES]
    assert profiles == [["cpu"], ["gpu"]]
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()


def test_the_worker_finds_either_engine() -> None:
    host, _, port = environment("worker")["TOKENRELAY_ENGINE_ADDRESS"].partition(":")
    for engine in ENGINES:
        assert host in names_of(engine), f"{engine} is not called {host}"
        assert int(port) == EngineSettings.model_fields["port"].default, "the engines listen on their default port"


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_redis_is_found(service: str) -> None:
    url = urlsplit(environment(service)["TOKENRELAY_REDIS_URL"])
    assert (url.scheme, url.hostname, url.port) == ("redis", "redis", 6379)


def test_redis_is_as_durable_as_the_local_stack_s() -> None:
    command = services()["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert {f"--{name}": value for name, value in redis_server.DURABLE.items()}.items() <= given.items()


@ours
def test_spans_go_to_the_collector_and_from_there_to_a_service(service: str) -> None:
    collector = read_yaml(DOCKER / "collector.yml")
    endpoint = urlsplit(environment(service)["OTEL_EXPORTER_OTLP_ENDPOINT"])
    listens = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert (endpoint.hostname, f"0.0.0.0:{endpoint.port}") == ("collector", listens)
    (pipeline,) = collector["service"]["pipelines"].values()
    for name in pipeline["exporters"]:
        assert collector["exporters"][name]["endpoint"].partition(":")[0] in services()
    assert pipeline["processors"][0] == "memory_limiter", "it must come before anything that keeps spans"
    assert set(pipeline["processors"]) == collector["processors"].keys()


def published() -> list[tuple[str, str]]:
    """Returns each published port's service and text."""
    return [(name, unset(port)) for name, one in services().items() for port in one.get("ports", [])]


def test_ports_are_published_on_the_loopback_address_alone() -> None:
    for service, port in published():
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), f"{service} publishes {port}"
    port = GatewaySettings.model_fields["port"].default
    assert ("gateway", f"127.0.0.1:{port}:{port}") in published()


def mounts() -> list[tuple[str, str, str]]:
    """Returns each mount's service, source and target."""
    texts = [(name, unset(text)) for name, one in services().items() for text in one.get("volumes", [])]
    return [(name, *text.removesuffix(":ro").split(":")) for name, text in texts]  # type: ignore[misc]  # two parts


def test_what_is_mounted_exists_and_is_mounted_read_only() -> None:
    volumes = read_yaml(COMPOSE)["volumes"]
    for service, source, target in mounts():
        if source.startswith("."):
            assert (ROOT / source).exists(), f"{service} mounts {source}"
            assert any(text.endswith(f":{target}:ro") for text in services()[service]["volumes"]), f"{target} of {service}"
        else:
            assert source in volumes, f"{service} mounts the volume {source}, which is not declared"


# ---- Dockerfile ----


@dataclass
class Stage:
    """One FROM of the Dockerfile and what follows it: (instruction, rest)."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


@cache
def stages() -> dict[str, Stage]:
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    found: dict[str, Stage] = {}
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.split()
            found[name] = stage = Stage(base)
        else:
            stage.instructions.append((instruction, rest.strip()))
    return found


def inherited(name: str) -> list[tuple[str, str]]:
    """Returns the instructions of a stage after those of the stages that it stands on."""
    stage = stages()[name]
    return [*(inherited(stage.base) if stage.base in stages() else []), *stage.instructions]


def last(name: str, instruction: str) -> str:
    return [rest for one, rest in inherited(name) if one == instruction][-1]


def labels(name: str) -> dict[str, str]:
    words = [word for one, rest in inherited(name) if one == "LABEL" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def copied() -> list[str]:
    """Returns what is copied from the checkout."""
    copies = [rest.split() for stage in stages().values() for one, rest in stage.instructions if one == "COPY"]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_every_base_is_a_stage_or_has_an_exact_version() -> None:
    known: set[str] = set()
    for name, stage in stages().items():
        assert stage.base in known or EXACT_VERSION.fullmatch(stage.base), f"{name} stands on {stage.base}"
        known.add(name)


def test_python_is_the_one_that_the_locks_are_made_for() -> None:
    locked = re.search(r"--python-version (\S+)", (ROOT / "tools" / "lock.sh").read_text())
    assert locked is not None
    bases = {stage.base for stage in stages().values()} - stages().keys()
    assert all(base.startswith(f"python:{locked[1]}.") for base in bases), bases


def test_the_installed_versions_are_those_of_the_set_up() -> None:
    runs = " ".join(rest for stage in stages().values() for one, rest in stage.instructions if one == "RUN").split()
    assert f"uv=={install.UV_VERSION}" in runs
    assert [word for word in runs if word.startswith("torch==")] == [install.TORCH_CPU]


@ours
def test_an_image_runs_its_process_without_a_shell_and_without_root(service: str) -> None:
    target = services()[service]["build"]["target"]
    user = last(target, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"{target} runs as {user}"
    python, option, module = json.loads(last(target, "ENTRYPOINT"))
    assert (python, option) == ("python", "-m")
    assert (ROOT / module / "__main__.py").exists(), module


@ours
def test_an_image_says_what_it_is(service: str) -> None:
    said = labels(services()[service]["build"]["target"])
    assert said["org.opencontainers.image.version"] == project()["version"]
    assert said["org.opencontainers.image.title"] == services()[service]["image"].rpartition(":")[0]
    assert said["org.opencontainers.image.description"]


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), f"COPY {source}"
        assert f"!{source}" in sent, f".dockerignore keeps {source} from the builder"


def test_all_packages_of_the_project_are_copied() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {pattern.removesuffix("*") for pattern in tools["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied())


# ---- Prometheus and Grafana ----


def test_prometheus_scrapes_each_of_our_processes_and_nothing_that_is_not_there() -> None:
    scraped = set()
    for job in read_yaml(DOCKER / "prometheus.yml")["scrape_configs"]:
        for target in job["dns_sd_configs"]:
            for name in target["names"]:
                behind = [service for service in services() if name in names_of(service)]
                assert behind, f"{job['job_name']} scrapes {name}, which is no service"
                for service in behind:
                    assert str(target["port"]) == environment(service).get("TOKENRELAY_METRICS_PORT"), service
                scraped.update(behind)
    assert scraped == KINDS.keys()


def exposed() -> set[str]:
    """Returns the names of the series that the processes expose, from the reference."""
    found = set()
    for name, kind in re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|", reference.metrics_document(), re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


def metric_names(expression: str) -> set[str]:
    """Returns the metrics of a PromQL expression: the words that are no label, function, or keyword."""
    clauses = r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
    bare = re.sub(rf"{{[^}}]*}}|\[[^]]*\]|{clauses}", " ", expression)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()", bare)) - {"and", "or", "unless", "bool", "offset"}


def panels(dashboard: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.read_text())["panels"]
    return found


def test_metric_names_are_told_from_the_rest_of_an_expression() -> None:
    expression = 'sum by (le) (rate(a_bucket{job="x"}[5m])) / on () group_left () 2 * sum(vllm:b_total) or c'
    assert metric_names(expression) == {"a_bucket", "vllm:b_total", "c"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_for_metrics_that_are_exposed(dashboard: Path) -> None:
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for expression in expressions:
        names = metric_names(expression)
        assert names, f"no metric in {expression}"
        unknown = {name for name in names - exposed() if not name.startswith("vllm:")}
        assert not unknown, f"nobody exposes {unknown} of {expression}"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_uses_a_data_source_that_is_there_and_its_panels_are_told_apart(dashboard: Path) -> None:
    sources = read_yaml(DOCKER / "grafana" / "provisioning" / "datasources" / "datasources.yml")["datasources"]
    known = {(source["type"], source["uid"]) for source in sources}
    for panel in panels(dashboard):
        for part in (panel, *panel.get("targets", [])):
            used = part.get("datasource", sources[0])
            assert (used["type"], used["uid"]) in known, panel["title"]
    identifiers = [panel["id"] for panel in panels(dashboard)]
    assert len(set(identifiers)) == len(identifiers)


def test_data_sources_are_services() -> None:
    for source in read_yaml(DOCKER / "grafana" / "provisioning" / "datasources" / "datasources.yml")["datasources"]:
        assert urlsplit(source["url"]).hostname in services(), source


def test_grafana_finds_its_dashboards() -> None:
    assert DASHBOARDS
    targets = {target: source for service, source, target in mounts() if service == "grafana"}
    (provider,) = read_yaml(DOCKER / "grafana" / "provisioning" / "dashboards" / "dashboards.yml")["providers"]
    assert ROOT / targets[provider["options"]["path"]] == DASHBOARDS[0].parent
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in {f"{provider['options']['path']}/{dashboard.name}" for dashboard in DASHBOARDS}


# ---- docs/docker.md ----


def test_the_guide_names_every_published_port_and_every_variable() -> None:
    guide = (ROOT / "docs" / "docker.md").read_text()
    for service, port in published():
        assert port.rpartition(":")[0] in guide, f"{service}'s {port} is not in docs/docker.md"
    for name in re.findall(r"\$\{(\w+)", COMPOSE.read_text()):
        assert f"`{name}`" in guide, f"{name} is not in docs/docker.md"
