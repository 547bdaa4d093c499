"""What docker/ holds fits together and fits the code: no engine runs here, so files are parsed and their parts tried."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import tomllib
from pathlib import Path

import pytest
import yaml

from harness import BINARY, Mosquitto, free_port

REPO = Path(__file__).resolve().parents[2]
DOCKER = REPO / "docker"

# Aggregates of a metric that src/sink/influx/line.rs writes, by the metric's kind.
SUFFIXES = {
    "gauge": {"mean", "min", "max", "sum", "last", "count", "completeness"},
    "counter": {"last", "increase", "count", "completeness"},
    "delta": {"sum", "mean", "count", "completeness"},
    "state": {"mean", "min", "max", "last", "count", "completeness"},
}


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def example_environment() -> dict:
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def rust_function(file: str, name: str) -> str:
    text = (REPO / file).read_text()
    return re.search(rf"fn {name}\b.*?\n}}\n", text, re.DOTALL).group(0)


def written_tags(function: str) -> set:
    return set(re.findall(r'line\.tag\("(\w+)"', rust_function("src/sink/influx/line.rs", function)))


def indicator_fields() -> set:
    body = rust_function("src/sink/influx/line.rs", "indicator")
    return set(re.findall(r'\("(\w+)", ', body.split("let fields", 1)[1]))


def declared_indicators() -> dict:
    files = sorted((REPO / "config" / "indicators").glob("*.toml"))
    return {it["id"]: it for file in files for it in tomllib.loads(file.read_text())["indicator"]}


def declared_fields() -> set:
    fields = set()
    for file in (REPO / "config" / "devices").glob("*.toml"):
        for metric in tomllib.loads(file.read_text())["metric"]:
            fields |= {f"{metric['name']}_{suffix}" for suffix in SUFFIXES[metric["kind"]]}
    return fields


def dashboard() -> dict:
    return json.loads((DOCKER / "grafana" / "dashboards" / "city.json").read_text())


def queries() -> list:
    return [(panel["title"], target["query"]) for panel in dashboard()["panels"] for target in panel["targets"]]


def conditions(query: str) -> dict:
    found = {}
    for key, value in re.findall(r'r\.(\w+) == "([^"]*)"', query):
        found.setdefault(key, set()).add(value)
    return found


def columns(query: str) -> set:
    lists = re.findall(r"(?:columns|rowKey|columnKey): \[([^\]]*)\]", query)
    return {name for names in lists for name in re.findall(r'"(\w+)"', names)}


def windows_of(query: str) -> set:
    (window,) = conditions(query)["window"]
    if window != "${window}":
        return {window}
    (variable,) = [it for it in dashboard()["templating"]["list"] if it["name"] == "window"]
    assert variable["query"].split(",") == [option["value"] for option in variable["options"]]
    return set(variable["query"].split(","))


@pytest.mark.parametrize("title,query", queries(), ids=[title for title, _ in queries()])
def test_a_panel_asks_for_what_the_sink_writes(title, query):
    asked = conditions(query)
    (measurement,) = asked["_measurement"]
    shared = {"_measurement", "_field", "_time"}
    if measurement == "indicator":
        tags, fields = written_tags("indicator"), indicator_fields()
        for level in asked["level"]:
            ids = asked.get("id", set())
            for id_ in ids:
                it = declared_indicators()[id_]
                assert level in it["levels"], f"{id_} has no level {level}"
                missing = windows_of(query) - set(it["windows"])
                assert not missing, f"{id_} is not computed over {missing}"
    else:
        kinds = {line.split(",")[2] for line in (REPO / "config" / "sites.csv").read_text().splitlines()[1:] if line}
        assert measurement in kinds
        tags, fields = written_tags("rollup"), declared_fields()
    assert asked.get("_field", set()) <= fields
    assert set(asked) - shared <= tags
    assert columns(query) - shared <= tags
    labels = set(re.findall(r"__field\.labels\.(\w+)", json.dumps(dashboard())))
    assert labels - shared <= written_tags("indicator") | written_tags("rollup")


def test_panels_read_the_data_source_that_is_provisioned():
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/influxdb.yaml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel["targets"]}
    used |= {panel["datasource"]["uid"] for panel in dashboard()["panels"]}
    assert used == {source["uid"]}
    influx = compose()["services"]["influxdb"]["environment"]
    sink = tomllib.loads((DOCKER / "sitepulse/sitepulse.toml").read_text())["influx"][0]
    organisations = {source["jsonData"]["organization"], influx["DOCKER_INFLUXDB_INIT_ORG"], sink["org"]}
    buckets = {source["jsonData"]["defaultBucket"], influx["DOCKER_INFLUXDB_INIT_BUCKET"], sink["bucket"]}
    assert (organisations, buckets) == ({"city"}, {"sitepulse"})
    assert source["url"] == sink["url"] == "http://influxdb:8086"
    token = source["secureJsonData"]["token"].removeprefix("$")
    assert token in compose()["services"]["grafana"]["environment"]


def test_dashboards_are_mounted_where_grafana_looks_for_them():
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/sitepulse.yaml").read_text())["providers"]
    grafana = compose()["services"]["grafana"]
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in grafana["volumes"]}
    folder = provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / mounted[folder] / Path(home).relative_to(folder)).is_file()


def test_every_mount_of_compose_exists():
    file = compose()
    for name, service in file["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
            else:
                assert source in file["volumes"], f"{name}: {source}"
        for other in service.get("depends_on", []):
            assert other in file["services"]
    build = file["services"]["sitepulse"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


def test_every_variable_of_compose_stands_in_the_example():
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    assert used == set(example_environment())


def test_compose_opens_nothing_beyond_loopback():
    environment = example_environment()
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            port = re.sub(r"\$\{(\w+):-[^}]*\}", lambda match: environment[match.group(1)], port)
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


def test_what_the_image_copies_exists():
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        words = [word for word in line.split()[1:-1] if not word.startswith("--")]
        if line.startswith("COPY ") and "--from=" not in line:
            assert all((REPO / word).exists() for word in words), line


def test_the_collector_accepts_the_container_configuration():
    example = example_environment()
    services = compose()["services"]
    named = services["sitepulse"]["environment"]
    environment = {key: example[re.match(r"\$\{(\w+)", value).group(1)] for key, value in named.items()}
    command = [BINARY, "check", "--config", DOCKER / "sitepulse"]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "mqtt://mosquitto:1883" in ran.stdout and "0.0.0.0:8800 with a token" in ran.stdout


def test_the_broker_takes_its_configuration(tmp_path):
    broker = Mosquitto(tmp_path)
    text = (DOCKER / "mosquitto/mosquitto.conf").read_text()
    changes = [("listener 1883", f"listener {broker.port} 127.0.0.1"), ("/mosquitto/data/", f"{tmp_path}/")]
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "mosquitto.conf").write_text(f"user {'root' if os.geteuid() == 0 else os.environ['USER']}\n{text}")
    try:
        broker.start()
    finally:
        broker.close()


class Health(http.server.BaseHTTPRequestHandler):
    status = 200
    seen: list = []

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status,healthy", [(200, True), (503, False), (401, False)])
def test_the_health_check_tells_200_from_anything_else(status, healthy):
    handler = type("Handler", (Health,), {"status": status, "seen": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert (health_check(server.server_port, "secret") == 0) is healthy
    finally:
        server.shutdown()
        server.server_close()
    assert handler.seen == [("/health", "Bearer secret")]


def test_the_health_check_fails_where_nothing_listens():
    assert health_check(free_port(), "") != 0


def health_check(port: int, token: str) -> int:
    environment = {**os.environ, "SITEPULSE_HEALTH_PORT": str(port), "SITEPULSE_API_TOKEN": token}
    return subprocess.run([DOCKER / "healthcheck.sh"], env=environment, capture_output=True, timeout=10).returncode


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    text = (DOCKER / "sitepulse.service").read_text()
    command = "/usr/bin/sitepulse run --config /etc/sitepulse"
    assert f"ExecStart={command}\n" in text
    unit = tmp_path / "sitepulse.service"
    unit.write_text(text.replace(command, "/bin/true").replace("file:///usr/share/doc", "https://sitepulse.example"))
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    complaints = [line for line in ran.stderr.splitlines() if "sitepulse.service" in line]
    assert not complaints, ran.stderr
