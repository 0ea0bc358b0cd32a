"""The table of questions in README.md: each command, series, label, key and line of the log that it names is there."""

import pathlib
import re
import tomllib

import pytest

from rig import gate
from rig.metrics import Metrics

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rows():
    """The question and the code spans of each answer."""
    table = README.split("## Questions of an on-call night\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split(" | ", 1) for line in table.splitlines() if line.startswith("| ")][1:]
    return {question.strip(): re.findall(r"`([^`]+)`", answer) for question, answer in lines}


ROWS = rows()


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """What `/metrics` has without one event, with a certificate and a route in observe mode."""
    pair = {"cert": str(ROOT / "tests/tls/a.pem"), "key": str(ROOT / "tests/tls/a.key")}
    config = gate.config(["127.0.0.1:9"], listener={"certificates": [pair]}, route={"mode": "observe"})
    with gate.Gate(tmp_path_factory.mktemp("questions"), config) as wsgate:
        expiry = "wsgate_certificate_expiry_timestamp_seconds"
        yield wsgate.wait_for_metrics(lambda now: now.total(expiry) > 0, "the certificate")


def sources():
    return "".join(file.read_text() for file in (ROOT / "src").rglob("*.rs"))


def test_there_are_twenty():
    assert len(ROWS) == 20 and all(ROWS.values())


@pytest.mark.parametrize("question", ROWS)
def test_what_an_answer_names_exists(question, metrics: Metrics):
    for span in ROWS[question]:
        if span.startswith("wsgate "):
            words = span.split()
            status, usage = gate.run([words[1], "--help"])
            assert status == 0, span
            assert all(option in usage for option in words if option.startswith("--")), span
        elif series := re.findall(r"(wsgate_\w+)(?:\{([^}]*)\})?", span):
            for name, selectors in series:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', selectors))
                samples = [sample for sample in metrics.samples if sample.name == name]
                assert samples, f"{name} of {span}"
                for label, value in labels.items():
                    assert any(sample.labels.get(label) == value for sample in samples), span
                grouped = re.findall(r"by \(([^)]*)\)", span)
                for label in [label.strip() for group in grouped for label in group.split(",")]:
                    assert all(label in sample.labels for sample in samples), f"{label} of {span}"
        elif span.startswith("/"):
            assert f'"{span}"' in sources(), span
        elif span == "[5m]" or span == "X-Request-Id":
            continue
        elif span.endswith("="):
            assert re.search(rf"\b{span[:-1]}( = |,)", sources()), span
        elif "." in span:
            table, key = span.split(".")
            assert key in tomllib.loads((ROOT / "conf/reference.toml").read_text())[table], span
        else:
            # A line of the log, a field of the JSON, a key of a route.
            assert span in sources(), span
