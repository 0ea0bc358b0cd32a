"""What `/metrics` says, read by the parser of Prometheus' own client library."""

from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """One scrape."""

    def __init__(self, text):
        self._text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def total(self, name, **labels):
        """Sum of the samples of that name that carry these labels (among others); 0 where there are none."""
        wanted = {key: str(value) for key, value in labels.items()}
        return sum(s.value for s in self.samples if s.name == name and wanted.items() <= s.labels.items())

    def names(self):
        """The names of all samples."""
        return {sample.name for sample in self.samples}

    def __str__(self):
        return "\n".join(line for line in self._text.splitlines() if not line.startswith("#"))
