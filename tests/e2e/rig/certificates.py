"""Certificates made by the `openssl` command, each signed by an authority of the test's own."""

import pathlib
import ssl
import subprocess


class Authority:
    """A certificate authority in a directory; `file` is its certificate."""

    def __init__(self, directory, name="wsgate test CA"):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file = self.directory / "ca.pem"
        self._key = self.directory / "ca.key"
        _key(self._key)
        _openssl("req", "-x509", "-new", "-key", self._key, "-subj", f"/CN={name}", "-days", "30", "-out", self.file)
        (self.directory / "index").touch()
        self._config = self.directory / "ca.cnf"
        self._config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={self.directory}/index\nnew_certs_dir={self.directory}\nrand_serial=yes\n"
            "unique_subject=no\ndefault_md=sha256\npolicy=p\n[p]\norganizationName=optional\ncommonName=supplied\n"
        )

    def sign(self, file, names=(), subject=None, days=30, ended=False, key=None):
        """Writes `file`.pem, and `file`.key unless it has one; returns both paths, as TOML has them."""
        cert, own = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        if key is None and not own.exists():
            _key(own)
        request, extensions = self.directory / "request.csr", self.directory / "extensions.cnf"
        subject = subject or f"/CN={names[0]}"
        _openssl("req", "-new", "-key", key or own, "-subj", subject, "-out", request)
        kinds = (f"IP:{name}" if name[0].isdigit() else f"DNS:{name}" for name in names)
        extensions.write_text(f"subjectAltName={','.join(kinds)}\n" if names else "basicConstraints=CA:FALSE\n")
        until = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if ended else ["-days", str(days)]
        signed = self.directory / "signed.pem"
        _openssl("ca", "-batch", "-notext", "-config", self._config, "-cert", self.file, "-keyfile", self._key,
                 "-in", request, "-extfile", extensions, "-out", signed, *until)
        signed.replace(cert)
        return {"cert": str(cert), "key": str(key or own)}

    def client_context(self, pair=None):
        """A client's context that believes this authority alone, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=self.file)
        if pair:
            context.load_cert_chain(pair["cert"], pair["key"])
        return context


def toml(pairs):
    """The value of `certificates`."""
    return "[" + ", ".join(f'{{ cert = "{pair["cert"]}", key = "{pair["key"]}" }}' for pair in pairs) + "]"


def _key(file):
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file)


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {arguments}: {done.stderr}"
